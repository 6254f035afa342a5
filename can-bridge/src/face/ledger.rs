//! The stream to the append-only effect server: lines out, in order, each reported once.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use can_core::effect::Input;
use policies::id::{Attempt, TaskId};

/// Most lines that wait for the server. More are refused: the server hangs, and an effect that comes late is
/// worse than one that is refused.
const WAITING_MAX: usize = 256;

/// A connection to the effect server.
#[derive(Debug)]
pub enum EffectStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl EffectStream {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}

#[derive(Debug)]
struct Line {
    task: TaskId,
    attempt: Attempt,
    bytes: Vec<u8>,
    written: usize,
}

/// Lines on their way.
#[derive(Debug)]
pub(super) struct Ledger {
    stream: Option<EffectStream>,
    acks: bool,
    /// Not written completely.
    waiting: VecDeque<Line>,
    /// Written, and not acknowledged.
    written: VecDeque<(TaskId, Attempt)>,
}

impl Ledger {
    pub(super) const fn new(acks: bool) -> Self {
        Self { stream: None, acks, waiting: VecDeque::new(), written: VecDeque::new() }
    }

    /// Takes a connection; what was under way on the old one is settled as broken off.
    pub(super) fn connect(&mut self, stream: EffectStream, settled: &mut Vec<Input>) {
        self.disconnect(settled);
        if stream.set_nonblocking().is_ok() {
            self.stream = Some(stream);
            settled.push(Input::Server { reachable: true });
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self.stream.as_ref()? {
            EffectStream::Tcp(stream) => Some(stream.as_fd()),
            EffectStream::Unix(stream) => Some(stream.as_fd()),
        }
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn append(&mut self, task: TaskId, attempt: Attempt, line: String, settled: &mut Vec<Input>) {
        if self.stream.is_none() || self.waiting.len() + self.written.len() >= WAITING_MAX {
            settled.push(Input::AppendFailed { task, attempt, nothing_written: true });
            return;
        }
        let mut bytes = line.into_bytes();
        bytes.push(b'\n');
        self.waiting.push_back(Line { task, attempt, bytes, written: 0 });
        self.write(settled);
    }

    /// Writes what the server takes now.
    pub(super) fn write(&mut self, settled: &mut Vec<Input>) {
        while let (Some(stream), Some(line)) = (&mut self.stream, self.waiting.front_mut()) {
            match stream.write(line.bytes.get(line.written..).unwrap_or_default()) {
                Ok(0) => return self.disconnect(settled),
                Ok(count) => line.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(settled),
            }
            if line.written < line.bytes.len() {
                continue;
            }
            let Some(Line { task, attempt, .. }) = self.waiting.pop_front() else { return };
            if self.acks {
                self.written.push_back((task, attempt));
            } else {
                settled.push(Input::Appended { task, attempt });
            }
        }
    }

    /// Reads acknowledgements, and notices that the server is gone.
    pub(super) fn read(&mut self, settled: &mut Vec<Input>) {
        let mut bytes = [0; 4096];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut bytes) {
                Ok(0) => return self.disconnect(settled),
                Ok(count) => {
                    let lines = bytes.iter().take(count).filter(|byte| **byte == b'\n').count();
                    let acknowledged = self.written.drain(..lines.min(self.written.len()));
                    settled.extend(acknowledged.map(|(task, attempt)| Input::Appended { task, attempt }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(settled),
            }
        }
    }

    fn disconnect(&mut self, settled: &mut Vec<Input>) {
        if self.stream.take().is_none() {
            return;
        }
        settled.push(Input::Server { reachable: false });
        let written = self.written.drain(..);
        settled.extend(written.map(|(task, attempt)| Input::AppendFailed {
            task,
            attempt,
            nothing_written: false,
        }));
        settled.extend(self.waiting.drain(..).map(|Line { task, attempt, written, .. }| {
            Input::AppendFailed { task, attempt, nothing_written: written == 0 }
        }));
    }
}
