//! Records every input and output of the node, in the one form that simulator and `replay` read, when the
//! configuration says `record = true`. A thread writes; the machine never waits for the disk.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use obu_core::io::{Input, Output};
use obu_core::record::{Entry, Record};
use policies::id::NodeId;
use policies::time::Timestamp;
use policies::wire::{self, Kind};
use rustix::fs::{Mode, OFlags};

use super::NodeError;
use crate::channel::FaceStart;
use crate::config::NodeFile;

/// Records that may wait for the disk. Beyond it recording stops with a warning: a recording with a hole
/// cannot be replayed, and the node is more important.
const WAITING_MAX: usize = 16_384;

/// Longest time that a record stays in memory only.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// The recorder; does nothing if recording is off.
#[derive(Debug)]
pub(super) struct Recorder {
    node: NodeId,
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Recorder {
    /// Opens `record-{incarnation}.vrec` in the state directory, if recording is on.
    pub(super) fn open(file: &NodeFile, dir: &OwnedFd, start: &FaceStart) -> Result<Self, NodeError> {
        let mut this = Self { node: start.node.clone(), queue: None, writer: None };
        if !file.node.record {
            return Ok(this);
        }
        let name = format!("record-{}.vrec", start.incarnation);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let record = rustix::fs::openat(dir, name.as_str(), flags, Mode::from_raw_mode(0o640))
            .map_err(|e| NodeError::Durable(format!("cannot record into {name}: {e}"), None))?;
        let (queue, waiting) = sync_channel::<Vec<u8>>(WAITING_MAX);
        this.queue = Some(queue);
        this.writer = Some(std::thread::spawn(move || write(File::from(record), &waiting)));
        Ok(this)
    }

    pub(super) fn input(&mut self, at: Timestamp, input: &Input) {
        if self.queue.is_some() {
            self.push(at, Entry::Input(input.clone()));
        }
    }

    pub(super) fn output(&mut self, at: Timestamp, output: &Output) {
        if self.queue.is_some() {
            self.push(at, Entry::Output(output.clone()));
        }
    }

    /// For whoever reads the recording: what was done that no output asked for.
    pub(super) fn note(&mut self, at: Timestamp, text: String) {
        self.push(at, Entry::Note(text));
    }

    fn push(&mut self, at: Timestamp, entry: Entry) {
        let Some(queue) = &self.queue else { return };
        let record = Record { node: self.node.clone(), at, entry };
        let sent = wire::encode(Kind::Record, &record).map(|frame| queue.try_send(frame).is_ok());
        if !matches!(sent, Ok(true)) {
            tracing::warn!("the disk does not keep up: recording stops here");
            self.queue = None;
        }
    }

    /// Writes what waits, and ends.
    pub(super) fn close(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

fn write(file: File, waiting: &std::sync::mpsc::Receiver<Vec<u8>>) {
    let mut file = BufWriter::with_capacity(256 << 10, file);
    loop {
        let written = match waiting.recv_timeout(FLUSH_EVERY) {
            Ok(frame) => file.write_all(&frame),
            Err(RecvTimeoutError::Timeout) => file.flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Err(error) = written {
            tracing::warn!(%error, "recording stops: cannot write");
            return;
        }
    }
    if let Err(error) = file.flush() {
        tracing::warn!(%error, "the end of the recording is lost");
    }
}
