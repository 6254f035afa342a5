//! A node of an ordinary user: what cannot be enforced is refused, or degraded for everybody to see.

use tests::app::App;
use tests::needs;
use tests::road::{Road, material, programs, superuser};
use tests::wait::until;

/// A user that nobody is, one per test process.
fn stranger(n: u32) -> u32 {
    61_000 + (std::process::id() % 400) * 10 + n
}

/// Whether ordinary users may make namespaces here, and the programs can be read by them.
fn ordinary_users_can() -> Result<(), String> {
    let uid = stranger(9).to_string();
    let verge = tests::road::Programs::find().program("verge");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
    command.args(["unshare", "--user", "--map-root-user"]).arg(verge).arg("--version");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "an ordinary user cannot: {}",
            String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
        )),
        Err(error) => Err(format!("setpriv: {error}")),
    }
}

// tests: P1-10
#[test]
fn what_cannot_be_enforced_is_refused() {
    let name = "what_cannot_be_enforced_is_refused";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]), ordinary_users_can());
    let road = Road::new();
    let node = road.node().as_user(stranger(1)).start();
    let app = App::heartbeat();
    let said = node.apply(&app);
    let why = if said.code == 0 {
        until("the refusal is told", || {
            let row = node.app("oem/heartbeat");
            assert_ne!(row["state"], "running", "it runs although limits cannot be enforced: {row}");
            // Until its bundle is in the store the app waits for that, and says so.
            row["why"].as_str().filter(|why| why.contains("enforce")).map(str::to_owned)
        })
    } else {
        said.err
    };
    assert!(why.contains("enforce") && why.contains("degrade"), "neither what nor how to fix it: {why}");
    assert!(node.log("oem/heartbeat").is_empty(), "it ran");
    node.stop();
}

// tests: P1-11
#[test]
fn what_is_degraded_is_shown() {
    let name = "what_is_degraded_is_shown";
    needs!(name, programs(), superuser(), material(&["apps/heartbeat"]), ordinary_users_can());
    let road = Road::new();
    let node = road.node().as_user(stranger(2)).degrading().start();
    node.run(&App::heartbeat());
    until("it prints", || (!node.log("oem/heartbeat").is_empty()).then_some(()));
    let row = node.app("oem/heartbeat");
    let degraded = row["degraded"].as_str().unwrap_or_default();
    for limit in ["cpu", "memory"] {
        assert!(degraded.contains(limit), "{limit} is not shown as degraded: {degraded:?}");
    }
    assert!(node.verge(&["get", "apps"]).done().out.contains(degraded.split(' ').next().unwrap_or("?")));
    node.kill_face("node");
    let again = node.wait_state("oem/heartbeat", "running");
    assert_eq!(again["degraded"], row["degraded"], "the next process of the node does not say it any more");
    assert!(again["why"].as_str().is_some_and(|why| why.contains("degraded: ")), "{again}");
    node.stop();
}
