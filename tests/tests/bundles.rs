//! Only signed bundles start, and only what policy allows.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tests::app::App;
use tests::needs;
use tests::node::NodeUnderTest;
use tests::road::{Road, Said, material, programs, superuser};
use tests::wait::until;

/// Builds the heartbeat as a bundle of its own contents; `mark` makes its digest differ from all others.
fn layout(road: &Road, mark: &str) -> PathBuf {
    let source = road.path().join(format!("source-{mark}"));
    fs::create_dir_all(&source).expect("a directory");
    fs::copy(road.programs.material("apps/heartbeat/heartbeat"), source.join("heartbeat")).expect("a copy");
    fs::write(source.join("mark"), mark).expect("a file");
    let out = road.path().join(format!("bundle-{mark}"));
    road.run(&["bundle", "build", &source.to_string_lossy(), "--out", &out.to_string_lossy()]);
    out
}

fn sign(road: &Road, bundle: &Path, key: &str) {
    let (private, _) = road.key(key);
    road.run(&["bundle", "sign", &bundle.to_string_lossy(), "--key", &private.to_string_lossy()]);
}

/// Either `apply` refuses, or the app never runs and says why. Returns all that was said.
fn refusal(node: &NodeUnderTest<'_>, app: &App, said: &Said) -> String {
    if said.code != 0 {
        return said.err.clone();
    }
    let name = app.full_name();
    until("the app says why it does not run", || {
        let row = node.app(&name);
        assert_ne!(row["state"], "running", "an app runs whose bundle is not to be trusted: {row}");
        (row["state"] == "failed").then(|| row["why"].as_str().unwrap_or_default().to_owned())
    })
}

fn nothing_ran(node: &NodeUnderTest<'_>, app: &App) {
    let row = node.app(&app.full_name());
    assert!(row == Json::Null || (row["instance"] == 0 && row["start_us"] == 0), "it was started: {row}");
    assert!(node.log(&app.full_name()).is_empty(), "it printed something");
}

// tests: P4-02
#[test]
fn an_unsigned_bundle_is_refused() {
    needs!("an_unsigned_bundle_is_refused", programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().start();
    let app = App::bundled("unsigned", &layout(&road, "unsigned"), "heartbeat");
    let said = refusal(&node, &app, &node.apply(&app));
    assert!(said.contains("sign") || said.contains("verge.sig"), "{said}");
    nothing_ran(&node, &app);
    node.stop();
}

// tests: P4-02
#[test]
fn a_bundle_signed_by_a_stranger_is_refused() {
    needs!(
        "a_bundle_signed_by_a_stranger_is_refused",
        programs(),
        superuser(),
        material(&["apps/heartbeat"])
    );
    let road = Road::new();
    let node = road.node().start();
    let bundle = layout(&road, "stranger");
    sign(&road, &bundle, "stranger");
    let app = App::bundled("stranger", &bundle, "heartbeat");
    let said = refusal(&node, &app, &node.apply(&app));
    assert!(said.contains("key") && said.contains("trust"), "{said}");
    nothing_ran(&node, &app);
    node.stop();
}

// tests: P4-02
#[test]
fn a_directory_signed_by_a_stranger_is_refused() {
    needs!(
        "a_directory_signed_by_a_stranger_is_refused",
        programs(),
        superuser(),
        material(&["base-python"])
    );
    let road = Road::new();
    let node = road.node().start();
    let app = App::python("stranger", "print('never', flush=True)\n");
    let said = refusal(&node, &app, &node.apply_signed(&app, "stranger"));
    assert!(said.contains("key") && said.contains("trust"), "{said}");
    nothing_ran(&node, &app);
    node.stop();
}

// tests: P4-02
#[test]
fn a_tampered_bundle_is_refused() {
    needs!("a_tampered_bundle_is_refused", programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().start();
    let bundle = layout(&road, "tampered");
    sign(&road, &bundle, "dev");
    // The largest blob is the layer with the program; one bit of it.
    let blobs = fs::read_dir(bundle.join("blobs/sha256")).expect("blobs").flatten();
    let layer = blobs.max_by_key(|blob| blob.metadata().map_or(0, |m| m.len())).expect("a blob").path();
    let mut bytes = fs::read(&layer).expect("the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).expect("the layer");
    let app = App::bundled("tampered", &bundle, "heartbeat");
    let said = refusal(&node, &app, &node.apply(&app));
    assert!(said.contains("digest") || said.contains("sha256") || said.contains("changed"), "{said}");
    nothing_ran(&node, &app);
    node.stop();
}

// tests: P4-03
#[test]
fn a_grant_beyond_policy_is_refused_and_nothing_starts() {
    needs!(
        "a_grant_beyond_policy_is_refused_and_nothing_starts",
        programs(),
        superuser(),
        material(&["base-python"])
    );
    let road = Road::new();
    let node = road.node().allowing("guest", "signals = [\"Vehicle.Speed\"]").start();
    let script = "print('never', flush=True)\n";
    let cases = [
        ("signals: [Vehicle.Cabin.Door]", "guest", "Vehicle.Cabin.Door"),
        ("signals: [Vehicle.Speed, Vehicle.**]", "guest", "Vehicle.**"),
        ("tasks: [lane]", "guest", "lane"),
        ("cameras: [{id: front, fps: 5}]", "guest", "front"),
        ("signals: [Vehicle.Speed]", "nobody", "nobody"),
    ];
    for (n, (grants, tenant, named)) in cases.into_iter().enumerate() {
        let app = App::python(&format!("greedy{n}"), script).of(tenant).granted(grants);
        node.apply(&app).refused(&[named, tenant, "fix:", "policy"]);
        assert_eq!(node.app(&app.full_name()), Json::Null, "{grants}: it is known all the same");
    }
    let allowed = App::python("modest", "import time\ntime.sleep(1e6)\n").of("guest");
    node.run(&allowed.granted("signals: [Vehicle.Speed]"));
    node.stop();
}
