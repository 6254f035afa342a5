//! Bad luck and bad input: processes that die, peers that send garbage.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value as Json;
use tests::app::App;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Road, free_port, material, programs, superuser};
use tests::wait::until;

const LISTENER: &str = include_str!("../e2e/py/listener.py");

fn count(told: &Json, key: &str) -> u64 {
    told[key].as_u64().unwrap_or(0)
}

/// Kills one face of a full node and checks that all goes on as before.
fn survives(face: &str) {
    let pieces = ["base-python", "pylib", "wasm/lane.wasm", "clip"];
    needs!(&format!("a_killed_{face}_comes_back"), programs(), superuser(), material(&pieces));
    let road = Road::new();
    let node = road.node().with_bus().with_camera().start();
    let _driving = road.drive();
    node.serve(&[("lane", "pure")]);
    let app = App::python("listener", LISTENER);
    node.run(&app.granted("signals: [Vehicle.Speed], cameras: [{id: front, fps: 5}], tasks: [lane]"));
    node.wait_told("oem/listener", "signals", |told| count(told, "signals") > 5 && count(told, "frames") > 2);
    let instance = node.app("oem/listener")["instance"].clone();
    node.kill_face(face);
    // A new node process reads logs anew; what the app counts goes on all the same.
    let before = node.wait_told("oem/listener", "signals", |_| true);
    node.wait_told("oem/listener", "signals", |told| {
        count(told, "signals") > count(&before, "signals") + 10
            && count(told, "frames") > count(&before, "frames") + 3
    });
    let told = node.wait_told("oem/listener", "signals", |_| true);
    // A new border begins with the last value of the signal and the last frame, which its app may have had.
    let again = if face == "border" { 2 } else { 0 };
    assert!(count(&told, "twice") <= again, "something arrived twice: {told}");
    assert_eq!(node.app("oem/listener")["instance"], instance, "the app was started anew");
    for expected in ["node", "bus", "camera", "border-oem", "worker-oem"] {
        until(&format!("there is one face {expected}"), || node.face(expected));
    }
    runs_a_task(&road, &node);
    node.stop();
}

fn runs_a_task(road: &Road, node: &NodeUnderTest<'_>) {
    let frame = road.frame().to_string_lossy().into_owned();
    until("the function is ready", || {
        let rows = node.json(&["get", "functions"]);
        (rows[0]["state"] == "ready").then_some(())
    });
    node.verge(&["task", "run", "lane", "-d", "5s", "-i", &frame]).done();
}

// tests: P1-05
#[test]
fn a_killed_node_comes_back() {
    survives("node");
}

// tests: P1-05
#[test]
fn a_killed_bus_comes_back() {
    survives("bus");
}

// tests: P1-05
#[test]
fn a_killed_camera_comes_back() {
    survives("camera");
}

// tests: P1-05
#[test]
fn a_killed_border_comes_back() {
    survives("border-oem");
}

// tests: P1-05
#[test]
fn a_killed_worker_comes_back() {
    survives("worker-oem");
}

/// Bytes that are no message of anybody: nothing, noise, half a message, a huge length, another protocol.
fn garbage() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    vec![vec![], vec![0], noise, vec![0xff; 64], vec![0; 64], b"VG\x01".to_vec(), http]
}

/// Sends and reads what comes, without minding what.
fn throw(stream: &mut (impl std::io::Read + std::io::Write), bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 256]);
}

/// The node process has not been replaced and answers.
fn unmoved(node: &NodeUnderTest<'_>, faces: &[(nix::unistd::Pid, String)]) {
    node.verge(&["get", "nodes"]).done();
    assert_eq!(node.faces(), faces, "a process was replaced: {}", node.host_log());
}

// tests: P1-06
#[test]
fn garbage_on_the_control_socket_is_refused() {
    needs!("garbage_on_the_control_socket_is_refused", programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    let faces = node.faces();
    for bytes in garbage() {
        let mut stream = UnixStream::connect(node.socket()).expect("the control socket");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a bound");
        throw(&mut stream, &bytes);
    }
    // A whole header of noise gets an answer that says what is wrong.
    let mut stream = UnixStream::connect(node.socket()).expect("the control socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    stream.write_all(&[0xff; 64]).expect("sent");
    let mut answer = Vec::new();
    // The other end may close with bytes unread; what it said before counts.
    let _ = stream.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).contains("read the request"), "{answer:?}");
    // Many that say nothing, held open, keep nobody out.
    let held: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(node.socket()).ok()).collect();
    unmoved(&node, &faces);
    drop(held);
    node.stop();
}

// tests: P1-06
#[test]
fn garbage_on_the_cars_port_is_refused() {
    needs!("garbage_on_the_cars_port_is_refused", programs(), superuser());
    let road = Road::new();
    let port = free_port();
    let node = road.node().listening(port).start();
    let faces = node.faces();
    until("the car's realm listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    for bytes in garbage() {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a bound");
        throw(&mut stream, &bytes);
    }
    unmoved(&node, &faces);
    assert_eq!(node.json(&["get", "nodes"]).as_array().map(Vec::len), Some(1), "a stranger became a peer");
    node.stop();
}

// tests: P1-06
#[test]
fn garbage_on_the_bus_is_counted() {
    let name = "garbage_on_the_bus_is_counted";
    needs!(name, programs(), superuser(), material(&["pylib"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    let faces = node.faces();
    until("garbage is counted", || {
        for bytes in garbage() {
            road.throw_at_bus(&bytes);
        }
        let bad = node.json(&["get", "stats"])["bus"]["frames_bad"].as_u64();
        bad.filter(|bad| *bad >= 5)
    });
    let _driving = road.drive();
    until("signals come all the same", || {
        let rows = node.json(&["get", "signals", "Vehicle.Speed"]);
        (rows[0]["value"].as_f64() > Some(0.0)).then_some(())
    });
    unmoved(&node, &faces);
    node.stop();
}
