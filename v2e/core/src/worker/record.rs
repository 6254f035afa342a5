//! What is remembered of tasks so that none runs twice, bounded in number and time.

use alloc::collections::{BTreeMap, BTreeSet};
use policies::id::{Attempt, TaskId};
use policies::limits::RECORDS_MAX;
use policies::time::Timestamp;

use crate::message::JobEnd;

/// What is known of the highest attempt that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// None was taken; see [`Record::refused`].
    Never,
    /// It is a job now.
    Job {
        /// Which.
        number: u64,
    },
    /// It is over.
    Over {
        /// How.
        end: JobEnd,
        /// Time in the queue, microseconds.
        queued_us: u64,
        /// Execution time, microseconds.
        exec_us: u64,
    },
}

/// What is known of one task.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The highest attempt that was taken.
    pub(super) attempt: Attempt,
    /// What became of it.
    pub(super) state: State,
    /// The highest attempt that was refused: none up to it will ever be taken.
    pub(super) refused: Attempt,
    /// Whether it is on disk.
    pub(super) durable: bool,
    expires: Timestamp,
}

/// All records of one worker.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_task: BTreeMap<TaskId, Record>,
    /// Of tasks that are not jobs.
    expiry: BTreeSet<(Timestamp, TaskId)>,
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.by_task.len()
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<&Record> {
        self.by_task.get(task)
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiry.first().map(|(at, _)| *at)
    }

    /// Makes room for one more record: forgets the one that would go first. `false` if it must not go yet.
    pub(super) fn make_room(&mut self) -> bool {
        if self.by_task.len() < RECORDS_MAX {
            return true;
        }
        let Some((at, task)) = self.expiry.first().cloned() else { return false };
        if self.by_task.get(&task).is_some_and(|record| record.durable) {
            return false;
        }
        self.expiry.remove(&(at, task.clone()));
        self.by_task.remove(&task);
        true
    }

    /// A new job of this attempt.
    pub(super) fn begin(&mut self, task: &TaskId, attempt: Attempt, number: u64) {
        let refused = self.take_expiry(task).unwrap_or_default();
        let (state, durable) = (State::Job { number }, false);
        let expires = Timestamp::MAX;
        self.by_task.insert(task.clone(), Record { attempt, state, refused, durable, expires });
    }

    /// The job is over.
    pub(super) fn end(&mut self, until: Timestamp, task: &TaskId, over: State) {
        if let Some(record) = self.by_task.get_mut(task) {
            record.state = over;
            record.expires = until;
            self.expiry.insert((until, task.clone()));
        }
    }

    /// A record of an earlier life.
    pub(super) fn recover(&mut self, until: Timestamp, task: TaskId, attempt: Attempt, end: JobEnd) {
        if self.by_task.len() >= RECORDS_MAX {
            return;
        }
        self.take_expiry(&task);
        let state = State::Over { end, queued_us: 0, exec_us: 0 };
        let record = Record { attempt, state, refused: Attempt(0), durable: true, expires: until };
        self.expiry.insert((until, task.clone()));
        self.by_task.insert(task, record);
    }

    /// This attempt was refused: neither it nor an older one will ever be taken.
    pub(super) fn refuse(&mut self, until: Timestamp, task: &TaskId, attempt: Attempt) {
        if let Some(record) = self.by_task.get_mut(task) {
            record.refused = record.refused.max(attempt);
            return;
        }
        if !self.make_room() {
            return;
        }
        let record = Record {
            attempt: Attempt(0),
            state: State::Never,
            refused: attempt,
            durable: false,
            expires: until,
        };
        self.by_task.insert(task.clone(), record);
        self.expiry.insert((until, task.clone()));
    }

    pub(super) fn mark_durable(&mut self, task: &TaskId) {
        if let Some(record) = self.by_task.get_mut(task) {
            record.durable = true;
        }
    }

    /// The requester has the outcome: the record stays for late repeats, the disk may forget it. Returns
    /// whether there is something on disk to forget.
    pub(super) fn ack(&mut self, until: Timestamp, task: &TaskId, attempt: Attempt) -> bool {
        let Some(record) = self.by_task.get_mut(task) else { return false };
        if record.attempt != attempt || matches!(record.state, State::Job { .. }) {
            return false;
        }
        self.expiry.remove(&(record.expires, task.clone()));
        record.expires = until;
        self.expiry.insert((until, task.clone()));
        core::mem::take(&mut record.durable)
    }

    /// Takes out one record whose time is over; says whether it was on disk.
    pub(super) fn expire(&mut self, now: Timestamp) -> Option<(TaskId, bool)> {
        self.expiry.first().filter(|(at, _)| *at <= now)?;
        let (_, task) = self.expiry.pop_first()?;
        let durable = self.by_task.remove(&task).is_some_and(|record| record.durable);
        Some((task, durable))
    }

    /// Takes a task's expiry away and returns what was refused of it.
    fn take_expiry(&mut self, task: &TaskId) -> Option<Attempt> {
        let record = self.by_task.get(task)?;
        self.expiry.remove(&(record.expires, task.clone()));
        Some(record.refused)
    }
}
