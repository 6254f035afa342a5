//! Where the tap stands: a program in the place of `verge-host` that starts the real one below strace, the drive of the
//! demo with an ear in each realm, and the collection of all that was seen.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use obu_core::record::Record;
use policies::id::NodeId;
use v2e::keys::RealmName;
use v2e::session::{Security, Session, Tls};
use v2e_core::report::Realm;

use super::account::account;
use super::acts::acts;
use super::book::by_server;
use super::clock::WallToNode;
use super::ear::{Ears, open};
use super::realm::{Absence, Heard, between_nodes, by_ear};
use super::replay::replayed;
use super::{Act, Deed, Report, record, trace};
use crate::road::{Programs, free_port};
use crate::root;
use crate::wait::{until, within};

/// How long the demo may take, on a machine that does other things as well.
const DEMO_MAX: std::time::Duration = std::time::Duration::from_secs(420);

/// Where strace is: installed, or what `scripts/material.sh strace` has fetched.
///
/// # Errors
/// That it is nowhere.
pub fn strace() -> Result<(PathBuf, Option<PathBuf>), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("strace")).find(|file| file.is_file());
    if let Some(installed) = installed {
        return Ok((installed, None));
    }
    let fetched = Programs::find().material("strace");
    let program = fetched.join("usr/bin/strace");
    let libraries =
        fs::read_dir(fetched.join("usr/lib")).into_iter().flatten().flatten().map(|dir| dir.path());
    let libraries = libraries.into_iter().find(|dir| dir.is_dir());
    if program.is_file() {
        Ok((program, libraries))
    } else {
        Err("needs strace (scripts/material.sh strace)".into())
    }
}

/// Whether hosts can be traced here.
///
/// # Errors
/// What is missing.
pub fn tracer() -> Result<(), String> {
    strace().map(drop)
}

/// Writes a program at `path` that is `verge-host` to whoever starts it, below strace. The trace of each start lies
/// beside the node's file, as `trace-1` and so on. A node that dials its siblings dials `sibling` too.
///
/// # Panics
/// If it cannot be written.
pub fn host_below_strace(path: &Path, sibling: Option<u16>) {
    let (strace, libraries) = strace().expect("strace");
    let libraries = libraries.map(|dir| format!("LD_LIBRARY_PATH={} ", dir.display())).unwrap_or_default();
    let dial = sibling.map(|port| {
        let tap = format!("tls/127.0.0.1:{port}");
        format!(
            "grep -q {tap} \"$2\" || sed -i '/^\\[car\\]/,/^$/ s|^connect = \\[|connect = [\"{tap}\", |' \"$2\"\n"
        )
    });
    let text = format!(
        "#!/bin/sh\n# verge-host --config FILE ...\nset -e\n{dial}n=1\ndir=$(dirname \"$2\")\n\
         while [ -e \"$dir/trace-$n\" ]; do n=$((n + 1)); done\n\
         exec env {libraries}{strace} -E LD_LIBRARY_PATH -DDD -f -q -y -ttt -s {bytes} --seccomp-bpf --pidns-translation \
         -e signal=SIGKILL -e trace={calls} -o \"$dir/trace-$n\" {host} \"$@\"\n",
        dial = dial.unwrap_or_default(),
        strace = strace.display(),
        bytes = trace::BYTES,
        calls = trace::CALLS,
        host = Programs::find().program("verge-host").display(),
    );
    fs::write(path, text).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// What one node did and what it recorded.
#[derive(Debug)]
pub struct Observed {
    /// Which.
    pub node: NodeId,
    /// What it did.
    pub acts: Vec<Act>,
    /// What it recorded.
    pub records: Vec<Record>,
    /// Where that lies.
    pub recordings: Vec<PathBuf>,
}

impl Observed {
    /// Reads what lies in a node's directory, once its hosts are gone.
    ///
    /// # Panics
    /// If there is no trace, or one does not come to its end.
    pub fn read(node: &str, dir: &Path, clock: WallToNode) -> Self {
        let mut acts_of_all = Vec::new();
        for number in 1.. {
            let file = dir.join(format!("trace-{number}"));
            if !file.is_file() {
                assert!(number > 1, "{} was never traced", dir.display());
                break;
            }
            let events = until("the trace is complete", || {
                let text = String::from_utf8_lossy(&fs::read(&file).ok()?).into_owned();
                let whole = text.ends_with('\n').then(|| trace::read(&text))?;
                let host = whole.first()?.pid;
                let ended = |e: &trace::Event| e.pid == host && matches!(e.what, trace::What::Ended(_));
                whole.iter().any(ended).then_some(whole)
            });
            acts_of_all.extend(acts(&events, clock.still()));
        }
        let node = NodeId::new(node).expect("a node's id");
        let recordings = record::files(&dir.join("state"));
        Self { node, acts: acts_of_all, records: record::read(&recordings), recordings }
    }

    /// When it was dead, by SIGKILL; from a little before, because what it recorded last died with it.
    fn absences(&self) -> Vec<Absence> {
        let mut absences = Vec::new();
        let mut down = None;
        for act in &self.acts {
            match act.deed {
                Deed::HostEnded { killed: true } => {
                    down = Some(act.at.saturating_sub(super::account::CUT_OFF_US))
                }
                Deed::HostBegan => {
                    absences.extend(down.take().map(|from| (self.node.clone(), from..=act.at)))
                }
                _ => {}
            }
        }
        absences.extend(down.map(|from| (self.node.clone(), from..=u64::MAX)));
        absences
    }
}

/// A road that was observed from its beginning to its end.
#[derive(Debug)]
pub struct Drive {
    /// Its nodes.
    pub nodes: Vec<Observed>,
    /// What was heard in the realms.
    pub heard: Vec<Heard>,
    /// How the realms are called.
    pub realms: BTreeMap<Realm, RealmName>,
    /// What reached the effect server.
    pub effects: Vec<String>,
    /// What an independent listener heard on the bus, of the frames that no player sends.
    pub frames: Vec<String>,
}

impl Drive {
    /// Accounts for everything, and replays the recordings that it is held against.
    pub fn account(&self) -> Report {
        let mut report = Report::default();
        for Observed { node, acts, records, recordings } in &self.nodes {
            report.add(account(node.as_str(), acts, records));
            report.add(replayed(node, recordings));
        }
        let records: BTreeMap<NodeId, Vec<Record>> =
            self.nodes.iter().map(|seen| (seen.node.clone(), seen.records.clone())).collect();
        let absent: Vec<Absence> = self.nodes.iter().flat_map(Observed::absences).collect();
        report.add(between_nodes(&records, &absent));
        report.add(by_ear(&self.heard, &self.realms, &records, &absent));
        report.add(by_server("effect", &self.effects, &records));
        report.add(by_server("frame", &self.frames, &records));
        report
    }
}

/// The demo with the tap on everything.
#[derive(Debug)]
pub struct Demo {
    /// What was seen of it.
    pub drive: Drive,
    /// How it ended.
    pub exit: ExitStatus,
    /// Its own checks that failed, with what it saw; all it said if it came to no verdict.
    pub failed: Vec<String>,
}

/// Runs the demo below `dir` with the tap on everything. The machine is slower than it would be, so what the demo itself
/// says of its run is told beside it.
///
/// # Panics
/// If it does not come to its end.
pub fn demo(dir: &Path) -> Demo {
    let programs = Programs::find();
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).expect("a directory");
    for name in ["verge", "verge-sim"] {
        let (from, to) = (programs.program(name), bin.join(name));
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect("a copy of the program");
    }
    let sibling = free_port();
    host_below_strace(&bin.join("verge-host"), Some(sibling));
    let run = dir.join(format!("verge-demo-{}", nix::unistd::getuid()));
    let clock = WallToNode::now();
    let ears = Ears::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut demo = Command::new(bin.join("verge"))
        .args(["demo", "--seed", "7", "--keep-files", "--report"])
        .arg(dir.join("demo.json"))
        .arg("--material")
        .arg(&programs.material)
        .arg("--project")
        .arg(root())
        .env("TMPDIR", dir)
        .stdout(fs::File::create(dir.join("demo.log")).expect("a log"))
        .spawn()
        .expect("verge demo");
    let sessions = runtime.block_on(async {
        let car = open(&member(&run, Realm::Car, sibling)).await;
        ears.listen(&car, Realm::Car).await;
        let outside = open(&member(&run, Realm::Outside, sibling)).await;
        ears.listen(&outside, Realm::Outside).await;
        [car, outside]
    });
    let exit = within(DEMO_MAX, "the demo has ended", || demo.try_wait().ok().flatten());
    let heard = ears.take();
    drop(sessions);
    runtime.shutdown_background();
    let nodes = ["a1", "a2", "b1", "e1"].map(|id| Observed::read(id, &run.join(id), clock)).into();
    let realms = BTreeMap::from([
        (Realm::Car, RealmName::Car("car-a".parse().expect("a car"))),
        (Realm::Outside, RealmName::Outside("a10".parse().expect("a zone"))),
    ]);
    let drive = Drive {
        nodes,
        heard,
        realms,
        effects: lines(&run.join("effects.log")),
        frames: lines(&run.join("asked-frames.log")),
    };
    Demo { drive, exit, failed: failed_checks(dir) }
}

/// What the demo itself found wrong.
fn failed_checks(dir: &Path) -> Vec<String> {
    let report = fs::read_to_string(dir.join("demo.json")).unwrap_or_default();
    match serde_json::from_str::<Vec<serde_json::Value>>(&report) {
        Ok(checks) => {
            let failed = checks.iter().filter(|check| check["ok"] != true);
            failed.map(|check| format!("{}: {}", check["what"], check["seen"])).collect()
        }
        Err(_) => vec![fs::read_to_string(dir.join("demo.log")).unwrap_or_default()],
    }
}

/// The tap's own place in a realm of the demo, with a certificate of the realm's authority.
fn member(run: &Path, realm: Realm, sibling: u16) -> Session {
    let (node, section, authority) = match realm {
        Realm::Car => ("a1", "[car]", "car-a"),
        Realm::Outside => ("e1", "[outside]", "outside"),
    };
    let at = until("the demo has written its nodes' files", || {
        let file = fs::read_to_string(run.join(node).join("node.toml")).ok()?;
        let listen = file.split(section).nth(1)?.split("listen = [\"").nth(1)?;
        Some(listen.split('"').next()?.to_owned())
    });
    let keys = run.join("keys").join(authority);
    let status =
        Command::new(Programs::find().program("verge")).args(["pki", "node"]).arg(&keys).arg("tap").status();
    assert!(status.is_ok_and(|status| status.success()), "no certificate for the tap");
    let read = |name: &str| fs::read(keys.join(name)).expect("what pki made");
    let tls = Tls { ca: read("ca.pem"), cert: read("tap.pem"), key: read("tap.key.pem"), verify_name: true };
    match realm {
        Realm::Car => Session::car(&[format!("tls/127.0.0.1:{sibling}")], &[at], Security::Mutual(tls), 1),
        Realm::Outside => Session::visitor(&at, Security::Mutual(tls), 1),
    }
}

/// Lines of the ledger, each behind its time.
pub fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.to_owned()).collect()
}
