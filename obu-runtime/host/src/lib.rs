//! verge-host: the only privileged process of a node. It carries out typed [`policies::host::HostCommand`]s that
//! come in over one inherited socket, and starts everything else.
//!
//! ```text
//!   node.toml -> config ---+
//!                          v
//!   verge node --command-> server -> check -> apps -----> sandbox, cgroup        (processes)
//!            <---event----   |         |      imports --> store <- bundle         (code)
//!                            |         +----> faces ----> sandbox, devices        (the node itself)
//!                            +-------- poll: channels, pidfds, pipes, signals, the next deadline
//! ```
//!
//! Invariants
//! - A command never names a path, uid, flag, mount or filter; what its names mean is decided here.
//! - Nothing of node's memory, files or descriptors is trusted: a hostile node can stop its own apps, no more.
//! - Host has one thread, so that it may copy itself, and never waits for anybody but the kernel.
//! - Whatever host makes is below its own directories and its own cgroup, and is found there again after a crash.

pub mod server;

pub mod check;
pub mod outbox;

pub mod apps;
pub mod faces;
pub mod import;

pub mod bundle;
pub mod cgroup;
pub mod channel;
pub mod devices;
pub mod effects;
pub mod pressure;
pub mod procfs;
pub mod sandbox;
pub mod store;
mod sys;

pub mod config;
pub mod fault;
pub mod ground;
pub mod incarnation;
