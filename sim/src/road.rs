//! What recordings say of one road: who was there when, what was asked, how long everything took.
//!
//! ```text
//!   files --> records --> Watch (one per life of a node) --> Life --+--> clocks (one axis of time)
//!                                                                   +--> crate::fit, crate::world
//! ```
//! A file may hold one life of one node, as a daemon records it, or all nodes of a run of the simulator. Outputs
//! that a file does not hold are had from the machine itself.

mod clocks;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use obu_core::io::{Boot, Input, Output};
use obu_core::node::Node;
use obu_core::record::Entry;
use policies::id::{Digest, FunctionName, Incarnation, NodeId, TaskId};
use policies::manifest::Function;
use policies::time::Timestamp;
use v2e_core::report::{Realm, TaskReport};

use crate::log::{LogError, LogReader};
use crate::model::Shape;
use watch::Watch;

/// A message that was answered at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Through which realm.
    pub realm: Realm,
    /// The task that it was about.
    pub task: TaskId,
    /// Bytes that went there beside the message.
    pub len: u32,
    /// There and back on the sender's clock, microseconds.
    pub round_us: u64,
}

/// Durations of one life as measured, in the order of their ends, microseconds. See [`crate::model::FaceTimes`].
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// See there; so for the others.
    pub inbox: Vec<u64>,
    /// Until a call began.
    pub began: Vec<u64>,
    /// Until a call ended, less its execution.
    pub call: Vec<u64>,
    /// The same by module, and by whether another ran already.
    pub calls: BTreeMap<(Digest, bool), Vec<u64>>,
    /// Until a write was durable.
    pub save: Vec<u64>,
    /// Until an effect was answered.
    pub effect: Vec<u64>,
    /// Until a module was ready.
    pub load: Vec<u64>,
    /// Until a bundle was in the store.
    pub import: Vec<u64>,
    /// Until a face was up.
    pub face: Vec<u64>,
}

/// One life of a node: of its process, to be exact, for that may die alone. Times are on its own clock.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whose.
    pub node: NodeId,
    /// How it began.
    pub boot: Boot,
    /// The first and the last sign of it.
    pub from: Timestamp,
    /// The last sign of it, its own or a message that another node had of it.
    pub until: Timestamp,
    /// What its clock shows at world time 0, microseconds; before its beginning if negative.
    pub zero: i64,
    /// What came from outside the road: requests, operators, pressure, sessions that broke.
    pub told: Vec<(Timestamp, Input)>,
    /// When it stood still: between two records of a node that samples its machine every second.
    pub still: Vec<(Timestamp, Timestamp)>,
    /// Reports of its own tasks.
    pub reports: Vec<TaskReport>,
    /// Receipts that it got.
    pub receipts: Vec<Receipt>,
    /// What its processes took.
    pub measured: Measured,
    /// Functions that were asked for, with the digests of the inputs.
    pub asked: BTreeSet<(FunctionName, Digest)>,
    /// Functions that it was told of.
    pub functions: BTreeMap<FunctionName, Function>,
    /// What calls gave back, by module.
    pub shapes: BTreeMap<Digest, Shape>,
    /// Who was heard, in which realm.
    pub heard: BTreeSet<(Realm, NodeId)>,
    adverts: clocks::Adverts,
}

impl Life {
    /// World time of a moment on this node's clock, microseconds.
    pub fn world(&self, at: Timestamp) -> u64 {
        let at = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
        u64::try_from(at.saturating_sub(self.zero)).unwrap_or(0)
    }
}

/// Everything that the recordings of one road say.
#[derive(Clone, Debug)]
pub struct Road {
    /// Every life, the lives of one node in their order.
    pub lives: Vec<Life>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Why recordings make no road.
#[derive(Debug, thiserror::Error)]
pub enum RoadError {
    /// A file cannot be read, or is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// No file holds the beginning of a node.
    #[error("no node begins in {}", names(.files))]
    Empty {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// The same life of a node is in two files, or in one of another road.
    #[error("{} holds life {life} of {node}, which another of the files holds too", .path.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// Whose.
        node: NodeId,
        /// Which life.
        life: Incarnation,
    },
}

impl RoadError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Log(LogError::Damaged { .. }) => Some(
                "leave this file out, or record the road anew; a recording that was only cut short is read",
            ),
            Self::Log(error) => error.fix(),
            Self::Empty { .. } => Some(
                "name what nodes with `record = true` have written from their start: state/node/record-*.vrec",
            ),
            Self::Twice { .. } => Some("name every recording once, and recordings of one road only"),
        }
    }
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Road {
    /// Reads the recordings of all nodes of one road.
    ///
    /// # Errors
    /// [`RoadError`].
    pub fn read(files: &[PathBuf]) -> Result<Self, RoadError> {
        let mut road = Self { lives: Vec::new(), notes: Vec::new() };
        for path in files {
            let found = road.read_file(path)?;
            for life in found {
                let key = |life: &Life| (life.node.clone(), life.boot.incarnation, life.from);
                let same = |known: &Life| key(known) == key(&life);
                if road.lives.iter().any(same) {
                    let (path, node) = (path.clone(), life.node.clone());
                    return Err(RoadError::Twice { path, node, life: life.boot.incarnation });
                }
                road.lives.push(life);
            }
        }
        if road.lives.is_empty() {
            return Err(RoadError::Empty { files: files.to_vec() });
        }
        road.lives.sort_by_key(|life| (life.node.clone(), life.boot.incarnation, life.from));
        road.notes.extend(clocks::align(&mut road.lives));
        road.notes.extend(road.strangers());
        Ok(road)
    }

    /// Nodes that were heard and of which there is no recording: they are missing in the model.
    fn strangers(&self) -> Option<String> {
        let heard = self.lives.iter().flat_map(|life| &life.heard).map(|(_, node)| node);
        let is_missing = |node: &&NodeId| !self.lives.iter().any(|life| life.node == **node);
        let missing: BTreeSet<&str> = heard.filter(is_missing).map(NodeId::as_str).collect();
        let names = missing.iter().copied().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("no recording of {names}, who took part: the model lacks them"))
    }

    fn read_file(&mut self, path: &Path) -> Result<Vec<Life>, LogError> {
        let mut reader = LogReader::open(path)?;
        let has_outputs = LogReader::open(path)?
            .map_while(Result::ok)
            .any(|record| matches!(record.entry, Entry::Output(_)));
        let mut watches: BTreeMap<NodeId, Watch> = BTreeMap::new();
        let mut machines: BTreeMap<NodeId, Node> = BTreeMap::new();
        let mut lives = Vec::new();
        for record in reader.by_ref() {
            let record = record?;
            match record.entry {
                Entry::Input(Input::Boot(boot)) => {
                    machines.insert(record.node.clone(), Node::new());
                    let watch = Watch::new(record.node.clone(), record.at, boot.clone());
                    lives.extend(watches.insert(record.node.clone(), watch).map(Watch::finish));
                    if !has_outputs {
                        machine(&mut machines, &mut watches, &record.node, record.at, Input::Boot(boot));
                    }
                }
                Entry::Input(input) => {
                    if let Some(watch) = watches.get_mut(&record.node) {
                        watch.told(record.at, &input);
                    }
                    if !has_outputs {
                        machine(&mut machines, &mut watches, &record.node, record.at, input);
                    }
                }
                Entry::Output(output) => {
                    if let Some(watch) = watches.get_mut(&record.node) {
                        watch.wants(record.at, &output);
                    }
                }
                Entry::Applied { .. } | Entry::Trail(_) | Entry::Note(_) => {}
            }
        }
        lives.extend(watches.into_values().map(Watch::finish));
        if reader.cut() > 0 {
            self.notes.push(format!("{} is cut short in its last record", path.display()));
        }
        if lives.is_empty() {
            self.notes.push(format!("{} holds nothing of a node", path.display()));
        }
        Ok(lives)
    }

    /// Tasks of which something is known.
    pub fn tasks(&self) -> usize {
        self.lives.iter().map(|life| life.reports.len()).sum()
    }

    /// World time of the last sign of anybody, microseconds.
    pub fn end(&self) -> u64 {
        self.lives.iter().map(|life| life.world(life.until)).max().unwrap_or(0)
    }
}

/// Has the outputs that a recording of inputs alone leaves out.
fn machine(
    machines: &mut BTreeMap<NodeId, Node>,
    watches: &mut BTreeMap<NodeId, Watch>,
    node: &NodeId,
    at: Timestamp,
    input: Input,
) {
    let (Some(machine), Some(watch)) = (machines.get_mut(node), watches.get_mut(node)) else { return };
    machine.handle(at, input);
    let outputs: Vec<Output> = std::iter::from_fn(|| machine.poll()).collect();
    outputs.iter().for_each(|output| watch.wants(at, output));
}
