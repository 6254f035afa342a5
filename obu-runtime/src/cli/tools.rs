//! `verge pki` and `verge can`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use policies::id::NodeId;
use serde_json::json;

use super::{Failure, Format, report};
use crate::pki::{self, Authority, PkiError};

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Make an authority for one realm (a car, or the outside of a zone).
    Authority {
        /// Where its files go.
        dir: PathBuf,
        /// The realm's name, for people who look at certificates.
        #[arg(long)]
        realm: String,
        /// Replace what is there.
        #[arg(long)]
        force: bool,
    },
    /// Make the certificate of a node.
    Node {
        /// The authority's directory.
        dir: PathBuf,
        /// The node's id, or its alias outside.
        node: String,
        /// Further names and addresses it is reached by.
        #[arg(long = "name")]
        names: Vec<String>,
        /// Replace what is there.
        #[arg(long)]
        force: bool,
    },
    /// Make an Ed25519 key pair that signs bundles: NAME.key.pem and NAME.pub.pem.
    Key {
        /// Where its files go.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Their name.
        #[arg(long, default_value = "dev")]
        name: String,
        /// Replace what is there.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CanCommand {
    /// Play a candump log onto a bus.
    Replay(crate::can_tools::ReplayArgs),
}

fn failure(error: &PkiError) -> Failure {
    Failure::new(error).fix(error.fix())
}

pub(super) fn pki(command: PkiCommand, output: Format) -> Result<(), Failure> {
    match command {
        PkiCommand::Authority { dir, realm, force } => {
            Authority::create(&dir, &realm, force).map_err(|e| failure(&e))?;
            let ca = dir.join("ca.pem");
            let text = format!("{} (for development and tests)", ca.display());
            report::result(output, text, &json!({ "ca": ca }));
        }
        PkiCommand::Node { dir, node, names, force } => {
            let node = NodeId::new(&node).map_err(Failure::new)?;
            let authority = Authority::open(&dir).map_err(|e| failure(&e))?;
            let files = authority.node(&node, &names, force).map_err(|e| failure(&e))?;
            let text = format!("{}\n{}", files.cert.display(), files.key.display());
            report::result(output, text, &json!({ "cert": files.cert, "key": files.key }));
        }
        PkiCommand::Key { dir, name, force } => {
            let (files, id) = pki::signing_key(&dir, &name, force).map_err(|e| failure(&e))?;
            let text = format!("{}\n{}\nkey id {id}", files.private.display(), files.public.display());
            let json = json!({ "private": files.private, "public": files.public, "key_id": id });
            report::result(output, text, &json);
        }
    }
    Ok(())
}

/// Makes an authority and the certificates of its nodes, replacing what is there.
pub(crate) fn make_authority(dir: &Path, realm: &str, nodes: &[&str]) -> Result<(), Failure> {
    let authority = Authority::create(dir, realm, true).map_err(|e| failure(&e))?;
    for node in nodes {
        let node = NodeId::new(node).map_err(Failure::new)?;
        authority.node(&node, &[], true).map_err(|e| failure(&e))?;
    }
    Ok(())
}

/// Makes a signing key pair `NAME.key.pem` and `NAME.pub.pem` in `dir`, replacing what is there.
pub(crate) fn make_signing_key(dir: &Path, name: &str) -> Result<(), Failure> {
    pki::signing_key(dir, name, true).map(|_| ()).map_err(|e| failure(&e))
}

pub(super) fn can(command: CanCommand, output: Format) -> Result<(), Failure> {
    let CanCommand::Replay(args) = command;
    crate::can_tools::replay(&args, output)
}
