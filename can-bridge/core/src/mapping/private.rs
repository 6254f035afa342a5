//! The mapping of a DBC that nobody has mapped: each of its signals, in VSS's branch for what it does not name.

use alloc::string::String;
use alloc::vec::Vec;

use policies::signal::SignalPath;

use super::{Dbc2VssClaim, LEAVES_MAX, LeafClaim, OverlayClaim};
use crate::dbc::DecodePlan;

/// Where signals lie that VSS has no path for; below it come message and signal.
pub const PRIVATE_BRANCH: &str = "Vehicle.Private";

/// Pace of its leaves, milliseconds: for people and programs that look around.
const INTERVAL_MS: u32 = 100;

impl OverlayClaim {
    /// Each signal of the DBC as `Vehicle.Private.<Message>.<Signal>`, with its unit and labels, at most ten times a
    /// second. Left out are messages that share their name with another, paths that are too long for VSS, and what
    /// exceeds [`LEAVES_MAX`].
    pub fn private(plan: &DecodePlan) -> Self {
        let mut names: Vec<&str> = plan.messages().iter().map(|message| message.name.as_str()).collect();
        names.sort_unstable();
        let is_alone = |name: &str| {
            let first = names.partition_point(|other| *other < name);
            names.get(first + 1).is_none_or(|next| *next != name)
        };
        let messages = plan.messages().iter().filter(|message| is_alone(&message.name));
        let leaves = messages.flat_map(|message| {
            message.signals.iter().map(|signal| {
                let path = alloc::format!("{PRIVATE_BRANCH}.{}.{}", message.name, signal.name);
                (path, leaf(&message.name, &signal.name))
            })
        });
        Self(leaves.filter(|(path, _)| SignalPath::new(path).is_ok()).take(LEAVES_MAX).collect())
    }
}

fn leaf(message: &str, signal: &str) -> LeafClaim {
    let source = Dbc2VssClaim {
        signal: String::from(signal),
        message: Some(String::from(message)),
        interval_ms: Some(INTERVAL_MS),
        on_change: None,
        transform: None,
        multiplexer: Vec::new(),
    };
    LeafClaim { dbc2vss: Some(source), ..LeafClaim::default() }
}
