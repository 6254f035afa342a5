//! Pure CAN: frames, DBC decoding, VSS mapping, signal model, transmit guard.
//!
//! Nothing here opens a socket or reads a clock. Codecs ([`candump`], [`multicast`], [`dbc`]) are functions
//! over bytes; machines ([`decoder`], [`effect`], [`hub`]) take inputs and are asked for outputs.
//!
//! ```text
//!   datagrams, log lines --> frame --> dbc plan --> mapping --> decoder --> signals --> routes --> borders
//!   app's frame --> guard --> bus            app's effect --> effect port --> ledger
//!                        all of it together: hub, the bus process as one machine
//! ```
//! The DBC grammar comes from a crate that needs std; this crate itself uses `core` and `alloc` alone.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod candump;
pub mod dbc;
pub mod decoder;
pub mod effect;
pub mod expr;
pub mod frame;
pub mod guard;
pub mod hub;
pub mod mapping;
pub mod multicast;
