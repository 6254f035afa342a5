//! Apps: starting, watching, freezing, stopping, and finding them again after a crash of host.
//!
//! ```text
//!   Start -> Starting --status pipe ends--> Running --its init ends--> Ending --its groups are gone--> (Exited)
//!               |                            |   ^
//!               +--> (StartFailed)           +---+  freeze, thaw, resize, stop
//! ```

pub mod record;
mod spec;
mod start;
mod weak;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use policies::face::Attachment;
use policies::host::{AppRef, Enforced, Exit, Face, HostEvent, Usage};
use policies::manifest::Resources;
use policies::task::Class;
use policies::unit::Span;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::cgroup::Place;
use crate::fault::{refusal, refuse};
use crate::ground::Ground;
use crate::outbox::Outbox;
use crate::procfs;
use crate::sandbox::{prepared, readback};
use record::{Folder, Record};

/// How long a freeze may take before its outcome is reported as it is. A throttled busy app needs up to 60 ms.
const FREEZE_WAIT: Duration = Duration::from_secs(2);

/// How often a condition that no descriptor announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long an app may take from its first process to its first instruction.
const START_WAIT: Duration = Duration::from_secs(20);

/// One app.
#[derive(Debug)]
pub struct App {
    record: Record,
    pidfd: OwnedFd,
    folder: Folder,
    log: OwnedFd,
    phase: Phase,
    kill_at: Option<Instant>,
    freezing: Option<Freezing>,
}

#[derive(Debug)]
enum Phase {
    Starting { status: OwnedFd, _cord: OwnedFd, said: Vec<u8>, asked: Instant },
    Running,
    Ending { exit: Exit, failed: Option<policies::host::HostRefusal> },
}

#[derive(Debug)]
struct Freezing {
    wanted: bool,
    give_up: Instant,
}

/// Every app of this node.
#[derive(Debug, Default)]
pub struct Apps {
    apps: BTreeMap<AppRef, App>,
    /// Number of the last start of each app, so that two starts are never called the same.
    last: BTreeMap<AppRef, u64>,
    pool: prepared::Pool,
}

/// A descriptor of an app's that the loop waits on.
#[derive(Clone, Debug)]
pub enum Waits {
    /// The app's start.
    Status(AppRef),
    /// The app's end.
    End(AppRef),
    /// The sandbox that is being made ahead.
    Pool,
}

impl Apps {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    fn all_running(&self) -> impl Iterator<Item = (&AppRef, &App)> {
        self.apps.iter().filter(|(_, app)| matches!(app.phase, Phase::Running))
    }

    /// Running apps with their instance, for a new node process.
    pub fn running(&self) -> Vec<(AppRef, u64)> {
        self.all_running().map(|(name, app)| (name.clone(), app.record.instance)).collect()
    }

    /// Tells a new node process what confines the running apps.
    pub fn tell_confinement(&self, ground: &Ground, out: &mut Outbox) {
        for (name, app) in self.all_running() {
            out.event(HostEvent::Confined { app: name.clone(), enforced: app.enforced(ground) });
        }
    }

    /// Hands log and cgroup files of every running app to a new node process.
    pub fn hand_over(&self, ground: &Ground, out: &mut Outbox) {
        for (name, app) in self.all_running() {
            app.hand_over(name, ground, out);
        }
    }

    /// What the loop waits on.
    pub fn waits(&self) -> impl Iterator<Item = (Waits, &OwnedFd)> {
        let apps = self.apps.iter().filter_map(|(name, app)| match &app.phase {
            Phase::Starting { status, .. } => Some((Waits::Status(name.clone()), status)),
            Phase::Running => Some((Waits::End(name.clone()), &app.pidfd)),
            Phase::Ending { .. } => None,
        });
        apps.chain(self.pool.waits().map(|fd| (Waits::Pool, fd)))
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let wake = |app: &App| {
            let look = matches!(app.phase, Phase::Ending { .. }) || app.freezing.is_some();
            let look = look.then(|| now + LOOK_EVERY);
            let start = match app.phase {
                Phase::Starting { asked, .. } => Some(asked + START_WAIT),
                _ => None,
            };
            look.into_iter().chain(app.kill_at).chain(start).min()
        };
        self.apps.values().filter_map(wake).min()
    }

    /// Does what is due: kills after grace, looks at freezes, clears up after the dead.
    pub fn tick(&mut self, now: Instant, ground: &Ground, out: &mut Outbox) {
        for (name, app) in &mut self.apps {
            if app.kill_at.is_some_and(|at| at <= now) {
                app.kill_at = None;
                app.kill(name, ground);
            }
            if matches!(app.phase, Phase::Starting { asked, .. } if asked + START_WAIT <= now) {
                app.kill(name, ground);
            }
            app.look_at_freeze(name, now, ground, out);
        }
        let ended: Vec<AppRef> = self
            .apps
            .iter()
            .filter(|(name, app)| app.is_cleared(name, ground))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            if let Some(app) = self.apps.remove(&name) {
                report_end(name, app, out);
            }
        }
    }

    /// Whether [`Self::prepare`] has something to do.
    pub fn wants_preparing(&self, ground: &Ground) -> bool {
        let is_starting = |app: &App| matches!(app.phase, Phase::Starting { .. });
        ground.privileged
            && self.pool.wants_more()
            && !self.apps.values().any(is_starting)
            && self.free_number(ground).is_ok()
    }

    /// Begins to make a sandbox ahead. For moments in which no app waits for its start.
    pub fn prepare(&mut self, ground: &Ground) {
        if self.wants_preparing(ground)
            && let Ok(number) = self.free_number(ground)
        {
            self.pool.begin(number, ground.identity(number), &spec::common_view());
        }
    }

    /// Something happened on a descriptor of [`Self::waits`].
    pub fn ready(&mut self, what: &Waits, ground: &Ground, out: &mut Outbox) {
        let (Waits::Status(name) | Waits::End(name)) = what else { return self.pool.advance() };
        let Some(app) = self.apps.get_mut(name) else { return };
        match what {
            Waits::Status(_) => app.read_status(name, ground, out),
            Waits::End(_) | Waits::Pool => app.end(name, ground),
        }
    }

    fn get(&mut self, app: &AppRef) -> Result<&mut App, policies::host::HostRefusal> {
        let found = self.apps.get_mut(app).filter(|app| matches!(app.phase, Phase::Running));
        found.ok_or_else(|| refuse(format!("find {app}"), "no such app is running here", None))
    }

    /// SIGTERM, and SIGKILL to all of it after `grace`.
    pub fn stop(&mut self, name: &AppRef, grace: Span, ground: &Ground, out: &mut Outbox) {
        match self.get(name) {
            Ok(app) => app.stop(name, grace, ground),
            Err(refusal) => out.refused(format!("stop {name}"), refusal),
        }
    }

    /// Stops all of them.
    pub fn stop_all(&mut self, grace: Span, ground: &Ground) {
        for (name, app) in &mut self.apps {
            app.stop(name, grace, ground);
        }
    }

    /// Freezes or thaws.
    pub fn freeze(&mut self, name: &AppRef, frozen: bool, ground: &Ground, out: &mut Outbox) {
        let command = if frozen { "freeze" } else { "thaw" };
        match self.get(name).and_then(|app| app.ask_freeze(name, frozen, ground)) {
            Ok(()) => self.tick(Instant::now(), ground, out),
            Err(refusal) => out.refused(format!("{command} {name}"), refusal),
        }
    }

    /// Changes limits.
    pub fn resize(&mut self, name: &AppRef, resources: &Resources, ground: &Ground, out: &mut Outbox) {
        let command = format!("resize {name}");
        let Some(tree) = ground.tree() else {
            let fix = Some("stop and start it with the new limits, or give verge-host a cgroup");
            return out
                .refused(command, refuse("change limits", "limits of a running app need a cgroup", fix));
        };
        match self.get(name) {
            Ok(app) => match tree.limit(&app.place(name), resources) {
                Ok(limits) => {
                    app.resized(name, limits);
                    let enforced = app.enforced(ground);
                    out.event(HostEvent::Confined { app: name.clone(), enforced });
                }
                Err(error) => out.refused(command.clone(), refusal(command, &error)),
            },
            Err(refusal) => out.refused(command, refusal),
        }
    }

    /// Sets the share of a class.
    pub fn squeeze(&mut self, class: Class, share: u16, ground: &Ground, out: &mut Outbox) {
        let by = match ground.tree() {
            Some(tree) => match tree.squeeze(class, share) {
                Ok(by) => by,
                Err(error) => return out.refused(format!("squeeze {class}"), refusal("squeeze", &error)),
            },
            None => {
                let of_class = self.apps.values().filter(|app| app.record.class == class);
                let inits: Vec<i32> = of_class.map(|app| app.record.init.pid).collect();
                weak::squeeze(&inits, class, share)
            }
        };
        out.event(HostEvent::Squeezed { class, share, by });
    }

    /// Usage of every running app.
    pub fn usage(&self, ground: &Ground) -> Vec<(AppRef, Usage)> {
        self.all_running().map(|(name, app)| (name.clone(), app.usage(name, ground))).collect()
    }

    /// Takes over the apps that an earlier host left running; ends and clears whatever else it left.
    pub fn adopt(&mut self, ground: &Ground) {
        let folders = ground.run("apps");
        for record in record::all(&folders) {
            let name = record.app.clone();
            let folder = Folder::of(&folders, &name);
            let Some(app) = App::adopt(record, folder) else { continue };
            self.last.insert(name.clone(), app.record.instance);
            self.apps.insert(name, app);
        }
        let kept: Vec<_> = self.apps.keys().map(|name| format!("{}.{}", name.tenant, name.app)).collect();
        for folder in std::fs::read_dir(&folders).into_iter().flatten().flatten() {
            if !kept.iter().any(|name| **name == *folder.file_name()) {
                let _ = std::fs::remove_dir_all(folder.path());
            }
        }
    }

    /// Removes islands that no running app has.
    pub fn clear_islands(&self, ground: &Ground) {
        let tenants = std::fs::read_dir(ground.run("islands")).into_iter().flatten().flatten();
        for island in
            tenants.flat_map(|tenant| std::fs::read_dir(tenant.path()).into_iter().flatten().flatten())
        {
            let kept = self
                .apps
                .keys()
                .any(|name| ground.islands_of(&name.tenant).join(name.app.as_str()) == island.path());
            if !kept && std::fs::remove_dir_all(island.path()).is_err() {
                // Not a directory: a link or a file that a former border left.
                let _ = std::fs::remove_file(island.path());
            }
        }
    }

    /// Whether this group holds an app that runs: groups that do not are left-overs.
    pub fn owns(&self, place: &Place) -> bool {
        self.apps.iter().any(|(name, app)| app.place(name) == *place)
    }
}

fn report_end(name: AppRef, app: App, out: &mut Outbox) {
    let instance = app.record.instance;
    let Phase::Ending { exit, failed } = app.phase else { return };
    let _ = app.folder.remove();
    out.event(match failed {
        Some(refusal) => HostEvent::StartFailed { app: name, instance, refusal },
        None => HostEvent::Exited { app: name, instance, exit },
    });
}

impl App {
    fn place(&self, name: &AppRef) -> Place {
        Place::App(self.record.class, name.clone())
    }

    fn adopt(record: Record, folder: Folder) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(record.init.pid)?, PidfdFlags::empty()).ok()?;
        // Only now: a number that was reused before the descriptor was opened is noticed.
        if !record.init.is_alive() {
            return None;
        }
        let log = folder.log().ok()?;
        Some(Self { record, pidfd, folder, log, phase: Phase::Running, kill_at: None, freezing: None })
    }

    /// Takes note of new limits, for `get` and for the next host.
    fn resized(&mut self, name: &AppRef, mut limits: Vec<Enforced>) {
        let is_kept = |line: &Enforced| limits.iter().all(|new| new.what != line.what);
        let kept: Vec<Enforced> = self.record.limits.drain(..).filter(is_kept).collect();
        limits.extend(kept);
        self.record.limits = limits;
        if let Err(error) = self.folder.write(&self.record) {
            eprintln!("verge-host: the next host will know former limits of {name}: {error}");
        }
    }

    fn hand_over(&self, name: &AppRef, ground: &Ground, out: &mut Outbox) {
        if let Ok(log) = self.log.try_clone() {
            out.attach(&Face::Node, Attachment::Log(name.clone()), log);
        }
        let handles = ground.tree().map(|tree| tree.handles(&self.place(name))).unwrap_or_default();
        for (file, handle) in handles {
            let what = Attachment::CgroupFile { app: name.clone(), name: file.into() };
            out.attach(&Face::Node, what, File::into(handle));
        }
    }

    fn stop(&mut self, name: &AppRef, grace: Span, ground: &Ground) {
        // A frozen process does not see a signal.
        let _ = self.ask_freeze(name, false, ground);
        self.freezing = None;
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        let at = Instant::now() + grace.duration();
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Ends every process of the app at once, frozen or not.
    fn kill(&self, name: &AppRef, ground: &Ground) {
        if let Some(tree) = ground.tree() {
            let _ = tree.kill(&self.place(name));
        }
        // Init's death takes its whole pid namespace with it, with or without cgroups.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn ask_freeze(
        &mut self,
        name: &AppRef,
        frozen: bool,
        ground: &Ground,
    ) -> Result<(), policies::host::HostRefusal> {
        match ground.tree() {
            Some(tree) => tree
                .set_frozen(&self.place(name), frozen)
                .map_err(|error| refusal(format!("freeze {name}"), &error))?,
            None => {
                let signal = if frozen { Signal::USR1 } else { Signal::USR2 };
                pidfd_send_signal(&self.pidfd, signal)
                    .map_err(|error| refuse(format!("freeze {name}"), error.to_string(), None))?;
            }
        }
        self.freezing = Some(Freezing { wanted: frozen, give_up: Instant::now() + FREEZE_WAIT });
        Ok(())
    }

    fn is_frozen(&self, name: &AppRef, ground: &Ground) -> bool {
        match ground.tree() {
            Some(tree) => tree.is_frozen(&self.place(name)).unwrap_or(false),
            None => {
                let all = procfs::descendants(self.record.init.pid);
                !all.is_empty() && all.into_iter().all(procfs::is_stopped)
            }
        }
    }

    fn look_at_freeze(&mut self, name: &AppRef, now: Instant, ground: &Ground, out: &mut Outbox) {
        let Some(freezing) = &self.freezing else { return };
        let frozen = self.is_frozen(name, ground);
        if frozen != freezing.wanted && now < freezing.give_up {
            return;
        }
        self.freezing = None;
        let by = ground.tree().map_or("SIGSTOP by the init", |tree| tree.freezes_by()).to_owned();
        out.event(HostEvent::FreezeChanged { app: name.clone(), frozen, by });
    }

    fn usage(&self, name: &AppRef, ground: &Ground) -> Usage {
        match ground.tree() {
            Some(tree) => tree.usage(&self.place(name)),
            None => Usage {
                pids: u64::try_from(procfs::descendants(self.record.init.pid).len()).ok(),
                frozen: self.is_frozen(name, ground),
                ..Usage::default()
            },
        }
    }

    /// Its init has ended: finds out how, and begins to clear up.
    fn end(&mut self, name: &AppRef, ground: &Ground) {
        // Fails for an adopted app, whose parent somebody else is now; that is fine.
        let _ = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd)), WaitIdOptions::EXITED);
        let out_of_memory = ground
            .tree()
            .is_some_and(|tree| tree.usage(&self.place(name)).oom_kills.is_some_and(|kills| kills > 0));
        let exit = match self.folder.exit() {
            Some(Exit::Signal(libc::SIGKILL)) | None if out_of_memory => Exit::OutOfMemory,
            Some(exit) => exit,
            None => Exit::Unknown,
        };
        let failed = match &self.phase {
            Phase::Ending { failed, .. } => failed.clone(),
            _ => None,
        };
        self.kill_at = None;
        self.freezing = None;
        self.phase = Phase::Ending { exit, failed };
    }

    /// Whether it is dead and its groups are gone.
    fn is_cleared(&self, name: &AppRef, ground: &Ground) -> bool {
        if !matches!(self.phase, Phase::Ending { .. }) {
            return false;
        }
        let place = self.place(name);
        ground.tree().is_none_or(|tree| tree.kill(&place).is_ok() && tree.remove(&place).is_ok())
    }

    fn read_status(&mut self, name: &AppRef, ground: &Ground, out: &mut Outbox) {
        let Phase::Starting { status, said, asked, .. } = &mut self.phase else { return };
        let asked = *asked;
        match start::read_all(status, said) {
            start::Read::More => {}
            start::Read::End(crate::sandbox::Outcome::Running) => {
                let took_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.phase = Phase::Running;
                self.hand_over(name, ground, out);
                let enforced = self.enforced(ground);
                let event = HostEvent::Started {
                    app: name.clone(),
                    instance: self.record.instance,
                    took_us,
                    enforced,
                };
                out.event(event);
            }
            start::Read::End(crate::sandbox::Outcome::Failed(refusal)) => {
                self.kill(name, ground);
                self.end(name, ground);
                self.phase = Phase::Ending { exit: Exit::Unknown, failed: Some(refusal) };
            }
        }
    }

    fn enforced(&self, ground: &Ground) -> Vec<Enforced> {
        let mut lines = self.record.limits.clone();
        match ground.tree() {
            Some(tree) => lines.push(readback::line("freeze", tree.freezes_by(), "on command", false)),
            None => lines.extend(weak::enforced(self.record.init.pid, self.record.class)),
        }
        lines.extend(readback::isolation(self.record.init.pid));
        lines
    }
}
