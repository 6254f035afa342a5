//! What `verge bundle` does beyond host's own library of bundles: looking into one, and making one out of
//! whatever a manifest names.

use std::path::{Path, PathBuf};

use obu_host::bundle::{self, BundleError, SIGNATURE_FILE, key, layout};
use obu_host::fault::Explain as _;
use policies::id::Digest;
use serde::Serialize;

/// Why a bundle command fails.
#[derive(Debug, thiserror::Error)]
pub enum BundleCmdError {
    /// Host's library refuses.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The source of a bundle is not there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A bundle has to be built, and there is no key to sign it.
    #[error("{} must be signed before a node starts it", path.display())]
    NoKey {
        /// The source.
        path: PathBuf,
    },
}

impl BundleCmdError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Bundle(error) => error.fix(),
            Self::Missing { .. } => Some(
                "name a directory, a file or a bundle beside the manifest, a base that the node knows, or sha256: and a digest".into(),
            ),
            Self::NoKey { .. } => {
                Some("name a key that the node trusts: --key dev.key.pem or VERGE_KEY (verge pki key makes one)".into())
            }
        }
    }
}

impl From<obu_host::fault::FileError> for BundleCmdError {
    fn from(error: obu_host::fault::FileError) -> Self {
        Self::Bundle(error.into())
    }
}

/// What a bundle holds, read without trusting it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Its digest: how manifests name it.
    pub digest: Digest,
    /// The sum of its blobs in bytes.
    pub bytes: u64,
    /// Digest and length of each layer, lowest first.
    pub layers: Vec<(Digest, u64)>,
    /// What its signature file says.
    pub signature: SignatureState,
}

/// What is known of a bundle's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum SignatureState {
    /// There is none.
    Unsigned,
    /// A key that was given as trusted has signed it.
    Trusted {
        /// The key's id.
        key: String,
    },
    /// There is one, and it does not count here.
    Refused {
        /// Why.
        why: String,
    },
}

/// Looks into the bundle in `dir`; `trusted` are the keys that count. Blobs are not read: see
/// [`bundle::verify`] for that.
///
/// # Errors
/// [`BundleCmdError::Bundle`] if it is not a bundle.
pub fn inspect(dir: &Path, trusted: &key::Trusted) -> Result<Inspection, BundleCmdError> {
    let layout = layout::Layout::open(dir)?;
    let digest = layout.indexed()?;
    let manifest = layout.manifest(digest)?;
    let signature = if dir.join(SIGNATURE_FILE).exists() {
        match bundle::check_signature(&layout, digest, trusted) {
            Ok(key) => SignatureState::Trusted { key },
            Err(error) => SignatureState::Refused { why: error.to_string() },
        }
    } else {
        SignatureState::Unsigned
    };
    let layers: Vec<_> = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    let bytes = layers.iter().fold(manifest.config.size, |sum, (_, size)| sum.saturating_add(*size));
    Ok(Inspection { digest, bytes, layers, signature })
}

/// Makes sure that there is a signed bundle of `source`, which a manifest names: a built bundle is taken as it
/// is, a directory or file is built into a new directory below `out` and signed with `key`. Gives the
/// digest and the bundle's directory.
///
/// # Errors
/// [`BundleCmdError`] says which step failed.
pub fn ready(source: &Path, out: &Path, key: Option<&Path>) -> Result<(Digest, PathBuf), BundleCmdError> {
    if source.join("oci-layout").is_file() {
        return Ok((layout::Layout::open(source)?.indexed()?, source.to_owned()));
    }
    if !source.exists() {
        return Err(BundleCmdError::Missing { path: source.to_owned() });
    }
    let key = key.ok_or_else(|| BundleCmdError::NoKey { path: source.to_owned() })?;
    let key = key::private(key)?;
    let name = Digest::of(source.as_os_str().as_encoded_bytes()).hex();
    let dir = out.join(name);
    bundle::build(source, &dir)?;
    Ok((bundle::sign(&dir, &key)?, dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_becomes_a_signed_bundle_that_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (app, out) = (dir.path().join("app"), dir.path().join("out"));
        fs::create_dir(&app).unwrap();
        fs::write(app.join("main.py"), "print()").unwrap();
        let (keys, id) = crate::pki::signing_key(dir.path(), "dev", false).unwrap();
        let (digest, at) = ready(&app, &out, Some(&keys.private)).unwrap();
        let trusted = key::Trusted::load(&[&keys.public]).unwrap();
        assert_eq!(bundle::verify(&at, &trusted).unwrap(), digest);
        assert_eq!(ready(&app, &out, Some(&keys.private)).unwrap().0, digest);
        assert_eq!(ready(&at, &out, None).unwrap(), (digest, at.clone()));
        let seen = inspect(&at, &trusted).unwrap();
        assert_eq!((seen.digest, seen.layers.len()), (digest, 1));
        assert_eq!(seen.signature, SignatureState::Trusted { key: id });
        let stranger = inspect(&at, &key::Trusted::default()).unwrap();
        assert!(matches!(stranger.signature, SignatureState::Refused { .. }));
        fs::remove_file(at.join(SIGNATURE_FILE)).unwrap();
        assert_eq!(inspect(&at, &trusted).unwrap().signature, SignatureState::Unsigned);
    }

    #[test]
    fn what_is_missing_is_said_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        let missing = ready(&dir.path().join("gone"), dir.path(), None).unwrap_err();
        assert!(matches!(&missing, BundleCmdError::Missing { .. }) && missing.fix().is_some());
        let unsigned = ready(dir.path(), &dir.path().join("out"), None).unwrap_err();
        assert!(matches!(&unsigned, BundleCmdError::NoKey { .. }) && unsigned.fix().is_some());
        assert!(inspect(dir.path(), &key::Trusted::default()).is_err());
    }
}
