//! The same host without privileges: weaker limits, each of them named; the same isolation.

use policies::host::{Exit, HostCommand, HostEvent};
use policies::unit::{Bytes, Span};

use crate::rig::{Rig, app, read_until};

/// Nobody in particular.
const USER: u32 = 65_534;

fn rig(extra: &str) -> Rig {
    let user = rustix::process::geteuid().is_root().then_some(USER);
    Rig::start_as(user, &[], &format!("cgroup = \"none\"\n{extra}"))
}

#[test]
fn without_a_cgroup_starts_are_refused_unless_policy_says_degrade() {
    let mut rig = rig("");
    let bundle = rig.import_app();
    let start = rig.start_app("probe", bundle, &["probe"]);
    rig.send(HostCommand::Start(start));
    let refusal = rig.wait("the refusal", |event| match event {
        HostEvent::StartFailed { refusal, .. } => Some(refusal.clone()),
        _ => None,
    });
    assert!(refusal.why.contains("cannot be enforced"), "{refusal}");
    assert!(refusal.fix.unwrap().contains("degrade"));
}

#[test]
fn what_is_weaker_is_named_and_isolation_is_the_same() {
    let mut rig = rig("unenforceable = \"degrade\"\n");
    let machine = rig.wait("hello", |event| match event {
        HostEvent::Hello { machine, .. } => Some(machine.clone()),
        _ => None,
    });
    assert!(machine.iter().any(|line| line.what == "cgroup" && line.degraded), "{machine:#?}");
    let bundle = rig.import_app();
    let start = rig.start_app("probe", bundle, &["probe"]);
    let (_, log, _) = rig.run(start);
    let said = read_until(&log, "done\n");
    assert!(!said.contains("POSSIBLE"), "{said}");
    assert_eq!(rig.exit(&app("probe")), Exit::Code(0));
    let start = rig.start_app("ticks", bundle, &["tick"]);
    let (enforced, log, _) = rig.run(start);
    let degraded: Vec<_> = enforced
        .iter()
        .filter(|line| line.degraded)
        .map(|line| (line.what.as_str(), line.by.as_str()))
        .collect();
    assert_eq!(
        degraded,
        [
            ("memory", "rlimit DATA (each process)"),
            ("cpu", "nice, SCHED_IDLE (no quota)"),
            ("freeze", "SIGSTOP by the init")
        ]
    );
    read_until(&log, "tick 2\n");
    for frozen in [true, false] {
        let app = app("ticks");
        rig.send(if frozen { HostCommand::Freeze { app } } else { HostCommand::Thaw { app } });
        let (now, by) = rig.wait("the freeze", |event| match event {
            HostEvent::FreezeChanged { frozen, by, .. } => Some((*frozen, by.clone())),
            _ => None,
        });
        assert_eq!((now, by.as_str()), (frozen, "SIGSTOP by the init"));
    }
    rig.send(HostCommand::Stop { app: app("ticks"), grace: Span::from_millis(10_000) });
    assert_eq!(rig.exit(&app("ticks")), Exit::Signal(libc::SIGTERM));
    assert!(rig.terminate().success());
    assert!(!rig.dir.path().join("run").exists());
}

#[test]
fn forks_and_memory_are_held_all_the_same() {
    let mut rig = rig("unenforceable = \"degrade\"\n");
    let bundle = rig.import_app();
    let mut start = rig.start_app("forks", bundle, &["fork"]);
    start.resources.pids = 10;
    let (_, log, _) = rig.run(start);
    assert!(read_until(&log, "\n").contains("forked 9:"), "ten processes with the first");
    let mut start = rig.start_app("eats", bundle, &["eat"]);
    start.resources.memory = Bytes::mebi(16);
    let (_, log, _) = rig.run(start);
    assert!(read_until(&log, "\n").contains("refused"));
    assert_eq!(rig.exit(&app("eats")), Exit::Code(7));
}

#[test]
fn a_killed_host_is_followed_by_one_that_finds_its_apps() {
    let mut rig = rig("unenforceable = \"degrade\"\n");
    let bundle = rig.import_app();
    let start = rig.start_app("ticks", bundle, &["tick"]);
    rig.run(start);
    rig.kill_host();
    rig.start_host();
    let adopted = rig.wait("hello", |event| match event {
        HostEvent::Hello { adopted, incarnation, .. } if incarnation.0 == 2 => Some(adopted.clone()),
        _ => None,
    });
    assert_eq!(adopted.len(), 1);
    rig.send(HostCommand::Stop { app: app("ticks"), grace: Span::from_millis(10_000) });
    assert_eq!(rig.exit(&app("ticks")), Exit::Signal(libc::SIGTERM));
}
