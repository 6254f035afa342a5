//! Pure decisions and the vocabulary that every part of Verge shares.
//!
//! Nothing here does I/O, reads a clock or draws a random number: times and seeds are arguments. Every
//! other crate depends on this one; this one depends on none of ours.
//!
//! Reading order: [`time`], [`id`], [`unit`] (words), [`manifest`] and [`grant`] (what an app asks for and
//! what it gets), [`admission`], [`ladder`], [`placement`] (decisions, each with its reasons), [`host`] and
//! [`face`] (what the processes of one node say to each other), [`wire`] (how it looks as bytes).
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod admission;
pub mod alarm;
pub mod face;
pub mod grant;
pub mod host;
pub mod id;
pub mod ladder;
pub mod limits;
pub mod manifest;
pub mod placement;
pub mod quantile;
pub mod signal;
pub mod task;
pub mod time;
pub mod unit;
pub mod wire;
