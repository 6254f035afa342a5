//! The node's boot counter: issued once per life, never twice, never backwards, whatever a power cut does.
//!
//! The file holds two lines, the number and its check: `42\n<crc of "42">`. It is replaced by writing a new file,
//! syncing it, renaming it over the old one and syncing the directory. A file that is there and does not check
//! is an error for a human: guessing could issue a number for the second time, and peers fence by it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use policies::id::{Digest, Incarnation};

use crate::fault::{Explain, FileError};

/// Name of the file in the state directory.
pub const FILE: &str = "incarnation";

/// Why no incarnation could be issued.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is there and damaged.
    #[error("{} does not hold a boot counter (found {found:?})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        found: String,
    },
    /// The counter has no next value.
    #[error("{} has reached its last value", path.display())]
    Exhausted {
        /// The file.
        path: PathBuf,
    },
}

impl Explain for IncarnationError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Damaged { path, .. } => Some(format!(
                "find the highest incarnation of this node that its peers have seen (verge get nodes), and write \
                 a higher one with: verge-host --set-incarnation {} NUMBER",
                path.parent().unwrap_or(path).display()
            )),
            Self::Exhausted { .. } => Some("give the node a new id".into()),
        }
    }
}

/// Issues the next incarnation; it is durable when this returns.
///
/// # Errors
/// [`IncarnationError`]; then none was issued.
pub fn issue(state_dir: &Path) -> Result<Incarnation, IncarnationError> {
    let path = state_dir.join(FILE);
    let last = match fs::read(&path) {
        Ok(bytes) => decode(&bytes).ok_or_else(|| IncarnationError::Damaged {
            path: path.clone(),
            found: String::from_utf8_lossy(&bytes).chars().take(40).collect(),
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(FileError::at("read", &path)(error).into()),
    };
    let next = last.checked_add(1).ok_or(IncarnationError::Exhausted { path })?;
    write(state_dir, next)?;
    Ok(Incarnation(next))
}

/// Writes down `number` as the last one issued, durably.
///
/// # Errors
/// The file operation that failed.
pub fn write(state_dir: &Path, number: u64) -> Result<(), FileError> {
    let path = state_dir.join(FILE);
    let new = state_dir.join("incarnation.new");
    let mut file = File::create(&new).map_err(FileError::at("create", &new))?;
    file.write_all(encode(number).as_bytes()).map_err(FileError::at("write", &new))?;
    file.sync_all().map_err(FileError::at("sync", &new))?;
    fs::rename(&new, &path).map_err(FileError::at("replace", &path))?;
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync", state_dir))
}

fn encode(number: u64) -> String {
    format!("{number}\n{}\n", check(number))
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.lines().next()?.parse().ok()?;
    (text == encode(number)).then_some(number)
}

fn check(number: u64) -> String {
    Digest::of(format!("verge incarnation {number}").as_bytes()).hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_counts_up_and_a_crash_before_the_rename_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(issue(dir.path()).unwrap(), Incarnation(1));
        assert_eq!(issue(dir.path()).unwrap(), Incarnation(2));
        fs::write(dir.path().join("incarnation.new"), "half of some").unwrap();
        assert_eq!(issue(dir.path()).unwrap(), Incarnation(3));
    }

    #[test]
    fn a_damaged_file_is_an_error_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        issue(dir.path()).unwrap();
        for bad in ["", "1", "1\n", "2\n0000000000000000\n", "\0\0\0\0", "x"] {
            fs::write(dir.path().join(FILE), bad).unwrap();
            let error = issue(dir.path()).unwrap_err();
            assert!(matches!(error, IncarnationError::Damaged { .. }), "{bad:?}: {error}");
            assert!(error.fix().unwrap().contains("--set-incarnation"));
        }
        write(dir.path(), 41).unwrap();
        assert_eq!(issue(dir.path()).unwrap(), Incarnation(42));
    }

    proptest! {
        #[test]
        fn no_damage_reads_as_a_number(number: u64, at: prop::sample::Index, flip in 1u8..) {
            let mut bytes = encode(number).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_ne!(decode(&bytes), Some(number.wrapping_add(1)));
            prop_assert!(decode(&bytes).is_none_or(|read| read == number));
        }
    }
}
