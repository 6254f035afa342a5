//! The user-space bus of python-can (`udp_multicast`): one datagram is one msgpack map of eleven keys.
//!
//! Writing keeps to exactly those keys, because python-can refuses others. Reading is tolerant: unknown keys are
//! skipped, missing optional ones are false, and whatever is no frame is a named error for one counter.
//!
//! Source: python-can 4.6.1, `interfaces/udp_multicast/utils.py`.

use alloc::vec::Vec;

use crate::frame::{CanFrame, CanId, FrameError, FrameKind};

/// IPv4 group that python-can uses unless told otherwise.
pub const DEFAULT_GROUP: [u8; 4] = [239, 74, 163, 2];

/// Port that it uses.
pub const DEFAULT_PORT: u16 = 43_113;

/// Longest datagram read. python-can reads 4096; ours have at most 230 bytes.
pub const DATAGRAM_LEN_MAX: usize = 4_096;

/// Most containers inside each other that are skipped.
const NESTING_MAX: usize = 64;

/// Why a datagram is not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It ends too early, or a length in it is wrong.
    #[error("datagram is cut short")]
    Short,
    /// It is not a map with text keys, or a value has the wrong type.
    #[error("datagram is not a map of the expected types (at byte {at})")]
    Type {
        /// Where.
        at: usize,
    },
    /// A key that every frame needs.
    #[error("datagram lacks {0}")]
    Missing(&'static str),
    /// The parts do not make a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A frame with what the sender said about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Datagram {
    /// Sender's wall clock, seconds since 1970; not a time of ours.
    pub timestamp: f64,
    /// The frame.
    pub frame: CanFrame,
}

/// Writes a datagram, byte for byte as python-can would.
pub fn encode(datagram: &Datagram, out: &mut Vec<u8>) {
    let Datagram { timestamp, frame } = datagram;
    let (fd, brs, esi) = match frame.kind() {
        FrameKind::Fd { bit_rate_switch, error_state } => (true, bit_rate_switch, error_state),
        _ => (false, false, false),
    };
    out.clear();
    out.push(0x8B);
    key(out, "timestamp");
    out.push(0xCB);
    out.extend_from_slice(&timestamp.to_be_bytes());
    key(out, "arbitration_id");
    unsigned(out, frame.id().value());
    flag(out, "is_extended_id", frame.id().is_extended());
    flag(out, "is_remote_frame", frame.kind() == FrameKind::Remote);
    flag(out, "is_error_frame", frame.kind() == FrameKind::Error);
    key(out, "channel");
    out.push(0xC0);
    key(out, "dlc");
    // At most 64: a positive fixint.
    out.push(frame.len() as u8);
    key(out, "data");
    out.extend_from_slice(&[0xC4, frame.data().len() as u8]);
    out.extend_from_slice(frame.data());
    flag(out, "is_fd", fd);
    flag(out, "bitrate_switch", brs);
    flag(out, "error_state_indicator", esi);
}

fn key(out: &mut Vec<u8>, name: &str) {
    // All keys are shorter than 32: fixstr.
    out.push(0xA0 | name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn flag(out: &mut Vec<u8>, name: &str, value: bool) {
    key(out, name);
    out.push(if value { 0xC3 } else { 0xC2 });
}

fn unsigned(out: &mut Vec<u8>, value: u32) {
    match value {
        0..=0x7F => out.push(value as u8),
        0x80..=0xFF => out.extend_from_slice(&[0xCC, value as u8]),
        0x100..=0xFFFF => {
            out.push(0xCD);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        _ => {
            out.push(0xCE);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Reads a datagram.
///
/// # Errors
/// [`DatagramError`]; foreign bytes never panic, recurse or allocate.
pub fn decode(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let mut reader = Reader { bytes, at: 0 };
    let count = match reader.token()? {
        Token::Map(count) => count,
        _ => return Err(DatagramError::Type { at: 0 }),
    };
    let mut fields = Fields::default();
    for _ in 0..count {
        let at = reader.at;
        let Token::Bytes(name) = reader.token()? else { return Err(DatagramError::Type { at }) };
        fields.read(name, &mut reader)?;
    }
    fields.into_datagram()
}

#[derive(Default)]
struct Fields<'b> {
    timestamp: f64,
    id: Option<u64>,
    extended: bool,
    remote: bool,
    error: bool,
    dlc: Option<u64>,
    data: Option<&'b [u8]>,
    fd: bool,
    brs: bool,
    esi: bool,
}

impl<'b> Fields<'b> {
    fn read(&mut self, name: &[u8], reader: &mut Reader<'b>) -> Result<(), DatagramError> {
        match name {
            b"timestamp" => self.timestamp = reader.number()?,
            b"arbitration_id" => self.id = Some(reader.unsigned()?),
            b"is_extended_id" => self.extended = reader.boolean()?,
            b"is_remote_frame" => self.remote = reader.boolean()?,
            b"is_error_frame" => self.error = reader.boolean()?,
            b"dlc" => self.dlc = Some(reader.unsigned()?),
            b"data" => self.data = reader.data()?,
            b"is_fd" => self.fd = reader.boolean()?,
            b"bitrate_switch" => self.brs = reader.boolean()?,
            b"error_state_indicator" => self.esi = reader.boolean()?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn into_datagram(self) -> Result<Datagram, DatagramError> {
        let id = self.id.ok_or(DatagramError::Missing("arbitration_id"))?;
        let id = CanId::new(u32::try_from(id).unwrap_or(u32::MAX), self.extended || self.error)?;
        let data = self.data.unwrap_or_default();
        let dlc = self.dlc.ok_or(DatagramError::Missing("dlc"))?;
        let kind = match (self.remote, self.error, self.fd) {
            (true, false, false) => {
                let frame = CanFrame::remote(id, usize::try_from(dlc).unwrap_or(usize::MAX))?;
                return Ok(Datagram { timestamp: self.timestamp, frame });
            }
            (false, true, false) => FrameKind::Error,
            (false, false, true) => FrameKind::Fd { bit_rate_switch: self.brs, error_state: self.esi },
            (false, false, false) => FrameKind::Classic,
            _ => return Err(FrameError::Kind("two of remote, error and FD at once").into()),
        };
        if dlc != data.len() as u64 {
            return Err(FrameError::Kind("of another length than its data").into());
        }
        let frame = CanFrame::new(id, kind, data)?;
        Ok(Datagram { timestamp: self.timestamp, frame })
    }
}

/// One msgpack item; containers are announced, their content follows.
enum Token<'b> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Text or binary.
    Bytes(&'b [u8]),
    Array(usize),
    Map(usize),
    Extension,
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], DatagramError> {
        let end = self.at.checked_add(len).ok_or(DatagramError::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(DatagramError::Short)?;
        self.at = end;
        Ok(taken)
    }

    /// A big-endian unsigned number of `len` bytes, at most 8.
    fn big_endian(&mut self, len: usize) -> Result<u64, DatagramError> {
        Ok(self.take(len)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn length(&mut self, len: usize) -> Result<usize, DatagramError> {
        usize::try_from(self.big_endian(len)?).map_err(|_| DatagramError::Short)
    }

    fn token(&mut self) -> Result<Token<'b>, DatagramError> {
        let at = self.at;
        let tag = self.big_endian(1)? as u8;
        // The low bits of a tag say how many bytes follow: 1, 2, 4, 8.
        let width = |first: u8| 1usize << (tag - first);
        Ok(match tag {
            0x00..=0x7F => Token::Unsigned(tag.into()),
            0x80..=0x8F => Token::Map((tag & 0x0F).into()),
            0x90..=0x9F => Token::Array((tag & 0x0F).into()),
            0xA0..=0xBF => Token::Bytes(self.take((tag & 0x1F).into())?),
            0xC0 => Token::Nil,
            0xC2 | 0xC3 => Token::Bool(tag == 0xC3),
            0xC4..=0xC6 => {
                let len = self.length(width(0xC4))?;
                Token::Bytes(self.take(len)?)
            }
            0xC7..=0xC9 => {
                let len = self.length(width(0xC7))?;
                self.take(len.checked_add(1).ok_or(DatagramError::Short)?)?;
                Token::Extension
            }
            0xCA => Token::Float(f32::from_bits(self.big_endian(4)? as u32).into()),
            0xCB => Token::Float(f64::from_bits(self.big_endian(8)?)),
            0xCC..=0xCF => Token::Unsigned(self.big_endian(width(0xCC))?),
            0xD0..=0xD3 => {
                let unused = 64 - 8 * width(0xD0);
                Token::Signed((self.big_endian(width(0xD0))? << unused) as i64 >> unused)
            }
            0xD4..=0xD8 => {
                self.take(1 + width(0xD4))?;
                Token::Extension
            }
            0xD9..=0xDB => {
                let len = self.length(width(0xD9))?;
                Token::Bytes(self.take(len)?)
            }
            0xDC | 0xDD => Token::Array(self.length(2 * width(0xDC))?),
            0xDE | 0xDF => Token::Map(self.length(2 * width(0xDE))?),
            0xE0..=0xFF => Token::Signed(i64::from(tag as i8)),
            0xC1 => return Err(DatagramError::Type { at }),
        })
    }

    fn boolean(&mut self) -> Result<bool, DatagramError> {
        let at = self.at;
        match self.token()? {
            Token::Bool(truth) => Ok(truth),
            Token::Nil => Ok(false),
            _ => Err(DatagramError::Type { at }),
        }
    }

    fn unsigned(&mut self) -> Result<u64, DatagramError> {
        let at = self.at;
        match self.token()? {
            Token::Unsigned(number) => Ok(number),
            Token::Signed(number) => u64::try_from(number).map_err(|_| DatagramError::Type { at }),
            _ => Err(DatagramError::Type { at }),
        }
    }

    fn number(&mut self) -> Result<f64, DatagramError> {
        let at = self.at;
        match self.token()? {
            Token::Float(number) => Ok(number),
            Token::Unsigned(number) => Ok(number as f64),
            Token::Signed(number) => Ok(number as f64),
            _ => Err(DatagramError::Type { at }),
        }
    }

    fn data(&mut self) -> Result<Option<&'b [u8]>, DatagramError> {
        let at = self.at;
        match self.token()? {
            Token::Bytes(data) => Ok(Some(data)),
            Token::Nil => Ok(None),
            _ => Err(DatagramError::Type { at }),
        }
    }

    /// Passes over one item with everything in it, without recursion.
    fn skip(&mut self) -> Result<(), DatagramError> {
        let mut open = [0usize; NESTING_MAX];
        let mut depth = 1;
        open[0] = 1;
        while depth > 0 {
            let Some(left) = open.get_mut(depth - 1) else { return Err(DatagramError::Type { at: self.at }) };
            if *left == 0 {
                depth -= 1;
                continue;
            }
            *left -= 1;
            let inner = match self.token()? {
                Token::Array(count) => count,
                Token::Map(count) => count.saturating_mul(2),
                _ => continue,
            };
            let Some(place) = open.get_mut(depth) else { return Err(DatagramError::Type { at: self.at }) };
            *place = inner;
            depth += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
