//! The command line of one node. It is not the node: whoever holds it may go on asking while the node is killed.

use std::path::PathBuf;
use std::process::Command;

use crate::road::Said;

/// Runs `verge` at one node.
#[derive(Clone, Debug)]
pub struct Console {
    pub(crate) program: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Console {
    /// Runs `verge` with these arguments.
    pub fn verge(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(&self.socket).args(arguments);
        Said::of(&mut command)
    }
}
