//! Names and identities. Every name is checked once, where it is made; holding one proves it is safe as a
//! file name, a cgroup folder name and one chunk of a Zenoh key.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Longest name accepted: a cgroup path of four of them stays far below `NAME_MAX` and `PATH_MAX`.
pub const NAME_LEN_MAX: usize = 40;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or more than [`NAME_LEN_MAX`] characters.
    #[error("name {got:?} has {len} characters; 1 to {NAME_LEN_MAX} are allowed")]
    Length {
        /// The text.
        got: String,
        /// Its length in characters.
        len: usize,
    },
    /// A character outside `a-z0-9-_`, or one that may not come first.
    #[error(
        "name {got:?} has {found:?} at character {at}; names are a-z, 0-9, '-' and '_', beginning with a letter or digit"
    )]
    Character {
        /// The text.
        got: String,
        /// The offending character.
        found: char,
        /// Its place, counted from 1.
        at: usize,
    },
}

fn check_name(text: &str) -> Result<(), NameError> {
    let len = text.chars().count();
    if len == 0 || len > NAME_LEN_MAX {
        return Err(NameError::Length { got: text.chars().take(80).collect(), len });
    }
    for (index, found) in text.chars().enumerate() {
        let plain = found.is_ascii_lowercase() || found.is_ascii_digit();
        if !(plain || index > 0 && (found == '-' || found == '_')) {
            return Err(NameError::Character { got: text.to_owned(), found, at: index + 1 });
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and wraps a name: 1 to 40 characters of `a-z0-9-_`, beginning with a letter or digit.
            ///
            /// # Errors
            /// [`NameError`] names the offending character or the length.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// One running Verge: an on-board unit, a roadside edge element, a cloud host.
    NodeId
}
name! {
    /// A car: the nodes that share one car realm. A roadside edge is a "car" of one node.
    CarId
}
name! {
    /// An app, unique within its tenant on one node.
    AppName
}
name! {
    /// Whoever owns apps and data.
    TenantId
}
name! {
    /// Code that can be invoked.
    FunctionName
}
name! {
    /// A bus of this node, such as `can0`.
    BusName
}
name! {
    /// A camera of this node, such as `front`.
    CameraId
}
name! {
    /// A zone: the area that one outside authority covers.
    ZoneId
}

/// A node's boot counter. With the [`NodeId`] it names one life of a node, and it fences off earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One invocation of a function. Unique for ever: the owner never uses a number twice within one life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The node that owns the task and reports its outcome.
    pub owner: NodeId,
    /// The owner's life.
    pub incarnation: Incarnation,
    /// Counts up from 1 within that life.
    pub number: u64,
}

impl fmt::Display for TaskId {
    /// `owner.incarnation.number`, as the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.owner, self.incarnation, self.number)
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let bad = || TaskIdError { got: text.chars().take(120).collect() };
        let mut parts = text.split('.');
        let (Some(owner), Some(incarnation), Some(number), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        Ok(Self {
            owner: NodeId::new(owner).map_err(|_| bad())?,
            incarnation: Incarnation(incarnation.parse().map_err(|_| bad())?),
            number: number.parse().map_err(|_| bad())?,
        })
    }
}

/// A text that is not a task id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not a task id; it looks like NODE.INCARNATION.NUMBER, for example a1.3.42")]
pub struct TaskIdError {
    /// The text.
    pub got: String,
}

/// An attempt at a task, counted from 1. It is the fence: an effect port refuses an older attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt(pub u32);

/// SHA-256 of some bytes: how code, inputs and bundles are named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// 64 lower-case hexadecimal digits, without the `sha256:` prefix.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}…", &self.hex()[..12])
    }
}

/// A text that is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not a digest; it looks like sha256: and 64 hexadecimal digits")]
pub struct DigestError {
    /// The text.
    pub got: String,
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Accepts 64 hexadecimal digits with or without `sha256:` before them.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bad = || DigestError { got: text.chars().take(100).collect() };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = core::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use alloc::string::ToString as _;
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.to_string())
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn names_are_safe_as_folder_names() {
        for good in ["a", "a1", "lane-keeper", "0", "x_y"] {
            assert!(NodeId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a/b", "..", "a.b", "a b", "é", "a*", "a$", &"x".repeat(41)] {
            assert!(NodeId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_and_task_ids_come_back_from_their_text() {
        let digest = Digest::of(b"verge");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("sha256:abcd".parse::<Digest>().is_err());
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        let task: TaskId = "a1.3.42".parse().unwrap();
        assert_eq!(task.to_string(), "a1.3.42");
        for bad in ["", "a1", "a1.3", "a1.3.x", "a1.3.4.5", "A.1.1"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }
}
