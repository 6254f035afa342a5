//! A sandbox: a tiny init as pid 1 of its own namespaces, and one program under it that sees nothing of the
//! machine but what its [`Spec`] names. Apps and faces are both started this way.
//!
//! ```text
//!   host                        init (pid 1, copy of host)               program
//!   clone3(namespaces) ------->  waits
//!   writes uid map, "go" ----->  joins cgroups, mounts, pivots,
//!                                drops rights, installs the filter
//!                                fork ------------------------------->   "x", exec
//!   status pipe: "x" and end of file <---------------------------------  (closed by exec)
//!   status pipe: reason      <------- whatever failed on the way -----
//!   pidfd readable           <------- writes the exit file, ends  <----  ends
//! ```
//!
//! The order matters: whatever fails is reported through the status pipe with what, why and fix, and then the
//! init ends, which takes everything in its namespaces with it. Nothing half-made stays behind.

pub mod fence;
mod init;
mod inside;
pub mod libraries;
pub mod netns;
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
    /// An empty one made beforehand.
    Made(OwnedFd),
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
    /// What network it has.
    pub network: Network,
    /// Resource limits of the program.
    pub rlimits: Vec<(rustix::process::Resource, u64)>,
    /// How it is scheduled.
    pub eagerness: Eagerness,
    /// What it may ask of the kernel.
    pub filter: Rc<[libc::sock_filter]>,
    /// Standard output and error.
    pub output: OwnedFd,
    /// Descriptor 3.
    pub channel: Option<OwnedFd>,
    /// Where init writes how the program ended.
    pub exit_file: File,
    /// Whether the kernel kills it when host dies.
    pub dies_with_host: bool,
    /// File mode bits that its files do not get.
    pub umask: u32,
}

/// How a sandbox's processes get into their cgroups.
#[derive(Debug, Default)]
pub struct Join {
    /// A version 2 group, joined by being born in it.
    pub into: Option<OwnedFd>,
    /// `tasks` files of version 1, joined by writing `0`: a single thread that moves itself does not wait for
    /// an RCU grace period of about 15 ms.
    pub tasks: Vec<File>,
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
    /// Kept until the start is over: its end tells a child that host is gone.
    pub go: OwnedFd,
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

/// Begins a sandbox. Whether its program runs, the status pipe will say: see [`outcome`].
///
/// `before_go` gets the init's pid before it does anything, so that it can be written down: if host dies between
/// the two, the init sees the pipe end and ends itself.
///
/// # Errors
/// If the process cannot be made or mapped; nothing is left of it then.
pub fn spawn(
    spec: &Spec,
    join: &Join,
    before_go: impl FnOnce(i32) -> Result<(), FileError>,
) -> Result<Spawned, SandboxError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(FileError::at("make", "a pipe"));
    let (go_read, go) = pipe()?;
    let (status, status_write) = pipe()?;
    let forked = match &spec.network {
        Network::Made(namespace) => netns::fork_within(namespace, || clone(spec, join)),
        Network::Host | Network::Empty => clone(spec, join),
    };
    match forked.map_err(SandboxError::Clone)? {
        Forked::Child => {
            // The parent's end must close when the parent dies, so no copy of it may stay here.
            drop((go, status));
            inside::run(spec, join, &go_read, status_write)
        }
        Forked::Parent { pid, pidfd } => {
            if let Err(error) =
                map_identity(pid, spec.identity).and_then(|()| before_go(pid)).and_then(|()| say_go(&go))
            {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(pidfd.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
                return Err(error.into());
            }
            Ok(Spawned { pid, pidfd, status, go })
        }
    }
}

fn clone(spec: &Spec, join: &Join) -> io::Result<Forked> {
    let mut namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    if matches!(spec.network, Network::Empty) {
        namespaces |= libc::CLONE_NEWNET;
    }
    sys::clone3(namespaces, join.into.as_ref().map(AsFd::as_fd))
}

fn say_go(go: &OwnedFd) -> Result<(), FileError> {
    rustix::io::write(go, b"g").map(drop).map_err(FileError::at("write to", "the start pipe"))
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
        self.view
            .iter()
            .filter_map(|item| match item {
                view::Item::Bind { at, writable: true, .. } | view::Item::Tmpfs { at, .. } => {
                    Some(inside(at))
                }
                view::Item::Devices => Some("/dev".into()),
                view::Item::Proc => Some("/proc".into()),
                _ => None,
            })
            .collect()
    }
}
