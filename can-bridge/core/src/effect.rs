//! The effect port: the last gate before something that must not happen twice.
//!
//! ```text
//!   node --> Apply{task, attempt, line} --> fence --> Append{line} --> effect server
//!   driver --> Appended | AppendFailed  -->       --> Report{result} --> node
//! ```
//! Invariants
//! - I1: at most one `Append` per task, over all attempts, unless the driver said that nothing of it was written.
//! - I2: every `Apply` is answered by exactly one `Report`.
//! - I3: a task whose record was forgotten is refused, not applied again (see [`FENCE_KEPT`]).
//!
//! With the feature `testing-no-fence`, for test builds only, I1 is given up so that tests can see the ledger
//! catch the doubles.

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString as _};
use core::time::Duration;
use policies::id::{Attempt, Incarnation, NodeId, TaskId};
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Most tasks remembered. Beyond it new effects are refused: forgetting one early could double it.
pub const FENCE_MAX: usize = 16_384;

/// How long a task's record is kept after its last attempt: well beyond every lease and deadline. A task of the
/// same owner that is older than a forgotten one is refused for good.
pub const FENCE_KEPT: Duration = Duration::from_secs(600);

/// Most lives of owners whose forgotten tasks are remembered by their highest number.
pub const FLOORS_MAX: usize = 1_024;

/// Longest line.
pub const LINE_LEN_MAX: usize = 4_096;

/// What the port is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Node wants an effect applied.
    Apply {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line for the effect server.
        line: String,
    },
    /// The effect server can be reached, or no longer.
    Server {
        /// Whether.
        reachable: bool,
    },
    /// The line of an [`Output::Append`] was handed over completely.
    Appended {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
    },
    /// It was not.
    AppendFailed {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// Whether certainly nothing of it reached the server.
        nothing_written: bool,
    },
}

/// What the port wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Append this line (without its line feed) to the effect server's ledger, then report back.
    Append {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line.
        line: String,
    },
    /// Answer node.
    Report {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// `Err` names the rule.
        result: Result<(), Refusal>,
    },
}

/// Why an effect is not applied. Each variant is one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// An attempt of this task was applied.
    #[error("already done")]
    AlreadyDone,
    /// A newer attempt of this task was seen.
    #[error("older attempt")]
    OlderAttempt,
    /// An attempt is being applied right now.
    #[error("in progress")]
    InProgress,
    /// An attempt broke off in the middle: it may have been applied, so it is never tried again.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// The effect server cannot be reached; nothing was written.
    #[error("server unreachable")]
    Unreachable,
    /// The table is full of tasks that may not be forgotten yet.
    #[error("effect table full")]
    Full,
    /// The task is older than tasks that were forgotten: nobody knows any more.
    #[error("too old to judge")]
    TooOld,
    /// The line is too long or has a line feed in it.
    #[error("not one line")]
    Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Seen, and certainly not applied.
    NotApplied,
    Appending,
    Applied,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    attempt: Attempt,
    progress: Progress,
    touched: Timestamp,
}

/// The effect port of one node.
#[derive(Debug, Default)]
pub struct EffectPort {
    records: BTreeMap<TaskId, Record>,
    /// Highest forgotten task number by owner and life.
    floors: BTreeMap<(NodeId, Incarnation), u64>,
    reachable: bool,
    outputs: VecDeque<Output>,
    applied: u64,
    refused: u64,
}

impl EffectPort {
    /// Feeds one input. Never fails; drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Apply { task, attempt, line } => self.apply(now, task, attempt, line),
            Input::Server { reachable } => self.reachable = reachable,
            Input::Appended { task, attempt } => self.settle(now, task, attempt, Progress::Applied, Ok(())),
            Input::AppendFailed { task, attempt, nothing_written: true } => {
                self.settle(now, task, attempt, Progress::NotApplied, Err(Refusal::Unreachable));
            }
            Input::AppendFailed { task, attempt, nothing_written: false } => {
                self.settle(now, task, attempt, Progress::Unknown, Err(Refusal::OutcomeUnknown));
            }
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Effects applied, and repeats refused.
    pub const fn counters(&self) -> (u64, u64) {
        (self.applied, self.refused)
    }

    fn apply(&mut self, now: Timestamp, task: TaskId, attempt: Attempt, line: String) {
        if let Err(refusal) = self.judge(now, &task, attempt, &line) {
            self.refused += 1;
            self.outputs.push_back(Output::Report { task, attempt, result: Err(refusal) });
            return;
        }
        let record = Record { attempt, progress: Progress::Appending, touched: now };
        self.records.insert(task.clone(), record);
        self.outputs.push_back(Output::Append { task, attempt, line });
    }

    /// The rules. Notes the attempt as seen even where it refuses.
    fn judge(&mut self, now: Timestamp, task: &TaskId, attempt: Attempt, line: &str) -> Result<(), Refusal> {
        if line.len() > LINE_LEN_MAX || line.contains(['\n', '\r']) {
            return Err(Refusal::Line);
        }
        if cfg!(feature = "testing-no-fence") {
            return if self.reachable { Ok(()) } else { Err(Refusal::Unreachable) };
        }
        if let Some(record) = self.records.get_mut(task) {
            record.touched = now;
            if attempt < record.attempt {
                return Err(Refusal::OlderAttempt);
            }
            record.attempt = attempt;
            match record.progress {
                Progress::NotApplied => {}
                Progress::Appending => return Err(Refusal::InProgress),
                Progress::Applied => return Err(Refusal::AlreadyDone),
                Progress::Unknown => return Err(Refusal::OutcomeUnknown),
            }
        } else {
            self.make_room(now, task)?;
            let record = Record { attempt, progress: Progress::NotApplied, touched: now };
            self.records.insert(task.clone(), record);
        }
        if self.reachable { Ok(()) } else { Err(Refusal::Unreachable) }
    }

    fn make_room(&mut self, now: Timestamp, task: &TaskId) -> Result<(), Refusal> {
        if self.records.len() >= FENCE_MAX {
            self.forget(now);
        }
        let floor = self.floors.get(&(task.owner.clone(), task.incarnation));
        if floor.is_some_and(|floor| task.number <= *floor) {
            return Err(Refusal::TooOld);
        }
        if self.records.len() >= FENCE_MAX { Err(Refusal::Full) } else { Ok(()) }
    }

    /// Forgets every record older than [`FENCE_KEPT`], and remembers by one number per owner's life that it did.
    fn forget(&mut self, now: Timestamp) {
        let Self { records, floors, .. } = self;
        records.retain(|task, record| {
            let old = record.progress != Progress::Appending && record.touched + FENCE_KEPT <= now;
            let life = (task.owner.clone(), task.incarnation);
            if !old || (floors.len() >= FLOORS_MAX && !floors.contains_key(&life)) {
                return true;
            }
            let floor = floors.entry(life).or_default();
            *floor = (*floor).max(task.number);
            false
        });
    }

    fn settle(
        &mut self,
        now: Timestamp,
        task: TaskId,
        attempt: Attempt,
        progress: Progress,
        result: Result<(), Refusal>,
    ) {
        if let Some(record) = self.records.get_mut(&task) {
            record.progress = progress;
            record.touched = now;
        }
        self.applied += u64::from(result.is_ok());
        self.outputs.push_back(Output::Report { task, attempt, result });
    }
}

impl Refusal {
    /// The rule as [`policies::face::FromBus::EffectDone`] spells it.
    pub fn rule(self) -> String {
        self.to_string()
    }
}
