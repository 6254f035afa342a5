//! A node's life: it starts, answers, ends, and leaves nothing behind, however it ended.

use tests::app::App;
use tests::needs;
use tests::road::{Road, material, programs, superuser};
use tests::wait::until;

// tests: P1-01
#[test]
fn a_node_starts_answers_and_leaves_nothing() {
    needs!("a_node_starts_answers_and_leaves_nothing", programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    let rows = node.json(&["get", "nodes"]);
    assert_eq!(rows[0]["node"], node.id.as_str());
    assert_eq!(rows[0]["state"], "up");
    assert!(!node.traces().is_empty(), "a running node must be seen, else the check at the end is empty");
    node.stop();
}

// tests: P1-02
#[test]
fn a_second_host_on_the_same_directory_is_refused() {
    needs!("a_second_host_on_the_same_directory_is_refused", programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    node.second().refused(&["another verge-host works in", "/run", "fix:"]);
    node.verge(&["get", "nodes"]).done();
    node.stop();
}

// tests: P1-03
#[test]
fn a_killed_host_leaves_nothing_after_the_next_start_and_stop() {
    let name = "a_killed_host_leaves_nothing_after_the_next_start_and_stop";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let mut node = road.node().start();
    let app = App::heartbeat();
    // While the app starts, while it runs, and at a moment that the process id draws.
    node.apply(&app).done();
    node.kill_host();
    node.start_again();
    node.wait_state("oem/heartbeat", "running");
    node.kill_host();
    node.start_again();
    node.wait_state("oem/heartbeat", "running");
    let moment = std::time::Duration::from_millis(u64::from(std::process::id()) * 37 % 700);
    eprintln!("third SIGKILL {} ms after the app ran", moment.as_millis());
    std::thread::sleep(moment);
    node.kill_host();
    node.start_again();
    node.wait_state("oem/heartbeat", "running");
    node.stop();
}

// tests: P1-04
#[test]
fn apps_run_on_while_the_host_is_away_and_are_adopted() {
    let name = "apps_run_on_while_the_host_is_away_and_are_adopted";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let mut node = road.node().start();
    node.run(&App::heartbeat());
    let before = node.app("oem/heartbeat");
    node.kill_host();
    node.start_again();
    let after = node.wait_state("oem/heartbeat", "running");
    assert_eq!(after["instance"], before["instance"], "the app was started anew instead of adopted");
    until("the adopted app's lines arrive again", || (node.log("oem/heartbeat").len() > 1).then_some(()));
    node.stop();
}
