//! Event logs on disk: files of [`Record`] frames, the same that a daemon writes.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use obu_core::record::Record;
use policies::wire::WireError;

/// Failures with event logs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file, or the directory for it, cannot be made.
    #[error("cannot create {}: {source}", .path.display())]
    Create {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A record cannot be written.
    #[error("cannot write to {}: {source}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else, or is damaged.
    #[error("{} is damaged at byte {offset} (record {number}): {source}", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// Place in the file.
        offset: usize,
        /// Counted from 1.
        number: u64,
        /// Why.
        source: WireError,
    },
    /// A record is too long for a frame.
    #[error("a record of {node} cannot be written: {source}")]
    Encode {
        /// Whose.
        node: String,
        /// Why.
        source: WireError,
    },
}

impl LogError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Create { .. } | Self::Write { .. } => {
                Some("choose another place with --log or --dir, or free some space")
            }
            Self::Read { .. } => {
                Some("name a file that `verge-sim run --log` or a recording node has written")
            }
            Self::Damaged { .. } => {
                Some("replay what is whole with --until, one less than the damaged record")
            }
            Self::Encode { .. } => None,
        }
    }
}

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl LogWriter {
    /// Makes the file; an existing one is replaced.
    ///
    /// # Errors
    /// [`LogError::Create`].
    pub fn create(path: &Path) -> Result<Self, LogError> {
        let file = File::create(path).map_err(|source| LogError::Create { path: path.into(), source })?;
        Ok(Self { path: path.into(), file: BufWriter::new(file) })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`LogError::Write`] or [`LogError::Encode`].
    pub fn write(&mut self, record: &Record) -> Result<(), LogError> {
        let frame = encode(record)?;
        self.file.write_all(&frame).map_err(|source| LogError::Write { path: self.path.clone(), source })
    }

    /// Brings everything to the file.
    ///
    /// # Errors
    /// [`LogError::Write`].
    pub fn finish(mut self) -> Result<PathBuf, LogError> {
        self.file.flush().map_err(|source| LogError::Write { path: self.path.clone(), source })?;
        Ok(self.path)
    }
}

/// The record's frame.
///
/// # Errors
/// [`LogError::Encode`].
pub fn encode(record: &Record) -> Result<Vec<u8>, LogError> {
    record.encode().map_err(|source| LogError::Encode { node: record.node.to_string(), source })
}

/// Reads a log record by record.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    bytes: Vec<u8>,
    offset: usize,
    number: u64,
    cut: usize,
}

impl LogReader {
    /// Opens a log.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let bytes = std::fs::read(path).map_err(|source| LogError::Read { path: path.into(), source })?;
        Ok(Self { path: path.into(), bytes, offset: 0, number: 0, cut: 0 })
    }

    /// Bytes of a last record that was cut short, once the end is reached: its writer was killed while writing.
    pub const fn cut(&self) -> usize {
        self.cut
    }
}

impl Iterator for LogReader {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        match Record::decode_first(&self.bytes[self.offset..]) {
            Ok(None) => None,
            Ok(Some((record, used))) => {
                self.offset += used;
                Some(Ok(record))
            }
            Err(WireError::Short { got, .. }) => {
                self.cut = got;
                None
            }
            Err(source) => {
                let offset = std::mem::replace(&mut self.offset, self.bytes.len());
                Some(Err(LogError::Damaged { path: self.path.clone(), offset, number: self.number, source }))
            }
        }
    }
}
