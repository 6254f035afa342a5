//! Channels between the processes of one node: framed streams between faces, and the host channel with its
//! descriptors.
//!
//! A [`Sender`] never blocks the one who sends: it has a bounded queue and a writer task. Control messages
//! wait for a place ([`Sender::send`]); data that ages is dropped and counted ([`Sender::offer`]).

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policies::face::{Attachment, FromHost, ToHost};
use policies::host::HostEvent;
use policies::wire::{self, Kind, WireError};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::mpsc;

/// Messages that may wait for a slow reader. Frames of a camera are the biggest: 64 of 100 kB are 6.4 MB.
const QUEUE_LEN_MAX: usize = 64;

/// Largest message on the host channel: a start with a long command, or a report of all apps.
const HOST_MESSAGE_LEN_MAX: usize = 256 << 10;

/// Descriptors that may come with one message.
const FDS_MAX: usize = 4;

/// Failures of a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket itself.
    #[error("cannot {operation} the channel to {peer}: {source}")]
    Io {
        /// `open`, `read`, `write`.
        operation: &'static str,
        /// The other process.
        peer: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The other side sent something that is not a message.
    #[error("{peer} sent something that is not a message: {source}")]
    Wire {
        /// The other process.
        peer: String,
        /// What is wrong with it.
        source: WireError,
    },
    /// The other side is gone.
    #[error("the channel to {peer} is closed")]
    Closed {
        /// The other process.
        peer: String,
    },
}

/// The sending half of a channel. Cheap to clone.
pub struct Sender<S> {
    queue: mpsc::Sender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    peer: Arc<str>,
    carries: PhantomData<fn(S)>,
}

impl<S> Clone for Sender<S> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            dropped: self.dropped.clone(),
            peer: self.peer.clone(),
            carries: PhantomData,
        }
    }
}

impl<S> fmt::Debug for Sender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S: Serialize> Sender<S> {
    /// Queues a message, waiting for a place.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if the other side is gone, [`ChannelError::Wire`] if it is too long.
    pub async fn send(&self, message: &S) -> Result<(), ChannelError> {
        let frame = self.encode(message)?;
        self.queue.send(frame).await.map_err(|_| ChannelError::Closed { peer: self.peer.to_string() })
    }

    /// Queues a message if there is a place; otherwise drops it and counts. `false` if it was dropped.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn offer(&self, message: &S) -> Result<bool, ChannelError> {
        let frame = self.encode(message)?;
        match self.queue.try_send(frame) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(ChannelError::Closed { peer: self.peer.to_string() })
            }
        }
    }

    /// Messages dropped by [`Self::offer`] so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn encode(&self, message: &S) -> Result<Vec<u8>, ChannelError> {
        wire::encode(Kind::Face, message)
            .map_err(|source| ChannelError::Wire { peer: self.peer.to_string(), source })
    }
}

/// The receiving half of a channel.
#[derive(Debug)]
pub struct Receiver<R> {
    stream: OwnedReadHalf,
    peer: Arc<str>,
    buffer: Vec<u8>,
    carries: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Receiver<R> {
    /// The next message; `None` when the other side closed in order. Not cancel-safe: give it a task of
    /// its own, see [`Self::forward`].
    ///
    /// # Errors
    /// [`ChannelError::Wire`] for foreign bytes: the stream cannot be trusted after that.
    pub async fn recv(&mut self) -> Result<Option<R>, ChannelError> {
        self.buffer.resize(wire::HEADER_LEN, 0);
        match self.stream.read_exact(&mut self.buffer).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(source) => return Err(self.io("read", source)),
        }
        let wire_error = |source| ChannelError::Wire { peer: self.peer.to_string(), source };
        let len = wire::body_len(&self.buffer).map_err(wire_error)?;
        self.buffer.resize(wire::HEADER_LEN + len, 0);
        let read = self.stream.read_exact(&mut self.buffer[wire::HEADER_LEN..]).await;
        read.map_err(|source| self.io("read", source))?;
        wire::decode(Kind::Face, &self.buffer).map(Some).map_err(wire_error)
    }

    fn io(&self, operation: &'static str, source: io::Error) -> ChannelError {
        ChannelError::Io { operation, peer: self.peer.to_string(), source }
    }

    /// Moves every message into `queue` on a task of its own, wrapped by `wrap`; `None` marks the end.
    pub fn forward<T, F>(mut self, queue: mpsc::Sender<T>, wrap: F)
    where
        R: Send + 'static,
        T: Send + 'static,
        F: Fn(Option<R>) -> T + Send + 'static,
    {
        tokio::spawn(async move {
            loop {
                let message = self.recv().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "channel broken");
                    None
                });
                let ended = message.is_none();
                if queue.send(wrap(message)).await.is_err() || ended {
                    return;
                }
            }
        });
    }
}

/// Makes a channel of a connected stream socket. Must be called within a tokio runtime.
///
/// # Errors
/// [`ChannelError::Io`] if the descriptor is no stream socket.
pub fn channel<S, R>(fd: OwnedFd, peer: &str) -> Result<(Sender<S>, Receiver<R>), ChannelError> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    let io = |source| ChannelError::Io { operation: "open", peer: peer.to_owned(), source };
    stream.set_nonblocking(true).map_err(io)?;
    let (read, write) = UnixStream::from_std(stream).map_err(io)?.into_split();
    let (queue, waiting) = mpsc::channel(QUEUE_LEN_MAX);
    let peer: Arc<str> = peer.into();
    tokio::spawn(write_all(write, waiting, peer.clone()));
    let sender = Sender { queue, dropped: Arc::default(), peer: peer.clone(), carries: PhantomData };
    Ok((sender, Receiver { stream: read, peer, buffer: Vec::new(), carries: PhantomData }))
}

async fn write_all(mut stream: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>, peer: Arc<str>) {
    while let Some(frame) = waiting.recv().await {
        if let Err(error) = stream.write_all(&frame).await {
            tracing::debug!(%peer, %error, "channel ends");
            return;
        }
    }
}

/// The channel to verge-host: one message a packet, descriptors beside it.
#[derive(Debug)]
pub struct HostChannel {
    /// A sequenced-packet socket; tokio's datagram type is used for its polling alone.
    socket: UnixDatagram,
}

/// What host says to a face.
#[derive(Debug)]
pub enum HostSays {
    /// To any face; with the descriptor if it is an attachment.
    Face(FromHost, Option<OwnedFd>),
    /// To node.
    Event(HostEvent),
}

fn host_io(operation: &'static str) -> impl Fn(io::Error) -> ChannelError {
    move |source| ChannelError::Io { operation, peer: "verge-host".into(), source }
}

impl HostChannel {
    /// Wraps the inherited socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ChannelError::Io`] if the descriptor cannot be polled.
    pub fn new(fd: OwnedFd) -> Result<Self, ChannelError> {
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        socket.set_nonblocking(true).map_err(host_io("open"))?;
        Ok(Self { socket: UnixDatagram::from_std(socket).map_err(host_io("open"))? })
    }

    /// Sends a message to host.
    ///
    /// # Errors
    /// [`ChannelError::Io`] if host is gone.
    pub async fn send(&self, message: &ToHost) -> Result<(), ChannelError> {
        let wire = |source| ChannelError::Wire { peer: "verge-host".into(), source };
        let frame = wire::encode(Kind::Face, message).map_err(wire)?;
        let send = || {
            let iov = [io::IoSlice::new(&frame)];
            let mut none = SendAncillaryBuffer::default();
            rustix::net::sendmsg(&self.socket, &iov, &mut none, SendFlags::NOSIGNAL).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await.map(|_| ()).map_err(host_io("write"))
    }

    /// The next message; `None` when host is gone. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Wire`] if it is not one.
    pub async fn recv(&self) -> Result<Option<HostSays>, ChannelError> {
        let got = self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await;
        let (packet, mut fds) = match got {
            // It ended with messages of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            got => got.map_err(host_io("read"))?,
        };
        if packet.is_empty() {
            return Ok(None);
        }
        parse(&packet, fds.pop()).map(Some)
    }
}

fn receive(fd: &UnixDatagram) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut packet = vec![0; HOST_MESSAGE_LEN_MAX];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [io::IoSliceMut::new(&mut packet)];
    let got = rustix::net::recvmsg(fd, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    packet.truncate(got.bytes);
    Ok((packet, fds))
}

fn parse(packet: &[u8], fd: Option<OwnedFd>) -> Result<HostSays, ChannelError> {
    let wire = |source| ChannelError::Wire { peer: "verge-host".into(), source };
    if packet.get(3) == Some(&(Kind::HostEvent as u8)) {
        return wire::decode(Kind::HostEvent, packet).map(HostSays::Event).map_err(wire);
    }
    wire::decode(Kind::Face, packet).map(|message| HostSays::Face(message, fd)).map_err(wire)
}

/// Everything a face is given before it begins.
#[derive(Debug)]
pub struct FaceStart {
    /// Which face this is.
    pub face: policies::host::Face,
    /// This node.
    pub node: policies::id::NodeId,
    /// This life.
    pub incarnation: policies::id::Incarnation,
    /// Its configuration, TOML.
    pub config: String,
    /// How many times slower than real time limits count.
    pub time_scale: u32,
    /// Descriptors, in the order they came.
    pub attachments: Vec<(Attachment, OwnedFd)>,
}

impl FaceStart {
    /// Takes the attachment that `pick` recognises out of the list.
    pub fn take(&mut self, pick: impl Fn(&Attachment) -> bool) -> Option<OwnedFd> {
        let at = self.attachments.iter().position(|(what, _)| pick(what))?;
        Some(self.attachments.remove(at).1)
    }

    /// Takes the file of that name and reads it whole.
    ///
    /// # Errors
    /// `NotFound` if host attached none; the kernel's error otherwise.
    pub fn read_file(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let fd = self
            .take(|what| matches!(what, Attachment::File(n) if n == name))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("host attached no {name}")))?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes)?;
        Ok(bytes)
    }
}

/// Reads the start message and all attachments up to `Go`. Events for node that come before are kept.
///
/// # Errors
/// If host is gone or says something else first.
pub async fn start(host: &HostChannel) -> Result<(FaceStart, Vec<HostEvent>), ChannelError> {
    let mut start: Option<FaceStart> = None;
    let mut events = Vec::new();
    loop {
        let closed = || ChannelError::Closed { peer: "verge-host".into() };
        match (host.recv().await?.ok_or_else(closed)?, &mut start) {
            (HostSays::Event(event), _) => events.push(event),
            (HostSays::Face(FromHost::Start { face, node, incarnation, config, time_scale }, _), _) => {
                let attachments = Vec::new();
                start = Some(FaceStart { face, node, incarnation, config, time_scale, attachments });
            }
            (HostSays::Face(FromHost::Attach(what), Some(fd)), Some(start)) => {
                start.attachments.push((what, fd));
            }
            (HostSays::Face(FromHost::Go, _), _) => {
                return start.map(|start| (start, events)).ok_or_else(closed);
            }
            (HostSays::Face(FromHost::Stop, _), _) => return Err(closed()),
            (HostSays::Face(FromHost::Attach(what), _), _) => {
                tracing::warn!(?what, "attachment without a descriptor or before the start");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::face::{FromBus, ToBus};

    fn pair() -> (OwnedFd, OwnedFd) {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (a.into(), b.into())
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_the_end_is_seen() {
        let (a, b) = pair();
        let (to_bus, from_bus) = channel::<ToBus, FromBus>(a, "bus").unwrap();
        let (_to_node, mut from_node) = channel::<FromBus, ToBus>(b, "node").unwrap();
        for _ in 0..3 {
            to_bus.send(&ToBus::Stats).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(from_node.recv().await.unwrap(), Some(ToBus::Stats));
        }
        drop((to_bus, from_bus));
        assert_eq!(from_node.recv().await.unwrap(), None);
    }

    #[tokio::test]
    async fn foreign_bytes_end_the_channel_with_a_reason() {
        let (a, b) = pair();
        let (_sender, mut receiver) = channel::<FromBus, ToBus>(b, "node").unwrap();
        io::Write::write_all(&mut std::os::unix::net::UnixStream::from(a), &[7; 64]).unwrap();
        assert!(matches!(receiver.recv().await, Err(ChannelError::Wire { source: WireError::Magic, .. })));
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_instead_of_blocking() {
        let (a, b) = pair();
        let (sender, _receiver) = channel::<Vec<u8>, ToBus>(a, "slow").unwrap();
        let big = vec![0u8; 1 << 20];
        let mut taken = 0;
        while sender.offer(&big).unwrap() {
            taken += 1;
            assert!(taken <= QUEUE_LEN_MAX, "the queue has no bound");
        }
        assert_eq!(sender.dropped(), 1);
        drop(b);
    }

    #[tokio::test]
    async fn host_messages_carry_their_descriptor() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let host = HostChannel::new(ours).unwrap();
        let frame = wire::encode(Kind::Face, &FromHost::Attach(Attachment::Control)).unwrap();
        let (kept, given) = pair();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        use std::os::fd::AsFd as _;
        let rights = [given.as_fd()];
        assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&rights)));
        rustix::net::sendmsg(&theirs, &[io::IoSlice::new(&frame)], &mut ancillary, SendFlags::empty())
            .unwrap();
        drop(given);
        let Some(HostSays::Face(FromHost::Attach(Attachment::Control), Some(fd))) =
            host.recv().await.unwrap()
        else {
            panic!("no descriptor came");
        };
        io::Write::write_all(&mut std::os::unix::net::UnixStream::from(fd), b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut std::os::unix::net::UnixStream::from(kept), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(theirs);
        assert!(host.recv().await.unwrap().is_none());
    }
}
