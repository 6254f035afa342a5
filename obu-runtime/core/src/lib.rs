//! The whole node as one pure machine: supervisor, requester, worker and policies together.
//!
//! [`io`] is the surface: everything that a [`Node`] can be told, and everything that it can want. [`node`]
//! composes the machines, [`supervisor`] keeps apps, [`record`] is the form in which runs are kept and
//! replayed. The daemon and the simulator drive the same [`Node`]; neither decides anything.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod io;
pub mod node;
pub mod record;
pub mod supervisor;

pub use node::Node;

#[cfg(test)]
mod tests;
