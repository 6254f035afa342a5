//! What the nodes recorded.

use std::fs;
use std::path::{Path, PathBuf};

use obu_core::record::{Entry, Record, SENT_TWICE};

/// The recordings in `dir`, a node's state.
///
/// # Panics
/// If there is no such directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("node")).expect("the node's state").flatten().map(|file| file.path());
    files.filter(|file| file.extension().is_some_and(|ending| ending == "vrec")).collect()
}

/// Everything in these recordings of a node, in the order of time.
///
/// # Panics
/// If a recording cannot be read. One that was cut off by the end of its process is read up to there.
pub fn read(files: &[PathBuf]) -> Vec<Record> {
    let mut read = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("a recording");
        for record in obu_core::record::records(&bytes) {
            match record {
                Ok(record) => read.push(record),
                Err(policies::wire::WireError::Short { .. }) => {}
                Err(error) => panic!("{}: {error}", file.display()),
            }
        }
    }
    read.sort_by_key(|record: &Record| record.at);
    read
}

/// The inputs among records, with their time in microseconds.
pub fn inputs(records: &[Record]) -> impl Iterator<Item = (u64, &obu_core::io::Input)> {
    records.iter().filter_map(|record| match &record.entry {
        Entry::Input(input) => Some((record.at.as_micros(), input)),
        _ => None,
    })
}

/// The outputs among records, with their time in microseconds. A run that is sent twice on purpose, and recorded so,
/// counts twice.
pub fn outputs(records: &[Record]) -> impl Iterator<Item = (u64, &obu_core::io::Output)> {
    let mut last = None;
    records.iter().filter_map(move |record| match &record.entry {
        Entry::Output(output) => {
            last = Some((record.at.as_micros(), output));
            last
        }
        Entry::Note(text) if text.starts_with(SENT_TWICE) => last,
        _ => None,
    })
}
