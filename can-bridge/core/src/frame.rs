//! One CAN frame as every part of the bridge sees it: classic, FD, remote or error, in 72 bytes without a heap.

use alloc::vec::Vec;
use core::fmt;
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Most payload bytes of a frame (CAN FD). CAN XL is refused where it is met.
pub const DATA_LEN_MAX: usize = 64;

/// Most payload bytes of a classic frame.
pub const CLASSIC_LEN_MAX: usize = 8;

/// Payload lengths that a CAN FD controller can send.
pub const FD_LENGTHS: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64];

/// Largest 11-bit id.
pub const STANDARD_MAX: u32 = 0x7FF;

/// Largest 29-bit id.
pub const EXTENDED_MAX: u32 = 0x1FFF_FFFF;

/// Why something is not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The id does not fit its form.
    #[error("id {got:#x} does not fit into {bits} bits")]
    Id {
        /// The id.
        got: u32,
        /// 11 or 29.
        bits: u8,
    },
    /// The payload is longer than this kind of frame carries.
    #[error("{got} payload bytes; this kind of frame carries at most {max}")]
    Length {
        /// Bytes at hand.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Two kinds that exclude each other, such as a remote FD frame.
    #[error("a frame cannot be {0}")]
    Kind(&'static str),
}

impl FrameError {
    /// What can be done about it.
    pub fn fix(&self) -> Option<alloc::string::String> {
        match self {
            Self::Id { bits: 11, .. } => Some("mark the id as extended (29 bits) if it is one".into()),
            Self::Id { .. } => Some("a CAN id has 11 or 29 bits; remove the flag bits above them".into()),
            Self::Length { max: CLASSIC_LEN_MAX, .. } => Some("send it as a CAN FD frame".into()),
            Self::Length { .. } | Self::Kind(_) => None,
        }
    }
}

/// A CAN identifier. Holding one proves that it fits its form. Orders standard ids before extended ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanId {
    extended: bool,
    value: u32,
}

impl CanId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// [`FrameError::Id`] if it has more than 11 (29 if `extended`) bits.
    pub const fn new(value: u32, extended: bool) -> Result<Self, FrameError> {
        let (max, bits) = if extended { (EXTENDED_MAX, 29) } else { (STANDARD_MAX, 11) };
        if value <= max { Ok(Self { extended, value }) } else { Err(FrameError::Id { got: value, bits }) }
    }

    /// The number.
    pub const fn value(self) -> u32 {
        self.value
    }

    /// Whether it is a 29-bit id.
    pub const fn is_extended(self) -> bool {
        self.extended
    }
}

impl fmt::Display for CanId {
    /// Three or eight hexadecimal digits, as candump writes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.extended { write!(f, "{:08X}", self.value) } else { write!(f, "{:03X}", self.value) }
    }
}

impl fmt::Debug for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanId({self})")
    }
}

/// What a frame is, with what belongs to that kind alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameKind {
    /// A classic data frame.
    Classic,
    /// A CAN FD data frame.
    Fd {
        /// Whether the data phase ran at the faster rate.
        bit_rate_switch: bool,
        /// Whether the sender was error-passive.
        error_state: bool,
    },
    /// A request for a frame; it has a length but no data.
    Remote,
    /// A report of the controller, not a frame on the wire; the id is the error class (`linux/can/error.h`).
    Error,
}

/// One frame. Holding one proves that id and length fit the kind.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FrameClaim", into = "FrameClaim")]
pub struct CanFrame {
    id: CanId,
    kind: FrameKind,
    len: u8,
    data: [u8; DATA_LEN_MAX],
}

/// A frame as it is written down; a claim until it became a [`CanFrame`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FrameClaim {
    id: u32,
    extended: bool,
    kind: FrameKind,
    len: u8,
    data: Vec<u8>,
}

impl TryFrom<FrameClaim> for CanFrame {
    type Error = FrameError;
    fn try_from(claim: FrameClaim) -> Result<Self, FrameError> {
        let FrameClaim { id, extended, kind, len, data } = claim;
        let id = CanId::new(id, extended)?;
        if kind == FrameKind::Remote { Self::remote(id, len.into()) } else { Self::new(id, kind, &data) }
    }
}

impl From<CanFrame> for FrameClaim {
    fn from(frame: CanFrame) -> Self {
        let CanFrame { id, kind, len, .. } = frame;
        Self { id: id.value, extended: id.extended, kind, len, data: frame.data().to_vec() }
    }
}

impl CanFrame {
    /// Builds a frame with a payload.
    ///
    /// # Errors
    /// [`FrameError::Length`] if the payload is too long; [`FrameError::Kind`] for a remote frame (see
    /// [`Self::remote`]) or an error frame with an 11-bit id.
    pub fn new(id: CanId, kind: FrameKind, payload: &[u8]) -> Result<Self, FrameError> {
        let max = match kind {
            FrameKind::Fd { .. } => DATA_LEN_MAX,
            FrameKind::Classic => CLASSIC_LEN_MAX,
            FrameKind::Error if id.extended => CLASSIC_LEN_MAX,
            FrameKind::Error => return Err(FrameError::Kind("an error report with an 11-bit id")),
            FrameKind::Remote => return Err(FrameError::Kind("remote and carry a payload")),
        };
        let got = payload.len();
        let len = u8::try_from(got).map_err(|_| FrameError::Length { got, max })?;
        let mut data = [0; DATA_LEN_MAX];
        match data.get_mut(..got) {
            Some(place) if got <= max => place.copy_from_slice(payload),
            _ => return Err(FrameError::Length { got, max }),
        }
        Ok(Self { id, kind, len, data })
    }

    /// Builds a classic data frame.
    ///
    /// # Errors
    /// [`FrameError::Length`] beyond 8 bytes.
    pub fn classic(id: CanId, payload: &[u8]) -> Result<Self, FrameError> {
        Self::new(id, FrameKind::Classic, payload)
    }

    /// Builds a data frame: classic up to 8 bytes, FD beyond.
    ///
    /// # Errors
    /// [`FrameError::Length`] beyond 64 bytes.
    pub fn data_frame(id: CanId, payload: &[u8]) -> Result<Self, FrameError> {
        let fd = FrameKind::Fd { bit_rate_switch: true, error_state: false };
        Self::new(id, if payload.len() > CLASSIC_LEN_MAX { fd } else { FrameKind::Classic }, payload)
    }

    /// Builds a remote frame that asks for `len` bytes.
    ///
    /// # Errors
    /// [`FrameError::Length`] beyond 8.
    pub fn remote(id: CanId, len: usize) -> Result<Self, FrameError> {
        let short = u8::try_from(len).ok().filter(|len| usize::from(*len) <= CLASSIC_LEN_MAX);
        let len = short.ok_or(FrameError::Length { got: len, max: CLASSIC_LEN_MAX })?;
        Ok(Self { id, kind: FrameKind::Remote, len, data: [0; DATA_LEN_MAX] })
    }

    /// The id; for an error report, the error class.
    pub const fn id(&self) -> CanId {
        self.id
    }

    /// What it is.
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Whether it is a CAN FD frame.
    pub const fn is_fd(&self) -> bool {
        matches!(self.kind, FrameKind::Fd { .. })
    }

    /// Whether it carries data that a DBC describes.
    pub const fn is_data(&self) -> bool {
        matches!(self.kind, FrameKind::Classic | FrameKind::Fd { .. })
    }

    /// Bytes carried, or asked for by a remote frame.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it carries or asks for nothing.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The payload; empty for a remote frame.
    pub fn data(&self) -> &[u8] {
        let len = if self.kind == FrameKind::Remote { 0 } else { self.len() };
        self.data.get(..len).unwrap_or_default()
    }

    /// The payload's place, padded with zeros: what the codec's precomputed windows read from.
    pub const fn padded(&self) -> &[u8; DATA_LEN_MAX] {
        &self.data
    }
}

impl fmt::Debug for CanFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} [{}] {:02X?}", self.id, self.kind, self.len, self.data())
    }
}

/// Which bus of this node, by its place in the node's configuration. A name would cost a heap allocation
/// per frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BusIndex(pub u16);

/// A frame with where and when it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedFrame {
    /// The bus.
    pub bus: BusIndex,
    /// When, on this node's clock.
    pub at: Timestamp,
    /// The frame.
    pub frame: CanFrame,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn what_is_a_frame() {
        let fd = FrameKind::Fd { bit_rate_switch: false, error_state: false };
        //     id           extended  kind                bytes  accepted
        check(0x7FF,        false,    FrameKind::Classic, 8,     true);
        check(0x800,        false,    FrameKind::Classic, 0,     false);
        check(0x800,        true,     FrameKind::Classic, 0,     true);
        check(0x1FFF_FFFF,  true,     FrameKind::Classic, 0,     true);
        check(0x2000_0000,  true,     FrameKind::Classic, 0,     false);
        check(1,            false,    FrameKind::Classic, 9,     false);
        check(1,            false,    fd,                 64,    true);
        check(1,            false,    fd,                 65,    false);
        check(1,            false,    FrameKind::Error,   8,     false);
        check(0x40,         true,     FrameKind::Error,   8,     true);
        check(1,            false,    FrameKind::Remote,  0,     false);
    }

    #[track_caller]
    fn check(id: u32, extended: bool, kind: FrameKind, bytes: usize, accepted: bool) {
        let got = CanId::new(id, extended).and_then(|id| CanFrame::new(id, kind, &alloc::vec![7; bytes]));
        assert_eq!(got.is_ok(), accepted, "{id:#x} {extended} {kind:?} {bytes}: {got:?}");
    }

    #[test]
    fn a_remote_frame_has_a_length_and_no_data() {
        let frame = CanFrame::remote(CanId::new(1, false).unwrap(), 8).unwrap();
        assert_eq!((frame.len(), frame.data()), (8, &[][..]));
        assert!(CanFrame::remote(frame.id(), 9).is_err());
    }
}
