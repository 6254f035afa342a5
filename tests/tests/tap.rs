//! The tap on the demo: every act that is seen from outside has its recorded output, and the other way round.

use tests::needs;
use tests::road::{material, programs, superuser};
use tests::tap::stand::{demo, tracer};

// tests: P5-04
#[test]
fn every_act_of_the_demo_is_a_recorded_output() {
    let name = "every_act_of_the_demo_is_a_recorded_output";
    let pieces = material(&["base-python", "pylib", "clip", "wasm/lane.wasm", "wasm/toll.wasm", "apps"]);
    needs!(name, programs(), superuser(), tracer(), pieces);
    let dir = tempfile::Builder::new().prefix("verge-tap-").tempdir().expect("a directory");
    let drive = demo(dir.path());
    let report = drive.account();
    println!("{report}");
    assert!(
        report.findings.is_empty(),
        "{} findings:\n{}",
        report.findings.len(),
        report.findings.join("\n")
    );
}
