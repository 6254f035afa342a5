//! Who a node is, what it remembers, and how its peers are reached.

use alloc::vec::Vec;
use policies::grant::NodePolicy;
use policies::host::AppRef;
use policies::id::{CarId, Incarnation, NodeId, ZoneId};
use policies::ladder::LadderPolicy;
use policies::manifest::Manifest;
use policies::placement::PlacementPolicy;
use policies::unit::Bytes;
use serde::{Deserialize, Serialize};
use v2e_core::message::Role;
use v2e_core::record::JobRecord;

/// Who the node is and what it remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// From the configuration file.
    pub config: NodeConfig,
    /// This life, from host's `Hello`.
    pub incarnation: Incarnation,
    /// The desired state as last persisted.
    pub desired: Option<Desired>,
    /// Durable job records as last persisted and not forgotten.
    pub records: Vec<JobRecord>,
}

/// A node's configuration, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// Its car.
    pub car: CarId,
    /// What it is.
    pub role: Role,
    /// The zone it serves (roadside), or `None`.
    pub zone: Option<ZoneId>,
    /// CPU cores that task execution may use; also how many calls run at a time. At least 1.
    pub cores: u16,
    /// Memory that apps may be promised in sum.
    pub memory: Bytes,
    /// Who may have what.
    pub policy: NodePolicy,
    /// Seeds every jitter; nothing else in the node is random.
    pub seed: u64,
    /// Whether tasks of other cars are run here. Default by role: yes for edge and cloud.
    pub serve_outside: bool,
    /// Whether this node talks to the outside realm (the gateway of its car, an edge).
    pub outside: bool,
    /// Whether there is a bus process.
    pub bus: bool,
    /// Whether there is a camera process.
    pub camera: bool,
    /// Where tasks run.
    pub placement: PlacementPolicy,
    /// What gives way under pressure.
    pub ladder: LadderPolicy,
}

impl NodeConfig {
    /// A configuration with the defaults of `role`: an empty policy, two cores, 512 MiB for apps. There is no
    /// time scale: where time is to count slower, the driver divides its clock before each `handle`.
    pub fn new(node: NodeId, car: CarId, role: Role) -> Self {
        let serves = matches!(role, Role::Edge | Role::Cloud);
        Self {
            node,
            car,
            role,
            zone: None,
            cores: 2,
            memory: Bytes::mebi(512),
            policy: NodePolicy::default(),
            seed: 1,
            serve_outside: serves,
            outside: serves,
            bus: !serves,
            camera: false,
            placement: PlacementPolicy::default(),
            ladder: LadderPolicy::default(),
        }
    }
}

/// What the node is to keep, across reboots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Counts up with each change.
    pub version: u64,
    /// Apps and functions.
    pub manifest: Manifest,
    /// Apps that an operator froze.
    pub frozen: Vec<AppRef>,
}

/// A link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Whether it can be used.
    pub up: bool,
    /// Round trip of a small message, microseconds.
    pub rtt_us: u32,
    /// Rate, kilobytes per second.
    pub rate_kb_s: u32,
    /// Price of a megabyte, in thousandths of whatever the policy counts in.
    pub price_milli_mb: u32,
}
