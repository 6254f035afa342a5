//! Sandboxes made ahead: namespaces, uid map and mounts of an app that does not exist yet, so that a start only has
//! to add what is the app's own. One serves one app and is never used again.
//!
//! ```text
//!   host                                    maker (copy of host, lives for a millisecond)
//!   clone3(user, mount, ipc, uts) -------->  waits
//!   writes uid map, says so -------------->  makes the network namespace and the root
//!   opens its namespaces  <-- "r" ---------  waits
//!   closes its cord ---------------------->  ends; the descriptors keep the namespaces
//! ```
//!
//! Only descriptors wait, no process: if host dies they are closed, and the kernel takes the rest away. The pid
//! namespace is not among them, because its first process must be born in the app's cgroup; the cgroup namespace
//! is not, because one made earlier would show the host's path of the group.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::{Identity, SandboxError, cord, inside, map_identity, pipe, view};
use crate::fault::FileError;
use crate::sys::{self, Forked};

/// How many are kept ready. A burst of starts beyond it pays the full price; each costs about 300 KiB of kernel
/// memory, 200 of them for its network namespace.
pub const READY_MAX: usize = 4;

/// The namespaces that are made ahead: what /proc calls them, and their type. In the order in which they must be
/// entered: the rights over the others come with the first.
const NAMESPACES: [(&str, LinkNameSpaceType); 5] = [
    ("user", LinkNameSpaceType::User),
    ("net", LinkNameSpaceType::Network),
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("mnt", LinkNameSpaceType::Mount),
];

/// What a maker says when it is done.
const READY: &[u8] = b"r";

/// A sandbox that waits for its app.
#[derive(Debug)]
pub struct Prepared {
    number: u32,
    namespaces: [OwnedFd; NAMESPACES.len()],
}

impl Prepared {
    /// The number, among the uids of apps, that its files and processes belong to.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What must stay open until it is entered.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.namespaces.iter().map(AsRawFd::as_raw_fd)
    }

    /// Moves the calling process in.
    pub(super) fn enter(&self) -> io::Result<()> {
        for (descriptor, (_, kind)) in self.namespaces.iter().zip(NAMESPACES) {
            move_into_link_name_space(descriptor.as_fd(), Some(kind))?;
        }
        Ok(())
    }
}

/// A sandbox in the making.
#[derive(Debug)]
struct Maker {
    number: u32,
    pid: i32,
    pidfd: OwnedFd,
    /// Its word that it is done; `None` once that has come and only its end is waited for.
    status: Option<OwnedFd>,
    /// Its end ends the maker.
    cord: Option<OwnedFd>,
}

/// Sandboxes that wait for their app, and the one that is being made.
#[derive(Debug, Default)]
pub struct Pool {
    ready: Vec<Prepared>,
    maker: Option<Maker>,
    given_up: bool,
}

impl Pool {
    /// Takes one, if one is ready.
    pub fn take(&mut self) -> Option<Prepared> {
        self.ready.pop()
    }

    /// Whether there is room for more, and none in the making.
    pub fn wants_more(&self) -> bool {
        !self.given_up && self.maker.is_none() && self.ready.len() < READY_MAX
    }

    /// Whether the sandbox with this number is here or being made.
    pub fn holds(&self, number: u32) -> bool {
        self.ready
            .iter()
            .map(Prepared::number)
            .chain(self.maker.iter().map(|m| m.number))
            .any(|n| n == number)
    }

    /// Begins to make one more with this number and identity and these contents. If it cannot be made, no other
    /// will be tried: each app then makes its own.
    pub fn begin(&mut self, number: u32, identity: Identity, items: &[view::Item]) {
        match Maker::begin(number, identity, items) {
            Ok(maker) => self.maker = Some(maker),
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    fn give_up(&mut self, why: &str) {
        self.given_up = true;
        eprintln!("verge-host: makes no sandboxes ahead, starts are slower: {why}");
    }

    /// What to poll for reading.
    pub fn waits(&self) -> Option<&OwnedFd> {
        self.maker.as_ref().map(|maker| maker.status.as_ref().unwrap_or(&maker.pidfd))
    }

    /// Something happened on what [`Self::waits`] gave.
    pub fn advance(&mut self) {
        let Some(maker) = &mut self.maker else { return };
        let Some(status) = maker.status.take() else {
            maker.reap();
            self.maker = None;
            return;
        };
        let made = maker.collect(&status);
        // Ends it; its end is waited for by the loop.
        maker.cord = None;
        match made {
            Ok(prepared) => self.ready.push(prepared),
            Err(why) => self.give_up(&why),
        }
    }
}

impl Maker {
    fn begin(number: u32, identity: Identity, items: &[view::Item]) -> Result<Self, SandboxError> {
        let (cord, their_cord) = cord::pair()?;
        let (status, status_write) = pipe()?;
        let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        match sys::clone3(namespaces, None).map_err(SandboxError::Clone)? {
            Forked::Child => {
                // The parent's end must close when the parent dies, so no copy of it may stay here.
                drop((cord, status));
                inside::make(items, identity, &their_cord, &status_write)
            }
            Forked::Parent { pid, pidfd } => {
                let mut maker = Self { number, pid, pidfd, status: Some(status), cord: Some(cord) };
                let told = map_identity(pid, identity)
                    .and_then(|()| maker.cord.iter().try_for_each(|cord| cord::say_join(cord, &[])));
                match told {
                    Ok(()) => Ok(maker),
                    Err(error) => {
                        maker.end();
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// Takes what was made.
    fn collect(&self, status: &OwnedFd) -> Result<Prepared, String> {
        let mut said = [0u8; 1024];
        let len = rustix::io::read(status, &mut said).unwrap_or(0);
        if said[..len] != *READY {
            return Err(String::from_utf8_lossy(&said[..len]).into_owned());
        }
        let open = |(name, _)| {
            let path = format!("/proc/{}/ns/{name}", self.pid);
            File::open(&path)
                .map(OwnedFd::from)
                .map_err(|error| FileError::at("open", &path)(error).to_string())
        };
        let [user, net, ipc, uts, mnt] = NAMESPACES.map(open);
        Ok(Prepared { number: self.number, namespaces: [user?, net?, ipc?, uts?, mnt?] })
    }

    fn end(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.reap();
    }

    fn reap(&self) {
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// What a maker does in its own namespaces once it has been told to.
pub(super) fn build(items: &[view::Item]) -> Result<(), SandboxError> {
    sys::unshare(UnshareFlags::NEWNET).map_err(SandboxError::Clone)?;
    view::found(items)?;
    Ok(())
}

/// Says that all is made, and waits until host has taken it or is gone.
pub(super) fn offer(status: &OwnedFd, cord: &OwnedFd) {
    let _ = rustix::io::write(status, READY);
    cord::wait_for_end(cord);
}
