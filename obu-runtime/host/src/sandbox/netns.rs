//! Empty network namespaces, made ahead. Making one costs 0.3 to 0.4 ms and is the dearest part of a start;
//! entering one that exists costs nothing. One namespace serves one sandbox and is never used again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::fault::FileError;
use crate::sys::{self, Forked};

/// How many are kept ready. A burst of starts beyond it pays the full price; each costs 200 KiB of kernel memory.
const READY: usize = 4;

const OWN: &str = "/proc/self/ns/net";

/// Namespaces that wait for their sandbox.
#[derive(Debug, Default)]
pub struct Pool {
    ready: Vec<OwnedFd>,
    given_up: bool,
}

impl Pool {
    /// Takes one, if one is ready.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.ready.pop()
    }

    /// Whether there is room for more.
    pub fn wants_more(&self) -> bool {
        !self.given_up && self.ready.len() < READY
    }

    /// Makes one more. For idle moments.
    pub fn refill(&mut self) {
        match make() {
            Ok(namespace) => self.ready.push(namespace),
            // Not privileged, or out of namespaces: each sandbox makes its own.
            Err(_) => self.given_up = true,
        }
    }
}

fn open_own() -> Result<OwnedFd, FileError> {
    File::open(OWN).map(Into::into).map_err(FileError::at("open", OWN))
}

fn make() -> Result<OwnedFd, FileError> {
    let home = open_own()?;
    sys::unshare(UnshareFlags::NEWNET).map_err(FileError::at("make a network namespace beside", OWN))?;
    let made = open_own();
    enter(&home)?;
    made
}

fn enter(namespace: &OwnedFd) -> Result<(), FileError> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(FileError::at("enter", "a network namespace"))
}

/// Forks with `fork` inside `namespace`: the child stays there, the caller comes back.
///
/// # Errors
/// If the namespace cannot be entered (then `fork` has not run), or `fork`'s own. The child gets no error from
/// here: it must never run on as if it were host.
pub(super) fn fork_within(
    namespace: &OwnedFd,
    fork: impl FnOnce() -> io::Result<Forked>,
) -> io::Result<Forked> {
    let other = |error: FileError| io::Error::other(error.to_string());
    let home = open_own().map_err(other)?;
    enter(namespace).map_err(other)?;
    let forked = fork();
    if !matches!(forked, Ok(Forked::Child))
        && let Err(error) = enter(&home)
    {
        // In the wrong network nothing that host does next would be right.
        eprintln!("verge-host: cannot come back to its own network namespace: {error}");
        sys::exit(1);
    }
    forked
}
