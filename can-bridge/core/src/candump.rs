//! Log lines as `candump -L` writes them and `canplayer`, python-can and SavvyCAN read them.
//!
//! ```text
//!   (1627305599.790450) can1 009#95A44F410202B07F       classic, 3 digits: 11-bit id
//!   (1627305599.790450) can1 18EAFF05#09FD01 R          8 digits: 29-bit id; direction suffix
//!   (1627305599.790450) can1 123##3001122               FD: one flag digit, then data
//!   (1627305599.790450) can1 123#R8                     remote frame that asks for 8 bytes
//!   (1627305599.790450) can1 20000040#0000000000000000  error report: bit 29 of the id
//! ```
//! A damaged line is one named error with its line number and byte offset; the lines after it are read.

use alloc::string::String;
use core::fmt::{self, Write as _};
use policies::time::WallTime;

use crate::frame::{CanFrame, CanId, DATA_LEN_MAX, EXTENDED_MAX, FrameError, FrameKind};

/// Longest line accepted. The longest legal one has about 190 bytes; bounds what a binary file makes us hold.
pub const LINE_LEN_MAX: usize = 512;

/// Bit of an 8-digit id that marks an error report.
const ERROR_FLAG: u32 = 0x2000_0000;

/// Where a log says a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received (` R`).
    Received,
    /// Sent by the machine that logged (` T`).
    Sent,
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When, as the log says.
    pub at: WallTime,
    /// The interface's name, such as `can0`.
    pub interface: &'a str,
    /// The frame.
    pub frame: CanFrame,
    /// Direction, if the line has one.
    pub direction: Option<Direction>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Longer than [`LINE_LEN_MAX`].
    #[error("line is longer than {LINE_LEN_MAX} bytes")]
    Long,
    /// Bytes that are not ASCII text.
    #[error("line is not text")]
    Binary,
    /// No `(seconds.fraction)` at the start.
    #[error("timestamp is not (seconds.fraction)")]
    Timestamp,
    /// No interface name.
    #[error("interface name is missing")]
    Interface,
    /// No frame, or no `#` in it.
    #[error("frame is missing or has no '#'")]
    Frame,
    /// Neither 3 nor 8 hexadecimal digits, or out of range.
    #[error("id is not 3 or 8 hexadecimal digits in range")]
    Id,
    /// Not an even number of hexadecimal digits.
    #[error("data is not pairs of hexadecimal digits")]
    Data,
    /// The frame's parts do not fit together.
    #[error("{0}")]
    Unfit(FrameError),
    /// Something after the frame that is neither ` R` nor ` T`.
    #[error("text after the frame is neither R nor T")]
    Suffix,
}

/// A line that is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, byte {offset}: {flaw}")]
pub struct CandumpError {
    /// Counted from 1.
    pub line: u64,
    /// Offset of the line's first byte in the file.
    pub offset: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

impl CandumpError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self.flaw {
            Flaw::Binary | Flaw::Long => Some("this is not a candump log; record one with candump -L".into()),
            Flaw::Timestamp | Flaw::Interface | Flaw::Frame => {
                Some("lines look like: (1627305599.790450) can0 123#0011 (candump -L)".into())
            }
            Flaw::Id | Flaw::Data | Flaw::Suffix => None,
            Flaw::Unfit(ref why) => why.fix(),
        }
    }
}

/// Parses one line; a final CR or LF is ignored.
///
/// # Errors
/// The first [`Flaw`] from the left.
pub fn parse_line(line: &[u8]) -> Result<Record<'_>, Flaw> {
    if line.len() > LINE_LEN_MAX {
        return Err(Flaw::Long);
    }
    let text = core::str::from_utf8(line).ok().filter(|t| t.is_ascii()).ok_or(Flaw::Binary)?;
    let mut words = text.split_ascii_whitespace();
    let at = timestamp(words.next().ok_or(Flaw::Timestamp)?)?;
    let interface = words.next().ok_or(Flaw::Interface)?;
    let frame = frame(words.next().ok_or(Flaw::Frame)?)?;
    let direction = match words.next() {
        None => None,
        Some("R") => Some(Direction::Received),
        Some("T") => Some(Direction::Sent),
        Some(_) => return Err(Flaw::Suffix),
    };
    if words.next().is_some() {
        return Err(Flaw::Suffix);
    }
    Ok(Record { at, interface, frame, direction })
}

/// `(seconds.fraction)`: one to nine fraction digits, cut to microseconds.
fn timestamp(word: &str) -> Result<WallTime, Flaw> {
    let inner = word.strip_prefix('(').and_then(|w| w.strip_suffix(')')).ok_or(Flaw::Timestamp)?;
    let (seconds, fraction) = inner.split_once('.').unwrap_or((inner, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return Err(Flaw::Timestamp);
    }
    let micros = fraction.bytes().chain(core::iter::repeat(b'0')).take(6);
    let micros = micros.fold(0i64, |n, digit| n * 10 + i64::from(digit - b'0'));
    let seconds: i64 = seconds.parse().map_err(|_| Flaw::Timestamp)?;
    seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(micros)).map(WallTime).ok_or(Flaw::Timestamp)
}

fn frame(word: &str) -> Result<CanFrame, Flaw> {
    let (id, rest) = word.split_once('#').ok_or(Flaw::Frame)?;
    let (id, error) = identifier(id)?;
    let built = if let Some(fd) = rest.strip_prefix('#') {
        if error {
            return Err(Flaw::Unfit(FrameError::Kind("an error report and an FD frame")));
        }
        fd_frame(id, fd)?
    } else if let Some(len) = rest.strip_prefix('R') {
        let len = if len.is_empty() { Some(0) } else { Some(len).filter(|l| l.len() == 1).and_then(number) };
        CanFrame::remote(id, len.ok_or(Flaw::Data)?)
    } else {
        let mut bytes = [0; DATA_LEN_MAX];
        let data = hex(raw_dlc_cut(rest), &mut bytes)?;
        CanFrame::new(id, if error { FrameKind::Error } else { FrameKind::Classic }, data)
    };
    built.map_err(Flaw::Unfit)
}

fn identifier(digits: &str) -> Result<(CanId, bool), Flaw> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Flaw::Id);
    }
    let value = u32::from_str_radix(digits, 16).map_err(|_| Flaw::Id)?;
    let error = digits.len() == 8 && value & ERROR_FLAG != 0;
    let value = if error { value & EXTENDED_MAX | value & 0xC000_0000 } else { value };
    match digits.len() {
        3 | 8 => CanId::new(value, digits.len() == 8).map(|id| (id, error)).map_err(|_| Flaw::Id),
        _ => Err(Flaw::Id),
    }
}

fn fd_frame(id: CanId, text: &str) -> Result<Result<CanFrame, FrameError>, Flaw> {
    let flags = text.get(..1).and_then(number).ok_or(Flaw::Data)?;
    let kind = FrameKind::Fd { bit_rate_switch: flags & 1 != 0, error_state: flags & 2 != 0 };
    let mut bytes = [0; DATA_LEN_MAX];
    let data = hex(text.get(1..).unwrap_or_default(), &mut bytes)?;
    Ok(CanFrame::new(id, kind, data))
}

fn number(digit: &str) -> Option<usize> {
    digit.chars().next().and_then(|d| d.to_digit(16)).map(|d| d as usize)
}

/// Drops the raw length code (`_9` to `_F`) that can-utils may write behind eight bytes: it changes nothing
/// about the payload, and no controller of ours can send it again.
fn raw_dlc_cut(data: &str) -> &str {
    match data.split_once('_') {
        Some((bytes, code)) if bytes.len() == 16 && matches!(code.as_bytes(), [b'9' | b'A'..=b'F']) => bytes,
        _ => data,
    }
}

fn hex<'b>(text: &str, bytes: &'b mut [u8; DATA_LEN_MAX]) -> Result<&'b [u8], Flaw> {
    let len = text.len() / 2;
    if !text.len().is_multiple_of(2) {
        return Err(Flaw::Data);
    }
    if len > DATA_LEN_MAX {
        return Err(Flaw::Unfit(FrameError::Length { got: len, max: DATA_LEN_MAX }));
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(Flaw::Data),
        };
    }
    bytes.get(..len).ok_or(Flaw::Data)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Reads the lines of a whole log in memory. Blank lines are passed over.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    line: u64,
    offset: u64,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `log`.
    pub const fn new(log: &'a [u8]) -> Self {
        Self { rest: log, line: 0, offset: 0 }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Record<'a>, CandumpError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |at| at + 1);
            let (line, rest) = self.rest.split_at(end);
            let offset = self.offset;
            self.rest = rest;
            self.line += 1;
            self.offset += end as u64;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(parse_line(line).map_err(|flaw| CandumpError { line: self.line, offset, flaw }));
            }
        }
        None
    }
}

impl fmt::Display for Record<'_> {
    /// The line without its end, as `candump -L` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WallTime(us) = self.at;
        write!(f, "({}.{:06}) {} ", us.div_euclid(1_000_000), us.rem_euclid(1_000_000), self.interface)?;
        let frame = &self.frame;
        match frame.kind() {
            FrameKind::Error => write!(f, "{:08X}#", frame.id().value() | ERROR_FLAG)?,
            FrameKind::Remote if frame.is_empty() => write!(f, "{}#R", frame.id())?,
            FrameKind::Remote => write!(f, "{}#R{}", frame.id(), frame.len())?,
            FrameKind::Classic => write!(f, "{}#", frame.id())?,
            FrameKind::Fd { bit_rate_switch, error_state } => {
                let flags = u8::from(bit_rate_switch) | u8::from(error_state) << 1;
                write!(f, "{}##{flags:X}", frame.id())?;
            }
        }
        for byte in frame.data() {
            write!(f, "{byte:02X}")?;
        }
        match self.direction {
            None => Ok(()),
            Some(Direction::Received) => f.write_str(" R"),
            Some(Direction::Sent) => f.write_str(" T"),
        }
    }
}

/// Writes one record and a line feed.
pub fn write_line(out: &mut String, record: &Record<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{record}");
}

#[cfg(test)]
mod tests;
