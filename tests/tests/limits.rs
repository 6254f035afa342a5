//! Limits hold for the app that breaks them, and for no other.

use tests::app::App;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Road, material, programs, superuser};
use tests::wait::until;

const TICKER: &str = "
import itertools, json, time
for n in itertools.count():
    print(json.dumps({'tick': n}), flush=True)
    time.sleep(0.05)
";

const EATER: &str = "
eaten = []
while len(eaten) < 512:
    block = bytearray(4 << 20)
    block[::4096] = b'x' * (len(block) // 4096)
    eaten.append(block)
    print('eaten', len(eaten) * 4, 'MiB', flush=True)
print('nobody stopped it', flush=True)
";

const BOMB: &str = "
import json, os, signal, time
children = 0
refused = None
while refused is None and children < 500:
    try:
        if os.fork() == 0:
            signal.pause()
    except OSError as error:
        refused = error.strerror
        break
    children += 1
while True:
    print(json.dumps({'children': children, 'refused': refused}), flush=True)
    time.sleep(0.2)
";

fn tick(node: &NodeUnderTest<'_>, app: &str) -> u64 {
    node.wait_told(app, "tick", |_| true)["tick"].as_u64().unwrap_or(0)
}

/// Waits until an app has printed ten more lines.
fn goes_on(node: &NodeUnderTest<'_>, app: &str) {
    let now = tick(node, app);
    node.wait_told(app, "tick", |told| told["tick"].as_u64() > Some(now + 10));
}

// tests: P1-07
#[test]
fn a_memory_eater_dies_alone() {
    needs!("a_memory_eater_dies_alone", programs(), superuser(), material(&["base-python"]));
    let road = Road::new();
    let node = road.node().start();
    node.run(&App::python("neighbour", TICKER));
    let instance = node.app("oem/neighbour")["instance"].clone();
    node.apply(&App::python("eater", EATER).resources("{cpu: 500m, memory: 64Mi, pids: 8}").once()).done();
    let exit = until("the eater's end is known", || {
        let exit = node.app("oem/eater")["last_exit"].clone();
        (!exit.is_null()).then_some(exit)
    });
    assert!(exit.to_string().to_lowercase().contains("memory"), "{exit}; {:?}", node.log("oem/eater"));
    assert!(!node.log("oem/eater").iter().any(|line| line.contains("nobody")), "nobody stopped it");
    goes_on(&node, "oem/neighbour");
    assert_eq!(node.app("oem/neighbour")["instance"], instance, "the neighbour was started anew");
    assert_eq!(node.app("oem/neighbour")["restarts"], 0);
    node.stop();
}

// tests: P1-08
#[test]
fn a_fork_bomb_is_bounded() {
    needs!("a_fork_bomb_is_bounded", programs(), superuser(), material(&["base-python"]));
    let road = Road::new();
    let node = road.node().start();
    node.run(&App::python("neighbour", TICKER));
    node.run(&App::python("bomb", BOMB).resources("{cpu: 500m, memory: 128Mi, pids: 16}"));
    let told = node.wait_told("oem/bomb", "children", |_| true);
    assert!(told["children"].as_u64() < Some(16), "pids is 16: {told}");
    assert!(told["refused"].is_string(), "{told}");
    goes_on(&node, "oem/neighbour");
    assert_eq!(node.app("oem/neighbour")["restarts"], 0);
    node.stop();
}

// tests: P1-09
#[test]
fn a_frozen_app_stands_still_and_goes_on_when_thawed() {
    let name = "a_frozen_app_stands_still_and_goes_on_when_thawed";
    needs!(name, programs(), superuser(), material(&["base-python"]));
    let road = Road::new();
    let node = road.node().start();
    node.run(&App::python("ticker", TICKER));
    node.run(&App::python("neighbour", TICKER));
    tick(&node, "oem/ticker");
    node.verge(&["freeze", "oem/ticker"]).done();
    let row = node.wait_state("oem/ticker", "frozen");
    assert!(row["why"].as_str().is_some_and(|why| why.contains("operator")), "the reason is not told: {row}");
    // What was in the pipe when it froze may still arrive; the neighbour's next lines come after it.
    goes_on(&node, "oem/neighbour");
    let still = tick(&node, "oem/ticker");
    goes_on(&node, "oem/neighbour");
    assert_eq!(tick(&node, "oem/ticker"), still, "a frozen app prints");
    node.verge(&["thaw", "oem/ticker"]).done();
    node.wait_state("oem/ticker", "running");
    goes_on(&node, "oem/ticker");
    node.stop();
}
