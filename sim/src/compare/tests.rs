//! The machinery of the comparison on roads of which the truth is known: the simulator's own. What it measures on
//! real nodes, no test can promise.

use std::path::Path;

use obu_core::io::Input;
use obu_core::record::{Entry, Record};
use policies::id::Incarnation;
use tempfile::TempDir;
use v2e_core::report::Realm;

use super::*;
use crate::fault::{Fault, Faults};
use crate::find::run;
use crate::log::{LogReader, LogWriter};
use crate::model::LinkTimes;
use crate::world::Options;

fn once(seed: u64) -> Runs {
    Runs { seed, runs: 1, log: None }
}

/// A road of the simulator in one file, as `verge-sim run --log` writes it.
fn simulated(dir: &TempDir, seconds: u64, faults: Faults) -> PathBuf {
    let log = dir.path().join("road.log");
    let options = Options { seed: 3, nodes: 12, seconds, faults, log: Some(log.clone()) };
    run(options).unwrap().unwrap();
    log
}

/// From `range.0` to `range.1` in a hundred steps.
fn even(range: (u64, u64)) -> Samples {
    Samples::new((0..=100).map(|i| range.0 + (range.1 - range.0) * i / 100).collect())
}

/// Ways within a car and outside, microseconds, and the rate outside, which is the slow one.
const CAR: (u64, u64) = (300, 500);
const OUTSIDE: (u64, u64) = (3_000, 5_000);
const OUTSIDE_KB_S: u32 = 8_000;
/// Service times in cars, where they are so long that tasks leave them, and at the roadside.
const IN_CARS: (u64, u64) = (50_000, 70_000);
const AT_EDGES: (u64, u64) = (5_000, 9_000);

/// A model with the figures above and all else as fitted to `road`.
fn truth(road: &Road) -> Model {
    let mut model = fit(road);
    let link = |way, rate_kb_s| LinkTimes { one_way: even(way), bulky: even(way), rate_kb_s };
    model.links = [(Realm::Car, link(CAR, 100_000)), (Realm::Outside, link(OUTSIDE, OUTSIDE_KB_S))].into();
    let nodes: BTreeSet<NodeId> = road.lives.iter().map(|life| life.node.clone()).collect();
    for service in model.services.values_mut() {
        let times = |node: &NodeId| even(if is_edge(node) { AT_EDGES } else { IN_CARS });
        service.by_node = nodes.iter().map(|node| (node.clone(), times(node))).collect();
    }
    model
}

fn is_edge(node: &NodeId) -> bool {
    node.as_str().starts_with('e')
}

/// The road on which exactly that is true.
fn known(dir: &TempDir) -> Road {
    let road = Road::read(&[simulated(dir, 60, Faults::default())]).unwrap();
    let log = dir.path().join("known.log");
    World::of_road(&road, truth(&road), 9, Some(&log)).unwrap().run_road().unwrap();
    Road::read(&[log]).unwrap()
}

fn records(path: &Path) -> Vec<Record> {
    LogReader::open(path).unwrap().map(Result::unwrap).collect()
}

/// Recordings as daemons make them: one file for each node.
fn apart(dir: &TempDir, records: &[Record]) -> Vec<PathBuf> {
    let nodes: BTreeSet<&NodeId> = records.iter().map(|record| &record.node).collect();
    let file = |node: &&NodeId| {
        let mut writer = LogWriter::create(&dir.path().join(format!("{node}.vrec"))).unwrap();
        records.iter().filter(|record| record.node == **node).for_each(|r| writer.write(r).unwrap());
        writer.finish().unwrap()
    };
    nodes.iter().map(file).collect()
}

#[track_caller]
fn within(percent: u64, truth: u64, found: u64, what: &str) {
    let apart = distance(truth, found);
    assert!(apart.is_some_and(|apart| apart <= percent), "{what}: {found} for {truth}: {apart:?} %");
}

const fn middle(range: (u64, u64)) -> u64 {
    u64::midpoint(range.0, range.1)
}

// tests: P5-05
#[test]
fn the_fit_finds_the_links_and_service_times_that_made_the_road() {
    let dir = tempfile::tempdir().unwrap();
    let model = fit(&known(&dir));
    for (realm, truth) in [(Realm::Car, CAR), (Realm::Outside, OUTSIDE)] {
        let link = &model.links[&realm];
        for (permille, at) in [(500, middle(truth)), (100, truth.0), (900, truth.1)] {
            within(10, at, link.one_way.quantile(permille), realm.as_str());
        }
        within(5, middle(truth), link.one_way.quantile(500), realm.as_str());
    }
    within(10, OUTSIDE_KB_S.into(), model.links[&Realm::Outside].rate_kb_s.into(), "rate");
    let lane = &model.services[&FunctionName::new("lane").unwrap()];
    for (node, samples) in lane.by_node.iter().filter(|(_, samples)| samples.len() > 100) {
        let truth = if is_edge(node) { AT_EDGES } else { IN_CARS };
        within(5, middle(truth), samples.quantile(500), node.as_str());
    }
    assert!(lane.by_node.iter().any(|(node, samples)| is_edge(node) && samples.len() > 100));
}

// tests: P5-05
#[test]
fn a_model_of_its_own_road_is_near_and_a_wrong_one_is_far() {
    let dir = tempfile::tempdir().unwrap();
    let road = known(&dir);
    let right = fit(&road);
    let against = |model: Model| compare_with(&road, model, &once(1)).unwrap();
    let near = against(right.clone());
    assert!(near.sum.road.tasks > 500, "{near}");
    within(5, near.sum.road.total.p50, near.sum.model.total.p50, "p50");
    within(15, near.sum.road.total.p99, near.sum.model.total.p99, "p99");

    let mut slow_links = right.clone();
    for link in slow_links.links.values_mut() {
        (link.one_way, link.bulky) = (link.one_way.times(5), link.bulky.times(5));
    }
    let mut slow_functions = right;
    for service in slow_functions.services.values_mut() {
        service.anywhere = service.anywhere.times(3);
        service.by_node.values_mut().for_each(|samples| *samples = samples.times(3));
    }
    let far = against(slow_functions);
    let percent = total(&far.sum);
    assert!(percent > 100 && far.to_string().contains(&format!("p50 {percent} %")), "{far}");
    // Slow links show where tasks take them, and keep others from doing so.
    let (near, far) = (abroad(&near), abroad(&against(slow_links)));
    assert!(near.0 < 10 && far.0 > 100 && near.1 > far.1, "{near:?}, {far:?}");
}

/// Of `lane` at the roadside: the distance of transport and queues, and tasks in the model.
fn abroad(comparison: &Comparison) -> (u64, u64) {
    let is_it = |row: &&Row| is_edge(&row.node) && row.function.as_str() == "lane";
    let Beside { road, model } = &comparison.rows.iter().find(is_it).unwrap().figures;
    (distance(road.pipelining.p50, model.pipelining.p50).unwrap(), model.tasks)
}

fn total(beside: &Beside<Figures>) -> u64 {
    distance(beside.road.total.p50, beside.model.total.p50).unwrap()
}

#[test]
fn the_same_recordings_and_seed_give_the_same_figures() {
    let dir = tempfile::tempdir().unwrap();
    let log = [simulated(&dir, 8, Faults::default())];
    let text = |seed| format!("{:?}", compare(&log, &once(seed)).unwrap());
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    let many = compare(&log, &Runs { seed: 1, runs: 3, log: None }).unwrap();
    let alone = [1, 2, 3].map(|seed| compare(&log, &once(seed)).unwrap().sum.model);
    assert_eq!(many.runs, alone.map(|one| one.total));
    assert_eq!(many.sum.model.tasks, alone.iter().map(|one| one.tasks).sum::<u64>());
}

#[test]
fn recordings_of_each_node_say_what_one_of_all_says() {
    let dir = tempfile::tempdir().unwrap();
    let log = simulated(&dir, 8, Faults::default());
    let one = compare(std::slice::from_ref(&log), &once(1)).unwrap();
    let many = compare(&apart(&dir, &records(&log)), &once(1)).unwrap();
    assert_eq!((one.to_string(), one.rows), (many.to_string(), many.rows));
    let alone = Road::read(&[dir.path().join("c1u0.vrec")]).unwrap();
    assert!(alone.notes.iter().any(|note| note.contains("no recording of ")), "{:?}", alone.notes);
}

#[test]
fn clocks_that_began_anywhere_are_brought_together() {
    let dir = tempfile::tempdir().unwrap();
    let road = Road::read(&[simulated(&dir, 8, Faults::default())]).unwrap();
    assert_eq!(road.notes, Vec::<String>::new());
    // In the world of the log all nodes boot within half a second, each on a clock of its own.
    let begun: Vec<u64> = road.lives.iter().map(|life| life.world(life.from)).collect();
    assert!(begun.iter().all(|at| *at < 600_000) && begun.contains(&0), "{begun:?}");
    let zeros: BTreeSet<i64> = road.lives.iter().map(|life| life.zero).collect();
    assert_eq!(zeros.len(), road.lives.len());
}

#[test]
fn lives_and_standstills_are_taken_from_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults([Fault::Crash, Fault::Freeze].into());
    let log = simulated(&dir, 30, faults);
    let road = Road::read(std::slice::from_ref(&log)).unwrap();
    let lives = |node: &NodeId| road.lives.iter().filter(|life| life.node == *node).count();
    assert!(road.lives.iter().any(|life| lives(&life.node) > 1), "{}", road.lives.len());
    assert!(road.lives.iter().any(|life| !life.still.is_empty()));
    for pair in road.lives.windows(2).filter(|pair| pair[0].node == pair[1].node) {
        assert!(pair[0].boot.incarnation < pair[1].boot.incarnation);
        assert!(pair[0].world(pair[0].until) <= pair[1].world(pair[1].from));
    }
    let comparison = compare(&[log], &once(1)).unwrap();
    assert!(comparison.sum.model.tasks * 10 > comparison.sum.road.tasks * 9, "{comparison}");
}

#[test]
fn a_node_process_that_died_alone_has_two_recordings_of_one_life() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults([Fault::Kill].into());
    let mut all = records(&simulated(&dir, 20, faults));
    for record in &mut all {
        if let Entry::Input(Input::Boot(boot)) = &mut record.entry {
            boot.incarnation = Incarnation(1);
        }
    }
    // Only the boots are changed: what the machines of another life would have said is not of interest here.
    let road = Road::read(&apart(&dir, &all)).unwrap();
    let twice = road.lives.windows(2).filter(|pair| pair[0].node == pair[1].node).collect::<Vec<_>>();
    assert!(!twice.is_empty());
    for pair in twice {
        assert_eq!(pair[0].zero, pair[1].zero);
        assert!(pair[0].until < pair[1].from);
    }
    let begun = road.lives.iter().map(|life| life.world(life.from));
    assert!(begun.max().is_some_and(|at| at < 21_000_000));
    World::of_road(&road, fit(&road), 1, None).unwrap().run_road().unwrap();
}

#[test]
fn a_recording_that_was_cut_short_counts_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = simulated(&dir, 8, Faults::default());
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 5]).unwrap();
    let comparison = compare(&[log], &once(1)).unwrap();
    assert!(comparison.notes.iter().any(|note| note.contains("cut short")), "{:?}", comparison.notes);
}

#[test]
fn what_is_no_road_is_refused_with_a_reason_and_a_fix() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let log = simulated(&dir, 4, Faults::default());
    let mut damaged = std::fs::read(&log).unwrap();
    let half = damaged.len() / 2;
    damaged[half] ^= 1;
    let idle: Vec<Record> = records(&log).into_iter().take(20).collect();
    let mut writer = LogWriter::create(&dir.path().join("idle")).unwrap();
    idle.iter().for_each(|record| writer.write(record).unwrap());
    let idle = writer.finish().unwrap();
    let cases: [(&str, Vec<PathBuf>); 6] = [
        ("not a Verge message", vec![write("garbage", b"not a recording at all")]),
        ("no node begins in", vec![write("empty", b"")]),
        ("is damaged at byte", vec![write("damaged", &damaged)]),
        ("cannot read", vec![dir.path().join("absent")]),
        ("which another of the files holds too", vec![log.clone(), log]),
        ("the recordings hold 0 ended tasks", vec![idle]),
    ];
    for (what, files) in cases {
        let error = compare(&files, &once(1)).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!(error.fix().is_some_and(|fix| !fix.is_empty()), "{error}");
    }
}

#[test]
fn distances_are_rounded_and_never_invented() {
    let cases = [
        ((100, 100), Some(0)),
        ((100, 149), Some(49)),
        ((1_000, 1_006), Some(1)),
        ((200, 50), Some(75)),
        ((0, 0), Some(0)),
        ((0, 7), None),
    ];
    for ((road, model), percent) in cases {
        assert_eq!(distance(road, model), percent, "{road} {model}");
    }
    assert_eq!([ms(7), ms(990), ms(12_345)], ["0.00", "0.99", "12.3"]);
}
