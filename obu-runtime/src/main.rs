//! The `verge` program: command line and all faces of a node but `verge-host`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    obu_runtime::cli::run(obu_runtime::cli::Args::parse())
}
