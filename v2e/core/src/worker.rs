//! The side that runs tasks: admission, queue, leases, and a record per task so that none runs twice.
//!
//! ```text
//!   requester --> Run, Control        +--------+   Send     --> the requester (or this node's own)
//!   sandbox   --> Began, Ended        | Worker |   Start, Stop --> the sandbox
//!   disk      --> Persisted           |        |   Persist, Forget --> the disk
//!   effects   --> EffectDone          +--------+   Effect   --> the effect port
//! ```
//!
//! Invariants
//! - A repeat of (task, attempt) is answered from the record and never runs again.
//! - A job of kind `once` is durable before it starts; found after a reboot, it is answered as unknown.
//! - A job of kind `once` has no effect after its lease is over, after its deadline, or once cancelled.
//! - It is done only when the effect port has said so.

mod job;
mod record;
mod run;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use core::time::Duration;
use policies::admission::Booked;
use policies::alarm::Alarm;
use policies::id::{Attempt, Digest, FunctionName, Incarnation, NodeId, TaskId, TenantId};
use policies::limits::RECORD_KEPT;
use policies::task::{BlobRef, Class};
use policies::time::{Timestamp, micros};
use serde::{Deserialize, Serialize};

use crate::message::{JobEnd, Load, Run, ToRequester, ToWorker};
use crate::record::JobRecord;
use job::{Job, Stage};
use record::Records;

/// How long the effect port may take before its answer counts as lost.
pub const EFFECT_WAIT: Duration = Duration::from_secs(2);

/// How long a sandbox may take to end a call that it was told to stop.
pub const STOP_WAIT: Duration = Duration::from_secs(2);

/// How long the durable record of a `once` job is kept if nobody acknowledges it: longer than any task may
/// wait ([`crate::message::WAIT_MAX`]).
pub const ONCE_KEPT: Duration = Duration::from_secs(660);

const _: () = {
    assert!(ONCE_KEPT.as_millis() > crate::message::WAIT_MAX.as_millis());
    assert!(EFFECT_WAIT.as_millis() < RECORD_KEPT.as_millis());
};

/// What the node adds to a run that its policy allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Whose sandbox it runs in.
    pub tenant: TenantId,
    /// What it will take at the 95th percentile, microseconds.
    pub cost_us: u64,
}

/// What the world can tell a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// First of all: durable records of earlier lives.
    Recovered {
        /// The records.
        records: alloc::vec::Vec<JobRecord>,
    },
    /// A requester wants a task run.
    Run {
        /// Who, by the identity of the channel.
        from: NodeId,
        /// What.
        run: Run,
        /// The node's terms, or the rule against it.
        terms: Result<Terms, String>,
    },
    /// A requester says something about a task: anything but `Run` and `Call`.
    Control {
        /// Who, by the identity of the channel.
        from: NodeId,
        /// What.
        message: ToWorker,
    },
    /// The sandbox began a call.
    Began {
        /// Which.
        job: u64,
    },
    /// The sandbox ended a call.
    Ended {
        /// Which.
        job: u64,
        /// How.
        end: CallEnd,
        /// Execution time, microseconds.
        took_us: u64,
    },
    /// The effect port answered.
    EffectDone {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// What became of it.
        verdict: EffectVerdict,
    },
    /// An [`Output::Persist`] of a job about to start (`end: None`) is durable, or cannot be.
    Persisted {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Whether it is.
        result: Result<(), String>,
    },
    /// Time passed.
    Tick,
}

/// How a call in the sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallEnd {
    /// It returned.
    Returned {
        /// Result bytes.
        result: BlobRef,
        /// The effect that it names, one line.
        effect: Option<String>,
    },
    /// The function said no.
    Failed {
        /// Exit code, or -1 for a trap.
        code: i32,
        /// Its last words.
        why: String,
    },
    /// It did not come to an end, and it was not the function's fault.
    Lost {
        /// Why.
        why: String,
    },
}

/// What the effect port said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectVerdict {
    /// The effect has happened: now, or in an earlier try of the same task.
    Applied,
    /// It has not happened, and under this attempt it never will.
    Fenced {
        /// The rule.
        why: String,
    },
    /// Nobody knows.
    Unknown {
        /// Why.
        why: String,
    },
}

/// What a worker wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Tell a requester.
    Send {
        /// Whom; this node itself for a task of its own.
        to: NodeId,
        /// What.
        body: ToRequester,
    },
    /// Call a function in a sandbox.
    Start {
        /// Number for the answers.
        job: u64,
        /// Whose sandbox.
        tenant: TenantId,
        /// The function.
        function: FunctionName,
        /// Its code.
        bundle: Digest,
        /// Standard input.
        input: BlobRef,
        /// CPU time, microseconds.
        budget_us: u64,
    },
    /// Stop a call; it is still answered.
    Stop {
        /// Which.
        job: u64,
        /// Whose sandbox.
        tenant: TenantId,
    },
    /// Apply an effect.
    Effect {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line.
        line: String,
    },
    /// Make a record durable; where `end` is `None`, then say [`Input::Persisted`].
    Persist(JobRecord),
    /// A durable record may go.
    Forget {
        /// The task.
        task: TaskId,
    },
    /// What was decided about a run, for the log.
    Decided {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Whether it is taken.
        taken: bool,
        /// The rule or the figures.
        why: String,
    },
    /// A measured execution.
    Measured {
        /// Which function.
        function: FunctionName,
        /// Microseconds.
        exec_us: u64,
    },
    /// A broken invariant.
    Alarm(Alarm),
}

/// Why a worker wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WakeReason {
    /// A lease or a deadline ends.
    Lease,
    /// The effect port does not answer.
    Effect,
    /// A record may go.
    Record,
}

/// Counters since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Runs admitted.
    pub admitted: u64,
    /// Runs rejected.
    pub rejected: u64,
    /// Repeats answered from the record.
    pub repeats: u64,
    /// Jobs stopped because their lease or deadline was over.
    pub expired: u64,
    /// Effects sent to the port.
    pub effects: u64,
    /// Messages that meant nothing here.
    pub ignored: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Worker {
    life: Incarnation,
    /// Calls at a time.
    slots: u16,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    records: Records,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Worker {
    /// A worker for one life of a node that runs `slots` calls at a time (at least one).
    pub fn new(life: Incarnation, slots: u16) -> Self {
        Self {
            life,
            slots: slots.max(1),
            jobs: BTreeMap::new(),
            next_job: 1,
            records: Records::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Feeds one input. `now` must not run backwards. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Recovered { records } => self.recover(now, records),
            Input::Run { from, run, terms } => self.run(now, from, run, terms),
            Input::Control { from, message } => self.control(now, &from, message),
            Input::Began { job } => self.began(now, job),
            Input::Ended { job, end, took_us } => self.call_ended(now, job, end, took_us),
            Input::EffectDone { task, attempt, verdict } => self.effect_done(now, &task, attempt, verdict),
            Input::Persisted { task, attempt, result } => self.persisted(now, &task, attempt, result),
            Input::Tick => self.tick(now),
        }
        self.fill_slots(now);
    }

    /// Takes the next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Tick`] next, and why.
    pub fn next_wake(&self) -> Option<(Timestamp, WakeReason)> {
        let jobs = self.jobs.values().filter_map(Job::wake);
        jobs.chain(self.records.next_expiry().map(|at| (at, WakeReason::Record))).min()
    }

    /// How busy it is; `cpu_used` is for the caller to fill.
    pub fn load(&self, now: Timestamp) -> Load {
        let running = self.jobs.values().filter(|job| job.takes_slot()).count();
        let backlog_us = self.booked(now).map(|b| b.cost_us).fold(0, u64::saturating_add);
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Load { running: count(running), queued: count(self.jobs.len() - running), backlog_us, cpu_used: 0 }
    }

    /// Counters since boot.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Jobs admitted and not finished, and records kept.
    pub fn sizes(&self) -> (usize, usize) {
        (self.jobs.len(), self.records.len())
    }

    /// The call of `job` runs in this tenant's sandbox.
    pub fn jobs_of(&self, tenant: &TenantId) -> alloc::vec::Vec<u64> {
        let there = |job: &&Job| job.terms.tenant == *tenant && matches!(job.stage, Stage::Running { .. });
        self.jobs.values().filter(there).map(|job| job.number).collect()
    }

    /// What every admitted job still needs.
    fn booked(&self, now: Timestamp) -> impl Iterator<Item = Booked> + '_ {
        self.jobs.values().map(move |job| Booked {
            deadline: job.deadline,
            cost_us: job.cost_left_us(now),
            class: job.run.class,
        })
    }

    fn recover(&mut self, now: Timestamp, records: alloc::vec::Vec<JobRecord>) {
        for found in records {
            let end = found.end.unwrap_or_else(|| JobEnd::Unknown {
                why: "the worker restarted while it was running".into(),
            });
            self.records.recover(now + ONCE_KEPT, found.task, found.attempt, end);
        }
    }

    fn control(&mut self, now: Timestamp, from: &NodeId, message: ToWorker) {
        match message {
            ToWorker::Renew { task, attempt, lease_us } => {
                let until = now + Duration::from_micros(lease_us);
                // A lease that is over is never revived: the renewal may have waited here while this process
                // stood still, and its owner has given up meanwhile.
                let held = self.owned_job(from, &task, attempt).filter(|job| job.lease_end() > now);
                if held.map(|job| job.lease_until = until).is_some() {
                    self.answer_state(now, from, &task, attempt);
                } else {
                    self.status(now, from, task, attempt);
                }
            }
            ToWorker::Status { task, attempt } => self.status(now, from, task, attempt),
            ToWorker::Cancel { task, attempt } => self.cancel(now, from, task, attempt),
            ToWorker::Ack { task, attempt } => {
                if task.owner == *from && self.records.ack(now + RECORD_KEPT, &task, attempt) {
                    self.outputs.push_back(Output::Forget { task });
                }
            }
            ToWorker::Run(_) | ToWorker::Call(_) => self.counters.ignored += 1,
        }
    }

    fn owned_job(&mut self, from: &NodeId, task: &TaskId, attempt: Attempt) -> Option<&mut Job> {
        let found = |job: &&mut Job| job.run.task == *task && job.run.attempt == attempt;
        self.jobs.values_mut().find(found).filter(|job| job.run.task.owner == *from)
    }

    fn send(&mut self, to: &NodeId, body: ToRequester) {
        self.outputs.push_back(Output::Send { to: to.clone(), body });
    }

    fn reject(&mut self, to: &NodeId, task: TaskId, attempt: Attempt, why: String, eta_us: Option<u64>) {
        self.counters.rejected += 1;
        let most = micros(crate::message::WAIT_MAX);
        let eta_us = eta_us.map(|us| us.min(most));
        self.send(to, ToRequester::Rejected { task, attempt, why: crate::message::reason(&why), eta_us });
    }
}

/// The order in which queued jobs run: earliest deadline first, `critical` before all others.
fn urgency(job: &Job) -> (bool, Timestamp, Class, u64) {
    (job.run.class != Class::Critical, job.deadline, job.run.class, job.number)
}
