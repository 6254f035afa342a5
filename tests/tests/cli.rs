//! The command line as programs use it: JSON for everything, and an answer to "does it run?".

use serde_json::Value as Json;
use tests::app::App;
use tests::needs;
use tests::road::{Road, material, programs, superuser};

// tests: P1-17
#[test]
fn every_command_answers_in_json() {
    needs!("every_command_answers_in_json", programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().with_bus().start();
    let app = App::heartbeat();
    let manifest = road.manifest(&app);
    let manifest = manifest.to_string_lossy();
    let source = manifest.rsplit_once('/').map_or("", |(dir, _)| dir);
    let (private, public) = road.key("dev");
    let (private, public) = (private.to_string_lossy(), public.to_string_lossy());
    let at = |name: &str| road.path().join(name).to_string_lossy().into_owned();
    let (bundle, authority, keys) = (at("bundle-of-cli"), at("authority-of-cli"), at("keys-of-cli"));
    let cases: &[(&[&str], &[&str])] = &[
        (&["validate", &manifest], &["ok", "file"]),
        (&["apply", "-f", &manifest, "--key", &private, "--wait"], &["said"]),
        (&["get", "nodes"], &[]),
        (&["get", "apps"], &[]),
        (&["get", "functions"], &[]),
        (&["get", "tasks"], &[]),
        (&["get", "signals"], &[]),
        (&["get", "stats"], &[]),
        (&["freeze", "oem/heartbeat"], &["said"]),
        (&["thaw", "oem/heartbeat"], &["said"]),
        (&["restart", "oem/heartbeat"], &["said"]),
        (&["delete", "oem/heartbeat"], &["said"]),
        (&["doctor"], &["machine", "node"]),
        (&["pki", "authority", &authority, "--realm", "car"], &["ca"]),
        (&["pki", "node", &authority, "a1"], &["cert", "key"]),
        (&["pki", "key", &keys], &["private", "public", "key_id"]),
        (&["bundle", "build", source, "--out", &bundle], &["bundle"]),
        (&["bundle", "sign", &bundle, "--key", &private], &["bundle"]),
        (&["bundle", "verify", &bundle, "--key", &public], &["bundle"]),
        (&["bundle", "inspect", &bundle, "--key", &public], &["digest", "signature"]),
        (&["bundle", "push", &bundle], &["bundle"]),
    ];
    for (arguments, keys) in cases {
        let json = node.json(arguments);
        for key in *keys {
            assert!(!json[key].is_null(), "{arguments:?} has no {key}: {json}");
        }
    }
    node.stop();
}

// tests: P1-17
#[test]
fn a_failure_is_json_as_well() {
    needs!("a_failure_is_json_as_well", programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    let typo = road.file("typo.yaml", "apiVersion: verge/v1\napps:\n  a: {bundel: ./x}\n");
    let typo = typo.to_string_lossy();
    let failure = |arguments: &[&str]| -> Json {
        let said = node.verge(arguments);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{arguments:?}: {said:?}");
        serde_json::from_str(&said.err)
            .unwrap_or_else(|e| panic!("{arguments:?} is not JSON ({e}): {said:?}"))
    };
    let of_file = failure(&["apply", "-f", &typo, "-o", "json"]);
    assert_eq!((&of_file["line"], &of_file["column"]), (&3.into(), &7.into()), "{of_file}");
    assert!(of_file["fix"].as_str().is_some_and(|fix| fix.contains("bundle")), "{of_file}");
    let of_node = failure(&["restart", "nobody", "-o", "json"]);
    assert!(of_node["error"].as_str().is_some_and(|error| error.contains("nobody")), "{of_node}");
    node.stop();
}

// tests: P1-18
#[test]
fn apply_can_wait_until_an_app_runs() {
    needs!("apply_can_wait_until_an_app_runs", programs(), superuser(), material(&["apps/heartbeat"]));
    let road = Road::new();
    let node = road.node().start();
    let app = App::heartbeat();
    node.apply_with(&app, "dev", &["--wait=60s"]).done();
    assert_eq!(node.app(&app.full_name())["state"], "running");
    node.stop();
}

// tests: P1-18
#[test]
fn apply_that_waits_tells_why_an_app_does_not_run() {
    let name = "apply_that_waits_tells_why_an_app_does_not_run";
    needs!(name, programs(), superuser(), material(&["base-python"]));
    let road = Road::new();
    let node = road.node().start();
    let app = App::python("stranger", "print('never', flush=True)\n");
    let said = node.apply_with(&app, "stranger", &["--wait=60s"]);
    said.refused(&["oem/stranger: failed: ", "not trusted", "verge bundle sign"]);
    // Unpacking the base takes longer.
    let app = App::python("slow", "print('now', flush=True)\n");
    let said = node.apply_with(&app, "dev", &["--wait=1ms"]);
    said.refused(&["not up after 1ms: oem/slow is ", "verge get apps"]);
    node.wait_state("oem/slow", "stopped");
    node.apply_with(&app, "dev", &["--wait=60s"]).done();
    node.stop();
}
