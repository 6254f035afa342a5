//! The tap on the demo: every act that is seen from outside has its recorded output, and the other way round; and what
//! was recorded replays to the same bytes.

use std::collections::BTreeMap;

use tests::app::App;
use tests::needs;
use tests::road::{Road, material, programs, superuser};
use tests::tap::Report;
use tests::tap::clock::WallToNode;
use tests::tap::stand::{Demo, Drive, Observed, demo, lines, tracer};
use tests::wait::until;

/// The one frame of the demo's DBC that an app may be granted.
const REQUEST: u32 = 0x2A0;

/// Puts three frames on the bus that it may, and one that it may not; then it has tasks done for ever.
const SENDER: &str = "
import json, time, zenoh

config = zenoh.Config()
config.insert_json5('mode', '\"client\"')
config.insert_json5('connect/endpoints', '[\"unixsock-stream//run/verge/island.sock\"]')
config.insert_json5('scouting/multicast/enabled', 'false')
with zenoh.open(config) as session:
    def ask(key, payload):
        return [r.ok is not None for r in session.get(key, payload=payload, timeout=5)] == [True]
    sent = []
    for n in range(3):
        sent.append(ask('can/can0/tx', json.dumps({'id': 0x2A0, 'data': '00000000000000%02X' % n})))
        time.sleep(0.2)
    other = ask('can/can0/tx', json.dumps({'id': 0x123, 'data': '00'}))
    print(json.dumps({'sent': sent, 'other': other}), flush=True)
    done = 0
    while True:
        done += ask('task/run/toll?deadline_ms=2000', json.dumps({'gantry': 'A10-7', 'plate_hash': '9f86d081'}))
        print(json.dumps({'done': done}), flush=True)
        time.sleep(0.3)
";

/// Prints what was accounted for, and fails if anything was not, or if one of these kinds of acts was never seen.
fn settled(report: &Report, kinds: &[&str]) {
    eprintln!("{report}");
    assert!(
        report.findings.is_empty(),
        "{} findings:\n{}",
        report.findings.len(),
        report.findings.join("\n")
    );
    let missing: Vec<_> = kinds.iter().filter(|kind| !report.matched.contains_key(**kind)).collect();
    assert!(missing.is_empty(), "nothing was seen of {missing:?}, so nothing was proven of it");
}

// tests: P5-04
#[test]
fn every_act_of_the_demo_is_a_recorded_output() {
    let name = "every_act_of_the_demo_is_a_recorded_output";
    let pieces = material(&["base-python", "pylib", "clip", "wasm/lane.wasm", "wasm/toll.wasm", "apps"]);
    needs!(name, programs(), superuser(), tracer(), pieces);
    let dir = tempfile::Builder::new().prefix("verge-tap-").tempdir().expect("a directory");
    let Demo { drive, exit, failed } = demo(dir.path());
    let host =
        ["start", "stop", "freeze", "squeeze", "face", "import", "persist", "island", "reply", "replay"];
    let outside = ["effect", "effect by the server", "advert", "to worker", "to requester"];
    let heard = ["advert by ear", "to worker by ear", "to requester by ear"];
    let report = drive.account();
    if !report.findings.is_empty() || !exit.success() {
        eprintln!("traces and recordings stay in {}", dir.keep().display());
    }
    settled(&report, &[&host[..], &outside, &heard].concat());
    assert!(report.entailed.contains_key("route"), "no signal and no frame was seen on its way to an app");
    assert!(exit.success(), "the demo ended with {exit}:\n{}", failed.join("\n"));
}

/// What the demo does not show: frames of an app that may send some, an app frozen, thawed and started again by hand,
/// and faces that die.
// tests: P5-04
#[test]
fn every_act_of_a_node_that_is_handled_by_hand_is_a_recorded_output() {
    let name = "every_act_of_a_node_that_is_handled_by_hand_is_a_recorded_output";
    let pieces = material(&["base-python", "pylib", "wasm/toll.wasm", "apps"]);
    needs!(name, programs(), superuser(), tracer(), pieces);
    let mut road = Road::new();
    road.tapped();
    let ledger = road.ledger_on_bus(REQUEST);
    let clock = WallToNode::now();
    let allow = format!(
        "signals = [\"Vehicle.**\"], tasks = [\"toll\"], can_tx = [{{ bus = \"can0\", id = {REQUEST} }}]"
    );
    let node = road.node().with_bus_open_to("oem/sender", REQUEST).allowing("oem", &allow).start();
    let driving = road.drive();
    node.serve(&[("toll", "once")]);
    let grants = format!("signals: [Vehicle.Speed], tasks: [toll], can_tx: [{{bus: can0, id: {REQUEST}}}]");
    node.run(&App::python("sender", SENDER).granted(&grants));
    let told = node.wait_told("oem/sender", "sent", |_| true);
    assert_eq!((&told["sent"], &told["other"]), (&serde_json::json!([true, true, true]), &false.into()));
    node.run(&App::heartbeat());
    for (verb, state) in [("freeze", "frozen"), ("thaw", "running"), ("restart", "running")] {
        node.verge(&[verb, "oem/heartbeat"]).done();
        node.wait_state("oem/heartbeat", state);
    }
    let count = |told: &serde_json::Value| told["done"].as_u64().unwrap_or(0);
    let done = count(&node.wait_told("oem/sender", "done", |told| count(told) >= 2));
    for face in ["node", "border-oem", "bus"] {
        node.kill_face(face);
    }
    node.wait_told("oem/sender", "done", |told| count(told) > done);
    node.verge(&["delete", "oem/sender"]).done();
    until("the sender is gone", || node.app("oem/sender").is_null().then_some(()));
    let (id, dir) = (node.id.clone(), node.dir().to_owned());
    node.stop();
    drop((driving, ledger));
    let drive = Drive {
        nodes: vec![Observed::read(&id, &dir, clock)],
        heard: Vec::new(),
        realms: BTreeMap::new(),
        effects: lines(&road.path().join("effects.log")),
        frames: lines(&road.path().join("frames.log")),
    };
    let host = ["start", "stop", "freeze", "thaw", "island", "reply", "replay"];
    let outside = ["frame", "frame by the server", "effect by the server"];
    settled(&drive.account(), &[&host[..], &outside].concat());
}
