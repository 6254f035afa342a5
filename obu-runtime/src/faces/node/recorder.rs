//! Records every input and output of the node, in the one form that simulator and `replay` read, when the
//! configuration says `record = true`. A thread writes; the machine never waits for the disk.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

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

/// Node processes of one life whose recordings are kept; a node that dies more often records no further.
const PROCESSES_MAX: u32 = 64;

/// The recorder; does nothing if recording is off.
#[derive(Debug)]
pub(super) struct Recorder {
    node: NodeId,
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Recorder {
    /// Opens `record-{incarnation}.vrec` in the state directory, if recording is on. A node process that died in this
    /// life has left its own there: the next ones are `record-{incarnation}-2.vrec` and so on.
    pub(super) fn open(file: &NodeFile, dir: &OwnedFd, start: &FaceStart) -> Result<Self, NodeError> {
        let mut this = Self { node: start.node.clone(), queue: None, writer: None };
        if !file.node.record {
            return Ok(this);
        }
        let name = |process: u32| match process {
            1 => format!("record-{}.vrec", start.incarnation),
            _ => format!("record-{}-{process}.vrec", start.incarnation),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = |process| rustix::fs::openat(dir, name(process), flags, Mode::from_raw_mode(0o640));
        let mut process = 1;
        let record = loop {
            match open(process) {
                Ok(record) => break record,
                Err(rustix::io::Errno::EXIST) if process < PROCESSES_MAX => process += 1,
                Err(rustix::io::Errno::EXIST) => {
                    tracing::warn!("{PROCESSES_MAX} processes of this life have recorded: this one does not");
                    return Ok(this);
                }
                Err(e) => {
                    return Err(NodeError::Durable(
                        format!("cannot record into {}: {e}", name(process)),
                        None,
                    ));
                }
            }
        };
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

/// Writes until nobody records any more. What has collected goes to the kernel as soon as nothing waits, so that a
/// node that is killed leaves all but its last moment.
fn write(file: File, waiting: &Receiver<Vec<u8>>) {
    let mut file = BufWriter::with_capacity(256 << 10, file);
    let result = loop {
        let frame = match waiting.try_recv() {
            Ok(frame) => frame,
            Err(TryRecvError::Disconnected) => break file.flush(),
            Err(TryRecvError::Empty) => match file.flush().map(|()| waiting.recv()) {
                Ok(Ok(frame)) => frame,
                Ok(Err(_)) => break Ok(()),
                Err(error) => break Err(error),
            },
        };
        if let Err(error) = file.write_all(&frame) {
            break Err(error);
        }
    };
    if let Err(error) = result {
        tracing::warn!(%error, "the recording ends here: cannot write");
    }
}
