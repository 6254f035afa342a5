//! Unpacks layers of foreign making. Whatever a tar says, nothing is made outside the root, nothing special is
//! made inside, and no link is ever followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat2};
use tar::EntryType;

use crate::bundle::BundleError;
use crate::fault::FileError;

/// Most files, directories and links in one bundle: a whole Debian root has about 30 000.
const ENTRIES_MAX: u64 = 200_000;

/// Most bytes in one bundle's files. A sparse file counts with its full length.
const BYTES_MAX: u64 = 4 << 30;

/// Deepest nesting of directories.
const DEPTH_MAX: usize = 64;

/// Puts layers on top of each other below one directory.
pub(super) struct Unpacker {
    root: OwnedFd,
    entries: u64,
    bytes: u64,
}

fn wrong(entry: &Path, why: impl Into<String>) -> BundleError {
    let entry = crate::fault::shorten(entry.display().to_string());
    BundleError::Entry { entry, why: why.into() }
}

impl Unpacker {
    /// Unpacks below `root`, which must be empty.
    pub(super) fn new(root: &Path) -> Result<Self, FileError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(FileError::at("open", root))?;
        Ok(Self { root, entries: 0, bytes: 0 })
    }

    /// Adds one layer.
    pub(super) fn layer(&mut self, layer: File) -> Result<(), BundleError> {
        let mut tar = tar::Archive::new(io::BufReader::with_capacity(1 << 17, layer));
        let broken = |error: io::Error| wrong(Path::new("(tar)"), error.to_string());
        for entry in tar.entries().map_err(broken)? {
            self.entry(entry.map_err(broken)?)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), BundleError> {
        let named = entry.path().map_err(|error| wrong(Path::new("(name)"), error.to_string()))?.into_owned();
        let path = clean(&named)?;
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.entries > ENTRIES_MAX || self.bytes > BYTES_MAX {
            return Err(wrong(&named, format!("more than {ENTRIES_MAX} entries or {BYTES_MAX} bytes")));
        }
        if path.as_os_str().is_empty() {
            return Ok(()); // the root itself
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".wh.")) {
            return Err(wrong(&named, "layers that delete from lower ones are not taken; flatten them"));
        }
        let parent = self.parent(&path)?;
        let name = PathBuf::from(path.file_name().unwrap_or_default());
        let failed = |error: rustix::io::Errno| wrong(&named, io::Error::from(error).to_string());
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(&path).map(drop),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
                clear(&parent, &name).map_err(failed)?;
                let mode = if executable { 0o755 } else { 0o644 };
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(mode)).map_err(failed)?;
                // The umask of whoever started host must not decide what apps can read.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
                io::copy(&mut entry, &mut File::from(file))
                    .map_err(|error| wrong(&named, error.to_string()))?;
                Ok(())
            }
            EntryType::Symlink => {
                let to = link_target(&entry, &named)?;
                clear(&parent, &name).map_err(failed)?;
                rustix::fs::symlinkat(&to, &parent, &name).map_err(failed)
            }
            EntryType::Link => {
                let to = clean(&link_target(&entry, &named)?)?;
                let from_parent = self.parent(&to)?;
                clear(&parent, &name).map_err(failed)?;
                let target = PathBuf::from(to.file_name().unwrap_or_default());
                // Without AT_SYMLINK_FOLLOW a link to a link stays a link.
                rustix::fs::linkat(&from_parent, &target, &parent, &name, AtFlags::empty()).map_err(failed)
            }
            EntryType::XGlobalHeader => Ok(()),
            other => Err(wrong(&named, format!("{other:?} entries have no place in a bundle"))),
        }
    }

    fn parent(&self, path: &Path) -> Result<OwnedFd, BundleError> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.directory(parent),
            _ => self
                .root
                .try_clone()
                .map_err(|error| FileError::at("open", "the bundle's root")(error).into()),
        }
    }

    /// Opens a directory below the root, making it and its parents if need be; follows no link.
    fn directory(&self, path: &Path) -> Result<OwnedFd, BundleError> {
        let mut so_far = PathBuf::new();
        let failed = |error: rustix::io::Errno| wrong(path, io::Error::from(error).to_string());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open = |at: &Path| openat2(&self.root, at, flags, Mode::empty(), below);
        if let Ok(there) = open(path) {
            return Ok(there);
        }
        let mut dir = self.root.try_clone().map_err(FileError::at("open", "the bundle's root"))?;
        for part in path {
            so_far.push(part);
            match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            dir = open(&so_far).map_err(failed)?;
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(failed)?;
        }
        Ok(dir)
    }
}

/// A later entry of the same name replaces an earlier one, unless that is a directory.
fn clear(parent: &OwnedFd, name: &Path) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, named: &Path) -> Result<PathBuf, BundleError> {
    let target = entry.link_name().map_err(|error| wrong(named, error.to_string()))?;
    target.map(std::borrow::Cow::into_owned).ok_or_else(|| wrong(named, "a link without a target"))
}

/// The path below the root that an entry names: no root, no `..`, not too deep.
fn clean(path: &Path) -> Result<PathBuf, BundleError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(wrong(path, "`..` leads out of the bundle")),
            Component::RootDir | Component::Prefix(_) => return Err(wrong(path, "the path is absolute")),
        }
    }
    if clean.components().count() > DEPTH_MAX {
        return Err(wrong(path, format!("deeper than {DEPTH_MAX} directories")));
    }
    Ok(clean)
}
