//! A vehicle signal as it travels: VSS path, value, unit, age, quality.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A VSS path such as `Vehicle.Speed`: chunks of `A-Za-z0-9_` joined by dots.
///
/// Source: COVESA Vehicle Signal Specification, naming rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignalPath(String);

/// A text that is not a VSS path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not a VSS path; it looks like Vehicle.Speed, at most {PATH_LEN_MAX} characters")]
pub struct PathError {
    /// The text.
    pub got: String,
}

/// Longest path accepted; the longest of VSS 6 has 117 characters.
pub const PATH_LEN_MAX: usize = 200;

impl SignalPath {
    /// Checks and wraps a path.
    ///
    /// # Errors
    /// [`PathError`] if a chunk is empty or holds another character.
    pub fn new(text: &str) -> Result<Self, PathError> {
        let chunk_ok = |c: &str| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if text.len() <= PATH_LEN_MAX && text.split('.').all(chunk_ok) {
            Ok(Self(text.into()))
        } else {
            Err(PathError { got: text.chars().take(PATH_LEN_MAX).collect() })
        }
    }

    /// `Vehicle.Speed`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `Vehicle/Speed`, as Zenoh keys spell it.
    pub fn as_key(&self) -> String {
        self.0.replace('.', "/")
    }
}

impl TryFrom<String> for SignalPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::new(&text)
    }
}

impl From<SignalPath> for String {
    fn from(path: SignalPath) -> Self {
        path.0
    }
}

impl fmt::Display for SignalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a signal says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A physical number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A label from a value table or a mapping.
    Text(String),
}

/// How far a value can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Fresh, in range.
    Ok,
    /// The sender marked it invalid, or it is out of its range.
    Invalid,
    /// Older than three of its cycle times.
    Stale,
    /// Older than ten of its cycle times, or its bus is gone.
    Lost,
}

/// One sample of one signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// VSS path.
    pub path: SignalPath,
    /// The value.
    pub value: Value,
    /// Unit as the catalogue names it (`km/h`), empty if none.
    pub unit: String,
    /// When the frame was received, on the clock of the node that received it.
    pub source_time: Timestamp,
    /// Counts up by one per sample of this path; a gap is a loss.
    pub seq: u64,
    /// Trust.
    pub quality: Quality,
}

/// A pattern over VSS paths: a path, or a path whose last chunk is `*` (one level) or `**` (all below).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignalPattern(String);

impl SignalPattern {
    /// Checks and wraps a pattern. A bare `**` is refused: a grant names at least one branch.
    ///
    /// # Errors
    /// [`PathError`] if it is neither a path nor a path with a final wildcard.
    pub fn new(text: &str) -> Result<Self, PathError> {
        let stem = text.strip_suffix(".**").or_else(|| text.strip_suffix(".*")).unwrap_or(text);
        SignalPath::new(stem).map_err(|_| PathError { got: text.chars().take(PATH_LEN_MAX).collect() })?;
        Ok(Self(text.into()))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is covered.
    pub fn matches(&self, path: &SignalPath) -> bool {
        let rest = |stem: &str| path.as_str().strip_prefix(stem).and_then(|r| r.strip_prefix('.'));
        if let Some(stem) = self.0.strip_suffix(".**") {
            rest(stem).is_some()
        } else if let Some(stem) = self.0.strip_suffix(".*") {
            rest(stem).is_some_and(|r| !r.contains('.'))
        } else {
            self.0 == path.as_str()
        }
    }

    /// Whether every path that `other` covers is covered by this pattern too.
    pub fn includes(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        let Some(stem) = self.0.strip_suffix(".**") else {
            return SignalPath::new(&other.0).is_ok_and(|path| self.matches(&path));
        };
        other.0.strip_prefix(stem).is_some_and(|r| r.starts_with('.'))
    }
}

impl TryFrom<String> for SignalPattern {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::new(&text)
    }
}

impl From<SignalPattern> for String {
    fn from(pattern: SignalPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for SignalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn pattern_table() {
        //     pattern                path                          covered
        check("Vehicle.Speed",        "Vehicle.Speed",              true);
        check("Vehicle.Speed",        "Vehicle.SpeedLimit",         false);
        check("Vehicle.*",            "Vehicle.Speed",              true);
        check("Vehicle.*",            "Vehicle.Cabin.Temperature",  false);
        check("Vehicle.**",           "Vehicle.Cabin.Temperature",  true);
        check("Vehicle.**",           "Vehicle",                    false);
        check("Vehicle.Cabin.**",     "Vehicle.CabinX.Temperature", false);
    }

    #[track_caller]
    fn check(pattern: &str, path: &str, covered: bool) {
        let pattern = SignalPattern::new(pattern).unwrap();
        assert_eq!(pattern.matches(&SignalPath::new(path).unwrap()), covered, "{pattern} {path}");
    }

    #[test]
    fn inclusion_is_what_grants_are_compared_by() {
        let p = |t| SignalPattern::new(t).unwrap();
        assert!(p("Vehicle.**").includes(&p("Vehicle.Cabin.*")));
        assert!(p("Vehicle.**").includes(&p("Vehicle.Speed")));
        assert!(p("Vehicle.*").includes(&p("Vehicle.Speed")));
        assert!(!p("Vehicle.*").includes(&p("Vehicle.**")));
        assert!(!p("Vehicle.Speed").includes(&p("Vehicle.*")));
        for bad in ["**", "*", "", "Vehicle.", "Vehicle.*.X", "Vehicle..X", "Vehicle/X", "Ve*"] {
            assert!(SignalPattern::new(bad).is_err(), "{bad}");
        }
    }
}
