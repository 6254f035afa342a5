//! Ed25519 keys in files: PEM as everybody writes it, or 64 hexadecimal digits.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{SigningKey, VerifyingKey};
use policies::id::Digest;

use super::BundleError;
use crate::fault::FileError;

/// The public keys that count, by key id.
#[derive(Clone, Debug, Default)]
pub struct Trusted(BTreeMap<String, VerifyingKey>);

impl Trusted {
    /// Reads every file.
    ///
    /// # Errors
    /// The first file that cannot be read or holds no public key.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> Result<Self, BundleError> {
        let keys = paths.iter().map(|path| public(path.as_ref()).map(|key| (id(&key), key)));
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// The key with this id.
    pub fn get(&self, id: &str) -> Option<&VerifyingKey> {
        self.0.get(id)
    }
}

impl FromIterator<VerifyingKey> for Trusted {
    fn from_iter<I: IntoIterator<Item = VerifyingKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (id(&key), key)).collect())
    }
}

/// How a key is named: the SHA-256 of its 32 raw bytes, in hexadecimal.
pub fn id(key: &VerifyingKey) -> String {
    Digest::of(key.as_bytes()).hex()
}

fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::at("read", path))
}

fn raw(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).ok().map(|()| bytes)
}

/// Reads a public key.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn public(path: &Path) -> Result<VerifyingKey, BundleError> {
    let text = read(path)?;
    let wrong = |why: String| BundleError::Key { path: path.display().to_string(), what: "public", why };
    match raw(&text) {
        Some(bytes) => VerifyingKey::from_bytes(&bytes).map_err(|error| wrong(error.to_string())),
        None => VerifyingKey::from_public_key_pem(&text).map_err(|error| wrong(error.to_string())),
    }
}

/// Reads a private key.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn private(path: &Path) -> Result<SigningKey, BundleError> {
    let text = read(path)?;
    let wrong = |why: String| BundleError::Key { path: path.display().to_string(), what: "private", why };
    match raw(&text) {
        Some(bytes) => Ok(SigningKey::from_bytes(&bytes)),
        None => SigningKey::from_pkcs8_pem(&text).map_err(|error| wrong(error.to_string())),
    }
}

/// Makes a key pair: `private` (mode 0600; must not exist yet) and `public`, both PEM. Returns the key id.
///
/// # Errors
/// If a file cannot be written, or the system has no randomness to give.
pub fn generate(private: &Path, public: &Path) -> Result<String, BundleError> {
    let mut seed = [0u8; 32];
    let source = "/dev/urandom";
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(FileError::at("read", source))?;
    let key = SigningKey::from_bytes(&seed);
    let wrong = |why: String| BundleError::Key { path: private.display().to_string(), what: "private", why };
    let text = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| wrong(error.to_string()))?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(private)
        .map_err(FileError::at("create", private))?;
    file.write_all(text.as_bytes()).map_err(FileError::at("write", private))?;
    let text =
        key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|error| wrong(error.to_string()))?;
    fs::write(public, text).map_err(FileError::at("write", public))?;
    Ok(id(&key.verifying_key()))
}
