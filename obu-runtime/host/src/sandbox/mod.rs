//! A sandbox: a tiny init as pid 1 of its own namespaces, and one program under it that sees nothing of the
//! machine but what its [`Spec`] names. Apps and faces are both started this way.
//!
//! ```text
//!   host                        init (pid 1, copy of host)               program
//!   clone3(namespaces) ------->  mounts, pivots
//!   makes cgroups
//!   their tasks files -------->  joins, drops rights, installs the filter
//!   writes the pid down
//!   log, exit file: go ------->  vfork ------------------------------->  exec
//!   status pipe: "x", its end <-  is told by exec
//!   status pipe: reason      <------- whatever failed on the way -----
//!   pidfd readable           <------- writes the exit file, ends  <----  ends
//! ```
//!
//! An app's namespaces and mounts are made ahead where that is possible; see [`prepared`]. Its init then has only
//! to enter them, and does so without waiting.
//!
//! The order matters: whatever fails is reported through the status pipe with what, why and fix, and then the
//! init ends, which takes everything in its namespaces with it. Nothing half-made stays behind.

mod cord;
pub mod fence;
mod init;
mod inside;
pub mod libraries;
pub mod prepared;
pub mod readback;
pub mod seccomp;
mod syscalls;
pub mod view;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::fault::{Explain, FileError};
use crate::sys::{self, Forked};
use prepared::Prepared;

/// Uids and gids of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Root inside is this uid and gid outside, which nobody else has.
    Own(u32),
    /// Root inside is whoever runs host: all that is possible without privileges.
    Shared,
}

/// What network a sandbox has.
#[derive(Debug)]
pub enum Network {
    /// The host's.
    Host,
    /// A new, empty one.
    Empty,
}

/// Where the namespaces and the root of a sandbox come from.
#[derive(Debug)]
pub enum Origin {
    /// They are made now.
    New(Network),
    /// They were made ahead, with an empty network; [`Spec::view`] is added to what their root holds already.
    Prepared(Prepared),
}

impl Origin {
    /// In words, for reports.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::New(_) => "made on the spot",
            Self::Prepared(_) => "made ahead",
        }
    }
}

/// How eagerly a sandbox is scheduled where no cgroup says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eagerness {
    /// Nice value, 0 to 19.
    pub nice: i32,
    /// Only when nothing else runs.
    pub idle: bool,
}

/// Everything a sandbox is made from.
#[derive(Debug)]
pub struct Spec {
    /// Its host name, and what messages call it.
    pub name: String,
    /// Program and arguments, as paths inside.
    pub command: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Who it is.
    pub identity: Identity,
    /// What it sees.
    pub view: Vec<view::Item>,
    /// What it is made in.
    pub origin: Origin,
    /// Resource limits of the program.
    pub rlimits: Vec<(rustix::process::Resource, u64)>,
    /// How it is scheduled.
    pub eagerness: Eagerness,
    /// What it may ask of the kernel.
    pub filter: Rc<[libc::sock_filter]>,
    /// Descriptor 3.
    pub channel: Option<OwnedFd>,
    /// Whether the kernel kills it when host dies.
    pub dies_with_host: bool,
    /// File mode bits that its files do not get.
    pub umask: u32,
}

/// What a sandbox leaves behind.
#[derive(Debug)]
pub struct Ends {
    /// Standard output and error.
    pub output: OwnedFd,
    /// Where init writes how the program ended.
    pub exit_file: File,
}

/// A sandbox that has been begun.
#[derive(Debug)]
pub struct Spawned {
    /// Process id of its init.
    pub pid: i32,
    /// Its init.
    pub pidfd: OwnedFd,
    /// Read end of the status pipe; see [`outcome`].
    pub status: OwnedFd,
    /// Host's end of the cord, kept until the start is over: its end tells a child that host is gone.
    pub cord: OwnedFd,
}

/// Why a sandbox could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A descriptor or file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// The process could not be made.
    #[error("cannot make a process in new namespaces: {0}")]
    Clone(io::Error),
}

impl Explain for SandboxError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Clone(error) => Some(match error.raw_os_error() {
                Some(libc::EPERM) => "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, and \
                     kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu), or run as root"
                    .into(),
                Some(libc::ENOSPC | libc::EUSERS) => "raise the limits in /proc/sys/user".into(),
                Some(libc::EAGAIN) => "raise the limit of processes (ulimit -u, pids.max)".into(),
                _ => "use a kernel of 5.15 or later with namespaces (verge doctor names what is missing)"
                    .into(),
            }),
        }
    }
}

/// A sandbox whose init is being made. Dropped before [`Self::go`], it ends.
#[derive(Debug)]
pub struct Begun {
    /// Process id of its init.
    pub pid: i32,
    /// `None` once it has been let go.
    spawned: Option<Spawned>,
}

/// Begins a sandbox, in the group of cgroup version 2 that `born_in` stands for. Its init works on while the caller
/// makes the rest, and its program does not run before [`Begun::go`], so that the pid can be written down
/// first: if host dies before, the init sees the cord end and ends itself.
///
/// # Errors
/// If the process cannot be made or mapped; nothing is left of it then.
pub fn begin(spec: &Spec, born_in: Option<&OwnedFd>) -> Result<Begun, SandboxError> {
    let (cord, their_cord) = cord::pair()?;
    let (status, status_write) = pipe()?;
    match clone(spec, born_in).map_err(SandboxError::Clone)? {
        Forked::Child => {
            // The parent's end must close when the parent dies, so no copy of it may stay here.
            drop((cord, status));
            inside::run(spec, &their_cord, &status_write)
        }
        Forked::Parent { pid, pidfd } => {
            let begun = Begun { pid, spawned: Some(Spawned { pid, pidfd, status, cord }) };
            if matches!(spec.origin, Origin::New(_)) {
                map_identity(pid, spec.identity)?;
            }
            Ok(begun)
        }
    }
}

impl Begun {
    /// Lets its init join the groups of cgroup version 1 whose `tasks` files these are, by writing `0`: a single
    /// thread that moves itself does not wait for an RCU grace period of about 15 ms. Must come before
    /// [`Self::go`], even if there are none.
    ///
    /// # Errors
    /// If it cannot be told.
    pub fn join(&self, tasks: &[File]) -> Result<(), SandboxError> {
        let spawned = self.spawned.iter();
        Ok(spawned.map(|spawned| &spawned.cord).try_for_each(|cord| cord::say_join(cord, tasks))?)
    }

    /// Lets its program run. Whether it does, the status pipe will say: see [`outcome`].
    ///
    /// # Errors
    /// If it cannot be told; nothing is left of it then.
    pub fn go(mut self, ends: &Ends) -> Result<Spawned, SandboxError> {
        if let Some(spawned) = &self.spawned {
            cord::say_go(&spawned.cord, ends)?;
        }
        self.spawned.take().ok_or(SandboxError::Clone(io::ErrorKind::NotFound.into()))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(spawned) = &self.spawned {
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(spawned.pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
        }
    }
}

fn clone(spec: &Spec, born_in: Option<&OwnedFd>) -> io::Result<Forked> {
    let fresh = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWPID;
    let namespaces = match spec.origin {
        Origin::New(Network::Host) => fresh,
        Origin::New(Network::Empty) => fresh | libc::CLONE_NEWNET,
        Origin::Prepared(_) => libc::CLONE_NEWPID,
    };
    sys::clone3(namespaces, born_in.map(AsFd::as_fd))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), FileError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(FileError::at("make", "a pipe"))
}

fn map_identity(pid: i32, identity: Identity) -> Result<(), FileError> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(FileError::at("write", path))
    };
    match identity {
        Identity::Own(id) => {
            write("uid_map", format!("0 {id} 1"))?;
            write("gid_map", format!("0 {id} 1"))
        }
        Identity::Shared => {
            write("setgroups", "deny".into())?;
            write("uid_map", format!("0 {} 1", rustix::process::geteuid().as_raw()))?;
            write("gid_map", format!("0 {} 1", rustix::process::getegid().as_raw()))
        }
    }
}

/// What a status pipe has said so far, once it is at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program is running.
    Running,
    /// This went wrong.
    Failed(policies::host::HostRefusal),
}

/// Reads a status pipe that has reached its end.
pub fn outcome(said: &[u8]) -> Outcome {
    let report = said.strip_prefix(b"x").unwrap_or(said);
    if said == b"x" {
        return Outcome::Running;
    }
    Outcome::Failed(serde_json::from_slice(report).unwrap_or_else(|_| {
        crate::fault::refuse(
            "make the sandbox",
            "its init died before the program began",
            Some("give it more memory (resources.memory) or look into the kernel log"),
        )
    }))
}

impl Spec {
    /// Directories inside in which the program may write, as far as owner and mode allow.
    fn writable_places(&self) -> Vec<std::path::PathBuf> {
        let inside = |at: &std::path::Path| std::path::Path::new("/").join(at);
        let places = self.view.iter().filter_map(|item| match item {
            view::Item::Bind { at, writable: true, .. } | view::Item::Tmpfs { at, .. } => Some(inside(at)),
            view::Item::Devices => Some("/dev".into()),
            view::Item::Proc => Some("/proc".into()),
            _ => None,
        });
        // What every root that is made ahead has.
        let prepared: &[&str] =
            if matches!(self.origin, Origin::Prepared(_)) { &["/dev", "/tmp"] } else { &[] };
        places.chain(prepared.iter().map(Into::into)).collect()
    }
}
