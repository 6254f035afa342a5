//! `verge node run`: check the file, then become `verge-host`, which starts everything else.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Run a node until it is told to stop (Ctrl-C, SIGTERM).
    Run {
        /// The node's configuration.
        #[arg(short, long)]
        config: PathBuf,
    },
}

pub(super) fn run(command: NodeCommand) -> Result<(), Failure> {
    let NodeCommand::Run { config } = command;
    crate::config::check_file(&config)?;
    let host = host_binary()?;
    let verge = std::env::current_exe().map_err(|e| Failure::new(format!("cannot find myself: {e}")))?;
    let error =
        std::process::Command::new(&host).arg("--config").arg(&config).arg("--verge").arg(verge).exec();
    Err(Failure::new(format!("cannot start {}: {error}", host.display()))
        .fix("install verge-host beside verge".to_owned()))
}

/// `verge-host`, beside this program or on the PATH.
pub(crate) fn host_binary() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join("verge-host")));
    if let Some(beside) = beside.filter(|path| path.is_file()) {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("verge-host"))
        .find(|candidate: &PathBuf| Path::is_file(candidate))
        .ok_or_else(|| {
            Failure::new("verge-host is neither beside verge nor on the PATH")
                .fix("install it beside verge (cargo build makes both)".to_owned())
        })
}
