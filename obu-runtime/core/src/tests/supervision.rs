//! Apps from manifest to running, and what happens when they or the machine misbehave.

use super::*;

#[test]
fn apps_start_with_their_islands_open_best_class_first() {
    let rig = Rig::new(&["a1"]);
    assert_eq!((rig.state("a1", "speedo"), rig.state("a1", "games")), ("running".into(), "running".into()));
    let starts = rig.sent_commands("a1").into_iter().filter_map(|command| match command {
        HostCommand::Start(start) => Some((start.app.app.to_string(), start.island)),
        _ => None,
    });
    assert_eq!(starts.collect::<Vec<_>>(), [("speedo".into(), true), ("games".into(), true)]);
    let log = &rig.sites[&node_id("a1")].log;
    let open = log.iter().position(|o| matches!(o, Output::Border { message: ToBorder::Open { .. }, .. }));
    let route = log.iter().position(|o| matches!(o, Output::Bus(ToBus::Route { .. })));
    let start = log.iter().position(|o| matches!(o, Output::Host(HostCommand::Start(_))));
    assert!(open < start && route < start && open.is_some() && route.is_some());
}

fn exit(rig: &mut Rig, app: &str, exit: Exit) {
    let instance = rig.site("a1").running.remove(&app_ref(app)).unwrap();
    rig.feed("a1", Input::Host(HostEvent::Exited { app: app_ref(app), instance, exit }));
}

#[test]
fn an_app_that_fails_is_started_again_later_and_later_and_then_given_up() {
    let mut rig = Rig::new(&["a1"]);
    let mut waits = Vec::new();
    for _ in 0..10 {
        exit(&mut rig, "speedo", Exit::Code(1));
        assert_eq!(rig.state("a1", "speedo"), "back-off");
        let begun = rig.now;
        while rig.state("a1", "speedo") != "running" {
            rig.run_for(10 * MS);
        }
        waits.push(rig.now - begun);
    }
    // Doubling beats a quarter of jitter either way, until the longest wait is reached.
    assert!(waits[..9].windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    exit(&mut rig, "speedo", Exit::Code(1));
    assert_eq!(rig.state("a1", "speedo"), "failed");
    assert_eq!(rig.decisions("a1", DecisionKind::GiveUp).len(), 1);
    let reply = rig.control("a1", ControlCall::Restart { app: app_ref("speedo") });
    assert!(matches!(reply, ControlReply::Ok { .. }));
    rig.run_for(50 * MS);
    assert_eq!(rig.state("a1", "speedo"), "running");
}

#[test]
fn an_app_that_ends_well_stays_ended_and_its_island_is_closed() {
    let mut rig = Rig::new(&["a1"]);
    exit(&mut rig, "speedo", Exit::Code(0));
    rig.run_for(1_000 * MS);
    assert_eq!(rig.state("a1", "speedo"), "stopped");
    let log = &rig.sites[&node_id("a1")].log;
    let closed = |o: &Output| matches!(o, Output::Border { message: ToBorder::Close { .. }, .. });
    let no_route = |o: &Output| matches!(o, Output::Bus(ToBus::Route { signals, .. }) if signals.is_empty());
    assert!(log.iter().any(closed) && log.iter().any(no_route));
}

#[test]
fn the_exit_of_an_earlier_instance_changes_nothing() {
    let mut rig = Rig::new(&["a1"]);
    let exit = Exit::Code(1);
    rig.feed("a1", Input::Host(HostEvent::Exited { app: app_ref("speedo"), instance: 1, exit }));
    assert_eq!(rig.state("a1", "speedo"), "running");
}

#[test]
fn a_bundle_that_host_refuses_fails_its_app_and_says_why() {
    let mut rig = Rig::bare(&["a1"]);
    rig.site("a1").bad_bundles.insert(Digest::of(b"speedo"));
    rig.control("a1", ControlCall::Apply { manifest: manifest() });
    rig.run_for(500 * MS);
    assert_eq!((rig.state("a1", "speedo"), rig.state("a1", "games")), ("failed".into(), "running".into()));
    let views = rig.site("a1").node.apps();
    assert!(views.iter().any(|view| view.why.contains("not signed")));
}

#[test]
fn a_new_node_process_adopts_what_runs_and_stops_what_nobody_wants() {
    let mut rig = Rig::new(&["a1"]);
    let instance = rig.site("a1").running[&app_ref("speedo")];
    rig.site("a1").running.insert(app_ref("stranger"), 5);
    rig.site("a1").log.clear();
    rig.boot("a1");
    rig.run_for(500 * MS);
    assert_eq!(rig.state("a1", "speedo"), "running");
    assert_eq!(rig.site("a1").running[&app_ref("speedo")], instance, "it was not started again");
    assert!(!rig.site("a1").running.contains_key(&app_ref("stranger")));
    let starts = rig.sent_commands("a1").into_iter().filter(|c| matches!(c, HostCommand::Start(_)));
    assert_eq!(starts.count(), 0);
    let opened = |o: &Output| matches!(o, Output::Border { message: ToBorder::Open { .. }, .. });
    assert_eq!(rig.site("a1").log.iter().filter(|o| opened(o)).count(), 2, "its islands are open again");
}

// tests: P4-06
#[test]
fn without_psi_a_full_cpu_freezes_the_background_and_the_reason_says_so() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").pressure.cpu_used = 970;
    rig.run_for(6_000 * MS);
    assert_eq!((rig.state("a1", "games"), rig.state("a1", "speedo")), ("frozen".into(), "running".into()));
    let freezes = rig.decisions("a1", DecisionKind::Freeze);
    assert!(freezes[0].why.contains("cpu use 970 >= 950 permille"), "{freezes:?}");
}

#[test]
fn pressure_squeezes_then_freezes_the_background_and_gives_back_in_reverse() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").pressure.cpu = Some(800);
    rig.run_for(6_000 * MS);
    assert_eq!((rig.state("a1", "games"), rig.state("a1", "speedo")), ("frozen".into(), "running".into()));
    rig.site("a1").pressure.cpu = Some(0);
    rig.run_for(30_000 * MS);
    assert_eq!(rig.state("a1", "games"), "running");
    let of = |kind| rig.decisions("a1", kind).into_iter().map(|d| (d.about, d.why)).collect::<Vec<_>>();
    let (squeezes, freezes) = (of(DecisionKind::Squeeze), of(DecisionKind::Freeze));
    assert_eq!(freezes[0].0, "class background");
    assert!(squeezes[0].1.contains("cpu pressure 800"), "{squeezes:?}");
    assert!(!of(DecisionKind::Thaw).is_empty());
    let commands = rig.sent_commands("a1");
    let given_back =
        |c: &HostCommand| *c == HostCommand::SqueezeClass { class: Class::Background, share: 1000 };
    assert!(commands.iter().any(given_back));
}

#[test]
fn what_is_degraded_is_told_through_freeze_thaw_and_the_next_life() {
    let mut rig = Rig::new(&["a1"]);
    let confined = || {
        let line = |what: &str, degraded| Enforced {
            what: what.into(),
            by: "nice".into(),
            value: "10".into(),
            degraded,
        };
        let enforced = vec![line("cpu", true), line("pids", false)];
        Input::Host(HostEvent::Confined { app: app_ref("games"), enforced })
    };
    let why = |rig: &Rig| {
        let apps = rig.sites[&node_id("a1")].node.apps();
        apps.into_iter().find(|view| view.app == app_ref("games")).unwrap().why
    };
    rig.feed("a1", confined());
    assert_eq!(why(&rig), "degraded: cpu");
    rig.control("a1", ControlCall::Freeze { app: app_ref("games") });
    rig.run_for(50 * MS);
    assert!(why(&rig).contains("by cgroup; degraded: cpu"), "{}", why(&rig));
    rig.control("a1", ControlCall::Thaw { app: app_ref("games") });
    rig.run_for(50 * MS);
    assert_eq!(why(&rig), "degraded: cpu");
    rig.boot("a1");
    rig.feed("a1", confined());
    rig.run_for(500 * MS);
    assert_eq!(why(&rig), "degraded: cpu");
}

#[test]
fn an_app_frozen_by_hand_stays_frozen_through_thaw_and_reboot() {
    let mut rig = Rig::new(&["a1"]);
    rig.control("a1", ControlCall::Freeze { app: app_ref("games") });
    rig.run_for(50 * MS);
    assert_eq!(rig.state("a1", "games"), "frozen");
    rig.boot("a1");
    rig.run_for(500 * MS);
    assert_eq!(rig.state("a1", "games"), "frozen");
    rig.control("a1", ControlCall::Thaw { app: app_ref("games") });
    rig.run_for(50 * MS);
    assert_eq!(rig.state("a1", "games"), "running");
}

#[test]
fn a_node_process_that_comes_back_within_a_life_numbers_its_tasks_on() {
    let mut rig = Rig::new(&["a1"]);
    let toll = |rig: &mut Rig| {
        let request = rig.ask("a1", "speedo", run_task("toll", 400));
        rig.run_for(500 * MS);
        rig.report("a1", request)
    };
    let one = toll(&mut rig);
    // Only host begins a new life; this is the same one.
    rig.site("a1").life -= 1;
    rig.boot("a1");
    rig.run_for(500 * MS);
    let two = toll(&mut rig);
    assert_eq!((one.outcome.word(), two.outcome.word()), ("done", "done"));
    assert_eq!(one.task.incarnation, two.task.incarnation);
    assert!(one.task.number < two.task.number, "{} and {}", one.task, two.task);
    assert_eq!(rig.effects.values().collect::<Vec<_>>(), [&1, &1]);
}

#[test]
fn a_node_process_that_comes_back_within_a_life_gives_no_instance_number_twice() {
    let mut rig = Rig::new(&["a1"]);
    let given = *rig.site("a1").running.values().max().unwrap();
    rig.site("a1").life -= 1;
    rig.boot("a1");
    rig.run_for(500 * MS);
    rig.control("a1", ControlCall::Restart { app: app_ref("speedo") });
    rig.run_for(5_000 * MS);
    assert_eq!(rig.state("a1", "speedo"), "running");
    assert!(rig.site("a1").running[&app_ref("speedo")] > given, "host has seen {given} already");
}

#[test]
fn a_border_that_comes_back_gets_its_islands_again() {
    let mut rig = Rig::new(&["a1"]);
    let face = Face::Border(tenant());
    rig.feed(
        "a1",
        Input::Host(HostEvent::FaceExited { face: face.clone(), exit: Exit::Signal(11), why: None }),
    );
    assert!(rig.site("a1").node.apps().iter().all(|view| !view.island));
    rig.feed("a1", Input::Host(HostEvent::FaceStarted { face }));
    rig.run_for(50 * MS);
    assert!(rig.site("a1").node.apps().iter().all(|view| view.island && view.state == "running"));
}

// tests: P1-21
#[test]
fn a_face_that_is_away_is_named_with_its_last_reason() {
    let mut rig = Rig::new(&["a1"]);
    let lost = |rig: &mut Rig| {
        let now = Timestamp::from_micros(rig.now);
        let lost = rig.site("a1").node.status(now).unwrap().faces_lost;
        lost.into_iter().map(|(face, why)| alloc::format!("{face}: {why}")).collect::<Vec<_>>()
    };
    let exit = |face, exit, why: Option<&str>| {
        Input::Host(HostEvent::FaceExited { face, exit, why: why.map(String::from) })
    };
    assert!(lost(&mut rig).is_empty());
    rig.feed("a1", exit(Face::Bus, Exit::Code(1), Some("car.dbc:4: a signal of 99 bits")));
    rig.feed("a1", exit(Face::Camera, Exit::Signal(9), None));
    assert_eq!(lost(&mut rig), ["bus: car.dbc:4: a signal of 99 bits", "camera: ended by signal 9"]);
    rig.feed("a1", exit(Face::Bus, Exit::Unknown, Some("cannot open can0")));
    rig.feed("a1", Input::Host(HostEvent::FaceStarted { face: Face::Camera }));
    assert_eq!(lost(&mut rig), ["bus: cannot open can0"]);
    rig.boot("a1");
    assert!(lost(&mut rig).is_empty());
}

#[test]
fn when_its_host_ends_nothing_is_started_again() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").log.clear();
    let instance = rig.site("a1").running[&app_ref("speedo")];
    rig.feed("a1", Input::Host(HostEvent::Ending { grace: Span::from_millis(2_000) }));
    let exit = Exit::Signal(15);
    rig.feed("a1", Input::Host(HostEvent::Exited { app: app_ref("speedo"), instance, exit }));
    rig.run_for(1_000 * MS);
    assert_eq!(rig.state("a1", "speedo"), "stopped");
    let commands = rig.sent_commands("a1");
    assert!(!commands.iter().any(|c| matches!(c, HostCommand::Start(_) | HostCommand::Shutdown { .. })));
    assert!(rig.decisions("a1", DecisionKind::BackOff).is_empty());
}
