//! What has been handed to the disk and not come back yet.

use alloc::collections::BTreeMap;
use alloc::string::String;
use policies::id::{Attempt, TaskId};
use policies::time::Timestamp;
use v2e_core::record::JobRecord;
use v2e_core::worker;

use super::Live;
use crate::io::{Durable, Output};

/// What an answer from the disk is about.
#[derive(Clone, Debug)]
pub(super) enum Ticket {
    /// A change of the desired state.
    Desired,
    /// A job that may start once this is durable.
    Start(TaskId, Attempt),
    /// Nobody waits for it.
    Other,
}

/// Open tickets. One per job and one for the desired state: bounded by what hands them out.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: u64,
    open: BTreeMap<u64, Ticket>,
}

impl Live {
    pub(super) fn persist(&mut self, what: Durable, about: Ticket) {
        self.tickets.next += 1;
        let ticket = self.tickets.next;
        // What nobody waits for needs no entry: a disk that never answers must not fill the table.
        if !matches!(about, Ticket::Other) {
            self.tickets.open.insert(ticket, about);
        }
        self.outputs.push_back(Output::Persist { ticket, what });
    }

    pub(super) fn persist_job(&mut self, record: JobRecord) {
        let about = match record.end {
            None => Ticket::Start(record.task.clone(), record.attempt),
            Some(_) => Ticket::Other,
        };
        self.persist(Durable::Job(record), about);
    }

    pub(super) fn persisted(&mut self, now: Timestamp, ticket: u64, result: Result<(), String>) {
        match self.tickets.open.remove(&ticket) {
            Some(Ticket::Desired) => self.change_saved(now, result),
            Some(Ticket::Start(task, attempt)) => {
                self.worker.handle(now, worker::Input::Persisted { task, attempt, result });
            }
            Some(Ticket::Other) => {}
            None => self.counters.ignored += u64::from(result.is_err()),
        }
    }
}
