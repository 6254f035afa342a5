//! What an app can see, do and use. Needs root; without it the tests say so, and `rootless` holds the rest.

use std::collections::BTreeSet;
use std::fs;

use policies::face::Attachment;
use policies::host::{Exit, Face, HostCommand, HostEvent};
use policies::manifest::Resources;
use policies::task::Class;
use policies::unit::{Bytes, CpuMilli, Span};

use crate::rig::{Rig, app, needs_root, read_until};

const GRACE: Span = Span::from_millis(10_000);

#[test]
fn an_app_sees_nothing_but_its_own_and_leaves_nothing_behind() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let start = rig.start_app("probe", bundle, &["probe"]);
    let (enforced, log, _) = rig.run(start);
    let said = read_until(&log, "done\n");
    assert!(!said.contains("POSSIBLE"), "{said}");
    for expected in [
        "stdin null\nfirst free 3\n",
        "uid 0",
        "host probe cwd /app",
        "list /app: app\n",
        "tmp writable",
        "CapBnd:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "try clone3: Function not implemented",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let root = said.lines().find_map(|line| line.strip_prefix("list /: ")).unwrap();
    let mut root: Vec<&str> = root.split(' ').collect();
    root.sort_unstable();
    assert_eq!(root, ["app", "dev", "proc", "run", "tmp"]);
    assert!(
        said.lines().filter(|line| line.starts_with("cgroup ")).all(|line| line.ends_with(":/")),
        "{said}"
    );
    assert!(enforced.iter().all(|line| !line.degraded), "{enforced:#?}");
    assert_eq!(rig.exit(&app("probe")), Exit::Code(0));
    assert!(!rig.cgroups().is_empty());
    assert!(rig.terminate().success());
    assert_eq!(rig.cgroups(), Vec::<std::path::PathBuf>::new());
    assert!(!rig.dir.path().join("run").exists());
}

#[test]
fn secrets_of_the_machine_are_covered_and_tmp_has_the_size_asked_for() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let files =
        ["interrupts", "kallsyms", "keys", "key-users", "timer_list", "kmsg"].map(|n| format!("/proc/{n}"));
    let arguments: Vec<&str> = std::iter::once("hidden").chain(files.iter().map(String::as_str)).collect();
    for tmp in [Resources::default().tmp, Bytes::mebi(1)] {
        let mut start = rig.start_app("looks", bundle, &arguments);
        start.resources.tmp = tmp;
        let (_, log, _) = rig.run(start);
        let said = read_until(&log, "done\n");
        assert!(
            said.contains(&format!("tmp size {}\n", tmp.get())) && said.contains("tmp writable"),
            "{said}"
        );
        assert!(!said.contains("CONTENT") && !said.contains("POSSIBLE"), "{said}");
        assert!(said.contains("list /proc/acpi:\n"), "{said}");
        assert_eq!(rig.exit(&app("looks")), Exit::Code(0));
    }
}

#[test]
fn exits_are_told_as_they_were() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    for (arguments, expected) in [
        (&["exit", "0"][..], Exit::Code(0)),
        (&["exit", "3"], Exit::Code(3)),
        (&["abort"], Exit::Signal(libc::SIGABRT)),
        (&["eat"], Exit::OutOfMemory),
    ] {
        let start = rig.start_app("ends", bundle, arguments);
        rig.run(start);
        assert_eq!(rig.exit(&app("ends")), expected, "{arguments:?}");
    }
}

#[test]
fn stopping_asks_first_and_kills_after_grace() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    for (how, grace, expected) in
        [("term", GRACE, Exit::Code(42)), ("deaf", Span::from_millis(10), Exit::Unknown)]
    {
        let start = rig.start_app("stops", bundle, &[how]);
        let (_, log, _) = rig.run(start);
        read_until(&log, "ready\n");
        rig.send(HostCommand::Stop { app: app("stops"), grace });
        assert_eq!(rig.exit(&app("stops")), expected);
    }
}

#[test]
fn a_frozen_app_stands_still_and_can_be_stopped() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let start = rig.start_app("frozen", bundle, &["tick"]);
    let (_, log, _) = rig.run(start);
    read_until(&log, "tick 3\n");
    for frozen in [true, false, true] {
        let app = app("frozen");
        rig.send(if frozen { HostCommand::Freeze { app } } else { HostCommand::Thaw { app } });
        let now = rig.wait("the freeze", |event| match event {
            HostEvent::FreezeChanged { frozen, .. } => Some(*frozen),
            _ => None,
        });
        assert_eq!(now, frozen);
    }
    rig.send(HostCommand::Stop { app: app("frozen"), grace: GRACE });
    assert_eq!(rig.exit(&app("frozen")), Exit::Signal(libc::SIGTERM));
}

#[test]
fn limits_hold_can_be_changed_and_are_read_back() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let mut start = rig.start_app("forks", bundle, &["fork"]);
    start.class = Class::Background;
    start.resources.pids = 10;
    let (confinement, log, _) = rig.run(start);
    assert!(read_until(&log, "\n").contains("forked 9:"), "ten processes with the first");
    // Down, and up beyond what it began with.
    for mebi in [32, 256] {
        let resources = Resources {
            cpu: CpuMilli::new(250).unwrap(),
            memory: Bytes::mebi(mebi),
            pids: 20,
            ..Resources::default()
        };
        rig.send(HostCommand::Resize { app: app("forks"), resources });
        let lines = rig.wait("new limits", |event| match event {
            HostEvent::Confined { enforced, .. } => Some(enforced.clone()),
            HostEvent::Refused { refusal, .. } => panic!("{refusal:?}"),
            _ => None,
        });
        let value = |what: &str| lines.iter().find(|line| line.what == what).unwrap().value.clone();
        assert!(value("cpu").starts_with("25000"), "{lines:?}");
        assert_eq!((value("memory"), value("pids")), ((mebi << 20).to_string(), "21".into()));
        assert_eq!(lines.len(), confinement.len(), "the rest of its confinement is told as well: {lines:?}");
    }
    rig.send(HostCommand::SqueezeClass { class: Class::Background, share: 100 });
    let by = rig.wait("the squeeze", |event| match event {
        HostEvent::Squeezed { class: Class::Background, share: 100, by } => Some(by.clone()),
        _ => None,
    });
    assert!(by.contains("cpu.shares 20") || by.contains("cpu.weight 2"), "{by}");
    rig.send(HostCommand::Sample);
    let usage = rig.wait("a sample", |event| match event {
        HostEvent::Sampled { apps, .. } => {
            apps.iter().find(|(name, _)| *name == app("forks")).map(|(_, u)| u.clone())
        }
        _ => None,
    });
    assert_eq!(usage.pids, Some(10));
    assert!(usage.pids_refused.is_some_and(|refused| refused > 0), "{usage:?}");
}

/// A base layer from this machine's own shell and the libraries that it needs.
fn shell_base(rig: &Rig) -> std::path::PathBuf {
    let base = rig.dir.path().join("base");
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let put = |from: &std::path::Path, to: &std::path::Path| {
        let to = base.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(&shell, std::path::Path::new("/usr/bin/sh"));
    for library in obu_host::sandbox::libraries::needed(&shell).unwrap() {
        put(&library, &library);
    }
    std::os::unix::fs::symlink("usr/bin", base.join("bin")).unwrap();
    fs::create_dir_all(base.join("etc")).unwrap();
    fs::write(base.join("etc/name"), "of the base").unwrap();
    // What an attacker would put where host mounts things.
    std::os::unix::fs::symlink("/etc", base.join("proc")).unwrap();
    std::os::unix::fs::symlink("../../..", base.join("app")).unwrap();
    base
}

#[test]
fn a_base_layer_is_the_root_and_cannot_bend_our_mounts() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let base = shell_base(&rig);
    let base = rig.import(&base);
    let bundle = rig.import_app();
    let mut start = rig.start_app("shell", bundle, &[]);
    start.base = Some(base);
    let script = "read name < /etc/name; echo name $name; echo $$ /proc/[0-9]* /app/*; \
                  echo x > /etc/y || echo denied; echo done";
    start.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let (_, log, _) = rig.run(start);
    let said = read_until(&log, "done\n");
    for expected in ["name of the base\n", "2 /proc/1 /proc/2 /app/app\n", "denied\n"] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let mut missing = rig.start_app("bad", bundle, &[]);
    missing.command = vec!["/app/nothing".into()];
    let mut data = rig.start_app("bad", bundle, &[]);
    data.command = vec!["/app".into()];
    let unknown = rig.start_app("bad", policies::id::Digest::of(b"unknown"), &[]);
    let mut island = rig.start_app("bad", bundle, &[]);
    island.island = true;
    for (start, expected) in [
        (missing, "execute /app/nothing: No such file"),
        (data, "execute /app: Permission denied"),
        (unknown, "not in the store"),
        (island, "has no border"),
    ] {
        rig.send(HostCommand::Start(start));
        let refusal = rig.wait("the failure", |event| match event {
            HostEvent::StartFailed { refusal, .. } => Some(refusal.clone()),
            _ => None,
        });
        assert!(refusal.to_string().contains(expected) && refusal.fix.is_some(), "{refusal:?}");
    }
    let left = rig.cgroups().into_iter().filter(|group| group.join("comfort/oem/bad").exists());
    assert_eq!(left.count(), 0);
    assert_eq!(fs::read_dir(rig.dir.path().join("run/apps")).unwrap().count(), 0);
}

#[test]
fn an_island_reaches_the_app_and_faces_see_little() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let border = Face::Border(app("x").tenant);
    rig.send(HostCommand::StartFace { face: border.clone() });
    let channel = rig.attachment(&Attachment::Channel(border.clone()));
    let seen = read_until(&channel, "\n");
    for expected in ["network=false", "write=false", "\"islands\"", "\"verge\""] {
        assert!(seen.contains(expected), "{expected:?} in {seen}");
    }
    for hidden in ["\"etc\"", "\"proc\"", "\"sys\"", "\"root\"", "\"home\"", "\"spool\""] {
        assert!(!seen.contains(hidden), "{hidden:?} in {seen}");
    }
    // The border opens an island: here the test does it in its place.
    let island = rig.dir.path().join("run/islands/oem/probe");
    fs::create_dir(&island).unwrap();
    fs::write(island.join("island.sock"), "").unwrap();
    let bundle = rig.import_app();
    let mut start = rig.start_app("probe", bundle, &["probe"]);
    start.island = true;
    let (_, log, _) = rig.run(start);
    let said = read_until(&log, "done\n");
    assert!(said.contains("list /run/verge: island.sock"), "{said}");
    // A border that puts a link in an island's place gets nowhere.
    std::os::unix::fs::symlink("/etc", rig.dir.path().join("run/islands/oem/evil")).unwrap();
    let mut start = rig.start_app("evil", bundle, &["probe"]);
    start.island = true;
    rig.send(HostCommand::Start(start));
    rig.wait("the failure", |event| matches!(event, HostEvent::StartFailed { .. }).then_some(()));
}

/// How many sandboxes host keeps made ahead.
const MADE_AHEAD: usize = obu_host::sandbox::prepared::READY_MAX;

#[test]
fn a_burst_of_starts_finds_every_app_confined_alike_and_apart() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    // More at once than are made ahead, so that the others get theirs made on the spot.
    let names: Vec<String> = (0..2 * MADE_AHEAD + 1).map(|n| format!("burst{n}")).collect();
    // Host stands still meanwhile, so that it finds them all at once.
    rustix::process::kill_process(rig.pid(), rustix::process::Signal::STOP).unwrap();
    for name in &names {
        let start = rig.start_app(name, bundle, &["probe-and-stay"]);
        rig.send(HostCommand::Start(start));
    }
    rustix::process::kill_process(rig.pid(), rustix::process::Signal::CONT).unwrap();
    let (mut origins, mut uids, mut own) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut alike = BTreeSet::new();
    for name in names.iter().map(|name| app(name)) {
        let enforced = rig.wait("the start", |event| match event {
            HostEvent::Started { app, enforced, .. } if *app == name => Some(enforced.clone()),
            HostEvent::StartFailed { refusal, .. } => panic!("{refusal:?}"),
            _ => None,
        });
        assert!(enforced.iter().all(|line| !line.degraded), "{enforced:#?}");
        origins.insert(enforced.iter().find(|line| line.what == "sandbox").unwrap().value.clone());
        let log = rig.attachment(&Attachment::Log(name.clone()));
        let said = read_until(&log, "done\n");
        assert!(!said.contains("POSSIBLE"), "{said}");
        assert!(said.contains(&format!("host {} cwd /app\n", name.app)), "{said}");
        assert!(said.contains("list /tmp:\n"), "{said}");
        let line = |start: &str| said.lines().filter(|l| l.starts_with(start)).collect::<Vec<_>>().join("\n");
        alike.insert(["list", "status", "try", "cgroup"].map(line));
        let namespaces = line("own ");
        own.extend(namespaces.split(' ').skip(1).map(str::to_owned));
        for pid in rig.pids_of(&name) {
            uids.insert((obu_host::procfs::status_field(pid, "Uid").unwrap(), name.clone()));
        }
    }
    assert_eq!(origins.into_iter().collect::<Vec<_>>(), ["made ahead", "made on the spot"]);
    // Both kinds see the same, and no two share a namespace or a uid.
    assert_eq!(alike.len(), 1, "{alike:#?}");
    assert_eq!(own.len(), 7 * names.len(), "{own:?}");
    let distinct: BTreeSet<_> = uids.iter().map(|(uid, _)| uid).collect();
    assert_eq!((uids.len(), distinct.len()), (names.len(), names.len()), "{uids:?}");
}

#[test]
fn what_was_made_ahead_goes_with_host_even_when_it_is_killed() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let start = rig.start_app("probe", bundle, &["probe"]);
    rig.run(start);
    assert_eq!(rig.exit(&app("probe")), Exit::Code(0));
    // The kernel tells namespaces only through those that hold them: none but host may.
    let made: BTreeSet<_> = rig.namespaces_of_host();
    assert!(made.len() >= 5, "{made:?}");
    let family = rig.family();
    assert!(family.len() > 1, "host runs no face: {family:?}");
    assert!(rig.holders(&made, &[]).contains(&family[0]), "host holds what it has made");
    rig.kill_host();
    // A maker that was at work sees that host is gone and ends.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !rig.holders(&made, &family).is_empty() {
        let left = rig.holders(&made, &family);
        assert!(std::time::Instant::now() < until, "{left:?} outlive host: {:?}", rig.describe(&left));
        std::thread::yield_now();
    }
    // What else a killed host leaves, its groups, is the next one's to clear.
    rig.start_host();
    assert!(rig.terminate().success());
    assert_eq!(rig.cgroups(), Vec::<std::path::PathBuf>::new());
}
