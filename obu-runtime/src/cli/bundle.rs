//! `verge bundle`: build, sign, verify, push.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use obu_host::bundle;
use obu_host::fault::Explain as _;
use policies::id::Digest;

use super::{Client, Failure, Format, block_on, report};
use crate::bundle_cmd::{self, SignatureState};
use crate::control::{self, Reply, Request, UPLOAD_CHUNK};

#[derive(Debug, Subcommand)]
pub(super) enum BundleCommand {
    /// Make a bundle (an OCI image layout) out of a directory, or out of one file such as a Wasm module.
    Build {
        /// The directory or file.
        source: PathBuf,
        /// Where the bundle goes: a directory that is made.
        #[arg(long)]
        out: PathBuf,
    },
    /// Sign a bundle with an Ed25519 key.
    Sign {
        /// The bundle.
        bundle: PathBuf,
        /// The private key, PEM (`verge pki key` makes one).
        #[arg(short, long, env = "VERGE_KEY")]
        key: PathBuf,
    },
    /// Check a bundle's signature and every digest in it.
    Verify {
        /// The bundle.
        bundle: PathBuf,
        /// Public keys that count, PEM.
        #[arg(short, long, required = true)]
        key: Vec<PathBuf>,
    },
    /// Show what a bundle holds and whether its signature counts, without reading its blobs.
    Inspect {
        /// The bundle.
        bundle: PathBuf,
        /// Public keys that count, PEM.
        #[arg(short, long)]
        key: Vec<PathBuf>,
    },
    /// Put a bundle into a node's spool.
    Push {
        /// The bundle.
        bundle: PathBuf,
    },
}

/// A failure of a bundle operation, with its fix.
pub(crate) fn failure(error: &bundle::BundleError) -> Failure {
    Failure::new(error).fix(error.fix())
}

pub(super) fn run(client: &Client, command: BundleCommand) -> Result<(), Failure> {
    let digest = match command {
        BundleCommand::Build { source, out } => {
            bundle::build::build(&source, &out).map_err(|e| failure(&e))?
        }
        BundleCommand::Sign { bundle: dir, key } => sign(&dir, &key)?,
        BundleCommand::Verify { bundle: dir, key } => {
            let trusted = bundle::key::Trusted::load(&key).map_err(|e| failure(&e))?;
            bundle::verify(&dir, &trusted).map_err(|e| failure(&e))?
        }
        BundleCommand::Inspect { bundle: dir, key } => return inspect(client.output, &dir, &key),
        BundleCommand::Push { bundle: dir } => push(&client.socket, &dir)?,
    };
    report::result(client.output, digest, &serde_json::json!({ "bundle": digest }));
    Ok(())
}

fn inspect(output: Format, dir: &Path, keys: &[PathBuf]) -> Result<(), Failure> {
    let trusted = bundle::key::Trusted::load(keys).map_err(|e| failure(&e))?;
    let seen = bundle_cmd::inspect(dir, &trusted).map_err(|e| Failure::new(&e).fix(e.fix()))?;
    if output == Format::Json {
        report::line(serde_json::json!(seen));
        return Ok(());
    }
    report::line(seen.digest);
    let signature = match &seen.signature {
        SignatureState::Unsigned => "none".into(),
        SignatureState::Trusted { key } => format!("by trusted key {key}"),
        SignatureState::Refused { why } => format!("does not count: {why}"),
    };
    let mut rows = vec![vec!["signature".into(), String::new(), signature]];
    let layers = seen.layers.iter();
    rows.extend(layers.map(|(digest, size)| vec!["layer".into(), size.to_string(), digest.to_string()]));
    rows.push(vec!["in all".into(), seen.bytes.to_string(), String::new()]);
    report::table(&["what", "bytes", ""], rows);
    Ok(())
}

/// Signs the bundle in `dir`.
pub(crate) fn sign(dir: &Path, key: &Path) -> Result<Digest, Failure> {
    let key = bundle::key::private(key).map_err(|e| failure(&e))?;
    bundle::sign(dir, &key).map_err(|e| failure(&e))
}

/// Uploads the bundle in `dir` to a node. Returns its digest.
pub(crate) fn push(socket: &Path, dir: &Path) -> Result<Digest, Failure> {
    let layout = bundle::layout::Layout::open(dir).map_err(Failure::new)?;
    let digest = layout.indexed().map_err(|e| failure(&e))?;
    let manifest = layout.manifest(digest).map_err(|e| failure(&e))?;
    let mut names: Vec<PathBuf> =
        ["oci-layout", "index.json", bundle::SIGNATURE_FILE].map(PathBuf::from).into();
    names.push(bundle::layout::blob_path(digest));
    names.push(bundle::layout::blob_path(manifest.config.digest));
    names.extend(manifest.layers.iter().map(|layer| bundle::layout::blob_path(layer.digest)));
    names.sort();
    names.dedup();
    block_on(async {
        for name in names {
            upload(socket, dir, digest, &name).await?;
        }
        Ok(digest)
    })
}

async fn upload(socket: &Path, dir: &Path, bundle: Digest, name: &Path) -> Result<(), Failure> {
    let path = dir.join(name);
    let file =
        std::fs::read(&path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    let mut offset = 0;
    let parts = if file.is_empty() { vec![&file[..]] } else { file.chunks(UPLOAD_CHUNK).collect() };
    for bytes in parts {
        let name = name.to_string_lossy().into_owned();
        let request = Request::Upload { bundle, name, offset, bytes: bytes.to_vec() };
        match control::ask(socket, &request).await? {
            Reply::Stored => offset += bytes.len() as u64,
            other => return Err(Failure::new(format!("the node answered something else: {other:?}"))),
        }
    }
    Ok(())
}
