//! The words of task outsourcing: classes, effect kinds, outcomes.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// Service quality of an app or a task, best first. Names of quality, not of ASIL: Verge is QM software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Keeps its latency whatever the others do; never squeezed.
    Critical,
    /// Needed for driving comfort and assistance; squeezed last.
    Driving,
    /// Nice to have.
    #[default]
    Comfort,
    /// First to be squeezed, frozen and stopped.
    Background,
}

impl Class {
    /// All classes, best first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Driving, Self::Comfort, Self::Background];

    /// The name as manifests, cgroup folders and keys spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Driving => "driving",
            Self::Comfort => "comfort",
            Self::Background => "background",
        }
    }

    /// The class of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens if a task runs twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: run it as often as you like, hedge it freely.
    #[default]
    Pure,
    /// The same as once: repeating is safe but costs.
    Idempotent,
    /// Harm: its effect must not happen twice, so an unknown outcome is never answered by a repeat.
    Once,
}

impl Effect {
    /// The name as manifests and selectors spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pure, Self::Idempotent, Self::Once].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Bytes by reference: the machines move references, the drivers hold the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Their number.
    pub len: u32,
}

impl BlobRef {
    /// A reference to `bytes`; `None` if they are longer than any message may be.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let len = u32::try_from(bytes.len()).ok()?;
        Some(Self { digest: Digest::of(bytes), len })
    }
}

/// How a task ended, as its owner reports it. Exactly one per task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It ran; here is the result.
    Done {
        /// Result bytes.
        result: BlobRef,
    },
    /// The function itself said no (exit code other than 0, trap, bad input). Not repeated elsewhere.
    Failed {
        /// The function's exit code, or -1 for a trap.
        code: i32,
        /// Its last words, at most [`crate::limits::REASON_LEN_MAX`] bytes.
        why: String,
    },
    /// Nobody could finish it in time. Nothing happened twice, perhaps nothing happened at all.
    Missed {
        /// Which rule or event ended it.
        why: String,
    },
    /// A `once` task whose effect may or may not have happened; the app decides.
    Indeterminate {
        /// What is known.
        why: String,
    },
    /// No place may or can run it.
    Refused {
        /// The rule.
        why: String,
    },
    /// The app cancelled it in time.
    Cancelled,
}

impl Outcome {
    /// One word for tables and counters.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Missed { .. } => "missed",
            Self::Indeterminate { .. } => "indeterminate",
            Self::Refused { .. } => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_back() {
        for class in Class::ALL {
            assert_eq!(Class::parse(class.as_str()), Some(class));
        }
        assert!(Class::Critical < Class::Background);
        assert_eq!(Effect::parse("once"), Some(Effect::Once));
        assert_eq!(Effect::parse("twice"), None);
    }
}
