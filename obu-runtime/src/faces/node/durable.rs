//! The node's durable state: desired apps and functions, records of `once` jobs, Wasm modules. One redb file
//! in the state directory; a commit returns when the bytes are on the disk.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock};

use obu_core::io::{Desired, Durable};
use policies::id::Digest;
use policies::wire::{self, Kind, WireError};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use rustix::fs::{Mode, OFlags};
use v2e_core::record::JobRecord;

/// Schema of the state file. An older Verge refuses a newer one without harming it.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jobs");
const MODULES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("modules");

/// Failures of durable state.
#[derive(Debug, thiserror::Error)]
pub(super) enum DurableError {
    /// The file cannot be opened.
    #[error("cannot open node.redb in the state directory: {source}")]
    Open {
        /// The kernel's word.
        source: io::Error,
    },
    /// The store refuses.
    #[error("cannot {operation} the node's state: {why}")]
    Store {
        /// `read`, `write`.
        operation: &'static str,
        /// The store's word.
        why: String,
    },
    /// Written by a newer Verge.
    #[error("the node's state has schema {got}; this release reads up to {SCHEMA}")]
    Newer {
        /// The schema found.
        got: u64,
    },
    /// A value does not decode.
    #[error("the node's state is damaged ({table} {key}): {source}")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// Which entry.
        key: String,
        /// What is wrong.
        source: WireError,
    },
}

impl DurableError {
    /// What the operator can do about it.
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            Self::Newer { .. } => Some("run the newer Verge again, or give this node an empty state directory".into()),
            Self::Damaged { .. } => {
                Some("move node.redb away and apply the manifests again; finished effects are not repeated by that".into())
            }
            Self::Open { .. } => Some("make the state directory writable for the node's user".into()),
            Self::Store { .. } => Some("look for a full or failing disk".into()),
        }
    }
}

fn store(operation: &'static str) -> impl Fn(redb::Error) -> DurableError {
    move |e| DurableError::Store { operation, why: e.to_string() }
}

/// The open store.
#[derive(Debug)]
pub(super) struct DurableStore {
    state_dir: OwnedFd,
    /// None after a failed write: redb does nothing more with a file that could not be written once, so it is opened
    /// anew for the next operation, which finds what was committed.
    database: RwLock<Option<Database>>,
}

fn open_file(state_dir: &OwnedFd) -> Result<Database, DurableError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(state_dir, "node.redb", flags, Mode::from_raw_mode(0o600))
        .map_err(|e| DurableError::Open { source: e.into() })?;
    let open = |e: redb::DatabaseError| DurableError::Open { source: io::Error::other(e) };
    let backend = redb::backends::FileBackend::new(File::from(file)).map_err(open)?;
    Database::builder().create_with_backend(backend).map_err(open)
}

impl DurableStore {
    /// Opens or makes the store in the directory that host attached.
    ///
    /// # Errors
    /// If the file cannot be opened, is damaged, or was written by a newer release.
    pub(super) fn open(state_dir: &OwnedFd) -> Result<Self, DurableError> {
        let state_dir = state_dir.try_clone().map_err(|source| DurableError::Open { source })?;
        let database = open_file(&state_dir)?;
        let found = Self::schema(&database).map_err(store("read"))?;
        if found > SCHEMA {
            return Err(DurableError::Newer { got: found });
        }
        Ok(Self { state_dir, database: RwLock::new(Some(database)) })
    }

    /// The file's schema; a new file gets ours, with all its tables.
    fn schema(database: &Database) -> Result<u64, redb::Error> {
        let write = database.begin_write()?;
        let found = {
            let mut meta = write.open_table(META)?;
            let found = meta.get("schema")?.map(|v| v.value());
            if found.is_none() {
                meta.insert("schema", SCHEMA)?;
            }
            found.unwrap_or(SCHEMA)
        };
        if found > SCHEMA {
            write.abort()?;
            return Ok(found);
        }
        write.open_table(STATE)?;
        write.open_table(JOBS)?;
        write.open_table(MODULES)?;
        write.commit()?;
        Ok(found)
    }

    /// What the node remembers.
    ///
    /// # Errors
    /// If anything is damaged: a node that forgets silently could repeat an effect.
    pub(super) fn load(&self) -> Result<(Option<Desired>, Vec<JobRecord>), DurableError> {
        let (desired, jobs) = self.with("read", Self::load_raw)?;
        let desired = desired
            .map(|bytes| {
                wire::decode(Kind::State, &bytes).map_err(|source| DurableError::Damaged {
                    table: "state",
                    key: "desired".into(),
                    source,
                })
            })
            .transpose()?;
        let jobs = jobs
            .into_iter()
            .map(|(key, bytes)| {
                wire::decode(Kind::State, &bytes).map_err(|source| DurableError::Damaged {
                    table: "jobs",
                    key,
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok((desired, jobs))
    }

    #[expect(clippy::type_complexity, reason = "raw rows on their way to being decoded")]
    fn load_raw(database: &Database) -> Result<(Option<Vec<u8>>, Vec<(String, Vec<u8>)>), redb::Error> {
        let read = database.begin_read()?;
        let desired = read.open_table(STATE)?.get("desired")?.map(|v| v.value().to_vec());
        let mut jobs = Vec::new();
        for row in read.open_table(JOBS)?.iter()? {
            let (key, value) = row?;
            jobs.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok((desired, jobs))
    }

    /// Makes one thing durable; returns when it is on the disk.
    ///
    /// # Errors
    /// If it cannot be encoded or written; nothing has changed then.
    pub(super) fn persist(&self, what: &Durable) -> Result<(), DurableError> {
        let encoded = match what {
            Durable::Desired(desired) => encode(desired)?,
            Durable::Job(record) => encode(record)?,
            Durable::ForgetJob { .. } => Vec::new(),
        };
        self.write(|write| {
            match what {
                Durable::Desired(_) => {
                    write.open_table(STATE)?.insert("desired", encoded.as_slice())?;
                }
                Durable::Job(record) => {
                    let key = record.task.to_string();
                    write.open_table(JOBS)?.insert(key.as_str(), encoded.as_slice())?;
                }
                Durable::ForgetJob { task } => {
                    write.open_table(JOBS)?.remove(task.to_string().as_str())?;
                }
            }
            Ok(())
        })
    }

    /// Keeps a Wasm module that host has verified, so that a reboot without network can run it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn keep_module(&self, bundle: Digest, wasm: &[u8]) -> Result<(), DurableError> {
        self.write(|write| {
            write.open_table(MODULES)?.insert(bundle.hex().as_str(), wasm)?;
            Ok(())
        })
    }

    /// A module kept earlier.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn module(&self, bundle: Digest) -> Result<Option<Vec<u8>>, DurableError> {
        self.with("read", |database| {
            let read = database.begin_read()?;
            let found = read.open_table(MODULES)?.get(bundle.hex().as_str())?;
            Ok(found.map(|v| v.value().to_vec()))
        })
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), DurableError> {
        self.with("write", |database| {
            let write = database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        })
    }

    /// Works with the open file; opens it again first if it was given up.
    fn with<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DurableError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*database {
            Some(open) => act(open),
            None => {
                drop(database);
                let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
                if database.is_none() {
                    *database = Some(open_file(&self.state_dir)?);
                }
                drop(database);
                return self.with(operation, act);
            }
        };
        drop(database);
        if result.is_err() {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result.map_err(store(operation))
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, DurableError> {
    wire::encode(Kind::State, value)
        .map_err(|e| DurableError::Store { operation: "write", why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn desired_state_comes_back_after_reopening() {
        let (_dir, fd) = dir();
        let desired = Desired { version: 7, ..Desired::default() };
        DurableStore::open(&fd).unwrap().persist(&Durable::Desired(desired.clone())).unwrap();
        let (found, jobs) = DurableStore::open(&fd).unwrap().load().unwrap();
        assert_eq!(found, Some(desired));
        assert!(jobs.is_empty());
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let (_dir, fd) = dir();
        let store = DurableStore::open(&fd).unwrap();
        store.write(|w| w.open_table(META)?.insert("schema", 99).map(|_| ()).map_err(Into::into)).unwrap();
        drop(store);
        assert!(matches!(DurableStore::open(&fd), Err(DurableError::Newer { got: 99 })));
        assert!(matches!(DurableStore::open(&fd), Err(DurableError::Newer { got: 99 })));
    }

    #[test]
    fn a_damaged_value_is_named_not_skipped() {
        let (_dir, fd) = dir();
        let store = DurableStore::open(&fd).unwrap();
        let damage = |w: &redb::WriteTransaction| -> Result<(), redb::Error> {
            w.open_table(STATE)?.insert("desired", &b"nonsense"[..])?;
            Ok(())
        };
        store.write(damage).unwrap();
        let error = store.load().unwrap_err();
        assert!(error.to_string().contains("desired"), "{error}");
        assert!(error.fix().is_some());
    }

    #[test]
    fn modules_are_kept_by_their_bundle() {
        let (_dir, fd) = dir();
        let store = DurableStore::open(&fd).unwrap();
        let digest = Digest::of(b"bundle");
        assert_eq!(store.module(digest).unwrap(), None);
        store.keep_module(digest, b"wasm").unwrap();
        assert_eq!(store.module(digest).unwrap().as_deref(), Some(&b"wasm"[..]));
    }
}
