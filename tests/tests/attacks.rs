//! Attacks that are within everybody's rights: connecting, declaring. They cost the attacker and its tenant.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::Value as Json;
use tests::app::App;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Road, material, programs, superuser};

const LISTENER: &str = include_str!("../e2e/py/listener.py");
const DECLARER: &str = include_str!("../e2e/py/declarer.py");

/// Connections that say nothing: more than a face may have open files.
const IDLE: usize = 4_300;

/// How long the attacker declares before it is deleted.
const DECLARES: Duration = Duration::from_secs(10);

/// Declarations of one of its processes that show that the attack is under way.
const DECLARED: u64 = 1_000;

/// What a border may grow to of its own, which is its limit; pages of the program are the page cache's.
const BORDER_KB_MAX: u64 = 192 << 10;

fn count(told: &Json) -> u64 {
    told["signals"].as_u64().unwrap_or(0)
}

/// The app hears more signals than it has heard so far.
fn goes_on(node: &NodeUnderTest<'_>, app: &str) {
    let before = count(&node.wait_told(app, "signals", |_| true));
    node.wait_told(app, "signals", |told| count(told) > before + 10);
}

/// Memory of the process itself, unless it has just ended.
fn resident_kb(pid: nix::unistd::Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

// tests: P1-16
#[test]
fn silent_connections_to_the_control_socket_shut_nobody_out() {
    let name = "silent_connections_to_the_control_socket_shut_nobody_out";
    needs!(name, programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    setrlimit(Resource::RLIMIT_NOFILE, 8192, 8192).expect("more descriptors");
    let address = UnixAddr::new(&node.socket()).expect("a path of a socket");
    let mut silent = Vec::new();
    for _ in 0..IDLE {
        let fd =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
        // The queue may be full, or the other side has had enough: both are fine.
        if connect(fd.as_raw_fd(), &address).is_err() {
            break;
        }
        silent.push(fd);
    }
    assert!(silent.len() > 64, "only {} connections", silent.len());
    // While all of them are there, and more come.
    node.verge(&["get", "nodes"]).done();
    let more = UnixStream::connect(node.socket()).expect("there is room for one more");
    node.verge(&["get", "nodes"]).done();
    drop((silent, more));
    node.stop();
}

// tests: P1-16
#[test]
fn an_app_that_declares_without_end_costs_its_own_tenant_and_goes_when_it_is_deleted() {
    let name = "an_app_that_declares_without_end_costs_its_own_tenant_and_goes_when_it_is_deleted";
    needs!(name, programs(), superuser(), material(&["base-python", "pylib"]));
    let road = Road::new();
    let node = road.node().with_bus().allowing("other", "signals = [\"Vehicle.**\"]").start();
    let _driving = road.drive();
    let granted = "signals: [Vehicle.Speed]";
    node.run(&App::python("neighbour", LISTENER).granted(granted));
    node.run(&App::python("stranger", LISTENER).of("other").granted(granted));
    goes_on(&node, "oem/neighbour");
    goes_on(&node, "other/stranger");
    let greedy = "{cpu: 1000m, memory: 512Mi, pids: 256}";
    node.run(&App::python("declarer", DECLARER).granted(granted).resources(greedy));
    node.wait_told("oem/declarer", "declared", |told| told["declared"].as_u64() >= Some(DECLARED));
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < DECLARES {
        goes_on(&node, "other/stranger");
        most = most.max(node.face("border-oem").and_then(resident_kb).unwrap_or(0));
    }
    assert!(most > 0, "no border of the tenant was seen");
    assert!(most <= BORDER_KB_MAX, "the border has grown to {most} KiB");
    node.verge(&["delete", "oem/declarer"]).done();
    goes_on(&node, "oem/neighbour");
    goes_on(&node, "other/stranger");
    node.stop();
}
