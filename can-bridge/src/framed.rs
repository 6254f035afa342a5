//! Messages of `policies::wire` over a stream socket, both ways, without blocking.
//!
//! A reader keeps bytes until a whole message is there. A writer keeps messages until the socket takes them; past
//! its limit the oldest whole message is dropped and counted, so that a slow peer costs memory only up to there
//! and never makes anybody wait.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use policies::limits::MESSAGE_LEN_MAX;
use policies::wire::{self, HEADER_LEN, Kind, WireError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes asked for in one read.
const READ_LEN: usize = 64 << 10;

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Bytes.
    Data,
    /// Nothing now.
    Empty,
    /// The peer has closed its end.
    Closed,
}

/// Collects bytes of a stream into messages.
#[derive(Debug, Default)]
pub struct FramedReader {
    bytes: Vec<u8>,
    /// Bytes before this are taken.
    start: usize,
}

impl FramedReader {
    /// Reads once from a non-blocking stream.
    ///
    /// # Errors
    /// What the stream says, except for "would block" and "interrupted".
    pub fn fill(&mut self, stream: &mut impl Read) -> io::Result<Fill> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let len = self.bytes.len();
        self.bytes.resize(len + READ_LEN, 0);
        let result = stream.read(self.bytes.get_mut(len..).unwrap_or_default());
        self.bytes.truncate(len + result.as_ref().map_or(0, |count| *count));
        match result {
            Ok(0) => Ok(Fill::Closed),
            Ok(_) => Ok(Fill::Data),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fill::Empty),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Fill::Data),
            Err(error) => Err(error),
        }
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`WireError`]: the stream can't be followed any more; close it.
    pub fn next<T: DeserializeOwned>(&mut self, kind: Kind) -> Result<Option<T>, WireError> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        if rest.len() < HEADER_LEN {
            return Ok(None);
        }
        let end = HEADER_LEN + wire::body_len(rest)?;
        let Some(frame) = rest.get(..end) else { return Ok(None) };
        let message = wire::decode(kind, frame)?;
        self.start += end;
        Ok(Some(message))
    }
}

/// Keeps messages until a stream takes them.
#[derive(Debug)]
pub struct FramedWriter {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first message that are written.
    written: usize,
    waiting: usize,
    limit: usize,
    dropped: u64,
}

impl FramedWriter {
    /// A writer that keeps up to `limit` bytes, and at least one message.
    pub const fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), written: 0, waiting: 0, limit, dropped: 0 }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`WireError::Long`] if it is longer than any message may be.
    pub fn push<T: Serialize>(&mut self, kind: Kind, message: &T) -> Result<(), WireError> {
        let frame = wire::encode(kind, message)?;
        self.waiting += frame.len();
        self.queue.push_back(frame);
        while self.waiting > self.limit && self.drop_oldest() {}
        Ok(())
    }

    /// Drops the oldest message that is not begun and not the last.
    fn drop_oldest(&mut self) -> bool {
        let at = usize::from(self.written > 0);
        if self.queue.len() <= at + 1 {
            return false;
        }
        let Some(frame) = self.queue.remove(at) else { return false };
        self.waiting -= frame.len();
        self.dropped += 1;
        true
    }

    /// Writes what the stream takes now.
    ///
    /// # Errors
    /// What the stream says, except for "would block" and "interrupted".
    pub fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while let Some(frame) = self.queue.front() {
            match stream.write(frame.get(self.written..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.written >= frame.len() {
                self.waiting -= frame.len();
                self.written = 0;
                self.queue.pop_front();
            }
        }
        Ok(())
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages dropped since the start, because the peer lagged.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

const _: () = assert!(READ_LEN < MESSAGE_LEN_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that takes or gives a few bytes at a time, and then would block.
    #[derive(Default)]
    struct Pipe {
        bytes: VecDeque<u8>,
        room: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(7);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.bytes.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Pipe {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let count = self.bytes.len().min(5);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            for (place, byte) in bytes.iter_mut().zip(self.bytes.drain(..count)) {
                *place = byte;
            }
            Ok(count)
        }
    }

    fn read_all(pipe: &mut Pipe) -> Vec<u32> {
        let mut reader = FramedReader::default();
        let mut got = Vec::new();
        while reader.fill(pipe).unwrap() == Fill::Data {
            while let Some((number, _)) = reader.next::<(u32, Vec<u8>)>(Kind::Face).unwrap() {
                got.push(number);
            }
        }
        got
    }

    fn message(number: u32) -> (u32, Vec<u8>) {
        (number, vec![0; 80])
    }

    #[test]
    fn messages_survive_being_cut_anywhere() {
        let mut pipe = Pipe { room: 10_000, ..Pipe::default() };
        let mut writer = FramedWriter::new(100_000);
        (0..50).for_each(|n| writer.push(Kind::Face, &message(n)).unwrap());
        writer.flush(&mut pipe).unwrap();
        assert!(writer.is_empty());
        assert_eq!(read_all(&mut pipe), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_slow_peer_loses_the_oldest_whole_messages_and_nothing_else() {
        let mut pipe = Pipe { room: 30, ..Pipe::default() };
        let mut writer = FramedWriter::new(500);
        for n in 0..50 {
            writer.push(Kind::Face, &message(n)).unwrap();
            writer.flush(&mut pipe).unwrap();
        }
        pipe.room = 10_000;
        writer.flush(&mut pipe).unwrap();
        assert_eq!(read_all(&mut pipe), [0, 46, 47, 48, 49], "the one that was begun, and the newest");
        assert_eq!(writer.dropped(), 45);
    }

    #[test]
    fn a_foreign_stream_is_an_error() {
        let mut pipe = Pipe { bytes: b"GET / HTTP/1.1\r\n".iter().copied().collect(), room: 0 };
        let mut reader = FramedReader::default();
        while reader.fill(&mut pipe).unwrap() == Fill::Data {}
        assert_eq!(reader.next::<u8>(Kind::Face), Err(WireError::Magic));
    }
}
