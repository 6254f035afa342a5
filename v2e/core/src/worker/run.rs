//! The life of one job: repeat or new, admitted or not, saved, run, its effect applied, over.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::admission::{Booked, RejectWhy, admit};
use policies::alarm::Alarm;
use policies::id::{Attempt, NodeId, TaskId};
use policies::limits::RECORD_KEPT;
use policies::task::{BlobRef, Effect};
use policies::time::{Timestamp, micros};

use super::job::{Job, Stage};
use super::record::State;
use super::{CallEnd, EffectVerdict, ONCE_KEPT, Output, Terms, Worker, urgency};
use crate::message::{JobEnd, Run, ToRequester, WAIT_MAX, reason};
use crate::record::JobRecord;

impl Worker {
    /// A run arrives, perhaps not for the first time.
    pub(super) fn run(&mut self, now: Timestamp, from: NodeId, run: Run, terms: Result<Terms, String>) {
        if run.task.owner != from {
            self.counters.ignored += 1;
            return;
        }
        if !cfg!(feature = "testing-no-dedup") && self.is_repeat(now, &from, &run) {
            return;
        }
        // After the records: an earlier life may have started what this late copy asks for.
        if run.life != self.life {
            let why = alloc::format!("meant for life {}, this is life {}", run.life, self.life);
            self.records.refuse(now + RECORD_KEPT, &run.task, run.attempt);
            return self.reject(&from, run.task, run.attempt, why, None);
        }
        let taken = terms.map_err(|why| (why, None)).and_then(|terms| self.admit(now, &run, terms));
        let (task, attempt) = (run.task.clone(), run.attempt);
        match taken {
            Ok((terms, why)) => {
                self.decided(&task, attempt, true, why);
                self.take(now, from, run, terms);
            }
            Err((why, eta_us)) => {
                self.records.refuse(now + RECORD_KEPT, &task, attempt);
                self.decided(&task, attempt, false, why.clone());
                self.reject(&from, task, attempt, why, eta_us);
            }
        }
    }

    /// Answers what the record already knows. `false`: this attempt is new and may be taken.
    fn is_repeat(&mut self, now: Timestamp, from: &NodeId, run: &Run) -> bool {
        let (task, attempt) = (&run.task, run.attempt);
        let Some(record) = self.records.get(task) else { return false };
        let (known, refused, state) = (record.attempt, record.refused, record.state.clone());
        let free = matches!(&state, State::Over { end, .. } if end.is_effect_free())
            || (matches!(&state, State::Over { end: JobEnd::Unknown { .. }, .. })
                && run.effect != Effect::Once)
            || state == State::Never;
        if attempt == known {
            self.counters.repeats += 1;
            self.answer_state(now, from, task, attempt);
        } else if attempt <= refused || attempt < known {
            self.counters.repeats += 1;
            self.reject(from, task.clone(), attempt, "this attempt was refused or is outdated".into(), None);
        } else if let State::Job { .. } = state {
            self.records.refuse(now + RECORD_KEPT, task, attempt);
            self.send(from, ToRequester::Busy { task: task.clone(), attempt, running: known });
        } else if !free {
            // Done, or unknown: the answer to any later attempt as well.
            self.counters.repeats += 1;
            self.answer_over(from, task, attempt, state);
        } else {
            return false;
        }
        true
    }

    fn admit(
        &self,
        now: Timestamp,
        run: &Run,
        terms: Terms,
    ) -> Result<(Terms, String), (String, Option<u64>)> {
        let booked: Vec<Booked> = self.booked(now).collect();
        let deadline = now + Duration::from_micros(run.deadline_us);
        let new = Booked { deadline, cost_us: terms.cost_us, class: run.class };
        let slots = u32::from(self.slots);
        match admit(&booked, &new, now, slots) {
            Ok(eta) => {
                let why = alloc::format!(
                    "{} jobs before it, needs {} us, done in {} us, deadline in {} us",
                    booked.len(),
                    terms.cost_us,
                    eta.finish_us,
                    run.deadline_us
                );
                Ok((terms, why))
            }
            // A figure that once grew too large would never be measured again if nothing were tried.
            Err(reject)
                if booked.is_empty()
                    && run.deadline_us > 0
                    && !matches!(reject.why, RejectWhy::Full { .. }) =>
            {
                Ok((terms, alloc::format!("nothing else to do, though it {}", reject.why)))
            }
            Err(reject) => Err((alloc::format!("{}", reject.why), reject.eta_us)),
        }
    }

    fn take(&mut self, now: Timestamp, from: NodeId, run: Run, terms: Terms) {
        if self.records.get(&run.task).is_none() && !self.records.make_room() {
            let why = "the table of records is full of outcomes that nobody acknowledged".into();
            return self.reject(&from, run.task, run.attempt, why, None);
        }
        let number = self.next_job;
        self.next_job += 1;
        self.counters.admitted += 1;
        self.records.begin(&run.task, run.attempt, number);
        let job = Job {
            number,
            deadline: now + Duration::from_micros(run.deadline_us),
            lease_until: now + Duration::from_micros(run.lease_us),
            run,
            terms,
            arrived: now,
            queued_us: 0,
            stopped: None,
            stop_sent: None,
            stage: Stage::Queued,
        };
        let (task, attempt) = (job.run.task.clone(), job.run.attempt);
        self.jobs.insert(number, job);
        self.answer_state(now, &from, &task, attempt);
    }

    fn decided(&mut self, task: &TaskId, attempt: Attempt, taken: bool, why: String) {
        self.outputs.push_back(Output::Decided { task: task.clone(), attempt, taken, why });
    }

    /// Tells a requester where the attempt of the record stands.
    pub(super) fn answer_state(&mut self, now: Timestamp, to: &NodeId, task: &TaskId, attempt: Attempt) {
        let Some(record) = self.records.get(task) else { return };
        let state = record.state.clone();
        let State::Job { number } = state else {
            return self.answer_over(to, task, attempt, state);
        };
        let Some(job) = self.jobs.get(&number) else { return };
        let task = task.clone();
        let body = match job.stage {
            Stage::Running { .. } | Stage::Acting { .. } => ToRequester::Began { task, attempt },
            Stage::Queued | Stage::Saving => {
                let most = micros(WAIT_MAX);
                let backlog: u64 = self.booked(now).map(|b| b.cost_us).fold(0, u64::saturating_add);
                let eta_us = (backlog / u64::from(self.slots)).max(job.terms.cost_us).min(most);
                let lease_us = micros(job.lease_until.since(now)).min(most);
                ToRequester::Accepted { task, attempt, eta_us, lease_us }
            }
        };
        self.send(to, body);
    }

    fn answer_over(&mut self, to: &NodeId, task: &TaskId, attempt: Attempt, state: State) {
        let task = task.clone();
        match state {
            State::Over { end, queued_us, exec_us } => {
                self.send(to, ToRequester::Ended { task, attempt, end, queued_us, exec_us });
            }
            State::Never => self.reject(to, task, attempt, "it never started here".into(), None),
            State::Job { .. } => {}
        }
    }

    /// What became of an attempt? One that was never seen is refused from now on, so that the answer stays
    /// true even if the run arrives late.
    pub(super) fn status(&mut self, now: Timestamp, from: &NodeId, task: TaskId, attempt: Attempt) {
        if task.owner != *from {
            self.counters.ignored += 1;
            return;
        }
        match self.records.get(&task).map(|record| (record.attempt, record.state.clone())) {
            Some((known, _)) if known == attempt => self.answer_state(now, from, &task, attempt),
            // An effect that happened under an older attempt is the task's outcome.
            Some((known, state @ State::Over { end: JobEnd::Done { .. } | JobEnd::Unknown { .. }, .. }))
                if known < attempt =>
            {
                self.answer_over(from, &task, attempt, state);
            }
            Some(_) | None => {
                self.records.refuse(now + RECORD_KEPT, &task, attempt);
                self.reject(from, task, attempt, "it never started here".into(), None);
            }
        }
    }

    pub(super) fn cancel(&mut self, now: Timestamp, from: &NodeId, task: TaskId, attempt: Attempt) {
        let Some(job) = self.owned_job(from, &task, attempt) else {
            return self.status(now, from, task, attempt);
        };
        let number = job.number;
        self.stop(now, number, "cancelled by the owner");
        self.answer_state(now, from, &task, attempt);
    }

    /// Keeps a job from having an effect, as far as that is still possible.
    fn stop(&mut self, now: Timestamp, number: u64, why: &'static str) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        match job.stage {
            Stage::Queued | Stage::Saving => {
                let end = JobEnd::Stopped { why: why.into() };
                self.over(now, number, end, 0);
            }
            Stage::Running { .. } => {
                job.stopped = Some(why);
                if job.stop_sent.replace(now).is_none() {
                    let tenant = job.terms.tenant.clone();
                    self.outputs.push_back(Output::Stop { job: number, tenant });
                }
            }
            // Too late: the effect port has it.
            Stage::Acting { .. } => {}
        }
    }

    /// Starts the most urgent queued jobs while slots are free.
    pub(super) fn fill_slots(&mut self, now: Timestamp) {
        loop {
            let taken = self.jobs.values().filter(|job| job.takes_slot()).count();
            if taken >= usize::from(self.slots) {
                return;
            }
            let queued = self.jobs.values_mut().filter(|job| job.stage == Stage::Queued);
            let Some(job) = queued.min_by_key(|job| urgency(job)) else { return };
            let number = job.number;
            job.queued_us = micros(now.since(job.arrived));
            if job.is_once() {
                job.stage = Stage::Saving;
                let (task, attempt) = (job.run.task.clone(), job.run.attempt);
                // From here on it may be on disk, whatever the disk answers.
                self.records.mark_durable(&task);
                self.outputs.push_back(Output::Persist(JobRecord { task, attempt, end: None }));
            } else {
                self.start(now, number);
            }
        }
    }

    fn start(&mut self, now: Timestamp, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.stage = Stage::Running { since: now };
        self.outputs.push_back(Output::Start {
            job: number,
            tenant: job.terms.tenant.clone(),
            function: job.run.function.clone(),
            bundle: job.run.bundle,
            input: job.run.input,
            budget_us: micros(job.deadline.since(now)).max(1),
        });
    }

    pub(super) fn persisted(
        &mut self,
        now: Timestamp,
        task: &TaskId,
        attempt: Attempt,
        result: Result<(), String>,
    ) {
        let this = |job: &&Job| job.run.task == *task && job.run.attempt == attempt;
        let saving = |job: &&Job| this(job) && job.stage == Stage::Saving;
        let Some(number) = self.jobs.values().find(saving).map(|job| job.number) else { return };
        match (result, self.jobs.get(&number).and_then(|job| too_late(job, now))) {
            (Err(why), _) => {
                let why = reason(&alloc::format!("its record could not be saved: {why}"));
                self.over(now, number, JobEnd::Stopped { why }, 0);
            }
            (Ok(()), Some(why)) => self.over(now, number, JobEnd::Stopped { why: why.into() }, 0),
            (Ok(()), None) => self.start(now, number),
        }
    }

    /// The sandbox has begun: what it waited there was waiting, not execution.
    pub(super) fn began(&mut self, now: Timestamp, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else {
            self.counters.ignored += 1;
            return;
        };
        if let Stage::Running { since } = &mut job.stage {
            job.queued_us = micros(now.since(job.arrived));
            *since = now;
        }
    }

    pub(super) fn call_ended(&mut self, now: Timestamp, number: u64, end: CallEnd, took_us: u64) {
        let Some(job) = self.jobs.get(&number).filter(|job| matches!(job.stage, Stage::Running { .. }))
        else {
            self.counters.ignored += 1;
            return;
        };
        let stopped = if job.is_once() { job.stopped.or_else(|| too_late(job, now)) } else { job.stopped };
        let exec_us = took_us.min(micros(WAIT_MAX));
        if let CallEnd::Returned { .. } = end {
            let function = job.run.function.clone();
            self.outputs.push_back(Output::Measured { function, exec_us });
        }
        let end = match (end, stopped) {
            (CallEnd::Returned { result, .. }, _)
                if result.len as usize > policies::limits::INLINE_LEN_MAX =>
            {
                JobEnd::Failed { code: -1, why: "its result is longer than a message may be".into() }
            }
            (CallEnd::Returned { result, effect: None }, _) => JobEnd::Done { result },
            (CallEnd::Returned { .. } | CallEnd::Failed { .. } | CallEnd::Lost { .. }, Some(why)) => {
                JobEnd::Stopped { why: why.into() }
            }
            (CallEnd::Returned { result, effect: Some(line) }, None) => {
                return self.act(now, number, result, line, exec_us);
            }
            (CallEnd::Failed { code, why }, None) => JobEnd::Failed { code, why: reason(&why) },
            (CallEnd::Lost { why }, None) => JobEnd::Stopped { why: reason(&why) },
        };
        self.over(now, number, end, exec_us);
    }

    /// Hands the effect to its port. Only a `once` function may have one: it alone has a durable record.
    fn act(&mut self, now: Timestamp, number: u64, result: BlobRef, line: String, exec_us: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        if !job.is_once() {
            let why = alloc::format!("it named an effect but is declared {}", job.run.effect.as_str());
            return self.over(now, number, JobEnd::Failed { code: -1, why }, exec_us);
        }
        self.counters.effects += 1;
        job.stage = Stage::Acting { since: now, result, exec_us };
        let (task, attempt) = (job.run.task.clone(), job.run.attempt);
        self.outputs.push_back(Output::Effect { task, attempt, line });
    }

    pub(super) fn effect_done(
        &mut self,
        now: Timestamp,
        task: &TaskId,
        attempt: Attempt,
        verdict: EffectVerdict,
    ) {
        let acting = self.jobs.values().find_map(|job| match job.stage {
            Stage::Acting { result, exec_us, .. } if job.run.task == *task && job.run.attempt == attempt => {
                Some((job.number, result, exec_us))
            }
            _ => None,
        });
        let Some((number, result, exec_us)) = acting else {
            self.counters.ignored += 1;
            return;
        };
        let end = match verdict {
            EffectVerdict::Applied => JobEnd::Done { result },
            EffectVerdict::Fenced { why } => JobEnd::Stopped { why: reason(&why) },
            EffectVerdict::Unknown { why } => JobEnd::Unknown { why: reason(&why) },
        };
        self.over(now, number, end, exec_us);
    }

    /// A job is over: record it, on disk too if it must survive, and tell its owner.
    fn over(&mut self, now: Timestamp, number: u64, end: JobEnd, exec_us: u64) {
        let Some(job) = self.jobs.remove(&number) else {
            let detail = alloc::format!("job {number}");
            self.outputs.push_back(Output::Alarm(Alarm { name: "job-ended-twice".into(), detail }));
            return;
        };
        let queued_us = job.queued_us.min(micros(WAIT_MAX));
        let durable = self.records.get(&job.run.task).is_some_and(|record| record.durable);
        let until = now + if durable { ONCE_KEPT } else { RECORD_KEPT };
        let over = State::Over { end: end.clone(), queued_us, exec_us };
        self.records.end(until, &job.run.task, over);
        let Run { task, attempt, .. } = job.run;
        if durable {
            let record = JobRecord { task: task.clone(), attempt, end: Some(end.clone()) };
            self.outputs.push_back(Output::Persist(record));
        }
        let owner = task.owner.clone();
        self.send(&owner, ToRequester::Ended { task, attempt, end, queued_us, exec_us });
    }

    pub(super) fn tick(&mut self, now: Timestamp) {
        let due: Vec<u64> = self
            .jobs
            .values()
            .filter(|job| job.wake().is_some_and(|(at, _)| at <= now))
            .map(|job| job.number)
            .collect();
        for number in due {
            self.job_due(now, number);
        }
        while let Some((task, durable)) = self.records.expire(now) {
            if durable {
                self.outputs.push_back(Output::Forget { task });
            }
        }
    }

    fn job_due(&mut self, now: Timestamp, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        if let Stage::Acting { exec_us, .. } = job.stage {
            let why = "the effect port did not answer".into();
            return self.over(now, number, JobEnd::Unknown { why }, exec_us);
        }
        if job.stop_sent.is_some() {
            // Without its answer nothing goes to the effect port any more: the job is not there.
            let why = "the sandbox did not stop in time".into();
            return self.over(now, number, JobEnd::Stopped { why }, 0);
        }
        let why = too_late(job, now).unwrap_or("its deadline has passed");
        self.counters.expired += 1;
        self.stop(now, number, why);
    }
}

/// Why a job may have no effect any more.
fn too_late(job: &Job, now: Timestamp) -> Option<&'static str> {
    if job.lease_end() <= now {
        Some("its lease is over")
    } else if job.deadline <= now {
        Some("its deadline has passed")
    } else {
        None
    }
}
