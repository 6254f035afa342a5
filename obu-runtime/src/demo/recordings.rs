//! What the nodes recorded, read for the checks that no ledger can make: how often an attempt was acted upon,
//! and which faults on purpose were really played.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use obu_core::io::{Input, Output};
use obu_core::record::{ASKED_AGAIN, Entry, Record, SENT_TWICE, records};
use policies::face::FromBus;

/// What one road's recordings say about `once` tasks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Once {
    /// Runs that were sent a second time on purpose.
    pub(super) runs_repeated: u64,
    /// Effects that were asked for a second time on purpose.
    pub(super) effects_repeated: u64,
    /// How often a node's own rules asked the effect port, by node, task and attempt.
    pub(super) asked: BTreeMap<String, u64>,
    /// Answers of effect ports that refused a repeat.
    pub(super) refused: u64,
    /// Tasks whose effect was asked for again and that wait for the answer, by node.
    again: BTreeSet<String>,
}

impl Once {
    /// Attempts that reached an effect port more than once without anybody's purpose.
    pub(super) fn acted_twice(&self) -> Vec<&str> {
        self.asked.iter().filter(|(_, times)| **times > 1).map(|(what, _)| what.as_str()).collect()
    }

    fn add(&mut self, record: &Record) {
        match &record.entry {
            Entry::Note(text) if text.starts_with(SENT_TWICE) => self.runs_repeated += 1,
            Entry::Note(text) if text.starts_with(ASKED_AGAIN) => {
                self.effects_repeated += 1;
                let task = text.rsplit(' ').next().unwrap_or_default();
                self.again.insert(format!("{} at {task}", record.node));
            }
            Entry::Output(Output::Effect { task, attempt, .. }) => {
                let what = format!("{} at {}, attempt {}", task, record.node, attempt.0);
                *self.asked.entry(what).or_default() += 1;
            }
            // Any other error is a port that could not be reached.
            Entry::Input(Input::Bus(FromBus::EffectDone { task, result: Err(_), .. })) => {
                self.refused += u64::from(self.again.remove(&format!("{} at {task}", record.node)));
            }
            _ => {}
        }
    }
}

/// The recordings of one node, by name.
pub(super) fn files(node_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(node_dir.join("state/node")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vrec"))
        .collect();
    files.sort();
    files
}

/// Reads recordings. One that ends in the middle of a record, as after a power cut, counts up to there.
pub(super) fn once(files: &[PathBuf]) -> std::io::Result<Once> {
    let mut once = Once::default();
    for file in files {
        let bytes = fs::read(file)?;
        records(&bytes).map_while(Result::ok).for_each(|record| once.add(&record));
    }
    Ok(once)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::id::{Attempt, Incarnation, NodeId, TaskId};
    use policies::time::Timestamp;

    fn task(number: u64) -> TaskId {
        TaskId { owner: NodeId::new("a1").unwrap(), incarnation: Incarnation(1), number }
    }

    fn effect(number: u64, attempt: u32) -> Entry {
        let (task, attempt) = (task(number), Attempt(attempt));
        Entry::Output(Output::Effect { task, attempt, line: "toll".into() })
    }

    fn refusal(number: u64) -> Entry {
        let (task, attempt) = (task(number), Attempt(1));
        let result = Err("already done".to_owned());
        Entry::Input(Input::Bus(FromBus::EffectDone { task, attempt, result }))
    }

    #[test]
    fn attempts_that_acted_twice_are_found_in_files_that_end_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/node");
        fs::create_dir_all(&path).unwrap();
        let entries = [
            Entry::Note(format!("{SENT_TWICE} a2 twice")),
            effect(1, 1),
            Entry::Note(format!("{ASKED_AGAIN} a1.1.1")),
            refusal(1),
            refusal(1),
            refusal(2),
            effect(2, 1),
            effect(2, 2),
            effect(3, 1),
            effect(3, 1),
        ];
        let node = NodeId::new("a2").unwrap();
        let mut bytes: Vec<u8> = Vec::new();
        for entry in entries {
            let record = Record { node: node.clone(), at: Timestamp::from_micros(1), entry };
            bytes.extend(record.encode().unwrap());
        }
        bytes.extend([b'v', b'g', 1]);
        fs::write(path.join("record-1.vrec"), bytes).unwrap();
        let found = once(&files(dir.path())).unwrap();
        assert_eq!((found.runs_repeated, found.effects_repeated, found.refused), (1, 1, 1));
        assert_eq!(found.acted_twice(), ["a1.1.3 at a2, attempt 1"]);
        assert_eq!(files(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }
}
