//! One form of recording for the road, the simulator and `replay`: a file of [`Kind::Record`] frames, each one
//! [`Record`]. Whoever feeds a node writes the input *before* feeding it, so that a crash leaves the culprit as
//! the last record.
//!
//! ```text
//!   Input(Boot)  Output ..  Input  Output ..  Input ..     one node, or many nodes interleaved
//! ```
//! Inputs alone suffice to replay: a [`crate::io::Input::Boot`] begins a new life of its node. Outputs may be
//! recorded too (a daemon does); [`Trail`] stands for them where that would be too much.

use alloc::string::String;
use alloc::vec::Vec;
use policies::id::{Attempt, Digest, NodeId, TaskId};
use policies::time::Timestamp;
use policies::wire::{self, HEADER_LEN, Kind, WireError};
use serde::{Deserialize, Serialize};

use crate::io::{Input, Output};

/// Something that happened at one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where.
    pub node: NodeId,
    /// When, on that node's clock.
    pub at: Timestamp,
    /// What.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// The node was told this.
    Input(Input),
    /// The node wanted this, in answer to the last input before it.
    Output(Output),
    /// An effect really reached the outside world; told by an observer, not by the node.
    Applied {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// All outputs of all nodes of this file so far.
    Trail(Trail),
    /// For the reader: the command that made the file, the violation that ended it.
    Note(String),
}

/// Number and chained digest of outputs: two runs with equal trails had byte-identical outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// How many.
    pub outputs: u64,
    /// `digest(n + 1) = SHA-256(digest(n) ++ record frame)`; it begins with the digest of nothing.
    pub digest: Digest,
}

impl Default for Trail {
    fn default() -> Self {
        Self { outputs: 0, digest: Digest::of(&[]) }
    }
}

impl Trail {
    /// Adds one output's record frame, as [`Record::encode`] made it.
    pub fn add(&mut self, frame: &[u8]) {
        let mut bytes = Vec::with_capacity(32 + frame.len());
        bytes.extend_from_slice(&self.digest.0);
        bytes.extend_from_slice(frame);
        *self = Self { outputs: self.outputs + 1, digest: Digest::of(&bytes) };
    }
}

impl Record {
    /// One frame.
    ///
    /// # Errors
    /// [`WireError::Long`] beyond the longest message, which no input or output of a working node is.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(Kind::Record, self)
    }

    /// Reads the first record of `bytes` and says how many bytes it took; `None` at the end of them.
    ///
    /// # Errors
    /// If the bytes are damaged, foreign or cut short.
    pub fn decode_first(bytes: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let expected = HEADER_LEN + wire::body_len(bytes)?;
        let Some(frame) = bytes.get(..expected) else {
            // A whole record behind the cut, or up to the end, means that not the file is cut short but a length is damaged.
            let damaged = holds_a_record(bytes) || is_a_record(bytes);
            return Err(if damaged {
                WireError::Crc
            } else {
                WireError::Short { got: bytes.len(), expected }
            });
        };
        Ok(Some((wire::decode(Kind::Record, frame)?, expected)))
    }
}

/// The records of a file's bytes, in order. The first that is damaged or cut short is the last item.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record, WireError>> {
    let mut rest = bytes;
    core::iter::from_fn(move || match Record::decode_first(rest) {
        Ok(found) => found.map(|(record, used)| {
            rest = rest.get(used..).unwrap_or_default();
            Ok(record)
        }),
        Err(error) => {
            rest = &[];
            Some(Err(error))
        }
    })
}

/// How a note begins by which a node tells that it has sent the run before it a second time, on purpose.
pub const SENT_TWICE: &str = "fault on purpose: this run is sent to";

/// The same for an effect that it asks for again.
pub const ASKED_AGAIN: &str = "fault on purpose: the effect is asked for again, of";

/// Whether the bytes, which begin with a header, are one whole record but for its length.
fn is_a_record(bytes: &[u8]) -> bool {
    let Ok(len) = u32::try_from(bytes.len() - HEADER_LEN) else { return false };
    let mut frame = bytes.to_vec();
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    wire::decode::<Record>(Kind::Record, &frame).is_ok()
}

/// Whether a whole record begins somewhere behind the first byte.
fn holds_a_record(bytes: &[u8]) -> bool {
    let whole = |at: usize| {
        let rest = bytes.get(at..).filter(|rest| rest.starts_with(b"vg"))?;
        let frame = rest.get(..HEADER_LEN + wire::body_len(rest).ok()?)?;
        wire::decode::<Record>(Kind::Record, frame).ok()
    };
    (1..bytes.len()).any(|at| whole(at).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(number: u64) -> Record {
        let entry =
            if number.is_multiple_of(2) { Entry::Input(Input::Tick) } else { Entry::Note("n".into()) };
        Record { node: NodeId::new("a1").unwrap(), at: Timestamp::from_micros(number), entry }
    }

    proptest! {
        #[test]
        fn a_file_of_records_reads_back_and_a_cut_is_noticed(times: Vec<u64>, place: prop::sample::Index) {
            let records: Vec<Record> = times.iter().map(|t| record(*t)).collect();
            let file: Vec<u8> = records.iter().flat_map(|r| r.encode().unwrap()).collect();
            let got: Vec<Record> = super::records(&file).map(Result::unwrap).collect();
            prop_assert_eq!(&got, &records);
            if let Some(last) = got.last() {
                let begin = file.len() - last.encode().unwrap().len();
                let cut = &file[begin..begin + 1 + place.index(file.len() - begin - 1)];
                prop_assert!(Record::decode_first(cut).is_err());
                let whole = super::records(&file[..begin + cut.len()]).filter(Result::is_ok).count();
                prop_assert_eq!(whole, records.len() - 1);
            }
        }
    }

    #[test]
    fn a_damaged_length_is_told_from_a_cut() {
        let records: Vec<u8> = (0..4).flat_map(|n| record(n).encode().unwrap()).collect();
        let one = record(0).encode().unwrap().len();
        // The first of four, and the last.
        for (bit, file) in (0..22).flat_map(|bit| [(bit, &records[..]), (bit, &records[..one])]) {
            let mut bytes = file.to_vec();
            bytes[4 + bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(Record::decode_first(&bytes), Ok(_) | Err(WireError::Short { .. })),
                "bit {bit}"
            );
        }
        assert!(matches!(Record::decode_first(&records[..one - 1]), Err(WireError::Short { .. })));
    }

    #[test]
    fn order_and_content_change_the_trail() {
        let (one, two) = (record(1).encode().unwrap(), record(2).encode().unwrap());
        let trail = |frames: &[&Vec<u8>]| {
            let mut trail = Trail::default();
            frames.iter().for_each(|frame| trail.add(frame));
            trail
        };
        assert_eq!(trail(&[&one, &two]), trail(&[&one, &two]));
        assert_ne!(trail(&[&one, &two]), trail(&[&two, &one]));
        assert_ne!(trail(&[&one]).digest, trail(&[]).digest);
    }
}
