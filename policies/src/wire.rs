//! How every message looks as bytes: one frame form, one codec, one place (ADR 0003).
//!
//! ```text
//!   0      2        3      4          8         12
//!   +------+--------+------+----------+---------+------------------+
//!   | "vg" | version| type | length   | crc32   | body (bincode)   |
//!   +------+--------+------+----------+---------+------------------+
//! ```
//! Length and CRC are little-endian; the CRC covers type, length and body. A frame whose version, length or
//! CRC is wrong is refused before its body is looked at; a body with bytes left over is refused as well.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MESSAGE_LEN_MAX;

/// This release's wire version. A node talks to its own and to the version before it.
pub const VERSION: u8 = 1;

/// Bytes before the body.
pub const HEADER_LEN: usize = 12;

/// What a frame carries. The number is on the wire: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::host::HostCommand`].
    HostCommand = 1,
    /// [`crate::host::HostEvent`].
    HostEvent = 2,
    /// [`crate::face`] messages between two processes of one node.
    Face = 3,
    /// Requester to worker.
    ToWorker = 4,
    /// Worker to requester.
    ToRequester = 5,
    /// What a node says of itself to its realm.
    Advert = 6,
    /// One recorded input or output.
    Record = 7,
    /// Request and reply on the control socket.
    Control = 8,
    /// Durable state.
    State = 9,
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a header, or than the header announces.
    #[error("message is cut short: {got} bytes, expected {expected}")]
    Short {
        /// Bytes at hand.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The first two bytes are not `vg`.
    #[error("not a Verge message (it does not begin with \"vg\")")]
    Magic,
    /// A version this release does not speak.
    #[error("wire version {got}; this release speaks {VERSION}")]
    Version {
        /// The version found.
        got: u8,
    },
    /// Another kind than the channel carries.
    #[error("message kind {got}, expected {expected:?}")]
    Kind {
        /// The kind found.
        got: u8,
        /// The kind that belongs here.
        expected: Kind,
    },
    /// The header announces more than [`MESSAGE_LEN_MAX`].
    #[error("message of {got} bytes; {MESSAGE_LEN_MAX} is the maximum")]
    Long {
        /// Announced length.
        got: usize,
    },
    /// The CRC does not match: damaged on the way, or not from Verge.
    #[error("message is damaged (CRC mismatch)")]
    Crc,
    /// The body is not what its kind says.
    #[error("message body does not decode: {why}")]
    Body {
        /// The decoder's words.
        why: alloc::string::String,
    },
    /// Bytes are left over after the body or after the frame.
    #[error("{extra} bytes left over after the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

fn config() -> impl bincode::config::Config {
    // The limit bounds what a hostile length prefix can make the decoder allocate, and stops deep nesting.
    bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>()
}

/// Encodes `body` as one frame.
///
/// # Errors
/// [`WireError::Long`] if it exceeds [`MESSAGE_LEN_MAX`]; [`WireError::Body`] if the type cannot be encoded.
pub fn encode<T: Serialize>(kind: Kind, body: &T) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::with_capacity(HEADER_LEN + 64);
    frame.resize(HEADER_LEN, 0);
    let body = bincode::serde::encode_to_vec(body, config())
        .map_err(|e| WireError::Body { why: alloc::format!("{e}") })?;
    frame.extend_from_slice(&body);
    let len = frame.len() - HEADER_LEN;
    if len > MESSAGE_LEN_MAX {
        return Err(WireError::Long { got: len });
    }
    let len = u32::try_from(len).map_err(|_| WireError::Long { got: len })?;
    frame[0..2].copy_from_slice(b"vg");
    frame[2] = VERSION;
    frame[3] = kind as u8;
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    let crc = crc(&frame);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

/// Decodes one whole frame of `kind`; nothing may be left over.
///
/// # Errors
/// A [`WireError`] that says what is wrong; foreign bytes never panic or allocate beyond the limit.
pub fn decode<T: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<T, WireError> {
    let len = body_len(frame)?;
    let expected = HEADER_LEN + len;
    if frame.len() < expected {
        return Err(WireError::Short { got: frame.len(), expected });
    }
    if frame.len() > expected {
        return Err(WireError::Trailing { extra: frame.len() - expected });
    }
    if frame[3] != kind as u8 {
        return Err(WireError::Kind { got: frame[3], expected: kind });
    }
    if read_u32(&frame[8..12]) != crc(frame) {
        return Err(WireError::Crc);
    }
    let body = &frame[HEADER_LEN..];
    let (value, used) = bincode::serde::decode_from_slice(body, config())
        .map_err(|e| WireError::Body { why: alloc::format!("{e}") })?;
    if used == body.len() { Ok(value) } else { Err(WireError::Trailing { extra: body.len() - used }) }
}

/// The body's length as the header announces it, for readers of a stream. Looks at [`HEADER_LEN`] bytes.
///
/// # Errors
/// If the header is short, foreign, of another version, or announces too much.
pub fn body_len(header: &[u8]) -> Result<usize, WireError> {
    if header.len() < HEADER_LEN {
        return Err(WireError::Short { got: header.len(), expected: HEADER_LEN });
    }
    if &header[0..2] != b"vg" {
        return Err(WireError::Magic);
    }
    if header[2] != VERSION {
        return Err(WireError::Version { got: header[2] });
    }
    let len = read_u32(&header[4..8]) as usize;
    if len > MESSAGE_LEN_MAX { Err(WireError::Long { got: len }) } else { Ok(len) }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

/// CRC-32 over type, length and body; the CRC's own place is left out.
fn crc(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[3..8]);
    hasher.update(&frame[HEADER_LEN..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use proptest::prelude::*;

    type Body = (u64, String, Vec<u8>, Option<bool>);

    proptest! {
        #[test]
        fn what_is_encoded_decodes(body: Body) {
            let frame = encode(Kind::Face, &body).unwrap();
            prop_assert_eq!(decode::<Body>(Kind::Face, &frame), Ok(body));
        }

        #[test]
        fn foreign_bytes_are_refused_not_fatal(bytes: Vec<u8>) {
            prop_assert!(decode::<Body>(Kind::Face, &bytes).is_err());
        }

        #[test]
        fn any_flipped_bit_is_noticed(body: Body, place: prop::sample::Index, bit in 0u8..8) {
            let mut frame = encode(Kind::Face, &body).unwrap();
            let at = place.index(frame.len());
            frame[at] ^= 1 << bit;
            prop_assert!(decode::<Body>(Kind::Face, &frame).is_err());
        }

        #[test]
        fn any_cut_is_noticed(body: Body, place: prop::sample::Index) {
            let frame = encode(Kind::Face, &body).unwrap();
            let cut = place.index(frame.len());
            prop_assert!(decode::<Body>(Kind::Face, &frame[..cut]).is_err());
        }
    }

    #[test]
    fn a_golden_frame_stays_as_it_is() {
        let frame = encode(Kind::Advert, &(7u32, String::from("a1"))).unwrap();
        let hex: String = frame.iter().map(|b| alloc::format!("{b:02x}")).collect();
        assert_eq!(&hex[..16], "7667010604000000", "header");
        assert_eq!(&hex[24..], "07026131", "body");
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_believed() {
        let mut frame = encode(Kind::Face, &1u8).unwrap();
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(body_len(&frame), Err(WireError::Long { .. })));
    }
}
