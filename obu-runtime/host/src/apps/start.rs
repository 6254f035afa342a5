//! The way of one app from a command to its first instruction.

use std::os::fd::OwnedFd;
use std::time::Instant;

use policies::host::{AppRef, Enforced, HostEvent, HostRefusal, StartApp};
use policies::limits::APPS_MAX;

use super::record::{self, Folder, Record};
use super::{App, Apps, Phase, spec};
use crate::cgroup::Place;
use crate::fault::{refusal, refuse};
use crate::ground::{APP_UIDS, Ground};
use crate::outbox::Outbox;
use crate::procfs::ProcessName;
use crate::sandbox::readback::line;
use crate::sandbox::{Ends, Network, Origin, Outcome, Spawned, Spec, begin, outcome};

/// Most bytes a status pipe may say: one refusal as JSON.
const STATUS_LEN_MAX: usize = 16 << 10;

/// Most apps whose last instance is remembered.
const REMEMBERED_MAX: usize = 8 * APPS_MAX;

/// What reading a status pipe gave.
pub(super) enum Read {
    /// It is not at its end.
    More,
    /// It is.
    End(Outcome),
}

/// Reads what a status pipe has to say.
pub(super) fn read_all(status: &OwnedFd, said: &mut Vec<u8>) -> Read {
    let mut buffer = [0u8; 4096];
    match rustix::io::read(status, &mut buffer) {
        Ok(len) if len > 0 && said.len() < STATUS_LEN_MAX => {
            said.extend_from_slice(&buffer[..len]);
            Read::More
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Read::More,
        _ => Read::End(outcome(said)),
    }
}

impl Apps {
    /// Starts an app; the answer is [`HostEvent::Started`] or [`HostEvent::StartFailed`], now or later.
    /// `asked` is when the command came in.
    pub fn start(&mut self, start: &StartApp, asked: Instant, ground: &Ground, out: &mut Outbox) {
        if let Err(refusal) = self.try_start(start, asked, ground) {
            let (app, instance) = (start.app.clone(), start.instance);
            out.event(HostEvent::StartFailed { app, instance, refusal });
        }
    }

    fn try_start(&mut self, start: &StartApp, asked: Instant, ground: &Ground) -> Result<(), HostRefusal> {
        self.admit(start, ground)?;
        let (number, origin) = match self.pool.take() {
            Some(prepared) => (prepared.number(), Origin::Prepared(prepared)),
            None => (self.free_number(ground)?, Origin::New(Network::Empty)),
        };
        let folder = Folder::of(&ground.run("apps"), &start.app);
        let begun = spec::of(ground, start, number, origin)
            .and_then(|spec| launch(ground, start, &spec, &folder, number));
        let Begun { spawned, record, log } = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                discard(ground, start, &folder);
                return Err(refusal);
            }
        };
        let Spawned { pidfd, status, cord, .. } = spawned;
        let app = App {
            record,
            pidfd,
            folder,
            log,
            phase: Phase::Starting { status, _cord: cord, said: Vec::new(), asked },
            kill_at: None,
            freezing: None,
        };
        self.last.insert(start.app.clone(), start.instance);
        self.apps.insert(start.app.clone(), app);
        Ok(())
    }

    /// Checks a start against what is there.
    fn admit(&mut self, start: &StartApp, ground: &Ground) -> Result<(), HostRefusal> {
        let no = |why: String, fix| Err(refuse(format!("start {}", start.app), why, fix));
        if self.apps.contains_key(&start.app) {
            return no("it is running already".into(), Some("stop it first"));
        }
        if self.apps.len() >= APPS_MAX {
            return no(format!("{APPS_MAX} apps are running, the most a node holds"), None);
        }
        if self.last.get(&start.app) == Some(&start.instance) {
            return no(format!("its instance {} has been used", start.instance), None);
        }
        if self.last.len() >= REMEMBERED_MAX && !self.last.contains_key(&start.app) {
            self.last.retain(|name, _| self.apps.contains_key(name));
        }
        if start.island && !ground.islands_of(&start.app.tenant).is_dir() {
            return no(
                format!("it wants an island, and tenant {} has no border", start.app.tenant),
                Some("start the tenant's border first"),
            );
        }
        if ground.tree().is_none() && ground.refuses_unenforceable() {
            return no(
                "its memory and cpu limits cannot be enforced: there is no cgroup that verge-host may write"
                    .into(),
                Some("run as root or with a delegated cgroup, or set unenforceable = \"degrade\" in [host]"),
            );
        }
        Ok(())
    }

    /// A number that no app has and no sandbox made ahead.
    pub(super) fn free_number(&self, ground: &Ground) -> Result<u32, HostRefusal> {
        let is_free = |number: &u32| {
            !self.pool.holds(*number) && self.apps.values().all(|app| app.record.number != *number)
        };
        (APP_UIDS..ground.config.host.uid_count).find(is_free).ok_or_else(|| {
            refuse("find a uid", "all uids of this node are in use", Some("raise uid_count in [host]"))
        })
    }
}

/// A start that is on its way.
struct Begun {
    spawned: Spawned,
    record: Record,
    log: OwnedFd,
}

/// Begins the sandbox as soon as it can be born, and makes everything else while it is built.
fn launch(
    ground: &Ground,
    start: &StartApp,
    spec: &Spec,
    folder: &Folder,
    number: u32,
) -> Result<Begun, HostRefusal> {
    let what = format!("start {}", start.app);
    let failed = |error| refusal(&what, &error);
    let place = Place::App(start.class, start.app.clone());
    let born_in = ground.tree().map(|tree| tree.birthplace(&place)).transpose().map_err(failed)?.flatten();
    let begun = begin(spec, born_in.as_ref()).map_err(|error| refusal(&what, &error))?;
    let (mut limits, tasks) = match ground.tree() {
        Some(tree) => {
            tree.furnish(&place).map_err(failed)?;
            let limits = tree.limit(&place, &start.resources).map_err(failed)?;
            (complete(ground, start, limits)?, tree.tasks(&place).map_err(failed)?)
        }
        None => (Vec::new(), Vec::new()),
    };
    begun.join(&tasks).map_err(|error| refusal(&what, &error))?;
    limits.push(line("sandbox", "namespaces and mounts", spec.origin.describe(), false));
    let (output, log, exit_file) = folder.make().map_err(failed)?;
    // Before the program runs: the next host must find it.
    let init = ProcessName::of(begun.pid).unwrap_or(ProcessName { pid: begun.pid, started: 0 });
    let record = record_of(start, number, init, limits);
    folder.write(&record).map_err(failed)?;
    let spawned = begun.go(&Ends { output, exit_file }).map_err(|error| refusal(&what, &error))?;
    Ok(Begun { spawned, record, log })
}

/// Names every limit that the kernel's cgroups lack here; by policy that is a refusal.
fn complete(
    ground: &Ground,
    start: &StartApp,
    mut lines: Vec<Enforced>,
) -> Result<Vec<Enforced>, HostRefusal> {
    for what in ["cpu", "memory", "pids"] {
        if lines.iter().any(|line| line.what == what) {
            continue;
        }
        if ground.refuses_unenforceable() {
            return Err(refuse(
                format!("start {}", start.app),
                format!("its {what} limit cannot be enforced: this kernel offers no such cgroup controller"),
                Some("enable the controller, or set unenforceable = \"degrade\" in [host]"),
            ));
        }
        lines.push(line(what, "nothing", "no cgroup controller", true));
    }
    Ok(lines)
}

fn record_of(start: &StartApp, number: u32, init: ProcessName, limits: Vec<Enforced>) -> Record {
    Record {
        version: record::VERSION,
        app: start.app.clone(),
        instance: start.instance,
        class: start.class,
        number,
        init,
        limits,
        boot: record::boot_id(),
    }
}

/// Takes away what a failed start has made. The kernel has already ended its process, if there was one.
fn discard(ground: &Ground, start: &StartApp, folder: &Folder) {
    let app: &AppRef = &start.app;
    if let Some(tree) = ground.tree() {
        let _ = tree.remove(&Place::App(start.class, app.clone()));
    }
    let _ = folder.remove();
}
