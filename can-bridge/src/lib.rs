//! CAN buses, driven: SocketCAN, the user-space multicast bus, log replay, the bus process.
//!
//! The drivers here open sockets, read clocks and move bytes; what to do with them is decided in `can-core`.
//!
//! ```text
//!   bus (trait) <- socketcan, multicast      replay: a log onto a bus
//!        \
//!         face: one loop around can_core::hub::Hub, framed: messages on stream sockets
//! ```
//! `unsafe` is in the private module `sys` alone.
#![deny(missing_docs)]

pub mod bus;
pub mod clock;
pub mod face;
pub mod framed;
pub mod multicast;
pub mod replay;
pub mod socketcan;
mod sys;
