//! The node's spool: bundles on their way to host, in the directory that both share. Names are checked here
//! and again by host; the bytes prove nothing until host has verified them.

use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use policies::id::Digest;

/// Largest bundle taken: a base layer of a language runtime is below 100 MB.
const BUNDLE_LEN_MAX: u64 = 512 << 20;

/// Largest Wasm module taken: it travels to the worker in one message.
const MODULE_LEN_MAX: u64 = 3 << 20;

/// Where host mounts the spool for this process.
const SPOOL: &str = "/spool";

/// The spool directory.
#[derive(Debug)]
pub(super) struct Spool {
    root: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self { root: PathBuf::from(SPOOL) }
    }
}

impl Spool {
    /// Writes a part of a bundle's file. Offset 0 starts the file anew.
    ///
    /// # Errors
    /// `InvalidInput` for a name that no bundle has or a file beyond the limit; the kernel's error otherwise.
    pub(super) fn store(&self, bundle: Digest, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let relative = checked(name)?;
        if offset + bytes.len() as u64 > BUNDLE_LEN_MAX {
            let why = format!("bundle files of more than {BUNDLE_LEN_MAX} bytes are not taken");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let path = self.root.join(bundle.hex()).join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        write(&path, offset, bytes).inspect_err(|_| {
            // Half a bundle is of no use, and would keep a full disk full.
            let _ = fs::remove_dir_all(self.root.join(bundle.hex()));
        })
    }

    /// The Wasm module of a function bundle: the file `module.wasm` of its one layer.
    pub(super) fn module(&self, bundle: Digest) -> Option<Vec<u8>> {
        read_module(&self.root.join(bundle.hex()), bundle)
            .inspect_err(|error| tracing::warn!(%bundle, %error, "cannot read the module of a bundle"))
            .ok()
    }
}

fn write(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(offset == 0).open(path)?;
    file.seek(io::SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    // An answer that it is stored holds after a power cut as well.
    file.sync_data()
}

fn checked(name: &str) -> io::Result<&Path> {
    let hex = |h: &str| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit());
    let known = matches!(name, "oci-layout" | "index.json" | "verge.sig");
    if known || name.strip_prefix("blobs/sha256/").is_some_and(hex) {
        Ok(Path::new(name))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no bundle has a file {name:?}")))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn blob(dir: &Path, digest: Digest, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(dir.join("blobs/sha256").join(digest.hex()))?;
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(invalid("a blob is longer than it may be"));
    }
    if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(invalid("a blob does not match its digest")) }
}

fn read_module(dir: &Path, bundle: Digest) -> io::Result<Vec<u8>> {
    let manifest: serde_json::Value = serde_json::from_slice(&blob(dir, bundle, 1 << 20)?)?;
    let layer = manifest["layers"][0]["digest"].as_str().ok_or_else(|| invalid("it has no layer"))?;
    let layer: Digest = layer.parse().map_err(|_| invalid("its layer has no digest"))?;
    let tar = blob(dir, layer, MODULE_LEN_MAX + (64 << 10))?;
    for entry in tar::Archive::new(tar.as_slice()).entries()? {
        let mut entry = entry?;
        if entry.path()?.file_name().is_some_and(|name| name == "module.wasm") {
            let mut wasm = Vec::new();
            entry.read_to_end(&mut wasm)?;
            return Ok(wasm);
        }
    }
    Err(invalid("its layer holds no module.wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn name_table() {
        let hex = "a".repeat(64);
        for (name, good) in [
            ("oci-layout", true), ("verge.sig", true), ("index.json", true),
            (format!("blobs/sha256/{hex}").as_str(), true),
            ("", false), ("..", false), ("/etc/passwd", false), ("blobs/sha256/../../x", false),
            (format!("blobs/sha256/{hex}/x").as_str(), false), ("blobs", false),
        ] {
            assert_eq!(checked(name).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn parts_come_together_and_a_new_start_wipes_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool { root: dir.path().into() };
        let bundle = Digest::of(b"x");
        for (offset, bytes) in [(0, "old content"), (0, "ab"), (2, "cd")] {
            spool.store(bundle, "index.json", offset, bytes.as_bytes()).unwrap();
        }
        let got = fs::read(dir.path().join(bundle.hex()).join("index.json")).unwrap();
        assert_eq!(got, b"abcd");
        assert!(spool.store(bundle, "index.json", BUNDLE_LEN_MAX, b"x").is_err());
    }
}
