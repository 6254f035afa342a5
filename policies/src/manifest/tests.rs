//! Manifests that are right and wrong.

use super::*;

const GOOD: &str = r#"{"apiVersion":"verge/v1","apps":{"speedometer":{
    "bundle":"sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "command":["/usr/bin/python3","/app/main.py"],"class":"driving",
    "resources":{"cpu":"300m","memory":"96Mi"},
    "grants":{"signals":["Vehicle.Speed"],"cameras":[{"id":"front","fps":5}],"tasks":["lane"]}}},
    "functions":{"lane":{"service_time":"20ms",
    "bundle":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}"#;

fn parse(text: &str) -> Result<Manifest, String> {
    let claim: ManifestClaim = serde_json::from_str(text).map_err(|e| alloc::format!("{e}"))?;
    Manifest::try_from(claim).map_err(|e| alloc::format!("{e}"))
}

#[test]
fn a_good_manifest_keeps_what_it_says_and_fills_the_rest() {
    let manifest = parse(GOOD).unwrap();
    let app = &manifest.apps[0];
    assert_eq!(app.tenant.as_str(), "default");
    assert_eq!(app.resources.cpu.get(), 300);
    assert_eq!(app.resources.pids, 32);
    assert_eq!(app.restart, Restart::OnFailure);
    assert_eq!(manifest.functions[0].effect, Effect::Pure);
}

/// One mistake per row: what is replaced in [`GOOD`], by what, and what the error must name.
#[test]
#[rustfmt::skip]
fn mistake_table() {
    check("verge/v1",            "verge/v9",        "apiVersion is \"verge/v9\"");
    check("speedometer",         "Speedo Meter",    "apps.Speedo Meter.name");
    check("\"class\":\"driving\"", "\"clas\":\"driving\"", "unknown field `clas`");
    check("driving",             "drivng",          "unknown variant `drivng`");
    check("300m",                "300x",            "\"300x\" is not a CPU share");
    check("300m",                "1m",              "apps.speedometer.resources.cpu: 1m is below");
    check("96Mi",                "5",               "resources.memory: 5 is below 1Mi");
    check("/usr/bin/python3",    "python3",         "apps.speedometer.command: python3 is not an absolute path");
    check("Vehicle.Speed",       "**",              "\"**\" is not a VSS path");
    check("20ms",                "20",              "is not a duration");
    check("20ms",                "0ms",             "functions.lane.service_time");
    check("\"tasks\":[\"lane\"]}", "\"tasks\":[\"lane\"]},\"nodes\":[\"a 2\"]", "apps.speedometer.nodes");
    check("\"20ms\",",           "\"20ms\",\"nodes\":[\"\"],", "functions.lane.nodes");
}

#[track_caller]
fn check(old: &str, new: &str, named: &str) {
    assert!(GOOD.contains(old));
    let error = parse(&GOOD.replace(old, new)).unwrap_err();
    assert!(error.contains(named), "{error:?} does not name {named:?}");
}
