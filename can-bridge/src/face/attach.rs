//! Channels that reach the loop while it runs: a queue with a socket that wakes the loop.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use policies::id::TenantId;

use super::EffectStream;

/// What the loop is given.
#[derive(Debug)]
pub enum Attach {
    /// The channel to a tenant's border. Replaces an earlier one.
    Border(TenantId, UnixStream),
    /// The channel to node. Replaces the earlier one.
    Node(UnixStream),
    /// The effect server. Replaces the earlier connection.
    Effect(EffectStream),
    /// End in order.
    Stop,
}

/// The end that other threads hold.
#[derive(Debug)]
pub struct AttachSender {
    queue: Sender<Attach>,
    wake: UnixStream,
}

/// The loop's end.
#[derive(Debug)]
pub struct AttachReceiver {
    queue: Receiver<Attach>,
    wake: UnixStream,
}

/// A queue for [`Attach`].
///
/// # Errors
/// If the system has no descriptors left.
pub fn attach_channel() -> io::Result<(AttachSender, AttachReceiver)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let (sender, receiver) = mpsc::channel();
    Ok((AttachSender { queue: sender, wake: theirs }, AttachReceiver { queue: receiver, wake: ours }))
}

impl AttachSender {
    /// Hands something to the loop. `false` if the loop has ended.
    pub fn send(&self, attach: Attach) -> bool {
        let sent = self.queue.send(attach).is_ok();
        // A full socket means that a wake-up is under way already.
        let _ = (&self.wake).write(&[1]);
        sent
    }
}

impl AttachReceiver {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes back the wake-ups; false once all senders are gone.
    pub(super) fn acknowledge(&mut self) -> bool {
        let mut bytes = [0; 64];
        loop {
            match self.wake.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    pub(super) fn next(&self) -> Result<Attach, TryRecvError> {
        self.queue.try_recv()
    }
}
