//! The offload protocol as pure machines: requester, worker, wire format.
//!
//! ```text
//!   caller -- Submit --> requester == Run, Renew, Status, Cancel, Ack ==> worker -- Start --> sandbox
//!          <- Report --            <== Accepted, Rejected, Ended ... ===         -- Effect -> effect port
//! ```
//!
//! Both sides have one shape: `handle(now, input)` cannot fail, `poll()` gives what is to be done, `next_wake()`
//! says when to come back. Neither knows a clock, a socket or a disk; both promise, together and against any
//! loss, doubling, delay and restart, one outcome per task and at most one effect per `once` task.
//!
//! Reading order: [`message`] (what is said), [`requester`], [`worker`], [`report`] (what is told afterwards).
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod message;
pub mod record;
pub mod report;
pub mod requester;
pub mod worker;

#[cfg(test)]
mod tests;
