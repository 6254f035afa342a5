//! Reading an OCI image layout that somebody else may be changing while we read it.
//!
//! Files are opened below the layout's directory without following any link, so a hostile owner cannot make host
//! read elsewhere; what is read is hashed on the way, so it cannot be swapped after the check either.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use policies::id::Digest;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::BundleError;
use crate::fault::FileError;

/// Media type of a layer. Compressed ones are not taken: the spool is local, and inflating foreign bytes is risk.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Longest manifest, index or config.
const DOCUMENT_LEN_MAX: u64 = 256 << 10;

/// Longest layer.
pub const LAYER_LEN_MAX: u64 = 2 << 30;

/// Most layers of one bundle.
const LAYERS_MAX: usize = 16;

/// An open layout.
#[derive(Debug)]
pub struct Layout {
    dir: OwnedFd,
    name: PathBuf,
}

/// Reference to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What it is.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

/// The manifest: what a bundle consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// What this document is.
    #[serde(rename = "mediaType", default)]
    pub media_type: Option<String>,
    /// Configuration blob.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// The index: which manifests a layout holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl Layout {
    /// Opens the layout in `dir`.
    ///
    /// # Errors
    /// If it is no directory that can be opened.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(FileError::at("open", dir))?;
        Ok(Self { dir: fd, name: dir.to_owned() })
    }

    /// Opens the layout `name` below an open directory, following no link.
    ///
    /// # Errors
    /// If it is no directory that can be opened.
    pub fn open_in(parent: &OwnedFd, name: &str) -> Result<Self, FileError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat2(parent, name, flags, Mode::empty(), strictly_below())
            .map_err(FileError::at("open in the spool", name))?;
        Ok(Self { dir, name: name.into() })
    }

    fn open_file(&self, path: &Path, len_max: u64) -> Result<(File, u64), BundleError> {
        // Non-blocking: a named pipe in place of a file must not hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let shown = self.name.join(path);
        let file: File = openat2(&self.dir, path, flags, Mode::empty(), strictly_below())
            .map_err(FileError::at("open", &shown))?
            .into();
        let meta = file.metadata().map_err(FileError::at("read", &shown))?;
        if !meta.is_file() {
            let why = "it is not a plain file".into();
            return Err(BundleError::Document { name: shown.display().to_string(), why });
        }
        if meta.len() > len_max {
            return Err(BundleError::Long {
                name: shown.display().to_string(),
                got: meta.len(),
                max: len_max,
            });
        }
        Ok((file, meta.len()))
    }

    /// Reads a whole file of at most `len_max` bytes.
    ///
    /// # Errors
    /// If it is missing, no plain file, or longer.
    pub fn read(&self, path: &Path, len_max: u64) -> Result<Vec<u8>, BundleError> {
        let (file, _) = self.open_file(path, len_max)?;
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes).map_err(FileError::at("read", self.name.join(path)))?;
        Ok(bytes)
    }

    /// The one manifest that the index points at.
    ///
    /// # Errors
    /// If there is no index, or it names none or several.
    pub fn indexed(&self) -> Result<Digest, BundleError> {
        let index: Index = document("index.json", &self.read(Path::new("index.json"), DOCUMENT_LEN_MAX)?)?;
        match index.manifests.as_slice() {
            [one] => Ok(one.digest),
            several => Err(BundleError::Document {
                name: "index.json".into(),
                why: format!("it names {} manifests, expected 1", several.len()),
            }),
        }
    }

    /// Reads the manifest `digest` and checks its bytes and shape.
    ///
    /// # Errors
    /// If it is damaged, malformed, or asks for more than a bundle may hold.
    pub fn manifest(&self, digest: Digest) -> Result<Manifest, BundleError> {
        let bytes = self.read(&blob_path(digest), DOCUMENT_LEN_MAX)?;
        let got = Digest::of(&bytes);
        if got != digest {
            return Err(BundleError::Digest { expected: digest, got });
        }
        let manifest: Manifest = document("the manifest", &bytes)?;
        check_manifest(&manifest)?;
        Ok(manifest)
    }

    /// Copies a blob to `to` while checking its length and digest. On an error `to` holds bytes that must not be
    /// used.
    ///
    /// # Errors
    /// If it is missing, too long, or its bytes are not what its name says.
    pub fn copy_blob(&self, blob: &Descriptor, to: &mut dyn Write) -> Result<(), BundleError> {
        let path = blob_path(blob.digest);
        let (file, _) = self.open_file(&path, blob.size.min(LAYER_LEN_MAX))?;
        let mut hashing = Hashing { to, hash: sha2::Sha256::new() };
        io::copy(&mut file.take(blob.size), &mut hashing)
            .map_err(FileError::at("copy", self.name.join(&path)))?;
        let got = Digest(hashing.hash.finalize().into());
        if got == blob.digest { Ok(()) } else { Err(BundleError::Digest { expected: blob.digest, got }) }
    }
}

fn strictly_below() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Where a blob lies in a layout.
pub fn blob_path(digest: Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

fn document<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes)
        .map_err(|error| BundleError::Document { name: name.into(), why: error.to_string() })
}

fn check_manifest(manifest: &Manifest) -> Result<(), BundleError> {
    let wrong = |why: String| Err(BundleError::Document { name: "the manifest".into(), why });
    if manifest.schema_version != 2 {
        return wrong(format!("schemaVersion is {}, expected 2", manifest.schema_version));
    }
    if !(1..=LAYERS_MAX).contains(&manifest.layers.len()) {
        return wrong(format!("it has {} layers, expected 1 to {LAYERS_MAX}", manifest.layers.len()));
    }
    for layer in &manifest.layers {
        if layer.media_type != LAYER_TYPE {
            return wrong(format!("a layer is {:?}, expected {LAYER_TYPE:?}", layer.media_type));
        }
        if layer.size > LAYER_LEN_MAX {
            return wrong(format!("a layer has {} bytes, the maximum is {LAYER_LEN_MAX}", layer.size));
        }
    }
    if manifest.config.size > DOCUMENT_LEN_MAX {
        return wrong(format!("the config has {} bytes", manifest.config.size));
    }
    Ok(())
}

struct Hashing<'a> {
    to: &'a mut dyn Write,
    hash: sha2::Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.to.write(bytes)?;
        self.hash.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
