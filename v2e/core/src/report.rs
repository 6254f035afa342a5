//! What is told about a task: its phases, its story, its report. Serialisable, for the CLI and the log.

use alloc::string::String;
use alloc::vec::Vec;
use policies::id::{Attempt, FunctionName, NodeId, TaskId, TenantId};
use policies::task::{Class, Effect, Outcome};
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a node stands, seen from the one that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Realm {
    /// In the same car.
    Car,
    /// Roadside, cloud, another car.
    Outside,
}

impl Realm {
    /// The word as the console prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Outside => "outside",
        }
    }
}

/// How long each phase of a task took, in the paper's words (Morabito et al. 2018, section V). Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// From submission to the decision where to run.
    pub matching_us: u64,
    /// From the decision to the beginning of execution: transport and queues, both ways.
    pub pipelining_us: u64,
    /// Execution at the place whose result counted.
    pub execution_us: u64,
}

/// Everything about a finished task that its caller gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// The function.
    pub function: FunctionName,
    /// Whose.
    pub tenant: TenantId,
    /// Service quality it ran with.
    pub class: Class,
    /// What would happen if it ran twice.
    pub effect: Effect,
    /// How it ended.
    pub outcome: Outcome,
    /// Where the result that counted came from.
    pub node: Option<NodeId>,
    /// Attempts made, hedges included.
    pub attempts: u32,
    /// Whether a second copy was sent to shorten the wait.
    pub hedged: bool,
    /// Phases.
    pub phases: Phases,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Until when it should have ended.
    pub deadline: Timestamp,
}

/// One step of a task's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// Which attempt it belongs to, if any.
    pub attempt: Option<Attempt>,
    /// What happened, in one word: `submitted`, `placed`, `dispatched`, `accepted`, `silent`, ...
    pub what: String,
    /// Why, with the figures.
    pub why: String,
}

/// Most steps that one story keeps; the rest is counted. A task with eight attempts stays below it.
pub const STEPS_MAX: usize = 64;

/// A task from submission to outcome, for `verge task explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The task.
    pub task: TaskId,
    /// The function.
    pub function: FunctionName,
    /// Steps in the order in which they happened.
    pub steps: Vec<Step>,
    /// Steps beyond [`STEPS_MAX`] that are not kept.
    pub dropped: u32,
    /// The report, once it has ended.
    pub report: Option<TaskReport>,
}

impl Story {
    /// Notes a step; beyond [`STEPS_MAX`] it is only counted.
    pub fn note(&mut self, at: Timestamp, attempt: Option<Attempt>, what: &str, why: String) {
        if self.steps.len() < STEPS_MAX {
            self.steps.push(Step { at, attempt, what: what.into(), why });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}
