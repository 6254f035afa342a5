//! A DBC file compiled once into a plan that decodes and encodes frames without looking anything up by name.
//!
//! ```text
//!   bytes --(scan: raw ids, lines)--> checked text --(can-dbc: grammar)--> tree
//!         --(compile: layout, ranges, multiplexing)--> DecodePlan --(codec)--> values, frames
//! ```
//! The grammar is foreign code that accepts more than makes sense (it cuts 29-bit ids to 16 bits, for
//! example), so every message and signal is checked here, and each problem is named with its line. A file with
//! one problem is refused whole: half a DBC would decode half the car.

mod codec;
mod compile;
mod layout;
mod plan;
mod scan;
#[cfg(test)]
mod tests;

pub use codec::{Decoded, EncodeError};
pub use compile::compile;
pub use layout::{ByteOrder, Layout};
pub use plan::{DecodePlan, Message, MessageIndex, Note, NumberKind, Signal, SignalIndex};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Largest DBC accepted. The largest public one has 0.8 MB; a comment of 10 MB still passes.
pub const DBC_LEN_MAX: usize = 16 << 20;

/// Most problems and notes kept of one file; the rest is only counted.
pub const PROBLEMS_MAX: usize = 50;

/// Most multiplexor signals in one message. Bounds the state a decode keeps on its stack.
pub const SWITCHES_MAX: usize = 16;

/// One reason why a DBC file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DbcProblem {
    /// The file is longer than [`DBC_LEN_MAX`].
    #[error("file has {got} bytes; {DBC_LEN_MAX} is the maximum")]
    Long {
        /// Its length.
        got: usize,
    },
    /// No message in it.
    #[error("file describes no message")]
    Empty,
    /// Not the DBC language.
    #[error("syntax: {why}")]
    Syntax {
        /// The parser's words.
        why: String,
    },
    /// An id above 11 bits without bit 31, which would silently become another id.
    #[error("message id {got} needs 29 bits but lacks the extended flag (bit 31)")]
    ExtendedFlag {
        /// The id as written.
        got: u64,
    },
    /// An id that is no CAN id at all.
    #[error("message id {got} is not an 11-bit id, nor a 29-bit id with bit 31 set")]
    Id {
        /// The id as written.
        got: String,
    },
    /// Two messages with one id.
    #[error("message {name} repeats the id of the message in line {first}")]
    DuplicateId {
        /// The second message.
        name: String,
        /// Line of the first.
        first: u32,
    },
    /// Two signals of one name in one message.
    #[error("message {message} has two signals named {signal}")]
    DuplicateSignal {
        /// The message.
        message: String,
        /// The signal.
        signal: String,
    },
    /// A signal whose number cannot be computed or does not fit.
    #[error("signal {signal}: {why}")]
    Signal {
        /// `Message.Signal`.
        signal: String,
        /// What is wrong with it.
        why: SignalFlaw,
    },
    /// Multiplexing that cannot be followed.
    #[error("message {message}: {why}")]
    Multiplex {
        /// The message.
        message: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// What is wrong with one signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalFlaw {
    /// Zero or more than 64 bits.
    #[error("{got} bits; 1 to 64 are possible")]
    Length {
        /// Bits.
        got: u64,
    },
    /// Bits beyond the message.
    #[error("bits reach byte {last} of a message of {size} bytes")]
    Fit {
        /// Last byte, counted from 0.
        last: u64,
        /// Bytes of the message.
        size: u64,
    },
    /// A factor of zero, or one that is not a finite number.
    #[error("factor {got} is zero or not finite")]
    Factor {
        /// As text, so that errors stay comparable.
        got: String,
    },
    /// An offset that is not a finite number.
    #[error("offset {got} is not finite")]
    Offset {
        /// As text.
        got: String,
    },
    /// A float that is not 32 or 64 bits long.
    #[error("a float of {got} bits; 32 or 64 are possible")]
    Float {
        /// Bits.
        got: u64,
    },
}

/// A [`DbcProblem`] with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedProblem {
    /// Counted from 1; 0 if it concerns the whole file.
    pub line: u32,
    /// What.
    pub problem: DbcProblem,
}

/// Why a DBC file is refused: every problem, not just the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbcErrors {
    /// The file, as the caller named it.
    pub file: String,
    /// At most [`PROBLEMS_MAX`].
    pub problems: Vec<LocatedProblem>,
    /// Problems beyond those.
    pub further: usize,
}

impl core::error::Error for DbcErrors {}

impl fmt::Display for DbcErrors {
    /// `file:line: reason`, one per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, LocatedProblem { line, problem }) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}: {problem}", self.file)?;
        }
        if self.further > 0 {
            write!(f, "\n{}: {} further problems", self.file, self.further)?;
        }
        Ok(())
    }
}

impl DbcErrors {
    /// What the author of the file can do, for the first problem that has a known cure.
    pub fn fix(&self) -> Option<String> {
        self.problems.iter().find_map(|located| located.problem.fix())
    }
}

impl DbcProblem {
    /// What the author of the file can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::ExtendedFlag { got } => {
                Some(alloc::format!("write the id as {} (bit 31 set)", got | 1 << 31))
            }
            Self::DuplicateId { .. } => Some("remove one of the two messages, or correct its id".into()),
            Self::DuplicateSignal { .. } => Some("rename one of the two signals".into()),
            Self::Signal { why: SignalFlaw::Fit { .. }, .. } => Some(
                "correct the start bit (Motorola signals start at their highest bit) or the length".into(),
            ),
            Self::Empty => Some("give a DBC file with at least one BO_ line".into()),
            Self::Long { .. }
            | Self::Syntax { .. }
            | Self::Id { .. }
            | Self::Signal { .. }
            | Self::Multiplex { .. } => None,
        }
    }
}

/// Collects problems up to [`PROBLEMS_MAX`].
#[derive(Debug, Default)]
struct Problems {
    kept: Vec<LocatedProblem>,
    further: usize,
}

impl Problems {
    fn add(&mut self, line: u32, problem: DbcProblem) {
        if self.kept.len() < PROBLEMS_MAX {
            self.kept.push(LocatedProblem { line, problem });
        } else {
            self.further += 1;
        }
    }

    fn into_errors(mut self, file: &str) -> Option<DbcErrors> {
        self.kept.sort_by_key(|located| located.line);
        let Self { kept: problems, further } = self;
        (!problems.is_empty()).then(|| DbcErrors { file: file.into(), problems, further })
    }
}
