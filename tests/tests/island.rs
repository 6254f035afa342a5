//! The border: what is not granted does not exist on an app's island, and no app notices another.

use serde_json::{Value as Json, json};
use tests::app::App;
use tests::needs;
use tests::road::{Road, material, programs, superuser};
use tests::wait::until;

const PROBE: &str = include_str!("../e2e/py/probe.py");

fn probe(name: &str, role: &str) -> App {
    App::python(name, PROBE).argument(role).granted("signals: [Vehicle.Speed]")
}

fn rounds(least: u64) -> impl Fn(&Json) -> bool {
    move |told| told["rounds"].as_u64() >= Some(least)
}

// tests: P2-01
#[test]
fn an_app_sees_what_it_was_granted_and_nothing_else() {
    let name = "an_app_sees_what_it_was_granted_and_nothing_else";
    needs!(name, programs(), superuser(), material(&["base-python", "pylib"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    let _driving = road.drive();
    node.run(&probe("watcher", "watcher"));
    let told = node.wait_told("oem/watcher", "rounds", rounds(5));
    let speed = json!(["vss/Vehicle/Speed"]);
    assert_eq!(told["keys"], speed, "** shows more than was granted, or less");
    assert_eq!(told["got"]["vss/**"], speed);
    assert_eq!(told["got"]["**"], speed);
    assert_eq!(told["got"]["vss/Vehicle/CurrentLocation/Latitude"], json!([]));
    assert_eq!(told["got"]["@/**"], json!([]), "the island's router shows its inner life");
    assert_eq!(told["tokens"], json!([]));
    assert_eq!(told["queries"], json!([]));
    // The rest was on the bus and decoded: the node itself sees it.
    let all = node.json(&["get", "signals"]);
    let paths: Vec<_> = all.as_array().into_iter().flatten().filter_map(|row| row["path"].as_str()).collect();
    assert!(paths.contains(&"Vehicle.CurrentLocation.Latitude"), "{paths:?}");
    node.stop();
}

// tests: P2-12
#[test]
fn a_granted_signal_that_no_bus_maps_is_named_beside_the_app() {
    let name = "a_granted_signal_that_no_bus_maps_is_named_beside_the_app";
    needs!(name, programs(), superuser(), material(&["apps"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    node.run(&App::heartbeat().granted("signals: [Vehicle.Sped, Vehicle.Speed]"));
    let named = |why: &Json| why.as_str().is_some_and(|why| why.contains("no bus here maps Vehicle.Sped"));
    let why = until("the typo is named", || Some(node.app("oem/heartbeat")["why"].clone()).filter(named));
    assert!(!why.to_string().contains("Vehicle.Speed"), "{why}");
    node.stop();
}

// tests: P2-02
#[test]
fn two_apps_of_one_tenant_never_notice_each_other() {
    let name = "two_apps_of_one_tenant_never_notice_each_other";
    needs!(name, programs(), superuser(), material(&["base-python", "pylib"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    let _driving = road.drive();
    node.run(&probe("watcher", "watcher"));
    node.run(&probe("talker", "talker"));
    let first = node.wait_told("oem/watcher", "rounds", |_| true)["rounds"].as_u64().unwrap_or(0);
    let talked = node.wait_told("oem/talker", "rounds", rounds(10));
    let watched = node.wait_told("oem/watcher", "rounds", rounds(first + 10));
    let nothing = json!([]);
    assert_eq!(watched["keys"], json!(["vss/Vehicle/Speed"]), "a put of the neighbour came through");
    assert_eq!(watched["forged"], 0, "a forged signal came through");
    assert_eq!((&watched["tokens"], &watched["alive"]), (&nothing, &nothing), "a token came through");
    assert_eq!(watched["queries"], nothing, "a query of the neighbour came through");
    assert_eq!(talked["tokens"], nothing);
    assert_eq!(talked["other"], json!(["vss/Vehicle/Speed"]));
    let me = &node.json(&["get", "nodes"])[0];
    let counts = me["refused"].as_array().cloned().unwrap_or_default();
    let counted = counts.iter().find(|row| row[0]["app"] == "talker").and_then(|row| row[1].as_u64());
    assert!(counted >= Some(10), "the puts of the talker were not counted: {counts:?}");
    node.stop();
}

// tests: P2-03
#[test]
fn an_ungranted_frame_and_task_are_refused_by_name() {
    let name = "an_ungranted_frame_and_task_are_refused_by_name";
    needs!(name, programs(), superuser(), material(&["base-python", "pylib", "wasm/lane.wasm"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    node.serve(&[("lane", "pure")]);
    let ask = PROBE.split("def watch").next().unwrap_or_default().to_owned()
        + "
def ask(session, key, payload):
    return [(r.ok is not None, (r.ok or r.err).payload.to_string()) for r in session.get(key, payload=payload, timeout=5)]

with island() as session:
    tell(frame=ask(session, 'can/can0/tx', json.dumps({'id': 0x2A0, 'data': '00'})),
         task=ask(session, 'task/run/lane', b'x'), unknown=ask(session, 'door/open', b''))
    while True:
        time.sleep(1)
";
    node.run(&App::python("asker", &ask).granted("signals: [Vehicle.Speed]"));
    let told = node.wait_told("oem/asker", "frame", |_| true);
    for key in ["frame", "task", "unknown"] {
        let answer = &told[key][0];
        assert_eq!(answer[0], false, "{key}: {told}");
        assert!(answer[1].as_str().is_some_and(|text| text.contains("refused")), "{key}: {told}");
    }
    node.stop();
}
