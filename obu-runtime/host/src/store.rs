//! The store: verified bundles, unpacked, in a place that only host can write. What is in it may run.
//!
//! ```text
//!   store/<hex>/root/        the bundle's files
//!   store/<hex>/signed_by    id of the key that counted
//!   store/.new-<hex>/        an import that is under way, or that died; removed at start
//! ```
//!
//! An import is made beside its final name and renamed when it is whole and on disk, so a power cut leaves a
//! bundle or none.

mod unpack;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use policies::id::Digest;

use crate::bundle::{BundleError, check_signature, key::Trusted, layout::Layout};
use crate::fault::FileError;

const NEW: &str = ".new-";

/// The store of one node.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    trusted: Trusted,
}

impl Store {
    /// Opens the store, making it if need be, and throws away what a crashed import left.
    ///
    /// # Errors
    /// Names the path.
    pub fn open(dir: &Path, trusted: Trusted) -> Result<Self, FileError> {
        fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(FileError::at("restrict", dir))?;
        for entry in fs::read_dir(dir).map_err(FileError::at("list", dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                fs::remove_dir_all(entry.path()).map_err(FileError::at("remove", entry.path()))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), trusted })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of a bundle, if it is here and its signing key is (still) trusted.
    pub fn root_of(&self, bundle: Digest) -> Option<PathBuf> {
        self.signed_by(bundle).map(|_| self.dir.join(bundle.hex()).join("root"))
    }

    /// The trusted key that signed a bundle that is here.
    pub fn signed_by(&self, bundle: Digest) -> Option<String> {
        let keyid = fs::read_to_string(self.dir.join(bundle.hex()).join("signed_by")).ok()?;
        self.trusted.get(&keyid).map(|_| keyid)
    }

    /// Verifies the bundle that lies in `spool` under its digest, and takes it in. Returns the key id.
    ///
    /// Slow (it copies and hashes every byte): run it in a process of its own.
    ///
    /// # Errors
    /// [`BundleError`]; the store is then as before.
    pub fn import(&self, spool: &OwnedFd, bundle: Digest) -> Result<String, BundleError> {
        let layout = Layout::open_in(spool, &bundle.hex()).map_err(|error| match error.source.kind() {
            std::io::ErrorKind::NotFound => BundleError::Missing { digest: bundle },
            _ => error.into(),
        })?;
        let keyid = check_signature(&layout, bundle, &self.trusted)?;
        let manifest = layout.manifest(bundle)?;
        layout.copy_blob(&manifest.config, &mut std::io::sink())?;
        let new = self.dir.join(format!("{NEW}{}", bundle.hex()));
        let made =
            self.make(&new, &layout, &manifest.layers, &keyid).and_then(|()| self.commit(&new, bundle));
        if made.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        made.map(|()| keyid)
    }

    fn make(
        &self,
        new: &Path,
        layout: &Layout,
        layers: &[crate::bundle::layout::Descriptor],
        keyid: &str,
    ) -> Result<(), BundleError> {
        let _ = fs::remove_dir_all(new);
        let root = new.join("root");
        fs::create_dir_all(&root).map_err(FileError::at("create", &root))?;
        let mut unpacker = unpack::Unpacker::new(&root)?;
        for layer in layers {
            // First a checked copy of our own, then the unpacking: nobody can change bytes between the two.
            let path = new.join("layer");
            let mut copy = File::create(&path).map_err(FileError::at("create", &path))?;
            layout.copy_blob(layer, &mut copy)?;
            unpacker.layer(File::open(&path).map_err(FileError::at("open", &path))?)?;
            fs::remove_file(&path).map_err(FileError::at("remove", &path))?;
        }
        let path = new.join("signed_by");
        fs::write(&path, keyid).map_err(|source| FileError::at("write", &path)(source).into())
    }

    fn commit(&self, new: &Path, bundle: Digest) -> Result<(), BundleError> {
        let dir = File::open(&self.dir).map_err(FileError::at("open", &self.dir))?;
        rustix::fs::syncfs(&dir).map_err(FileError::at("sync", &self.dir))?;
        let path = self.dir.join(bundle.hex());
        if path.exists() {
            // There, but no longer trusted as it was: replaced by what has just been verified.
            fs::remove_dir_all(&path).map_err(FileError::at("remove", &path))?;
        }
        fs::rename(new, &path).map_err(FileError::at("move into place", &path))?;
        dir.sync_all().map_err(|source| FileError::at("sync", &self.dir)(source).into())
    }
}

#[cfg(test)]
mod tests;
