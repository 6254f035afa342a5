//! What host writes down about each running app, so that the next host finds it: one folder per app in the run
//! directory with `record.json`, `exit` (written by init) and `log` (a named pipe).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use policies::host::{AppRef, Enforced, Exit};
use policies::task::Class;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::fault::FileError;
use crate::ground::make_dir;
use crate::procfs::ProcessName;

/// One running app, as the next host needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Schema of this file.
    pub version: u32,
    /// Which.
    pub app: AppRef,
    /// Which start.
    pub instance: u64,
    /// Where it is in the cgroup tree.
    pub class: Class,
    /// Its number among the uids.
    pub number: u32,
    /// Its init.
    pub init: ProcessName,
    /// Its limits as they were read back.
    #[serde(default)]
    pub limits: Vec<Enforced>,
    /// This boot: process numbers mean nothing in another.
    pub boot: String,
}

/// The schema that this release writes and reads.
pub const VERSION: u32 = 1;

/// Identity of this boot of the machine.
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

/// An app's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of `app` below `apps`.
    pub fn of(apps: &Path, app: &AppRef) -> Self {
        Self(apps.join(format!("{}.{}", app.tenant, app.app)))
    }

    /// Makes the folder, its log pipe and an empty exit file. Returns (log for the app, log for readers, exit
    /// file).
    ///
    /// # Errors
    /// Names the path.
    pub fn make(&self) -> Result<(OwnedFd, OwnedFd, File), FileError> {
        self.remove()?;
        make_dir(&self.0, 0o700)?;
        let log = self.0.join("log");
        rustix::fs::mknodat(CWD, &log, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(FileError::at("make the log pipe", &log))?;
        // Open for reading and writing, so that the app never meets a pipe without a reader.
        let write = rustix::fs::open(&log, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(FileError::at("open", &log))?;
        let exit = self.0.join("exit");
        let exit = File::create(&exit).map_err(FileError::at("create", &exit))?;
        Ok((write, self.log()?, exit))
    }

    /// A read end of the log.
    ///
    /// # Errors
    /// Names the path.
    pub fn log(&self) -> Result<OwnedFd, FileError> {
        let path = self.0.join("log");
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(FileError::at("open", &path))
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// Names the path.
    pub fn write(&self, record: &Record) -> Result<(), FileError> {
        let (new, path) = (self.0.join("record.new"), self.0.join("record.json"));
        let text = serde_json::to_vec(record)
            .map_err(|error| FileError::at("encode", &path)(io::Error::other(error)))?;
        fs::write(&new, text).map_err(FileError::at("write", &new))?;
        fs::rename(&new, &path).map_err(FileError::at("replace", &path))
    }

    /// How the program ended, as init wrote it down.
    pub fn exit(&self) -> Option<Exit> {
        parse_exit(&fs::read_to_string(self.0.join("exit")).ok()?)
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// Names the path.
    pub fn remove(&self) -> Result<(), FileError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::at("remove", &self.0)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Reads what init writes.
pub fn parse_exit(text: &str) -> Option<Exit> {
    let (kind, number) = text.trim().split_once(' ')?;
    let number = number.parse().ok()?;
    match kind {
        "code" => Some(Exit::Code(number)),
        "signal" => Some(Exit::Signal(number)),
        _ => None,
    }
}

/// Every record below `apps` that this boot and this release can read.
pub fn all(apps: &Path) -> Vec<Record> {
    let boot = boot_id();
    let Ok(folders) = fs::read_dir(apps) else { return Vec::new() };
    folders
        .flatten()
        .filter_map(|folder| fs::read(folder.path().join("record.json")).ok())
        .filter_map(|text| serde_json::from_slice::<Record>(&text).ok())
        .filter(|record| record.version == VERSION && record.boot == boot)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_read_as_init_writes_them() {
        for (text, expected) in [
            ("code 0\n", Some(Exit::Code(0))),
            ("code 3\n", Some(Exit::Code(3))),
            ("signal 9\n", Some(Exit::Signal(9))),
            ("", None),
            ("code", None),
            ("code x\n", None),
        ] {
            assert_eq!(parse_exit(text), expected, "{text:?}");
        }
    }
}
