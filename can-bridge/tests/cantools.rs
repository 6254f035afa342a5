//! The codec against cantools: random payloads over every DBC at hand, and a recorded drive.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use can_core::candump::Reader;
use can_core::dbc::{self, DecodePlan};
use can_core::frame::{CanFrame, CanId};
use serde::Deserialize;
use support::{Python, own_dbc, shared_data, skipped};

/// Payloads per message.
const PAYLOADS: u32 = 40;

/// Files of this crate, the first ones: both sides must accept them.
const OWN: usize = 2;

/// One case of the oracle.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(default)]
    dbc: usize,
    id: Option<u32>,
    #[serde(default)]
    extended: bool,
    #[serde(default)]
    data: String,
    values: Option<BTreeMap<String, String>>,
    encoded: Option<String>,
    refused: Option<String>,
}

fn payload(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
}

fn decode(plan: &DecodePlan, frame: &CanFrame) -> BTreeMap<String, f64> {
    let mut values = Vec::new();
    let index = plan.decode(frame, |decoded| values.push(decoded)).unwrap();
    let message = plan.message(index).unwrap();
    let named = |d: &dbc::Decoded| (message.signals[d.signal.0 as usize].name.clone(), d.value);
    values.iter().map(named).collect()
}

/// Equal, but for integers beyond 53 bits, which Python keeps exactly, and NaN, which equals nothing.
fn same(ours: f64, theirs: f64) -> bool {
    ours == theirs || (ours.is_nan() && theirs.is_nan()) || (ours - theirs).abs() <= theirs.abs() * 1e-15
}

/// Compares one decoded frame. cantools refuses a frame whose multiplexor selects no page (`None`); we give the
/// signals that are always there.
#[track_caller]
fn compare(what: &str, ours: &BTreeMap<String, f64>, theirs: &Option<BTreeMap<String, String>>) -> usize {
    let Some(theirs) = theirs else { return 0 };
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{what}");
    for (name, text) in theirs {
        let value: f64 = text.parse().unwrap();
        assert!(same(ours[name], value), "{what} {name}: {} and not {value}", ours[name]);
    }
    theirs.len()
}

fn files() -> Vec<PathBuf> {
    let mut files = vec![own_dbc("verge-demo.dbc"), own_dbc("../tests/dbc/corners.dbc")];
    match shared_data() {
        None => {
            skipped("random_payloads_decode_as_by_cantools", "shared data are not here; set VERGE_SHARED")
        }
        Some(data) => {
            let entries = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
            files.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "dbc")));
        }
    }
    // Further DBC files, for a wider run by hand.
    files.extend(
        std::env::var_os("VERGE_DBC_DIR")
            .into_iter()
            .flat_map(|directory| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())),
    );
    files
}

// tests: P2-04
#[test]
fn random_payloads_decode_as_by_cantools() {
    let files = files();
    let mut arguments = vec!["random".to_string(), "7".to_string(), PAYLOADS.to_string()];
    arguments.extend(files.iter().map(|file| file.display().to_string()));
    let name = "random_payloads_decode_as_by_cantools";
    let Some(mut python) = Python::start(name, "codec.py", &arguments) else { return };
    let plans: Vec<_> = files
        .iter()
        .map(|file| dbc::compile(&file.display().to_string(), &std::fs::read(file).unwrap()))
        .collect();
    let (mut compared, mut encoded) = (0, 0);
    while let Some(line) = python.line() {
        let row: Row = serde_json::from_str(&line).unwrap();
        if row.dbc < OWN {
            assert!(plans[row.dbc].is_ok() && row.refused.is_none(), "{row:?} {:?}", plans[row.dbc]);
        }
        let (Ok(plan), None) = (&plans[row.dbc], &row.refused) else { continue };
        let id = CanId::new(row.id.unwrap(), row.extended).unwrap();
        let Some((_, message)) = plan.find(id) else { panic!("{:?} lacks {id}", files[row.dbc]) };
        let frame = CanFrame::data_frame(id, &payload(&row.data)).unwrap();
        let ours = decode(plan, &frame);
        let what = format!("{:?} {} {}", files[row.dbc], message.name, row.data);
        compared += compare(&what, &ours, &row.values);
        // Float payloads may be NaN, whose bits no encoder keeps; big integers are not exact as f64.
        let exact = ours.values().all(|value| value.is_finite() && value.abs() < 2f64.powi(53));
        if let (Some(theirs), true) = (row.encoded, exact && plain(message)) {
            let values: Vec<(&str, f64)> = ours.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            assert_eq!(message.encode_named(&values).unwrap().data(), payload(&theirs), "{what}");
            encoded += 1;
        }
    }
    python.finish();
    assert!(compared > 1_000 && encoded > 100, "only {compared} values and {encoded} frames compared");
    eprintln!("{compared} values and {encoded} encoded frames equal cantools'");
}

/// Messages whose integers survive the way through a physical f64 and back.
fn plain(message: &dbc::Message) -> bool {
    message.signals.iter().all(|signal| {
        let integer = matches!(signal.kind, dbc::NumberKind::Unsigned | dbc::NumberKind::Signed);
        integer && signal.layout.bits() <= 40
    })
}

#[test]
fn a_recorded_drive_decodes_as_by_cantools() {
    let name = "a_recorded_drive_decodes_as_by_cantools";
    let Some(data) = shared_data() else {
        return skipped(name, "shared data are not here; set VERGE_SHARED");
    };
    let (log, file) = (data.join("drive-gnss-obd2-600s.log"), data.join("canmod-gps.dbc"));
    let arguments = ["log".to_string(), log.display().to_string(), file.display().to_string()];
    let Some(mut python) = Python::start(name, "codec.py", &arguments) else { return };
    let plan = dbc::compile("canmod-gps.dbc", &std::fs::read(&file).unwrap()).unwrap();
    let bytes = std::fs::read(&log).unwrap();
    let (mut frames, mut compared) = (0, 0);
    for record in Reader::new(&bytes) {
        let frame = record.unwrap().frame;
        frames += 1;
        if plan.find(frame.id()).is_none() {
            continue;
        }
        let row: Row = serde_json::from_str(&python.line().unwrap()).unwrap();
        assert_eq!(row.id, Some(frame.id().value()));
        compared += compare(&format!("{frame:?}"), &decode(&plan, &frame), &row.values);
    }
    assert_eq!(python.line(), None, "cantools knows no more frames");
    python.finish();
    assert_eq!(frames, 73_812);
    assert!(compared > 100_000, "{compared}");
    eprintln!("{compared} values of {frames} frames equal cantools'");
}
