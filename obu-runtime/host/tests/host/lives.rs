//! Whoever dies: apps run on, and the next life finds them, or nothing is left.

use std::io::{Read, Write};
use std::net::TcpListener;

use policies::face::Attachment;
use policies::host::{Enforced, Exit, Face, HostCommand, HostEvent};
use policies::id::{BusName, CameraId, Incarnation};
use policies::unit::Span;

use crate::rig::{Rig, app, needs_root, read_until};

fn hello(rig: &mut Rig) -> (Incarnation, Vec<(policies::host::AppRef, u64)>) {
    rig.wait("hello", |event| match event {
        HostEvent::Hello { incarnation, adopted, .. } => Some((*incarnation, adopted.clone())),
        _ => None,
    })
}

fn confined(rig: &mut Rig) -> Vec<Enforced> {
    rig.wait("what confines the app", |event| match event {
        HostEvent::Confined { enforced, .. } => Some(enforced.clone()),
        _ => None,
    })
}

#[test]
fn node_dies_and_the_next_one_takes_its_apps_over() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    assert_eq!(hello(&mut rig), (Incarnation(1), vec![]));
    let bundle = rig.import_app();
    let start = rig.start_app("ticks", bundle, &["tick"]);
    let instance = start.instance;
    let (confinement, log, _) = rig.run(start);
    read_until(&log, "tick 2\n");
    drop(log);
    rig.kill_node();
    rig.accept();
    assert_eq!(hello(&mut rig), (Incarnation(1), vec![(app("ticks"), instance)]));
    assert_eq!(confined(&mut rig), confinement, "what confines it is told anew");
    let log = rig.attachment(&Attachment::Log(app("ticks")));
    read_until(&log, "tick");
    rig.send(HostCommand::Stop { app: app("ticks"), grace: Span::from_millis(10_000) });
    assert_eq!(rig.exit(&app("ticks")), Exit::Signal(libc::SIGTERM));
}

#[test]
fn host_is_killed_and_the_next_one_adopts_the_apps() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let start = rig.start_app("ticks", bundle, &["tick"]);
    let instance = start.instance;
    let (confinement, _, _) = rig.run(start);
    rig.kill_host();
    rig.start_host();
    assert_eq!(hello(&mut rig), (Incarnation(2), vec![(app("ticks"), instance)]));
    assert_eq!(confined(&mut rig), confinement, "what confines it is known to the next host");
    let log = rig.attachment(&Attachment::Log(app("ticks")));
    read_until(&log, "tick");
    rig.send(HostCommand::Freeze { app: app("ticks") });
    rig.wait("the freeze", |event| {
        matches!(event, HostEvent::FreezeChanged { frozen: true, .. }).then_some(())
    });
    rig.send(HostCommand::Stop { app: app("ticks"), grace: Span::from_millis(10_000) });
    assert_eq!(rig.exit(&app("ticks")), Exit::Signal(libc::SIGTERM));
    // What the first host made for its own processes is gone as well.
    assert!(rig.terminate().success());
    assert!(rig.cgroups().is_empty());
    assert!(!rig.dir.path().join("run").exists());
}

#[test]
fn an_app_that_ended_while_host_was_away_leaves_nothing() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    let start = rig.start_app("term", bundle, &["term"]);
    let (_, log, _) = rig.run(start);
    read_until(&log, "ready\n");
    let procs = rig.cgroups()[0].join("comfort/oem/term/cgroup.procs");
    rig.kill_host();
    let pids: Vec<i32> =
        std::fs::read_to_string(&procs).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    for pid in &pids {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(*pid).unwrap(),
            rustix::process::Signal::KILL,
        );
    }
    rig.start_host();
    let (_, adopted) = hello(&mut rig);
    for (app, _) in adopted {
        // Caught in the act of dying: then its end is reported instead.
        rig.exit(&app);
    }
    assert!(!rig.cgroups().iter().any(|group| group.join("comfort/oem/term").exists()));
}

#[test]
fn faces_get_their_devices_and_are_started_again() {
    if needs_root() {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut rig = Rig::start_with_files(
        &[("car.dbc", "VERSION \"\""), ("clip.mjpeg", "jpegs")],
        &format!(
            "[[bus]]\nname = \"can0\"\nkind = \"multicast\"\ngroup = \"239.74.163.9\"\nport = 43119\ndbc = \"car.dbc\"\n\
             [[camera]]\nid = \"front\"\nsource = \"file:clip.mjpeg\"\n[effects]\nserver = \"{address}\"\n"
        ),
    );
    let camera = rig.attachment(&Attachment::Channel(Face::Camera));
    let clip = format!("{:?}", Attachment::File(format!("clip:{}", CameraId::new("front").unwrap())));
    assert!(read_until(&camera, "\n").contains(&clip.replace('"', "\\\"")));
    let bus = rig.attachment(&Attachment::Channel(Face::Bus));
    let seen = read_until(&bus, "\n");
    let can0 = format!("{:?}", Attachment::Bus(BusName::new("can0").unwrap())).replace('"', "\\\"");
    assert!(seen.contains(&can0) && seen.contains("dbc:can0") && seen.contains("network=false"), "{seen}");
    let (mut stream, _) = server.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    // The effect server goes away: host notices and makes a new connection.
    drop(stream);
    let (mut stream, _) = server.accept().unwrap();
    // Bus dies (here: its process is killed): a new one comes up and is connected with node again.
    let procs = rig.cgroups()[0].join("faces/bus/cgroup.procs");
    let pid: i32 = std::fs::read_to_string(procs).unwrap().lines().next().unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    rig.wait("the end", |event| matches!(event, HostEvent::FaceExited { face: Face::Bus, .. }).then_some(()));
    let bus = rig.attachment(&Attachment::Channel(Face::Bus));
    read_until(&bus, "bus sees");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    server.accept().unwrap();
}

// tests: P1-21
#[test]
fn a_face_that_cannot_serve_is_reported_with_its_reason_to_every_node() {
    if needs_root() {
        return;
    }
    let camera = "[[camera]]\nid = \"cannot-serve\"\nsource = \"file:clip.mjpeg\"\n";
    let mut rig = Rig::start_with_files(&[("clip.mjpeg", "jpegs")], camera);
    let reason = |words: &'static str| {
        move |event: &HostEvent| match event {
            HostEvent::FaceExited { face: Face::Camera, why, .. } => {
                why.clone().filter(|why| why.contains(words))
            }
            _ => None,
        }
    };
    let why = rig.wait("the camera's end", reason("out of order"));
    assert_eq!(why, "the camera is out of order; fix: mend it");
    // Without its clip there is no process that could say what is wrong.
    std::fs::remove_file(rig.dir.path().join("clip.mjpeg")).unwrap();
    let why = rig.wait("a start that fails", reason("clip.mjpeg"));
    assert!(why.contains("No such file") && why.contains("; fix: "), "{why}");
    // A node process that comes now hears of it at once, and not only when the face is tried again.
    rig.kill_node();
    rig.events.clear();
    rig.accept();
    hello(&mut rig);
    rig.send(HostCommand::Sample);
    rig.wait("an answer", |event| matches!(event, HostEvent::Sampled { .. }).then_some(()));
    let lost = |event: &HostEvent| matches!(event, HostEvent::FaceExited { face: Face::Camera, .. });
    assert!(rig.events.iter().any(lost), "{:?}", rig.events);
}

#[test]
fn a_second_host_is_turned_away_and_harms_nothing() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let second = rig.try_second_host();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another verge-host") && said.contains("fix:"), "{said}");
    rig.send(HostCommand::Sample);
    rig.wait("an answer", |event| matches!(event, HostEvent::Sampled { .. }).then_some(()));
}

#[test]
fn node_can_end_everything() {
    if needs_root() {
        return;
    }
    let mut rig = Rig::start("");
    let bundle = rig.import_app();
    for (name, how) in [("one", "tick"), ("two", "deaf")] {
        let start = rig.start_app(name, bundle, &[how]);
        rig.run(start);
    }
    rig.send(HostCommand::Shutdown { grace: Span::from_millis(50) });
    assert!(rig.join().success());
    assert!(rig.cgroups().is_empty());
    assert!(!rig.dir.path().join("run").exists());
}
