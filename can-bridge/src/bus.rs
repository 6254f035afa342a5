//! What every bus can do, whatever is behind it.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use can_core::frame::{BusIndex, CanFrame, TimedFrame};
use can_core::hub::SendFailure;

use crate::clock::Reading;

/// Frames read in one system call. A full 1 Mbit/s bus makes 9 000 per second: at most 7 ms of them.
pub const BATCH: usize = 64;

/// What one read brought besides frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Whether there may be more to read at once.
    pub more: bool,
    /// Damaged or foreign messages.
    pub bad: u64,
    /// Frames that the kernel dropped before we read them.
    pub lost: u64,
    /// Our own frames that came back.
    pub echoes: u64,
}

/// Why a bus cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum BusIoError {
    /// Opening or configuring it failed.
    #[error("cannot open {bus}: {step}: {source}")]
    Open {
        /// The bus.
        bus: String,
        /// The operation.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The interface is down or gone. It may come back.
    #[error("{bus} is down: {source}")]
    Down {
        /// The bus.
        bus: String,
        /// The cause.
        source: io::Error,
    },
}

impl BusIoError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Open { source, .. } if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => Some(
                "this kernel has no CAN: use a multicast bus, or load the modules can and can-raw".into(),
            ),
            Self::Open { bus, source, .. } if source.raw_os_error() == Some(libc::ENODEV) => Some(format!(
                "check that {bus} exists (ip link show), or for multicast that a route to the group does"
            )),
            Self::Open { .. } => None,
            Self::Down { bus, .. } => Some(format!("ip link set {bus} up")),
        }
    }
}

/// One bus: frames in, frames out, never blocking.
pub trait Bus: fmt::Debug + Send {
    /// What to poll for reading.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Appends up to [`BATCH`] frames to `out`, stamped with this node's clock and with `bus`.
    ///
    /// # Errors
    /// [`BusIoError::Down`]; reading may be tried again.
    fn receive(
        &mut self,
        clock: Reading,
        bus: BusIndex,
        out: &mut Vec<TimedFrame>,
    ) -> Result<Received, BusIoError>;

    /// Sends one frame now or not at all.
    ///
    /// # Errors
    /// [`SendFailure`] says whether the queue is full or the bus is down.
    fn send(&mut self, frame: &CanFrame) -> Result<(), SendFailure>;

    /// What it is, for people: `can0 (SocketCAN)`.
    fn describe(&self) -> String;
}

/// The failure that an operating system's error stands for.
pub(crate) fn send_failure(error: &io::Error) -> SendFailure {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => SendFailure::Full,
        _ => SendFailure::Down,
    }
}
