//! Taking over a descriptor that was left open across exec: how a face gets its host channel.

#![allow(unsafe_code, reason = "a number becomes an owner here, once")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The descriptor on which a face finds its host channel.
const HOST_CHANNEL: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The host channel of this process. Can be taken once, before anything else opens descriptors.
///
/// # Errors
/// If it was taken already, or the descriptor is not open: the program was not started by verge-host.
pub fn host_channel() -> io::Result<OwnedFd> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the host channel was taken already"));
    }
    // SAFETY: F_GETFD reads a flag of a descriptor and touches no memory.
    if unsafe { libc::fcntl(HOST_CHANNEL, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (checked above), was left to this process by the one that started it, and
    // nobody else in this process owns it: the flag lets it be taken once.
    let channel = unsafe { OwnedFd::from_raw_fd(HOST_CHANNEL) };
    rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC)?;
    Ok(channel)
}
