//! Replays a recording: feeds every recorded input to a fresh machine of its node and looks whether the same
//! outputs come out. It takes what the simulator logs and what a daemon records on the road: it is one format.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use obu_core::io::{Input, Output};
use obu_core::node::Node;
use obu_core::record::{Entry, Record, Trail};
use policies::id::NodeId;
use policies::time::Timestamp;

use crate::check::{Checker, Counts, Violation};
use crate::log::{LogError, LogReader, encode};

/// What to replay of a file.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Stop after so many inputs.
    pub until: Option<u64>,
    /// Only this node. Its inputs are all that it needs; what only an observer of all nodes can tell is then
    /// not checked.
    pub node: Option<NodeId>,
}

/// One step of a replay.
#[derive(Debug)]
pub struct Step<'a> {
    /// Inputs so far, this one included.
    pub number: u64,
    /// The recorded entry.
    pub record: &'a Record,
    /// What the machine wanted, if the entry is an input.
    pub outputs: &'a [Output],
}

/// The first place where machine and recording differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The input after which they differ, counted from 1.
    pub input: u64,
    /// Which node.
    pub node: NodeId,
    /// When, on its clock.
    pub at: Timestamp,
    /// What the recording says.
    pub recorded: String,
    /// What the machine says.
    pub replayed: String,
}

/// What came of comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file holds outputs, or the trail of all of them, and the machine gave the same.
    Identical,
    /// The file holds inputs alone, or was not replayed as a whole.
    NothingToCompare,
    /// They differ.
    Differs(Box<Difference>),
}

/// What came of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Inputs fed.
    pub inputs: u64,
    /// All outputs.
    pub trail: Trail,
    /// Outputs compared one by one.
    pub compared: u64,
    /// The comparison.
    pub verdict: Verdict,
    /// The first rule that was broken, if any.
    pub violation: Option<Violation>,
    /// What the checker counted.
    pub counts: Counts,
    /// Notes in the file.
    pub notes: Vec<String>,
}

/// A node under replay.
#[derive(Debug, Default)]
struct Player {
    node: Option<Node>,
    /// Outputs that the machine gave and the recording has not confirmed yet.
    unconfirmed: VecDeque<Output>,
    last_at: Timestamp,
}

#[derive(Debug)]
struct Replayer {
    selection: Selection,
    players: BTreeMap<NodeId, Player>,
    checker: Checker,
    has_outputs: bool,
    result: Replay,
}

/// Replays a file and shows each step to `each`.
///
/// # Errors
/// If the file cannot be read or is damaged before the end of the selection.
pub fn replay(
    path: &Path,
    selection: Selection,
    mut each: impl FnMut(&Step<'_>),
) -> Result<Replay, LogError> {
    let (has_outputs, simulated) = survey(path)?;
    let mut replayer = Replayer::new(selection, has_outputs, simulated);
    let mut reader = LogReader::open(path)?;
    while let Some(record) = (!replayer.is_done()).then(|| reader.next()).flatten() {
        let record = record?;
        if replayer.selection.node.as_ref().is_some_and(|node| *node != record.node) {
            continue;
        }
        let outputs = replayer.take(&record)?;
        each(&Step { number: replayer.result.inputs, record: &record, outputs: &outputs });
    }
    if reader.cut() > 0 {
        let note = format!("the last record is cut short; its {} bytes are left out", reader.cut());
        replayer.result.notes.push(note);
    }
    Ok(replayer.finish())
}

/// Whether the file holds outputs, and whether a simulator wrote it. Damage is left to the replay itself.
fn survey(path: &Path) -> Result<(bool, bool), LogError> {
    let (mut has_outputs, mut simulated) = (false, false);
    for record in LogReader::open(path)?.map_while(Result::ok) {
        has_outputs |= matches!(record.entry, Entry::Output(_));
        simulated |= matches!(&record.entry, Entry::Note(text) if text.starts_with("verge-sim"));
    }
    Ok((has_outputs, simulated))
}

impl Replayer {
    fn new(selection: Selection, has_outputs: bool, simulated: bool) -> Self {
        let checker = Checker::new(simulated && selection.node.is_none());
        let result = Replay {
            inputs: 0,
            trail: Trail::default(),
            compared: 0,
            verdict: Verdict::NothingToCompare,
            violation: None,
            counts: Counts::default(),
            notes: Vec::new(),
        };
        Self { selection, players: BTreeMap::new(), checker, has_outputs, result }
    }

    fn is_done(&self) -> bool {
        self.selection.until.is_some_and(|until| self.result.inputs >= until)
            || matches!(self.result.verdict, Verdict::Differs(_))
    }

    /// Takes the next record; the outputs if it is an input.
    fn take(&mut self, record: &Record) -> Result<Vec<Output>, LogError> {
        if !matches!(record.entry, Entry::Output(_)) {
            self.check(record);
        }
        match &record.entry {
            Entry::Input(input) => return self.feed(record, input),
            Entry::Output(output) => self.compare(record, output)?,
            Entry::Trail(trail) if self.selection.node.is_none() => self.compare_trail(record, trail),
            Entry::Note(text) => self.result.notes.push(text.clone()),
            Entry::Trail(_) | Entry::Applied { .. } => {}
        }
        Ok(Vec::new())
    }

    fn check(&mut self, record: &Record) {
        if self.result.violation.is_none() {
            self.result.violation = self.checker.saw(record).err();
        }
    }

    fn feed(&mut self, record: &Record, input: &Input) -> Result<Vec<Output>, LogError> {
        let player = self.players.entry(record.node.clone()).or_default();
        let is_boot = matches!(input, Input::Boot(_));
        // What a node wanted in its last moments may not have reached the file.
        if let Some(output) = player.unconfirmed.pop_front().filter(|_| self.has_outputs && !is_boot) {
            let at = player.last_at;
            self.differs(record, at, "nothing".into(), format!("{output:?}"));
            return Ok(Vec::new());
        }
        if is_boot {
            *player = Player { node: Some(Node::new()), ..Player::default() };
        }
        self.result.inputs += 1;
        let Some(node) = &mut player.node else { return Ok(Vec::new()) };
        node.handle(record.at, input.clone());
        let outputs: Vec<Output> = std::iter::from_fn(|| node.poll()).collect();
        player.last_at = record.at;
        if self.has_outputs {
            player.unconfirmed = outputs.iter().cloned().collect();
        }
        for output in &outputs {
            let entry = Entry::Output(output.clone());
            let record = Record { node: record.node.clone(), at: record.at, entry };
            self.result.trail.add(&encode(&record)?);
            self.check(&record);
        }
        Ok(outputs)
    }

    fn compare(&mut self, record: &Record, recorded: &Output) -> Result<(), LogError> {
        let player = self.players.entry(record.node.clone()).or_default();
        let at = player.last_at;
        let replayed = player.unconfirmed.pop_front();
        let same = match &replayed {
            // Bytes decide, not equality of values.
            Some(output) => {
                let entry = Entry::Output(output.clone());
                encode(&Record { node: record.node.clone(), at: record.at, entry })? == encode(record)?
            }
            None => false,
        };
        if same {
            self.result.compared += 1;
            self.result.verdict = Verdict::Identical;
        } else {
            let replayed = replayed.map_or_else(|| "nothing".into(), |output| format!("{output:?}"));
            self.differs(record, at, format!("{recorded:?}"), replayed);
        }
        Ok(())
    }

    fn compare_trail(&mut self, record: &Record, recorded: &Trail) {
        if *recorded == self.result.trail {
            self.result.verdict = Verdict::Identical;
        } else {
            let replayed = format!("{:?}", self.result.trail);
            self.differs(record, record.at, format!("{recorded:?}"), replayed);
        }
    }

    fn differs(&mut self, record: &Record, at: Timestamp, recorded: String, replayed: String) {
        let (input, node) = (self.result.inputs, record.node.clone());
        self.result.verdict = Verdict::Differs(Box::new(Difference { input, node, at, recorded, replayed }));
    }

    fn finish(mut self) -> Replay {
        self.result.counts = self.checker.counts.clone();
        self.result
    }
}

#[cfg(test)]
mod tests;
