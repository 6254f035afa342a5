//! The host channel of one face: whole messages, in order, with at most one descriptor each; a bounded queue
//! behind it, so that a face that does not read cannot hold host up or make it grow.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use policies::face::{Attachment, FromHost, ToHost};
use policies::host::HostEvent;
use policies::wire::{self, Kind};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair, sockopt,
};

use crate::fault::FileError;

/// Largest message either way. A start with its command and environment is the longest.
pub const PACKET_LEN_MAX: usize = 256 << 10;

/// Most messages that wait for a face. Beyond it the face counts as hung.
const WAITING_MAX: usize = 4096;

/// Kernel buffer asked for: several of the largest messages.
const BUFFER_LEN: usize = 4 * PACKET_LEN_MAX;

/// Host's end of a face's channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    broken: bool,
}

/// What came in.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(ToHost),
    /// Bytes that are none; the text says why.
    Garbage(String),
    /// Nothing at the moment.
    Nothing,
    /// The face has closed its end.
    Closed,
}

impl Channel {
    /// Makes a channel; the second value is the face's end.
    ///
    /// # Errors
    /// If the kernel has no descriptors left.
    pub fn new() -> Result<(Self, OwnedFd), FileError> {
        let failed = |error| FileError::at("make", "a host channel")(error);
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
        // As large as the kernel allows; what does not fit waits here.
        let _ = sockopt::set_socket_send_buffer_size(&ours, BUFFER_LEN);
        let _ = sockopt::set_socket_send_buffer_size(&theirs, BUFFER_LEN);
        Ok((Self { socket: ours, waiting: VecDeque::new(), broken: false }, theirs))
    }

    /// For polling.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the other side is gone or does not read any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Sends a message of host's.
    pub fn say(&mut self, message: &FromHost) {
        self.queue(wire::encode(Kind::Face, message), None);
    }

    /// Hands over a descriptor.
    pub fn attach(&mut self, what: Attachment, descriptor: OwnedFd) {
        self.queue(wire::encode(Kind::Face, &FromHost::Attach(what)), Some(descriptor));
    }

    /// Reports an event (node only).
    pub fn report(&mut self, event: &HostEvent) {
        self.queue(wire::encode(Kind::HostEvent, event), None);
    }

    fn queue(&mut self, frame: Result<Vec<u8>, wire::WireError>, descriptor: Option<OwnedFd>) {
        match frame {
            Ok(frame) if frame.len() <= PACKET_LEN_MAX && self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back((frame, descriptor));
                self.flush();
            }
            _ => self.broken = true,
        }
    }

    /// Sends as much of what waits as the kernel takes now.
    pub fn flush(&mut self) {
        while let Some((frame, descriptor)) = self.waiting.front() {
            match send(&self.socket, frame, descriptor.as_ref()) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Takes one message, if there is one. Descriptors that come with it are thrown away by the kernel, because
    /// no room is offered for them.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Received {
        buffer.resize(PACKET_LEN_MAX, 0);
        match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => Received::Closed,
            Ok((_, len)) if len > PACKET_LEN_MAX => Received::Garbage(format!("a packet of {len} bytes")),
            Ok((_, len)) => match wire::decode(Kind::Face, &buffer[..len]) {
                Ok(message) => Received::Message(message),
                Err(error) => Received::Garbage(error.to_string()),
            },
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }
}

fn send(socket: &OwnedFd, frame: &[u8], descriptor: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(frame)], &mut control, flags).map(drop)
}

/// The host channel that this process inherited as descriptor 3.
///
/// # Errors
/// If host did not start this process.
pub fn inherited() -> std::io::Result<OwnedFd> {
    crate::sys::duplicate(3)
}

/// A face's side of its channel, as every face (and a test that plays one) uses it.
///
/// # Errors
/// The kernel's; `Ok(None)` when host is gone.
pub fn receive_from_host(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<(usize, Option<OwnedFd>)>> {
    buffer.resize(PACKET_LEN_MAX, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 || got.flags.contains(ReturnFlags::TRUNC) {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Some((got.bytes, descriptor)))
}
