//! How host says what went wrong: what was tried, on which object, why it failed, and how to fix it.

use std::io;
use std::path::{Path, PathBuf};

use policies::host::HostRefusal;
use policies::limits::REASON_LEN_MAX;

/// An error that may know what the operator can do about it.
pub trait Explain: std::error::Error {
    /// What the operator can do, if known.
    fn fix(&self) -> Option<String>;
}

/// A file operation that failed, with the operation and the path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct FileError {
    /// The operation, as a verb: `open`, `create`, `bind to`.
    pub what: &'static str,
    /// Its object.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: wraps an I/O error of `what` on `path`.
    pub fn at<E: Into<io::Error>>(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self { what, path, source: source.into() }
    }
}

impl Explain for FileError {
    fn fix(&self) -> Option<String> {
        let path = self.path.display();
        match self.source.kind() {
            io::ErrorKind::NotFound => Some(format!("make sure that {path} exists")),
            io::ErrorKind::PermissionDenied => {
                Some(format!("run as root, or give this user the right to {} {path}", self.what))
            }
            io::ErrorKind::StorageFull => Some(format!("free space on the file system of {path}")),
            io::ErrorKind::AddrInUse => Some(format!("end the process that uses {path}, or choose another")),
            io::ErrorKind::ReadOnlyFilesystem => {
                Some(format!("put {path} on a file system that can be written"))
            }
            _ => None,
        }
    }
}

/// Turns any explained error into the form that goes to node. The cause is cut at [`REASON_LEN_MAX`].
pub fn refusal(what: impl Into<String>, why: &impl Explain) -> HostRefusal {
    HostRefusal { what: what.into(), why: shorten(why.to_string()), fix: why.fix() }
}

/// A refusal made by a rule of host's own.
pub fn refuse(what: impl Into<String>, why: impl Into<String>, fix: Option<&str>) -> HostRefusal {
    HostRefusal { what: what.into(), why: shorten(why.into()), fix: fix.map(str::to_owned) }
}

/// What a face says about itself, fit for one line of a log or a table: a face may be hostile.
pub fn one_line(text: String) -> String {
    shorten(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cuts `text` at [`REASON_LEN_MAX`] characters.
pub fn shorten(text: String) -> String {
    match text.char_indices().nth(REASON_LEN_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}
