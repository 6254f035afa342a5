//! verge-sim: fleets of the car's own machines in simulated time.
//!
//! The very [`obu_core::node::Node`] that the daemon drives is driven here by the hundred, with lost messages,
//! crashes, partitions and stopped clocks, from a seed; after every single event the rules of [`check`] must
//! hold. The same seed gives byte-identical outputs on every machine.
//!
//! Reading order: [`chance`], [`queue`], [`network`], [`fault`] (the small machines), [`fleet`], [`host`],
//! [`body`] (who is there), [`world`] (what happens), [`check`] (what must hold), [`log`] and [`mod@replay`] (the
//! recording), [`mod@find`] (the search); [`road`], [`mod@fit`], [`model`], [`mod@compare`] (a recorded road beside the
//! same machines in simulated time).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod body;
pub mod chance;
pub mod check;
pub mod compare;
pub mod fault;
pub mod find;
pub mod fit;
pub mod fleet;
pub mod host;
pub mod log;
pub mod model;
pub mod network;
pub mod queue;
pub mod replay;
pub mod road;
pub mod world;
