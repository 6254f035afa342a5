//! What the control API may ask to be changed, and the answers.

use alloc::string::String;
use alloc::vec::Vec;
use policies::host::AppRef;
use policies::id::{FunctionName, NodeId, TaskId};
use policies::manifest::{Manifest, Resources};
use policies::task::{BlobRef, Class, Effect};
use policies::unit::Span;
use serde::{Deserialize, Serialize};
use v2e_core::message::{Area, Reading};
use v2e_core::report::TaskReport;

/// Changes that the control API asks for. Reads are plain functions of [`crate::Node`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ControlCall {
    /// Add or replace what the manifest names; removes nothing. All of it or nothing.
    Apply {
        /// What.
        manifest: Manifest,
    },
    /// Stop an app and forget it.
    Delete {
        /// Which.
        app: AppRef,
    },
    /// Forget a function.
    DeleteFunction {
        /// Which.
        function: FunctionName,
    },
    /// Freeze an app until it is thawed by hand.
    Freeze {
        /// Which.
        app: AppRef,
    },
    /// Thaw it.
    Thaw {
        /// Which.
        app: AppRef,
    },
    /// Change an app's limits while it runs.
    Resize {
        /// Which.
        app: AppRef,
        /// All limits.
        resources: Resources,
    },
    /// Stop an app and start it again.
    Restart {
        /// Which.
        app: AppRef,
    },
    /// Run a task; answered when it has ended.
    RunTask {
        /// The function.
        function: FunctionName,
        /// Until then, microseconds from now.
        deadline_us: u64,
        /// Service quality.
        class: Class,
        /// Effect kind as the caller believes; must be the function's.
        effect: Option<Effect>,
        /// Input bytes.
        input: BlobRef,
    },
    /// Cancel a task of ours.
    Cancel {
        /// Which.
        task: TaskId,
    },
    /// Ask the cars of the zone for a sample (an edge's right).
    Call {
        /// What, in the function's words.
        want: String,
        /// Only cars in this box.
        area: Option<Area>,
        /// The function that cars run on their signals.
        function: FunctionName,
        /// How long to collect, microseconds.
        wait_us: u64,
    },
    /// Stop everything in order.
    Shutdown {
        /// Time the apps get.
        grace: Span,
    },
}

/// Answer on the control API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    /// Done, and durable where it changes the desired state.
    Ok {
        /// What, one line per object.
        lines: Vec<String>,
    },
    /// Nothing was changed.
    Refused {
        /// Every reason.
        refusals: Vec<ControlRefusal>,
    },
    /// A task has ended.
    Task(TaskReport),
    /// A call for a sample has ended.
    Called(CallReport),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ControlRefusal {
    /// The object.
    pub what: String,
    /// The rule.
    pub why: String,
    /// What the operator can do.
    pub fix: Option<String>,
}

/// What came of a call for a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallReport {
    /// The call.
    pub call: TaskId,
    /// What was wanted.
    pub want: String,
    /// The merged reading; `None` if nobody answered.
    pub reading: Option<Reading>,
    /// Cars that were asked.
    pub asked: u32,
    /// Readings by node, in the order of their names.
    pub parts: Vec<(NodeId, Reading)>,
}
