//! What a sandboxed process sees of the file system: a root made from nothing, into which single trees and
//! files are bound. Nothing of the host is there unless it is an [`Item`].
//!
//! The root is a tmpfs of our own, so every mount point is one that we made: an image cannot put a symbolic
//! link where `/proc`, `/dev` or `/app` will be mounted (CVE-2019-19921, 2025-31133, 2025-52565 and kin).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::fault::FileError;
use crate::sys;

/// Parts of /proc that tell about the machine or its neighbours: hidden.
const PROC_HIDDEN: [&str; 13] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "key-users",
];

/// Parts of /proc that change the machine: read-only.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Device files every program may expect. All harmless.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Where a bound tree comes from.
#[derive(Debug)]
pub enum Source {
    /// A tree that host detached itself: the sandbox needs no right to reach its path.
    Tree(OwnedFd),
    /// A path that the sandbox's own uid can reach.
    Path(PathBuf),
}

impl Source {
    /// The tree at `path`: detached now if we are privileged, otherwise by the sandbox itself.
    ///
    /// # Errors
    /// If the path does not exist or cannot be detached.
    pub fn at(path: &Path, privileged: bool) -> Result<Self, FileError> {
        if privileged { detach(path).map(Self::Tree) } else { Ok(Self::Path(path.to_owned())) }
    }
}

/// One thing in the sandbox's file system. Targets are relative to its root.
#[derive(Debug)]
pub enum Item {
    /// An empty directory.
    Dir(PathBuf),
    /// A symbolic link.
    Link {
        /// Where.
        at: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// A directory or file of the host's.
    Bind {
        /// Which.
        source: Source,
        /// Where.
        at: PathBuf,
        /// Whether it is a directory.
        directory: bool,
        /// Whether it can be written.
        writable: bool,
    },
    /// Empty space in memory.
    Tmpfs {
        /// Where.
        at: PathBuf,
        /// Bytes, at the most.
        size: u64,
    },
    /// The harmless device files.
    Devices,
    /// `/proc` of the sandbox's own pid namespace, with the usual parts hidden or read-only.
    Proc,
}

impl Item {
    /// A directory that cannot be written.
    pub fn read_only(source: Source, at: impl Into<PathBuf>) -> Self {
        Self::Bind { source, at: at.into(), directory: true, writable: false }
    }

    /// A directory that can be written as far as its owner and mode allow.
    pub fn writable(source: Source, at: impl Into<PathBuf>) -> Self {
        Self::Bind { source, at: at.into(), directory: true, writable: true }
    }

    /// A file that cannot be written.
    pub fn file(source: Source, at: impl Into<PathBuf>) -> Self {
        Self::Bind { source, at: at.into(), directory: false, writable: false }
    }

    /// The descriptor that must stay open until the item is mounted.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Bind { source: Source::Tree(tree), .. } => Some(tree.as_raw_fd()),
            _ => None,
        }
    }
}

/// A detached copy of the mount tree at `path`, without what is mounted below it.
fn detach(path: &Path) -> Result<OwnedFd, FileError> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(FileError::at("detach a view of", path))
}

/// Builds the root from `items` and makes it the only thing this process sees. Runs in the sandbox's own mount
/// namespace, with all capabilities over it.
///
/// # Errors
/// Names the mount that failed.
pub fn enter(items: &[Item]) -> Result<(), FileError> {
    let root = new_root(items)?;
    seal(&root)?;
    pivot(&root).map_err(FileError::at("change to", "the sandbox's root"))
}

/// The first half of [`enter`], for a sandbox that is made ahead: a root with what every app has, which can still
/// be added to.
///
/// # Errors
/// Names the mount that failed.
pub fn found(items: &[Item]) -> Result<(), FileError> {
    let root = new_root(items)?;
    pivot(&root).map_err(FileError::at("change to", "the sandbox's root"))
}

/// The second half: adds `items` to the root that this process sees, and closes it. `proc` is the file system of
/// the sandbox's pid namespace, from [`new_proc`].
///
/// # Errors
/// Names the mount that failed.
pub fn complete(items: &[Item], proc: &OwnedFd) -> Result<(), FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(FileError::at("open", "/"))?;
    for item in items {
        match item {
            Item::Proc => attach_proc(root.as_fd(), proc)?,
            item => place(root.as_fd(), item)?,
        }
    }
    seal(&root)
}

/// A mount of `/proc` for this process's pid namespace, attached nowhere yet.
///
/// # Errors
/// If the kernel does not let this process have it.
pub fn new_proc() -> Result<OwnedFd, FileError> {
    new_fs("proc", &[], MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC)
        .map_err(FileError::at("mount", "proc"))
}

fn new_root(items: &[Item]) -> Result<OwnedFd, FileError> {
    let root = tmpfs(1 << 20, "0755").map_err(FileError::at("make", "the sandbox's root"))?;
    // Hides that directory of the old root until the pivot, so one from which nothing is bound.
    move_mount(&root, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(FileError::at("mount the sandbox's root on", "/proc"))?;
    for item in items {
        place(root.as_fd(), item)?;
    }
    Ok(root)
}

fn seal(root: &OwnedFd) -> Result<(), FileError> {
    sys::add_mount_attributes(root.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)
        .map_err(FileError::at("make read-only", "the sandbox's root"))
}

fn pivot(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root is now mounted over the new one: taking it away leaves the new one.
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn place(root: BorrowedFd<'_>, item: &Item) -> Result<(), FileError> {
    match item {
        Item::Dir(at) => make_dirs(root, at),
        Item::Link { at, to } => {
            make_parents(root, at)?;
            rustix::fs::symlinkat(to, root, at).map_err(FileError::at("make the link", at))
        }
        Item::Bind { source, at, directory, writable } => bind(root, source, at, *directory, *writable),
        Item::Tmpfs { at, size } => {
            make_dirs(root, at)?;
            let mount = tmpfs(*size, "1777").map_err(FileError::at("make a tmpfs for", at))?;
            attach(root, &mount, at)
        }
        Item::Devices => devices(root),
        Item::Proc => attach_proc(root, &new_proc()?),
    }
}

fn bind(
    root: BorrowedFd<'_>,
    source: &Source,
    at: &Path,
    directory: bool,
    writable: bool,
) -> Result<(), FileError> {
    if directory {
        make_dirs(root, at)?
    } else {
        make_file(root, at)?
    }
    let own;
    let tree = match source {
        Source::Tree(tree) => tree,
        Source::Path(path) => {
            own = detach(path)?;
            &own
        }
    };
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if !writable {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    sys::add_mount_attributes(tree.as_fd(), attributes)
        .map_err(FileError::at("restrict the mount of", at))?;
    attach(root, tree, at)
}

fn devices(root: BorrowedFd<'_>) -> Result<(), FileError> {
    for name in DEVICES {
        let at = Path::new("dev").join(name);
        make_file(root, &at)?;
        let tree = detach(&Path::new("/").join(&at))?;
        attach(root, &tree, &at)?;
    }
    Ok(())
}

fn attach_proc(root: BorrowedFd<'_>, mount: &OwnedFd) -> Result<(), FileError> {
    let at = Path::new("proc");
    make_dirs(root, at)?;
    let hidden = hidden(root, mount)?;
    attach(root, mount, at)?;
    for (at, cover) in hidden {
        attach(root, &cover, &at)?;
    }
    for name in PROC_READ_ONLY {
        let at = at.join(name);
        let tree = match clone_inside(root, &at) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
            tree => tree?,
        };
        sys::add_mount_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY)
            .map_err(FileError::at("make read-only", &at))?;
        attach(root, &tree, &at)?;
    }
    Ok(())
}

/// What is hidden of this /proc, each with what covers it: the null device over a file; over a directory, the empty
/// one that /proc is going to be mounted on.
fn hidden(root: BorrowedFd<'_>, proc: &OwnedFd) -> Result<Vec<(PathBuf, OwnedFd)>, FileError> {
    let mut hidden = Vec::with_capacity(PROC_HIDDEN.len());
    for name in PROC_HIDDEN {
        let Ok(stat) = rustix::fs::statat(proc, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let at = Path::new("proc").join(name);
        let cover = if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            let empty = clone_inside(root, Path::new("proc"))?;
            sys::add_mount_attributes(empty.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)
                .map_err(FileError::at("hide", &at))?;
            empty
        } else {
            clone_inside(root, Path::new("dev/null"))?
        };
        hidden.push((at, cover));
    }
    Ok(hidden)
}

fn clone_inside(root: BorrowedFd<'_>, at: &Path) -> Result<OwnedFd, FileError> {
    open_tree(root, at, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(FileError::at("detach a view of", at))
}

fn attach(root: BorrowedFd<'_>, mount: &OwnedFd, at: &Path) -> Result<(), FileError> {
    move_mount(mount, "", root, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(FileError::at("mount onto", at))
}

fn tmpfs(size: u64, mode: &str) -> io::Result<OwnedFd> {
    // A size of 0 would mean "no limit" to the kernel.
    let size = size.max(4096).to_string();
    new_fs("tmpfs", &[("size", &size), ("mode", mode)], MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn new_fs(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(fs.as_fd(), *name, *value)?;
    }
    fsconfig_create(fs.as_fd())?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn make_parents(root: BorrowedFd<'_>, at: &Path) -> Result<(), FileError> {
    at.parent().map_or(Ok(()), |parent| make_dirs(root, parent))
}

fn make_dirs(root: BorrowedFd<'_>, at: &Path) -> Result<(), FileError> {
    let mut so_far = PathBuf::new();
    for part in at {
        so_far.push(part);
        match rustix::fs::mkdirat(root, &so_far, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(source) => return Err(FileError::at("create", &so_far)(source)),
        }
    }
    Ok(())
}

fn make_file(root: BorrowedFd<'_>, at: &Path) -> Result<(), FileError> {
    make_parents(root, at)?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, at, flags, Mode::from_raw_mode(0o644))
        .map(drop)
        .map_err(FileError::at("create", at))
}

/// Where a program starts: `/app` if there is one, else the root.
pub fn home() -> CString {
    if Path::new("/app").is_dir() { c"/app".to_owned() } else { c"/".to_owned() }
}
