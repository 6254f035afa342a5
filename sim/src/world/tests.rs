//! The machines of the car under load and faults. A failure prints the command that repeats it.

use std::path::Path;

use super::*;
use crate::find::{Search, find, run, shape};
use crate::replay::{Selection, Verdict, replay};

fn options(seed: u64, nodes: usize, seconds: u64, faults: Faults) -> Options {
    Options { seed, nodes, seconds, faults, log: None }
}

#[track_caller]
fn sound(options: Options) -> Report {
    let command = options.to_string();
    match run(options).unwrap() {
        Ok(report) => report,
        Err(why) => panic!("{why}\n  again: {command}"),
    }
}

fn search(seeds: u64, dir: &Path) -> Search {
    Search { from: 1, seeds, jobs: 2, dir: dir.into(), all: false }
}

#[test]
fn a_quiet_road_serves_every_task() {
    let report = sound(options(1, 12, 10, Faults::default()));
    let count = |word| report.counts.outcomes.get(word).copied().unwrap_or(0);
    let all: u64 = report.counts.outcomes.values().sum();
    assert!(all > 500 && count("done") * 100 > all * 95, "{:?}", report.counts);
    assert!(report.counts.effects > 50 && report.counts.outsourced > 0, "{:?}", report.counts);
}

// tests: P5-03
#[test]
fn a_hundred_nodes_with_every_fault() {
    let report = sound(options(7, 100, 8, Faults::all()));
    assert!(report.strikes.len() >= 7, "{:?}", report.strikes);
    assert!(report.counts.outcomes.values().sum::<u64>() > 1_000, "{:?}", report.counts);
}

#[test]
fn fifty_seeds_with_drawn_faults() {
    let dir = tempfile::tempdir().unwrap();
    let report = find(&search(50, dir.path()), |_| {}).unwrap();
    let found: Vec<String> =
        report.found.values().map(|f| format!("{}\n  again: {}", f.why, f.options)).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(report.seeds, 50);
}

#[test]
fn a_search_makes_the_directory_for_its_logs_or_says_so_first() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("not/there");
    assert_eq!(find(&search(1, &deep), |_| {}).unwrap().seeds, 1);
    assert!(deep.is_dir());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = find(&search(1, &file), |_| {}).unwrap_err();
    assert!(error.to_string().contains("file") && error.fix().is_some(), "{error}");
}

#[test]
fn the_same_seed_gives_the_same_outputs() {
    for seed in [3, 4] {
        let one = sound(options(seed, 10, 5, Faults::all())).trail;
        assert_eq!(one, sound(options(seed, 10, 5, Faults::all())).trail);
        assert!(one.outputs > 1_000);
        assert_ne!(one, sound(options(seed + 10, 10, 5, Faults::all())).trail);
    }
}

#[test]
fn a_log_replays_to_the_same_outputs_alone_and_together() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("run.log");
    let report = sound(Options { log: Some(log.clone()), ..options(5, 8, 4, Faults::all()) });
    let whole = replay(&log, Selection::default(), |_| {}).unwrap();
    assert_eq!((&whole.verdict, whole.trail), (&Verdict::Identical, report.trail));
    assert_eq!((whole.violation.clone(), whole.counts.outcomes), (None, report.counts.outcomes));
    let some = Selection { until: Some(100), node: None };
    assert_eq!(replay(&log, some, |_| {}).unwrap().inputs, 100);
}

#[test]
fn shapes_differ_between_seeds() {
    let shapes: std::collections::BTreeSet<_> =
        (0..100).map(|seed| (shape(seed).nodes, shape(seed).faults.0)).collect();
    assert!(shapes.len() > 90);
}
