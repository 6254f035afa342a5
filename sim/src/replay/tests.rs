//! Recordings as daemons make them: one node, inputs and outputs, sometimes cut off or damaged.

use std::path::PathBuf;

use obu_core::io::Output;
use tempfile::TempDir;

use super::*;
use crate::fault::Faults;
use crate::find::run;
use crate::fleet::name;
use crate::log::LogWriter;
use crate::world::Options;

/// What a daemon on one node of a simulated road would have recorded.
fn recording() -> Vec<Record> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("run.log");
    let options =
        Options { seed: 2, nodes: 5, seconds: 4, faults: Faults::default(), log: Some(log.clone()) };
    run(options).unwrap().unwrap();
    let mut records = Vec::new();
    let one = Selection { node: Some(name!(NodeId, "e0")), until: None };
    replay(&log, one, |step| {
        if !matches!(step.record.entry, Entry::Input(_)) {
            return;
        }
        records.push(step.record.clone());
        let output = |output: &Output| Record { entry: Entry::Output(output.clone()), ..step.record.clone() };
        records.extend(step.outputs.iter().map(output));
    })
    .unwrap();
    records
}

fn write(records: &[Record]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(&dir.path().join("record")).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    let path = writer.finish().unwrap();
    (dir, path)
}

fn verdict(records: &[Record]) -> (Verdict, u64) {
    let (_dir, path) = write(records);
    let result = replay(&path, Selection::default(), |_| {}).unwrap();
    (result.verdict, result.compared)
}

fn is_output(record: &Record) -> bool {
    matches!(record.entry, Entry::Output(_))
}

/// The difference that is found if the output at `index` of the recording is treated by `change`.
fn difference(change: fn(&mut Vec<Record>, usize)) -> Difference {
    let mut records = recording();
    let index =
        records.iter().position(|r| matches!(r.entry, Entry::Output(Output::Announce { .. }))).unwrap();
    change(&mut records, index);
    match verdict(&records).0 {
        Verdict::Differs(difference) => *difference,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recording_replays_to_the_recorded_outputs() {
    let records = recording();
    let outputs = records.iter().filter(|record| is_output(record)).count();
    assert!(outputs > 50);
    assert_eq!(verdict(&records), (Verdict::Identical, outputs as u64));
}

#[test]
fn inputs_alone_have_nothing_to_compare_with() {
    let inputs: Vec<Record> = recording().into_iter().filter(|record| !is_output(record)).collect();
    assert_eq!(verdict(&inputs), (Verdict::NothingToCompare, 0));
}

#[test]
fn the_first_difference_is_told() {
    let changed = difference(|records, index| {
        if let Entry::Output(Output::Announce { advert, .. }) = &mut records[index].entry {
            advert.body.seq += 7;
        }
    });
    assert!(changed.recorded.contains("seq: 8") && changed.replayed.contains("seq: 1"), "{changed:?}");
    let missing = difference(|records, index| drop(records.remove(index)));
    assert!(missing.replayed.contains("Announce"), "{missing:?}");
    let invented = difference(|records, index| records.insert(index, records[index].clone()));
    assert!(invented.recorded.contains("Announce"), "{invented:?}");
}

#[test]
fn a_killed_writer_leaves_a_file_that_replays() {
    let (_dir, path) = write(&recording());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let result = replay(&path, Selection::default(), |_| {}).unwrap();
    assert_eq!(result.verdict, Verdict::Identical);
    assert!(result.notes.iter().any(|note| note.contains("cut short")), "{:?}", result.notes);
}

#[test]
fn damage_and_foreign_files_are_named() {
    let (_dir, path) = write(&recording());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let damaged = replay(&path, Selection::default(), |_| {}).unwrap_err();
    assert!(matches!(damaged, LogError::Damaged { .. }) && damaged.fix().is_some(), "{damaged}");
    std::fs::write(&path, "not a recording at all").unwrap();
    let foreign = replay(&path, Selection::default(), |_| {}).unwrap_err();
    assert!(foreign.to_string().contains("not a Verge message"), "{foreign}");
    let absent = replay(&path.with_extension("absent"), Selection::default(), |_| {}).unwrap_err();
    assert!(matches!(absent, LogError::Read { .. }), "{absent}");
}
