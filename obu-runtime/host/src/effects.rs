//! The connection to the effect server: made without waiting, watched, and made again when it breaks. The bus
//! face has no network and gets the stream handed over each time.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// How long to wait before trying again.
const AGAIN: Duration = Duration::from_secs(1);

/// The connection, in whatever state.
#[derive(Debug)]
pub struct Effects {
    server: SocketAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle(Instant),
    Connecting(OwnedFd),
    /// A duplicate of what the bus face holds, to notice the end.
    Connected(OwnedFd),
}

impl Effects {
    /// Connects to `server` as soon as [`Self::tick`] is called.
    pub fn new(server: SocketAddr, now: Instant) -> Self {
        Self { server, state: State::Idle(now) }
    }

    /// What to poll.
    pub fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Idle(_) => None,
            State::Connecting(socket) => Some((socket.as_fd(), PollFlags::OUT)),
            State::Connected(socket) => Some((socket.as_fd(), PollFlags::RDHUP)),
        }
    }

    /// When to call [`Self::tick`].
    pub fn next_wake(&self) -> Option<Instant> {
        match self.state {
            State::Idle(at) => Some(at),
            State::Connecting(_) | State::Connected(_) => None,
        }
    }

    /// Begins a connection if one is due.
    pub fn tick(&mut self, now: Instant) {
        if self.next_wake().is_some_and(|at| at <= now) {
            self.state = self.begin().map_or(State::Idle(now + AGAIN), State::Connecting);
        }
    }

    fn begin(&self) -> Option<OwnedFd> {
        let family = if self.server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).ok()?;
        match connect(&socket, &self.server) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Some(socket),
            Err(_) => None,
        }
    }

    /// Something happened on the socket. A new stream for the bus face, if there is one.
    pub fn ready(&mut self, now: Instant) -> Option<OwnedFd> {
        let again = State::Idle(now + AGAIN);
        match std::mem::replace(&mut self.state, again) {
            State::Connecting(socket) => {
                let connected = sockopt::socket_error(&socket).is_ok_and(|result| result.is_ok());
                let ours = connected.then(|| socket.try_clone().ok()).flatten()?;
                self.state = State::Connected(ours);
                Some(socket)
            }
            // Broken: the next attempt comes with the next tick that is due.
            State::Connected(_) | State::Idle(_) => None,
        }
    }

    /// The bus face was started anew: it needs a stream of its own, not what its predecessor was in the middle of.
    pub fn renew(&mut self, now: Instant) {
        self.state = State::Idle(now);
    }
}
