//! Bad luck with files, ports and disks: what it is, why, and how to mend it is said; the node lives on.

use std::io::Write as _;
use std::net::TcpListener;

use tests::app::App;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Programs, Road, Said, free_port, material, programs, superuser};
use tests::wait::until;

const NODE: &str = "apiVersion = \"verge/v1\"\n[node]\nid = \"a1\"\ncar = \"a\"\nrun_dir = \"run\"\nstate_dir = \"state\"\n\
                    [[bus]]\nname = \"can0\"\nkind = \"multicast\"\ngroup = \"239.74.163.2\"\nport = 43113\ndbc = \"car.dbc\"\nmapping = \"car.json\"\n";

const DBC: &str =
    "VERSION \"\"\nBU_: ECU X\nBO_ 100 Motion: 8 ECU\n SG_ Speed : 0|16@1+ (0.1,0) [0|0] \"km/h\" X\n";

const OVERLAY: &str = r#"{"Vehicle.Speed": {"type": "sensor", "datatype": "float", "unit": "km/h",
    "dbc2vss": {"signal": "Speed"}}}"#;

fn verge(dir: &std::path::Path, arguments: &[&str]) -> Said {
    let mut command = std::process::Command::new(Programs::find().program("verge"));
    Said::of(command.args(arguments).current_dir(dir))
}

// tests: P4-01
#[test]
fn validate_looks_into_the_files_that_a_node_file_names() {
    needs!("validate_looks_into_the_files_that_a_node_file_names", programs());
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    write("node.toml", NODE);
    let cases = [
        ("as they should be", DBC.to_owned(), OVERLAY.to_owned(), None),
        ("a signal of 99 bits", DBC.replace("0|16@", "0|99@"), OVERLAY.to_owned(), Some("car.dbc:4")),
        ("cut in the middle", DBC[..70].to_owned(), OVERLAY.to_owned(), Some("car.dbc:4")),
        ("no DBC at all", "\u{0}\u{1}PNG".into(), OVERLAY.to_owned(), Some("car.dbc")),
        ("an overlay that is no JSON", DBC.to_owned(), "{".into(), Some("car.json")),
        ("an overlay of another car", DBC.to_owned(), OVERLAY.replace("\"Speed\"", "\"Sped\""), Some("Sped")),
    ];
    for (what, dbc, overlay, expected) in cases {
        write("car.dbc", &dbc);
        write("car.json", &overlay);
        let said = verge(dir.path(), &["validate", "node.toml"]);
        match expected {
            None => assert_eq!(said.code, 0, "{what}: {said:?}"),
            Some(words) => {
                let all = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(said.code == 1 && all.contains(words), "{what}: {words:?} is not in {said:?}");
            }
        }
    }
}

// tests: P4-01
#[test]
fn a_node_is_not_run_with_what_validate_refuses() {
    needs!("a_node_is_not_run_with_what_validate_refuses", programs());
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    // Host would refuse the missing key, so that this ends either way.
    write("node.toml", &format!("{NODE}[host]\ntrusted_keys = [\"missing.pem\"]\n"));
    write("car.dbc", &DBC.replace("0|16@", "0|99@"));
    write("car.json", OVERLAY);
    let validate = verge(dir.path(), &["validate", "node.toml"]);
    let run = verge(dir.path(), &["node", "run", "-c", "node.toml"]);
    assert!(run.err.contains("car.dbc:4"), "{run:?}");
    assert_eq!((run.code, &run.err), (1, &validate.err));
    assert!(!dir.path().join("run").exists(), "host began");
}

// tests: P1-21
#[test]
fn a_bus_that_cannot_serve_is_named_with_its_reason() {
    let name = "a_bus_that_cannot_serve_is_named_with_its_reason";
    needs!(name, programs(), superuser());
    let road = Road::new();
    let dbc = road.file("car.dbc", DBC.replace("0|16@", "0|99@"));
    let node = road.node().with_bus_of(&dbc).start();
    let why = |node: &NodeUnderTest<'_>| node.json(&["get", "nodes"])[0]["why"].as_str().map(str::to_owned);
    let named = |why: &String| why.starts_with("bus: ") && why.contains("car.dbc:4");
    until("the bus is named with its reason", || why(&node).filter(named));
    node.kill_face("node");
    until("the next node process knows it as well", || why(&node).filter(named));
    std::fs::write(&dbc, DBC).expect("a file");
    until("nothing is wrong any more", || {
        let row = node.json(&["get", "nodes"])[0].clone();
        (row["why"] == "" && row["bus"] == true).then_some(())
    });
    node.stop();
}

// tests: P1-06
#[test]
fn a_log_is_played_as_far_as_it_is_one() {
    needs!("a_log_is_played_as_far_as_it_is_one", programs());
    let dir = tempfile::tempdir().expect("a directory");
    let bus = format!("239.74.77.7:{}", free_port());
    let good = "(1.000000) can0 064#0102030405060708\n";
    let cases = [
        ("good.log", good.repeat(3), 0, "3 frames sent, 0 skipped, 0 dropped, 0 lines damaged"),
        (
            "cut.log",
            format!("{good}{}", &good[..14]),
            0,
            "1 frames sent, 0 skipped, 0 dropped, 1 lines damaged",
        ),
        ("foreign.log", "time,id,data\n1,2,3\n".into(), 1, "holds no frame that could be sent"),
        ("empty.log", String::new(), 1, "holds no frame that could be sent"),
    ];
    for (name, text, code, words) in cases {
        std::fs::write(dir.path().join(name), text).expect("a file");
        let said = verge(dir.path(), &["can", "replay", "--multicast", &bus, name]);
        let all = format!("{} {}", said.out, said.err).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.code == code && all.contains(words), "{name}: {said:?}");
        assert!(code == 0 || all.contains("candump"), "{name}: no fix in {said:?}");
    }
}

// tests: P1-15
#[test]
fn a_port_in_use_is_named_and_taken_when_it_is_free() {
    let name = "a_port_in_use_is_named_and_taken_when_it_is_free";
    needs!(name, programs(), superuser());
    let road = Road::new();
    let holder = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = holder.local_addr().expect("its address").port();
    let node = road.node().listening(port).start_waiting_for("in use");
    assert!(node.host_log().contains(&port.to_string()), "which port? {}", node.host_log());
    drop(holder);
    until("the node answers", || (node.verge(&["get", "nodes"]).code == 0).then_some(()));
    node.stop();
}

// tests: P1-15
#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_is_there() {
    let name = "a_full_disk_refuses_what_is_new_and_keeps_what_is_there";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().with_disk_of("16m").start();
    node.run(&App::heartbeat());
    let big = road.path().join("big");
    std::fs::create_dir_all(&big).expect("a directory");
    let mut file = std::fs::File::create(big.join("data")).expect("a file");
    let noise: Vec<u8> =
        (0..32u64 << 20).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    file.write_all(&noise).expect("32 MiB");
    let manifest = road.file(
        "big.yaml",
        format!(
            "apiVersion: verge/v1\napps:\n  big: {{tenant: oem, bundle: {}, command: [/app/data]}}\n",
            big.display()
        ),
    );
    let (key, _) = road.key("dev");
    let said = node.verge(&["apply", "-f", &manifest.to_string_lossy(), "--key", &key.to_string_lossy()]);
    let all = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.code != 0 && all.contains("No space left"), "{said:?}");
    assert!(all.contains("free"), "no fix: {all}");
    assert_eq!(node.app("oem/heartbeat")["state"], "running");
    node.verge(&["restart", "oem/heartbeat"]).done();
    node.wait_state("oem/heartbeat", "running");
    node.stop();
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

// tests: P1-15
#[test]
fn a_state_that_cannot_be_written_is_refused_and_accepted_once_there_is_room() {
    let name = "a_state_that_cannot_be_written_is_refused_and_accepted_once_there_is_room";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().with_disk_of("16m").start();
    node.run(&App::heartbeat());
    let bundle = node.app("oem/heartbeat")["bundle"].as_str().expect("a digest").to_owned();
    // Its disk is mounted for it alone.
    let host = node.pid().expect("its host");
    let filler = std::path::PathBuf::from(format!("/proc/{host}/root{}/state/filler", node.dir().display()));
    fill(&filler);
    let mut text = String::from("apiVersion: verge/v1\napps:\n");
    let long = "x".repeat(4000);
    for number in 0..100 {
        text += &format!(
            "  a{number}: {{tenant: oem, bundle: {bundle}, command: [/app/none, {long}], restart: NEVER, resources: {{cpu: 10m, memory: 4Mi, tmp: 1Mi}}}}\n"
        );
    }
    let manifest = road.file("many.yaml", text);
    let manifest = manifest.to_string_lossy();
    let said = node.verge(&["apply", "-f", &manifest]);
    said.refused(&["could not be saved", "No space left", "free space"]);
    assert_eq!(node.app("oem/a7"), serde_json::Value::Null, "it was refused, and is known all the same");
    assert_eq!(node.app("oem/heartbeat")["state"], "running");
    std::fs::remove_file(&filler).expect("room again");
    node.verge(&["apply", "-f", &manifest]).done();
    assert_ne!(node.app("oem/a7"), serde_json::Value::Null);
    node.stop();
}

// tests: P1-06
#[test]
fn a_reader_that_leaves_early_is_no_crash() {
    needs!("a_reader_that_leaves_early_is_no_crash", programs());
    let verge = Programs::find().program("verge");
    let script = "\"$0\" doctor | head -n 1; \"$0\" --help | true";
    let mut command = std::process::Command::new("sh");
    let said = Said::of(command.args(["-c", script]).arg(verge));
    assert!(said.out.lines().count() == 1 && !said.err.contains("panicked"), "{said:?}");
}
