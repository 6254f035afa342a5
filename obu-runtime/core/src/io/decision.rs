//! Decisions as records, for the log, the console and `verge explain`.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A decision, recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which kind.
    pub kind: DecisionKind,
    /// About what: an app, a task, a class, a peer.
    pub about: String,
    /// The rule or the figures that decided.
    pub why: String,
    /// Further facts, by name.
    pub facts: Vec<(String, String)>,
}

/// Kinds of decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionKind {
    /// An app or function was taken in.
    Admit,
    /// Something was refused.
    Refuse,
    /// An app is started.
    Start,
    /// An app is stopped.
    Stop,
    /// An app will be started again later.
    BackOff,
    /// An app is given up.
    GiveUp,
    /// A running app was taken over.
    Adopt,
    /// A class gets less, or more again.
    Squeeze,
    /// An app is frozen.
    Freeze,
    /// An app is thawed.
    Thaw,
    /// A task was given a place.
    Place,
    /// A second copy was sent.
    Hedge,
    /// A task has ended.
    Outcome,
    /// Something leaves the car.
    Export,
    /// A frame goes to the guard.
    Transmit,
    /// A peer's task is run, or not.
    Work,
    /// A call from the roadside is answered, or not.
    Answer,
    /// A peer appeared, changed its life, or is gone.
    Peer,
}
