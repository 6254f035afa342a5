//! The daemon and its faces, Wasm, borders, control API and the `verge` command line.
//!
//! Everything here drives; the decisions are made in the pure crates.

pub mod bundle_cmd;
pub mod can_tools;
pub mod channel;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod faces;
pub mod file_error;
pub mod manifest_file;
pub mod pki;
