//! The control API: what the command line says to a node over its Unix socket, and the client for it.
//!
//! One request per connection; the reply is one frame, or a stream of frames ended by [`Reply::End`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use obu_core::io::{ControlCall, ControlReply};
use policies::host::AppRef;
use policies::id::Digest;
use policies::signal::SignalPattern;
use policies::wire::{self, Kind, WireError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes of a bundle file in one request: a quarter of what a message may hold.
pub const UPLOAD_CHUNK: usize = 1 << 20;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Change something, or run a task on `payload`.
    Call {
        /// What.
        call: ControlCall,
        /// Input bytes of a task.
        payload: Option<Vec<u8>>,
    },
    /// One view, as JSON.
    View(View),
    /// Every decision and every finished task from now on, one JSON line a reply.
    Events,
    /// What an app printed: the last `lines`, then new ones as they come if `follow`.
    Logs {
        /// Which app.
        app: AppRef,
        /// How many of the last lines.
        lines: u32,
        /// Whether to stay.
        follow: bool,
    },
    /// A part of a bundle's file, for the node's spool.
    Upload {
        /// The bundle.
        bundle: Digest,
        /// Name inside the bundle: `oci-layout`, `index.json`, `verge.sig`, `blobs/sha256/{hex}`.
        name: String,
        /// Where the bytes belong; 0 starts the file anew.
        offset: u64,
        /// The bytes, at most [`UPLOAD_CHUNK`].
        bytes: Vec<u8>,
    },
}

/// What may be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// This node and its peers.
    Nodes,
    /// Apps.
    Apps,
    /// Functions.
    Functions,
    /// Tasks, newest last.
    Tasks,
    /// The story of one task, by its id.
    Task(policies::id::TaskId),
    /// Latest values of signals.
    Signals(Vec<SignalPattern>),
    /// Counters of every process of the node.
    Stats,
    /// What this machine gives: lines of host's `Hello`.
    Machine,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Call`].
    Control {
        /// The answer.
        reply: ControlReply,
        /// Result bytes of a task.
        payload: Option<Vec<u8>>,
    },
    /// A view or an event, as JSON.
    Json(String),
    /// A line of a log.
    Line(String),
    /// The part is in the spool.
    Stored,
    /// Nothing more comes.
    End,
    /// The request could not be served.
    Error {
        /// The operation.
        what: String,
        /// The cause.
        why: String,
        /// What the caller can do.
        fix: Option<String>,
    },
}

/// Failures of the client.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket.
    #[error("cannot {operation} the node's control socket {}: {source}", .path.display())]
    Socket {
        /// `connect to`, `write to`, `read from`.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The node sent something else.
    #[error("the node's answer is not understood: {source}")]
    Wire {
        /// What is wrong.
        source: WireError,
    },
    /// The node refused.
    #[error("{what}: {why}")]
    Refused {
        /// The operation.
        what: String,
        /// The cause.
        why: String,
        /// What the caller can do.
        fix: Option<String>,
    },
}

impl ControlError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Socket { operation: "connect to", source, path } => Some(match source.kind() {
                io::ErrorKind::NotFound => format!(
                    "start the node (verge node run -c node.toml), or name its socket with --socket or VERGE_SOCKET; {} does not exist",
                    path.display()
                ),
                io::ErrorKind::PermissionDenied => {
                    "use the user or group that the node's [control] section admits".into()
                }
                _ => "look whether the node is running (verge node run -c node.toml)".into(),
            }),
            Self::Wire { .. } => Some("use the verge of the same release as the node".into()),
            Self::Refused { fix, .. } => fix.clone(),
            Self::Socket { .. } => None,
        }
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Exchange {
    stream: UnixStream,
    path: PathBuf,
}

/// Longest wait for a place in the queue of a busy node.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

/// Longest wait for a node that is just being started to make its socket.
const START_WAIT: Duration = Duration::from_secs(2);

/// Pause before it is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// Connects; waits while the queue is full, and a moment for a node that is being started.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let begun = Instant::now();
    loop {
        let error = match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let patience = match error.kind() {
            io::ErrorKind::WouldBlock => QUEUE_WAIT,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => START_WAIT,
            _ => return Err(error),
        };
        if begun.elapsed() >= patience {
            return Err(error);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Exchange {
    /// Connects and sends `request`.
    ///
    /// # Errors
    /// [`ControlError::Socket`] with a fix that fits the cause.
    pub async fn begin(path: &Path, request: &Request) -> Result<Self, ControlError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |source| ControlError::Socket { operation, path, source }
        };
        let mut stream = connect(path).await.map_err(failed("connect to"))?;
        let frame = wire::encode(Kind::Control, request).map_err(|source| ControlError::Wire { source })?;
        stream.write_all(&frame).await.map_err(failed("write to"))?;
        Ok(Self { stream, path: path.to_owned() })
    }

    /// The next reply; [`Reply::Error`] becomes [`ControlError::Refused`].
    ///
    /// # Errors
    /// If the node is gone, speaks another version, or refused.
    pub async fn next(&mut self) -> Result<Reply, ControlError> {
        let reply = read_frame(&mut self.stream).await.map_err(|e| match e {
            FrameError::Io(source) => {
                ControlError::Socket { operation: "read from", path: self.path.clone(), source }
            }
            FrameError::Wire(source) => ControlError::Wire { source },
        })?;
        match reply {
            Reply::Error { what, why, fix } => Err(ControlError::Refused { what, why, fix }),
            other => Ok(other),
        }
    }
}

/// Sends `request` and takes its one reply.
///
/// # Errors
/// As [`Exchange::begin`] and [`Exchange::next`].
pub async fn ask(path: &Path, request: &Request) -> Result<Reply, ControlError> {
    Exchange::begin(path, request).await?.next().await
}

/// Why no frame could be read.
#[derive(Debug)]
pub enum FrameError {
    /// The socket.
    Io(io::Error),
    /// The bytes.
    Wire(WireError),
}

/// Reads one control frame from a stream.
///
/// # Errors
/// [`FrameError`]; foreign bytes are refused before they are believed.
pub async fn read_frame<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> Result<T, FrameError> {
    let mut frame = vec![0; wire::HEADER_LEN];
    stream.read_exact(&mut frame).await.map_err(FrameError::Io)?;
    let len = wire::body_len(&frame).map_err(FrameError::Wire)?;
    frame.resize(wire::HEADER_LEN + len, 0);
    stream.read_exact(&mut frame[wire::HEADER_LEN..]).await.map_err(FrameError::Io)?;
    wire::decode(Kind::Control, &frame).map_err(FrameError::Wire)
}
