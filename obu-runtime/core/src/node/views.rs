//! What `verge get` shows of a node. Plain data.

use alloc::string::String;
use alloc::vec::Vec;
use policies::host::{AppRef, Face};
use policies::id::{CarId, Digest, FunctionName, Incarnation, NodeId, TenantId, ZoneId};
use policies::task::{Effect, Outcome};
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};
use v2e_core::message::{Load, Role};
use v2e_core::report::{Realm, TaskReport};
use v2e_core::worker;

use super::Live;
use crate::io::Link;
use crate::supervisor::PressureView;

/// A node in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// This node.
    pub node: NodeId,
    /// Its car.
    pub car: CarId,
    /// What it is.
    pub role: Role,
    /// The zone it serves or is in.
    pub zone: Option<ZoneId>,
    /// This life.
    pub incarnation: Incarnation,
    /// Whether it has a bus process that is up.
    pub bus: bool,
    /// Whether it has a camera process that is up.
    pub camera: bool,
    /// Processes of it that should be there and are away, with the last reason; host starts them again.
    pub faces_lost: Vec<(Face, String)>,
    /// Version of the desired state.
    pub desired_version: u64,
    /// Apps and functions kept.
    pub apps: u32,
    /// Functions kept.
    pub functions: u32,
    /// How busy its worker is.
    pub load: Load,
    /// Pressure, and what is done about it.
    pub pressure: PressureView,
    /// Counters since boot.
    pub counters: Counters,
    /// Counters of the worker.
    pub worker: worker::Counters,
    /// Refusals by app.
    pub refused: Vec<(AppRef, u64)>,
    /// Asks of apps that have no answer yet.
    pub open_asks: u32,
    /// Tasks that have no outcome yet.
    pub open_tasks: u32,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Which.
    pub node: NodeId,
    /// Where it stands.
    pub realm: Realm,
    /// Its life.
    pub incarnation: Incarnation,
    /// What it is, if it said so.
    pub role: Option<Role>,
    /// Its car, if it said so.
    pub car: Option<CarId>,
    /// Whether it was heard of lately.
    pub fresh: bool,
    /// Whether it failed to answer lately.
    pub suspect: bool,
    /// When it was last heard of, microseconds ago.
    pub heard_us_ago: u64,
    /// What it offers to run.
    pub functions: Vec<FunctionName>,
    /// How busy it says it is.
    pub load: Load,
    /// Own attempts there that have not ended.
    pub in_flight: u32,
    /// From sending a task to its receipt, median, microseconds.
    pub receipt_p50_us: Option<u64>,
    /// How it is reached.
    pub link: Link,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionView {
    /// Which.
    pub function: FunctionName,
    /// Whose.
    pub tenant: TenantId,
    /// Its code.
    pub bundle: Digest,
    /// What happens if it runs twice.
    pub effect: Effect,
    /// `importing`, `stored`, `loading`, `ready`, or `failed: why`.
    pub state: String,
    /// Measured service time, median, microseconds.
    pub service_p50_us: Option<u64>,
    /// The same at the 95th percentile.
    pub service_p95_us: Option<u64>,
    /// Calls measured lately.
    pub calls: u32,
}

/// Counters since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Own tasks that ended well.
    pub done: u64,
    /// The function said no.
    pub failed: u64,
    /// Nobody finished it in time.
    pub missed: u64,
    /// Its effect may or may not have happened.
    pub indeterminate: u64,
    /// No place may or can run it.
    pub refused: u64,
    /// Nobody wanted it any more.
    pub cancelled: u64,
    /// Second copies.
    pub hedged: u64,
    /// Messages whose sender was not who the channel said.
    pub forged: u64,
    /// Messages of an earlier life, or older than what is known.
    pub outdated: u64,
    /// Messages that meant nothing here.
    pub ignored: u64,
    /// Asks in the name of apps that are not kept here.
    pub unknown_apps: u64,
    /// Calls from the roadside that were answered.
    pub calls_answered: u64,
    /// Calls from the roadside that were passed over in silence.
    pub calls_silent: u64,
}

impl Counters {
    pub(super) fn count(&mut self, report: &TaskReport) {
        self.hedged += u64::from(report.hedged);
        let counter = match report.outcome {
            Outcome::Done { .. } => &mut self.done,
            Outcome::Failed { .. } => &mut self.failed,
            Outcome::Missed { .. } => &mut self.missed,
            Outcome::Indeterminate { .. } => &mut self.indeterminate,
            Outcome::Refused { .. } => &mut self.refused,
            Outcome::Cancelled => &mut self.cancelled,
        };
        *counter += 1;
    }
}

impl Live {
    pub(super) fn view(&self, now: Timestamp) -> NodeView {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        NodeView {
            node: self.config.node.clone(),
            car: self.config.car.clone(),
            role: self.config.role,
            zone: self.config.zone.clone(),
            incarnation: self.life,
            bus: self.config.bus && self.supervisor.is_up(&Face::Bus),
            camera: self.config.camera && self.supervisor.is_up(&Face::Camera),
            faces_lost: self.supervisor.faces_lost(),
            desired_version: self.desired.version,
            apps: count(self.desired.manifest.apps.len()),
            functions: count(self.desired.manifest.functions.len()),
            load: self.worker.load(now),
            pressure: self.supervisor.pressure(),
            counters: self.counters,
            worker: self.worker.counters(),
            refused: self.asks.refused(),
            open_asks: count(self.asks.open()),
            open_tasks: count(self.requester.open()),
        }
    }
}
