//! The impossible, when it happens: kept and reported in the car, fatal in simulation and tests.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// A broken invariant. A machine emits it as an output and goes on in a safe state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The invariant's short name, such as `task-reported-twice`.
    pub name: String,
    /// What was found, with the ids.
    pub detail: String,
}
