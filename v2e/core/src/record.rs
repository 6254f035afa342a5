//! What a worker keeps of a job so that it never runs twice, and what of it must survive a power cut.

use policies::id::{Attempt, TaskId};
use serde::{Deserialize, Serialize};

use crate::message::JobEnd;

/// The durable part of a job of kind `once`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// `None`: it was about to start; found after a reboot, nobody can say how far it came.
    pub end: Option<JobEnd>,
}
