//! Bundles: how code comes to a node. An OCI image layout, named by the digest of its manifest, with one Ed25519
//! signature over that digest.
//!
//! ```text
//!   oci-layout
//!   index.json            points at the manifest (for tools; host goes by the digest it was told)
//!   blobs/sha256/<hex>    manifest, config, layers (uncompressed tar)
//!   verge.sig             {"keyid": sha256 of the raw public key, "sig": hex}
//! ```
//!
//! What is signed is `verge-bundle-v1\n` and the 32 bytes of the digest, so a signature means this bundle and
//! nothing else. Everything read from a layout is foreign: sizes are bounded before reading, every blob is
//! checked against the digest that named it.

pub mod build;
pub mod key;
pub mod layout;

use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey};
use policies::id::Digest;
use serde::{Deserialize, Serialize};

pub use build::build;
use layout::Layout;

use crate::fault::{Explain, FileError};

/// What stands before the digest in the signed bytes.
const SIGNED_PREFIX: &[u8] = b"verge-bundle-v1\n";

/// Name of the signature file.
pub const SIGNATURE_FILE: &str = "verge.sig";

/// Longest signature file.
const SIGNATURE_LEN_MAX: u64 = 4096;

/// Why a bundle is not built, signed or accepted.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is longer than a bundle's part may be.
    #[error("{name} has {got} bytes, the maximum is {max}")]
    Long {
        /// The file.
        name: String,
        /// Its length.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A blob's bytes do not match the digest that names it.
    #[error("blob {expected} holds bytes with digest {got}")]
    Digest {
        /// By what it was named.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// A JSON document that is not what its place demands.
    #[error("{name} is not valid: {why}")]
    Document {
        /// The file.
        name: String,
        /// The cause.
        why: String,
    },
    /// The bundle is not signed by a key that counts here.
    #[error("the bundle is signed by key {keyid}, which is not trusted here")]
    Untrusted {
        /// The key it names.
        keyid: String,
    },
    /// The signature does not belong to this bundle.
    #[error("the signature by key {keyid} does not match bundle {digest}")]
    Forged {
        /// The key it names.
        keyid: String,
        /// The bundle.
        digest: Digest,
    },
    /// A key file that holds no key.
    #[error("{path} holds no Ed25519 {what} key: {why}")]
    Key {
        /// The file.
        path: String,
        /// `public` or `private`.
        what: &'static str,
        /// The cause.
        why: String,
    },
    /// Nobody has sent the bundle to this node.
    #[error("the node has no bundle {digest}")]
    Missing {
        /// The bundle.
        digest: Digest,
    },
    /// A layer holds something that has no place in a bundle.
    #[error("layer entry {entry:?}: {why}")]
    Entry {
        /// Its path in the tar.
        entry: String,
        /// The cause.
        why: String,
    },
}

impl Explain for BundleError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Untrusted { .. } => Some("sign it with a trusted key (verge bundle sign), or add its public key to [host] trusted_keys".into()),
            Self::Forged { .. } => Some("sign the bundle again after the last change (verge bundle sign)".into()),
            Self::Digest { .. } => Some("fetch or build the bundle again; its bytes were damaged".into()),
            Self::Missing { .. } => Some("send it with: verge bundle push DIR".into()),
            Self::Key { .. } => Some("make a key pair with: verge pki key".into()),
            Self::Entry { .. } => Some("build the bundle with: verge bundle build".into()),
            Self::Long { .. } | Self::Document { .. } => None,
        }
    }
}

/// The signature file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureFile {
    keyid: String,
    sig: String,
}

fn signed_bytes(digest: Digest) -> Vec<u8> {
    [SIGNED_PREFIX, &digest.0].concat()
}

/// Signs the bundle in `layout_dir` (the one its index points at) and writes the signature beside it.
///
/// # Errors
/// If the layout or its index cannot be read, or the signature not written.
pub fn sign(layout_dir: &Path, key: &SigningKey) -> Result<Digest, BundleError> {
    let digest = Layout::open(layout_dir)?.indexed()?;
    let sig = hex::encode(key.sign(&signed_bytes(digest)).to_bytes());
    let file = SignatureFile { keyid: key::id(&key.verifying_key()), sig };
    let path = layout_dir.join(SIGNATURE_FILE);
    let text = serde_json::to_string(&file)
        .map_err(|error| BundleError::Document { name: SIGNATURE_FILE.into(), why: error.to_string() })?;
    std::fs::write(&path, text).map_err(FileError::at("write", &path))?;
    Ok(digest)
}

/// Checks the signature and every blob of the bundle that the index of `layout_dir` points at.
///
/// # Errors
/// [`BundleError`] says which part is wrong.
pub fn verify(layout_dir: &Path, trusted: &key::Trusted) -> Result<Digest, BundleError> {
    let layout = Layout::open(layout_dir)?;
    let digest = layout.indexed()?;
    check_signature(&layout, digest, trusted)?;
    let manifest = layout.manifest(digest)?;
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        layout.copy_blob(blob, &mut std::io::sink())?;
    }
    Ok(digest)
}

/// Checks that a trusted key has signed `digest`; says which.
///
/// # Errors
/// [`BundleError::Untrusted`] or [`BundleError::Forged`], or that the file is missing or malformed.
pub fn check_signature(
    layout: &Layout,
    digest: Digest,
    trusted: &key::Trusted,
) -> Result<String, BundleError> {
    let bytes = layout.read(Path::new(SIGNATURE_FILE), SIGNATURE_LEN_MAX)?;
    let malformed = |why: String| BundleError::Document { name: SIGNATURE_FILE.into(), why };
    let file: SignatureFile = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    let mut signature = [0u8; 64];
    hex::decode_to_slice(&file.sig, &mut signature).map_err(|error| malformed(error.to_string()))?;
    let key = trusted
        .get(&file.keyid)
        .ok_or(BundleError::Untrusted { keyid: crate::fault::shorten(file.keyid.clone()) })?;
    key.verify_strict(&signed_bytes(digest), &Signature::from_bytes(&signature))
        .map_err(|_| BundleError::Forged { keyid: file.keyid.clone(), digest })?;
    Ok(file.keyid)
}

#[cfg(test)]
mod tests;
