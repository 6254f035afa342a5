//! Tasks of apps: here, on the sibling, at the roadside, and what happens when those fail.

use super::*;

#[test]
fn a_task_runs_and_the_app_gets_one_answer_with_its_phases() {
    let mut rig = Rig::new(&["a1"]);
    let request = rig.ask("a1", "speedo", lane(200));
    rig.run_for(300 * MS);
    let report = rig.report("a1", request);
    assert_eq!((report.outcome.word(), report.node), ("done", Some(node_id("a1"))));
    assert_eq!(report.phases.execution_us, 5 * MS);
    let story = rig.sites[&node_id("a1")].node.story(&report.task).unwrap();
    assert!(story.steps.iter().any(|step| step.what == "placed" && step.why.contains("a1 (here)")));
}

/// Fills this node so that tasks go elsewhere, and returns where they went.
fn places_of_a_burst(rig: &mut Rig, count: usize) -> BTreeMap<String, u32> {
    let requests: Vec<u64> = (0..count).map(|_| rig.ask("a1", "speedo", lane(400))).collect();
    rig.run_for(600 * MS);
    let mut places = BTreeMap::new();
    for request in requests {
        let report = rig.report("a1", request);
        let place = report.node.map_or_else(|| report.outcome.word().to_string(), |node| node.to_string());
        *places.entry(place).or_default() += 1;
    }
    places
}

#[test]
fn a_busy_node_spreads_its_tasks_over_car_and_roadside() {
    let mut rig = Rig::new(&["a1", "a2", "e1"]);
    for site in rig.sites.values_mut() {
        site.exec_us = 18 * MS;
    }
    let places = places_of_a_burst(&mut rig, 40);
    assert!(["a1", "a2", "e1"].iter().all(|place| places.contains_key(*place)), "{places:?}");
    let exports = rig.decisions("a1", DecisionKind::Export);
    assert!(!exports.is_empty() && exports.iter().all(|d| d.why == "rule export-1"));
}

// tests: P3-14
#[test]
fn a_function_of_other_nodes_is_known_here_and_runs_there() {
    let mut rig = Rig::new(&["a1", "a2"]);
    let mut toll = make_function("toll", Effect::Once);
    toll.nodes = [node_id("a2")].into_iter().collect();
    let manifest = Manifest { apps: Vec::new(), functions: vec![toll] };
    for (node, said) in [("a1", "function toll applied; it runs at a2"), ("a2", "function toll applied")] {
        let reply = rig.control(node, ControlCall::Apply { manifest: manifest.clone() });
        assert!(matches!(&reply, ControlReply::Ok { lines } if lines == &[said.to_string()]), "{reply:?}");
    }
    rig.run_for(500 * MS);
    assert_eq!(rig.site("a1").node.functions()[2].state, "elsewhere: a2");
    let toll = |rig: &mut Rig| {
        let request = rig.ask("a1", "speedo", run_task("toll", 600));
        rig.run_for(2_000 * MS);
        rig.report("a1", request)
    };
    let report = toll(&mut rig);
    assert_eq!((report.outcome.word(), report.node), ("done", Some(node_id("a2"))));
    // A new life of this node, and of its host, still leave it there; without the other one it has no place.
    rig.boot("a1");
    rig.cut.insert(node_id("a2"));
    rig.run_for(4_000 * MS);
    assert_eq!(rig.site("a1").node.functions()[2].state, "elsewhere: a2");
    let report = toll(&mut rig);
    assert!(report.outcome.word() != "done" && report.node.is_none(), "{report:?}");
    assert!(rig.effects.values().all(|n| *n == 1) && rig.effects.len() == 1);
}

#[test]
fn without_an_export_rule_nothing_leaves_the_car() {
    let mut rig = Rig::new(&["a1", "a2", "e1"]);
    let mut config = config("a1");
    config.policy.exports.clear();
    rig.site("a1").config = config;
    rig.boot("a1");
    rig.run_for(2_500 * MS);
    rig.site("a1").log.clear();
    let places = places_of_a_burst(&mut rig, 40);
    assert!(!places.contains_key("e1") && places.contains_key("a2"), "{places:?}");
    let outside = |o: &Output| match o {
        Output::Send { realm: Realm::Outside, message, .. } => message.payload().is_some(),
        _ => false,
    };
    assert!(!rig.site("a1").log.iter().any(outside));
}

#[test]
fn when_the_sibling_and_the_roadside_die_every_task_still_has_one_outcome() {
    let mut rig = Rig::new(&["a1", "a2", "e1"]);
    let mut requests = Vec::new();
    for round in 0..60 {
        for name in ["lane", "lane", "toll"] {
            requests.push(rig.ask("a1", "speedo", run_task(name, 600)));
        }
        match round {
            10 => drop(rig.cut.insert(node_id("e1"))),
            30 => drop(rig.cut.insert(node_id("a2"))),
            50 => rig.cut.clear(),
            _ => {}
        }
        rig.run_for(40 * MS);
    }
    rig.run_for(3_000 * MS);
    let mut words: BTreeMap<&str, u32> = BTreeMap::new();
    for request in requests {
        let report = rig.report("a1", request);
        assert!(report.ended <= report.deadline);
        *words.entry(report.outcome.word()).or_default() += 1;
        let effects = rig.effects.get(&report.task).copied().unwrap_or(0);
        match (report.effect, report.outcome.word()) {
            (Effect::Once, "done") => assert_eq!(effects, 1),
            (Effect::Once, "indeterminate") => assert!(effects <= 1),
            (_, _) => assert_eq!(effects, 0),
        }
    }
    assert!(words["done"] > 150, "{words:?}");
}

#[test]
fn a_node_without_a_function_of_its_own_uses_the_sibling() {
    let mut rig = Rig::new(&["a1", "a2"]);
    rig.site("a1").bad_bundles.insert(Digest::of(b"lane"));
    rig.boot("a1");
    rig.run_for(2_500 * MS);
    let request = rig.ask("a1", "speedo", lane(300));
    rig.run_for(400 * MS);
    assert_eq!(rig.report("a1", request).node, Some(node_id("a2")));
}

#[test]
fn a_dead_worker_process_does_not_lose_its_tasks() {
    let mut rig = Rig::new(&["a1", "a2"]);
    for site in rig.sites.values_mut() {
        site.exec_us = 50 * MS;
    }
    let request = rig.ask("a1", "speedo", lane(900));
    rig.run_for(10 * MS);
    let face = Face::Worker(tenant());
    for name in ["a1", "a2"] {
        rig.feed(
            name,
            Input::Host(HostEvent::FaceExited { face: face.clone(), exit: Exit::Signal(9), why: None }),
        );
    }
    rig.run_for(20 * MS);
    for name in ["a1", "a2"] {
        rig.feed(name, Input::Host(HostEvent::FaceStarted { face: face.clone() }));
    }
    rig.run_for(1_000 * MS);
    assert_eq!(rig.report("a1", request).outcome.word(), "done");
}

#[test]
fn a_car_does_not_work_for_strangers_and_an_edge_does() {
    let mut rig = Rig::new(&["a1", "b1", "e1"]);
    let offers = |rig: &Rig, at: &str, peer: &str| {
        let peers = rig.sites[&node_id(at)].node.peers(Timestamp::from_micros(rig.now));
        peers.into_iter().find(|view| view.node == node_id(peer)).map(|view| view.functions.len())
    };
    assert_eq!(offers(&rig, "a1", "e1"), Some(3));
    assert_eq!(offers(&rig, "e1", "a1"), Some(0));
    // Even if one asks without having been invited.
    let run = v2e_core::message::Run {
        task: policies::id::TaskId { owner: node_id("e1"), incarnation: Incarnation(1), number: 77 },
        attempt: policies::id::Attempt(1),
        life: Incarnation(1),
        tenant: tenant(),
        function: function("lane"),
        bundle: Digest::of(b"lane"),
        effect: Effect::Pure,
        class: Class::Driving,
        deadline_us: 100 * MS,
        lease_us: 100 * MS,
        input: blob(),
    };
    let envelope = v2e_core::message::Envelope {
        sender: node_id("e1"),
        incarnation: Incarnation(1),
        body: v2e_core::message::ToWorker::Run(run),
    };
    let message = Message::ToWorker(envelope);
    let payload = message.payload();
    rig.site("a1").log.clear();
    rig.feed("a1", Input::Received { realm: Realm::Outside, from: node_id("e1"), message, payload });
    let work = rig.decisions("a1", DecisionKind::Work);
    assert!(work[0].why.contains("from outside"), "{work:?}");
    assert!(!rig.site("a1").log.iter().any(|o| matches!(o, Output::RunJob { .. })));
}

#[test]
fn messages_that_lie_about_their_sender_are_counted_and_dropped() {
    let mut rig = Rig::new(&["a1", "a2"]);
    let advert = rig.site("a2").log.iter().find_map(|o| match o {
        Output::Announce { advert, .. } => Some(advert.clone()),
        _ => None,
    });
    let message = Message::Advert(advert.unwrap());
    let from = node_id("e9");
    rig.feed("a1", Input::Received { realm: Realm::Outside, from, message, payload: None });
    let view = rig.site("a1").node.status(Timestamp::ZERO).unwrap();
    assert_eq!(view.counters.forged, 1);
    assert!(rig.site("a1").node.peers(Timestamp::ZERO).iter().all(|peer| peer.node != node_id("e9")));
}
