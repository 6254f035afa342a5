//! The control API: checked as a whole, durable before it is answered.

use super::*;

fn refusals(reply: ControlReply) -> Vec<String> {
    match reply {
        ControlReply::Refused { refusals } => refusals.iter().map(|r| alloc::format!("{r}")).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
#[rustfmt::skip]
fn refusal_table() {
    //    what is wrong with the app                                              what the reply names
    check(|app| app.class = Class::Critical,                                      "class critical is better");
    check(|app| app.grants.tasks.push(function("secret")),                        "tasks: secret");
    check(|app| app.grants.signals.push(SignalPattern::new("Other.X").unwrap()),  "signals: Other.X");
    check(|app| app.resources.memory = Bytes::mebi(4096),                         "memory limits would add up");
    check(|app| app.resources.cpu = CpuMilli::new(64_000).unwrap(),               "CPU limits would add up");
    check(|app| app.tenant = TenantId::new("stranger").unwrap(),                  "not allowed for tenant stranger");
}

#[track_caller]
fn check(spoil: fn(&mut App), named: &str) {
    let mut rig = Rig::bare(&["a1"]);
    let mut manifest = manifest();
    spoil(&mut manifest.apps[0]);
    let refusals = refusals(rig.control("a1", ControlCall::Apply { manifest }));
    assert!(refusals.iter().any(|r| r.contains(named)), "{refusals:?} does not name {named:?}");
    assert!(rig.site("a1").node.apps().is_empty(), "all or nothing");
    assert!(!rig.site("a1").log.iter().any(|o| matches!(o, Output::Persist { .. })));
}

#[test]
fn a_change_is_durable_before_it_is_answered_and_nothing_else_is_touched() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").log.clear();
    let manifest = Manifest { apps: vec![app("third", Class::Comfort)], functions: Vec::new() };
    rig.control("a1", ControlCall::Apply { manifest });
    let log = &rig.site("a1").log;
    let at = |found: fn(&Output) -> bool| log.iter().position(found).unwrap();
    let persist = at(|o| matches!(o, Output::Persist { what: Durable::Desired(_), .. }));
    assert!(persist < at(|o| matches!(o, Output::Reply { .. })));
    rig.run_for(100 * MS);
    assert_eq!(rig.site("a1").node.apps().len(), 3);
    rig.boot("a1");
    rig.run_for(500 * MS);
    assert_eq!(rig.state("a1", "third"), "running");
}

// tests: P3-14
#[test]
fn an_app_of_other_nodes_is_not_kept_here_and_leaves_if_it_was() {
    let mut rig = Rig::new(&["a1"]);
    let mut moved = app("speedo", Class::Driving);
    moved.nodes = [node_id("a2"), node_id("b1")].into_iter().collect();
    let mut stays = app("games", Class::Background);
    stays.nodes = [node_id("a1")].into_iter().collect();
    rig.site("a1").log.clear();
    let manifest = Manifest { apps: vec![moved, stays], functions: Vec::new() };
    let reply = rig.control("a1", ControlCall::Apply { manifest });
    let ControlReply::Ok { lines } = reply else { panic!("{reply:?}") };
    assert_eq!(lines, ["app oem/speedo runs at a2, b1, not here", "app oem/games applied"]);
    rig.run_for(1_000 * MS);
    let apps: Vec<String> = rig.site("a1").node.apps().iter().map(|view| view.app.to_string()).collect();
    assert_eq!(apps, ["oem/games"]);
    let stopped = |c: &&HostCommand| matches!(c, HostCommand::Stop { .. });
    assert_eq!(rig.sent_commands("a1").iter().filter(stopped).count(), 1, "games runs on");
}

// tests: P2-12
#[test]
fn a_granted_signal_that_no_bus_maps_is_told_until_the_grants_change() {
    let mut rig = Rig::new(&["a1"]);
    let why = |rig: &mut Rig| {
        let views = rig.site("a1").node.apps();
        views.into_iter().find(|view| view.app == app_ref("speedo")).unwrap().why
    };
    assert_eq!(why(&mut rig), "");
    // What was never granted is not believed: the bus process may be anybody.
    let signals = vec![SignalPattern::new("Vehicle.Speed").unwrap(), SignalPattern::new("Other.X").unwrap()];
    rig.feed("a1", Input::Bus(FromBus::Unmapped { app: app_ref("speedo"), signals }));
    assert_eq!(why(&mut rig), "no bus here maps Vehicle.Speed");
    let told = rig.decisions("a1", DecisionKind::Admit);
    assert!(told.iter().any(|d| d.why == "no bus here maps Vehicle.Speed"));
    let mut regranted = app("speedo", Class::Driving);
    regranted.grants.signals = vec![SignalPattern::new("Vehicle.Width").unwrap()];
    rig.control(
        "a1",
        ControlCall::Apply { manifest: Manifest { apps: vec![regranted], functions: Vec::new() } },
    );
    assert_eq!(why(&mut rig), "");
}

#[test]
fn an_app_is_told_what_its_node_has_no_source_of() {
    let mut rig = Rig::bare(&["a1"]);
    rig.site("a1").config.bus = false;
    rig.boot("a1");
    let manifest = Manifest { apps: vec![app("speedo", Class::Driving)], functions: Vec::new() };
    let reply = rig.control("a1", ControlCall::Apply { manifest });
    let ControlReply::Ok { lines } = reply else { panic!("{reply:?}") };
    assert_eq!(lines, ["app oem/speedo applied; this node has no bus: it gets no signal"]);
}

#[test]
fn a_full_disk_refuses_the_change_and_leaves_everything_as_it_was() {
    let mut rig = Rig::bare(&["a1"]);
    rig.feed("a1", Input::Control { request: 500, call: ControlCall::Apply { manifest: manifest() } });
    rig.feed("a1", Input::Persisted { ticket: 1, result: Err("no space left".into()) });
    let reply = rig.site("a1").log.iter().find_map(|o| match o {
        Output::Reply { request: 500, reply } => Some(reply.clone()),
        _ => None,
    });
    assert!(refusals(reply.unwrap())[0].contains("no space left"));
    assert!(rig.site("a1").node.apps().is_empty());
}

#[test]
fn resize_and_new_grants_reach_a_running_app_without_a_restart() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").log.clear();
    let resources = Resources { memory: Bytes::mebi(24), ..app("speedo", Class::Driving).resources };
    rig.control("a1", ControlCall::Resize { app: app_ref("speedo"), resources });
    let mut regranted = app("games", Class::Background);
    regranted.grants.signals.push(SignalPattern::new("Vehicle.Width").unwrap());
    let manifest = Manifest { apps: vec![regranted], functions: Vec::new() };
    rig.control("a1", ControlCall::Apply { manifest });
    let commands = rig.sent_commands("a1");
    assert!(commands.iter().any(|c| matches!(c, HostCommand::Resize { .. })));
    assert!(!commands.iter().any(|c| matches!(c, HostCommand::Stop { .. } | HostCommand::Start(_))));
    let routed = |o: &Output| matches!(o, Output::Bus(ToBus::Route { signals, .. }) if signals.len() == 2);
    assert!(rig.site("a1").log.iter().any(routed));
}

#[test]
fn a_changed_program_is_stopped_and_started_again() {
    let mut rig = Rig::new(&["a1"]);
    let before = rig.site("a1").running[&app_ref("speedo")];
    let changed = App { bundle: Digest::of(b"newer"), ..app("speedo", Class::Driving) };
    let manifest = Manifest { apps: vec![changed], functions: Vec::new() };
    rig.control("a1", ControlCall::Apply { manifest });
    rig.run_for(200 * MS);
    assert_eq!(rig.state("a1", "speedo"), "running");
    assert_ne!(rig.site("a1").running[&app_ref("speedo")], before);
}

#[test]
fn a_deleted_app_is_stopped_and_does_not_come_back() {
    let mut rig = Rig::new(&["a1"]);
    rig.control("a1", ControlCall::Delete { app: app_ref("speedo") });
    rig.run_for(200 * MS);
    assert_eq!(rig.state("a1", "speedo"), "absent");
    rig.boot("a1");
    rig.run_for(500 * MS);
    assert_eq!(rig.state("a1", "speedo"), "absent");
    let reply = rig.control("a1", ControlCall::Delete { app: app_ref("speedo") });
    assert!(refusals(reply)[0].contains("no app oem/speedo"));
}

#[test]
fn a_task_from_the_command_line_is_answered_with_its_report() {
    let mut rig = Rig::new(&["a1"]);
    let reply = rig.control(
        "a1",
        ControlCall::RunTask {
            function: function("lane"),
            deadline_us: 200 * MS,
            class: Class::Comfort,
            effect: None,
            input: blob(),
        },
    );
    assert!(matches!(reply, ControlReply::Task(report) if report.outcome.word() == "done"));
}
