//! The offload protocol driven over Zenoh: keys, sessions, and the carrier that moves messages of
//! [`v2e_core`] between the nodes of one realm.
//!
//! ```text
//!   keys     every Zenoh key that Verge uses is spelled there and nowhere else
//!   session  hardened configurations: car router, roadside router, client of a roadside, app island
//!   carrier  one realm over one session: queries, results, adverts, liveliness
//!   alias    a node under another name, for the realm outside the car
//! ```
//!
//! Nothing here decides anything: what came is handed to the node, what the node wants sent is sent.
//! Zenoh needs a multi-threaded tokio runtime around it.

pub mod alias;
pub mod carrier;
pub mod keys;
pub mod session;
