//! The life of one task: place, send, watch, doubt, settle, end. Each function is one event in that life.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::alarm::Alarm;
use policies::id::{Attempt, Incarnation, NodeId};
use policies::limits::{LEASE, RENEW_EVERY};
use policies::task::{Effect, Outcome};
use policies::time::{Timestamp, micros};

use super::task::{Progress, Task, Try};
use super::{
    AGAIN_AFTER, ATTEMPTS_MAX, HEDGE_COST, LEASE_MARGIN, Measure, Output, Plan, Purpose, Requester,
    STATUS_EVERY, SUSPECT_AFTER,
};
use crate::message::{JobEnd, Run, ToRequester, ToWorker, WAIT_MAX, reason};
use crate::report::{Phases, TaskReport};

/// Times that the result of an attempt came with.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    queued_us: u64,
    exec_us: u64,
}

impl Requester {
    pub(super) fn look_for_place(&mut self, now: Timestamp, task: &mut Task, purpose: Purpose) {
        if task.cancelled || task.placing.is_some() {
            return;
        }
        task.again_at = None;
        if task.tries.len() >= ATTEMPTS_MAX {
            return self.out_of_places(now, task, "every attempt is used up");
        }
        task.placing = Some(purpose);
        let recent = task.tries.iter().skip(task.forgiven);
        let elsewhere = task.tries.iter().filter(|t| t.is_open());
        let mut avoid: Vec<NodeId> = recent.chain(elsewhere).map(|t| t.place.node.clone()).collect();
        avoid.sort();
        avoid.dedup();
        let (number, left_us) = (task.story.task.number, task.left_us(now));
        self.outputs.push_back(Output::Place { number, spec: task.spec.clone(), left_us, avoid, purpose });
    }

    pub(super) fn placed(&mut self, now: Timestamp, task: &mut Task, plan: Plan) {
        let Some(purpose) = task.placing.take() else {
            self.ignored += 1;
            return;
        };
        let Some(place) = plan.places.into_iter().next() else {
            if purpose != Purpose::Hedge {
                self.out_of_places(now, task, &plan.why);
            }
            return;
        };
        let attempt = Attempt(u32::try_from(task.tries.len() + 1).unwrap_or(u32::MAX));
        task.matched.get_or_insert(now);
        task.story.note(now, Some(attempt), "placed", plan.why);
        if purpose == Purpose::Hedge {
            self.hedge_saved = self.hedge_saved.saturating_sub(HEDGE_COST);
            task.hedged = true;
            let why = alloc::format!("slower than its 95th percentile; second copy to {}", place.node);
            task.story.note(now, Some(attempt), "hedged", why.clone());
            self.outputs.push_back(Output::Hedged { task: task.story.task.clone(), why });
        } else if task.spec.effect == Effect::Pure && !task.hedged {
            task.hedge_at = Some(now + Duration::from_micros(place.p95_us.max(1)));
        }
        let give_up_at = now + Duration::from_micros(place.accept_us);
        self.send_run(task, &place.node, attempt, place.life, place.realm, now);
        task.story.note(now, Some(attempt), "dispatched", alloc::format!("to {}", place.node));
        task.tries.push(Try { attempt, place, sent: now, progress: Progress::Asked { give_up_at } });
    }

    fn send_run(
        &mut self,
        task: &Task,
        to: &NodeId,
        attempt: Attempt,
        life: Incarnation,
        realm: policies::placement::Realm,
        now: Timestamp,
    ) {
        let spec = &task.spec;
        let run = Run {
            task: task.story.task.clone(),
            attempt,
            life,
            tenant: spec.tenant.clone(),
            function: spec.function.clone(),
            bundle: spec.bundle,
            effect: spec.effect,
            class: spec.class,
            deadline_us: task.left_us(now).min(micros(WAIT_MAX)),
            lease_us: micros(LEASE),
            input: spec.input,
        };
        self.outputs.push_back(Output::Send { to: to.clone(), realm, body: ToWorker::Run(run) });
    }

    /// Nobody passed the gate. What is still out may deliver; else places may open up again; else it ends.
    fn out_of_places(&mut self, now: Timestamp, task: &mut Task, why: &str) {
        task.story.note(now, None, "no place", why.into());
        if task.tries.is_empty() {
            return self.finish(now, task, Outcome::Refused { why: reason(why) }, None);
        }
        let exhausted = task.tries.len() >= ATTEMPTS_MAX;
        if !exhausted && now + AGAIN_AFTER < task.deadline {
            task.forgiven = task.tries.len();
            task.again_at = Some(now + AGAIN_AFTER);
        } else if task.tries.iter().all(|t| t.progress == Progress::Settled) {
            self.finish(now, task, Outcome::Missed { why: reason(why) }, None);
        }
    }

    /// Everything about a task that time brings.
    pub(super) fn due(&mut self, now: Timestamp, task: &mut Task) {
        if task.deadline <= now {
            return self.overdue(now, task);
        }
        for index in 0..task.tries.len() {
            self.try_due(now, task, index);
        }
        if task.story.report.is_some() {
            return;
        }
        if task.hedge_at.is_some_and(|at| at <= now) {
            task.hedge_at = None;
            let active = task.tries.iter().filter(|t| t.is_active()).count();
            if active == 1 && self.hedge_saved >= HEDGE_COST && task.tries.len() < ATTEMPTS_MAX {
                self.look_for_place(now, task, Purpose::Hedge);
            }
        }
        if task.again_at.is_some_and(|at| at <= now) {
            self.look_for_place(now, task, Purpose::Again);
        }
    }

    fn try_due(&mut self, now: Timestamp, task: &mut Task, index: usize) {
        let Some(one) = task.tries.get_mut(index) else { return };
        match &mut one.progress {
            Progress::Asked { give_up_at } if *give_up_at <= now => {
                self.unknown(now, task, index, "no receipt in time");
            }
            Progress::Held { heard_at, renew_at, asked: true }
                if *renew_at <= now && *heard_at + SUSPECT_AFTER <= now =>
            {
                self.unknown(now, task, index, "a renewal was not answered");
            }
            Progress::Held { renew_at, asked, .. } if *renew_at <= now => {
                (*renew_at, *asked) = (now + RENEW_EVERY, true);
                let body = ToWorker::Renew {
                    task: task.story.task.clone(),
                    attempt: one.attempt,
                    lease_us: micros(LEASE),
                };
                let (to, realm) = (one.place.node.clone(), one.place.realm);
                self.outputs.push_back(Output::Send { to, realm, body });
            }
            Progress::Settling { until, .. } if *until <= now => {
                let why = alloc::format!("{} can't be asked any more; it may have acted", one.place.node);
                self.finish(now, task, Outcome::Indeterminate { why: reason(&why) }, None);
            }
            Progress::Settling { ask_at, .. } if *ask_at <= now => {
                *ask_at = now + STATUS_EVERY;
                self.ask_status(task, index);
            }
            Progress::Asked { .. }
            | Progress::Held { .. }
            | Progress::Settling { .. }
            | Progress::Lost
            | Progress::Settled => {}
        }
    }

    fn ask_status(&mut self, task: &Task, index: usize) {
        let Some(one) = task.tries.get(index) else { return };
        let body = ToWorker::Status { task: task.story.task.clone(), attempt: one.attempt };
        let (to, realm) = (one.place.node.clone(), one.place.realm);
        self.outputs.push_back(Output::Send { to, realm, body });
    }

    /// Nobody knows what became of an attempt. `once` waits until it does; the rest goes elsewhere.
    fn unknown(&mut self, now: Timestamp, task: &mut Task, index: usize, why: &str) {
        let Some(one) = task.tries.get_mut(index) else { return };
        let (attempt, peer) = (one.attempt, one.place.node.clone());
        task.story.note(now, Some(attempt), "silent", alloc::format!("{peer}: {why}"));
        self.outputs.push_back(Output::Suspect { peer, why: why.into() });
        if task.spec.effect == Effect::Once {
            let until = now + LEASE + LEASE_MARGIN;
            one.progress = Progress::Settling { ask_at: now + STATUS_EVERY, until };
            self.ask_status(task, index);
            return;
        }
        one.progress = Progress::Lost;
        self.go_on(now, task);
    }

    /// A hint about a peer: whatever is out there is doubted now instead of at its timeout.
    pub(super) fn doubt(&mut self, now: Timestamp, task: &mut Task, peer: &NodeId, why: &str) {
        for index in 0..task.tries.len() {
            let doubted = task.tries.get(index).is_some_and(|t| t.place.node == *peer && t.is_active());
            if doubted && task.story.report.is_none() {
                self.unknown(now, task, index, why);
            }
        }
    }

    /// A peer lives a newer life than the one that was given the task.
    pub(super) fn reborn(&mut self, now: Timestamp, task: &mut Task, peer: &NodeId, life: Incarnation) {
        let older = |t: &Try| t.place.node == *peer && t.place.life < life;
        for index in 0..task.tries.len() {
            match task.tries.get(index).filter(|t| older(t)).map(|t| t.progress) {
                Some(Progress::Asked { .. } | Progress::Held { .. }) => {
                    self.unknown(now, task, index, "it has restarted");
                }
                Some(Progress::Settling { .. }) => self.ask_status(task, index),
                Some(Progress::Lost | Progress::Settled) | None => {}
            }
        }
    }

    /// Looks for the next place, if nobody works on the task and the rules allow another attempt.
    fn go_on(&mut self, now: Timestamp, task: &mut Task) {
        let unsettled = task.tries.iter().any(Try::is_open);
        if task.cancelled && !unsettled {
            return self.finish(now, task, Outcome::Cancelled, None);
        }
        let busy = task.tries.iter().any(Try::is_active);
        let must_wait = task.spec.effect == Effect::Once && unsettled;
        if !busy && !must_wait && task.again_at.is_none() {
            self.look_for_place(now, task, Purpose::Again);
        }
    }

    pub(super) fn heard(
        &mut self,
        now: Timestamp,
        task: &mut Task,
        from: &NodeId,
        life: Incarnation,
        attempt: Attempt,
        body: ToRequester,
    ) {
        let index =
            task.position(attempt, from, life).filter(|i| task.tries.get(*i).is_some_and(Try::is_open));
        let Some(index) = index else {
            self.ignored += 1;
            return;
        };
        match body {
            ToRequester::Accepted { eta_us, .. } => {
                self.accepted(now, task, index, &alloc::format!("done in {eta_us} us, it says"));
            }
            ToRequester::Began { .. } => self.accepted(now, task, index, "it is running"),
            ToRequester::Rejected { why, .. } => self.settled(now, task, index, "rejected", &why),
            ToRequester::Busy { running, .. } => {
                let why = alloc::format!("attempt {} is running there", running.0);
                self.settled(now, task, index, "busy", &why);
            }
            ToRequester::Ended { end, queued_us, exec_us, .. } => {
                self.ended(now, task, index, end, Times { queued_us, exec_us });
            }
            ToRequester::Partial { .. } => self.ignored += 1,
        }
    }

    fn accepted(&mut self, now: Timestamp, task: &mut Task, index: usize, why: &str) {
        let Some(one) = task.tries.get_mut(index) else { return };
        let attempt = one.attempt;
        if let Progress::Held { heard_at, asked, .. } = &mut one.progress {
            (*heard_at, *asked) = (now, false);
            return;
        }
        if matches!(one.progress, Progress::Asked { .. }) {
            let (peer, function) = (one.place.node.clone(), task.spec.function.clone());
            let measure = Measure::Receipt(micros(now.since(one.sent)));
            self.outputs.push_back(Output::Measured { peer, function, measure });
        }
        one.progress = Progress::Held { heard_at: now, renew_at: now + RENEW_EVERY, asked: false };
        task.story.note(now, Some(attempt), "accepted", why.into());
    }

    /// The worker says that an attempt had no effect and never will.
    fn settled(&mut self, now: Timestamp, task: &mut Task, index: usize, what: &str, why: &str) {
        let Some(one) = task.tries.get_mut(index) else { return };
        one.progress = Progress::Settled;
        task.story.note(now, Some(one.attempt), what, alloc::format!("{}: {why}", one.place.node));
        self.go_on(now, task);
    }

    fn ended(&mut self, now: Timestamp, task: &mut Task, index: usize, end: JobEnd, times: Times) {
        let Some(one) = task.tries.get_mut(index) else { return };
        let total_us = micros(now.since(one.sent));
        let exec_us = times.exec_us.min(total_us);
        let (node, attempt, realm) = (one.place.node.clone(), one.attempt, one.place.realm);
        let ack = ToWorker::Ack { task: task.story.task.clone(), attempt };
        let figures = alloc::format!("{node}: queued {} us, ran {exec_us} us", times.queued_us);
        let outcome = match end {
            JobEnd::Done { result } => {
                one.progress = Progress::Settled;
                let (peer, function) = (node.clone(), task.spec.function.clone());
                let measure = Measure::Execution(exec_us);
                self.outputs.push_back(Output::Measured { peer, function, measure });
                Outcome::Done { result }
            }
            JobEnd::Failed { code, why } => {
                one.progress = Progress::Settled;
                Outcome::Failed { code, why }
            }
            JobEnd::Stopped { why } => {
                self.outputs.push_back(Output::Send { to: node, realm, body: ack });
                return self.settled(now, task, index, "stopped", &why);
            }
            JobEnd::Unknown { why } if task.spec.effect == Effect::Once => {
                one.progress = Progress::Settled;
                Outcome::Indeterminate { why: reason(&alloc::format!("{node}: {why}")) }
            }
            JobEnd::Unknown { why } => return self.settled(now, task, index, "unknown", &why),
        };
        self.outputs.push_back(Output::Send { to: node.clone(), realm, body: ack });
        task.story.note(now, Some(attempt), "ended", figures);
        self.finish(now, task, outcome, Some((node, exec_us)));
    }

    /// The deadline has come.
    fn overdue(&mut self, now: Timestamp, task: &mut Task) {
        let open = task.tries.iter().find(|t| t.is_open()).map(|t| t.place.node.clone());
        let outcome = match (task.spec.effect, open) {
            (Effect::Once, Some(node)) => Outcome::Indeterminate {
                why: alloc::format!("the deadline came while {node} may still have been acting"),
            },
            (Effect::Pure | Effect::Idempotent, Some(node)) => {
                Outcome::Missed { why: alloc::format!("the deadline came while {node} had it") }
            }
            (_, None) => Outcome::Missed { why: "the deadline came before a place was found".into() },
        };
        self.finish(now, task, outcome, None);
    }

    /// The caller does not want it any more. What may have acted is asked first.
    pub(super) fn cancel(&mut self, now: Timestamp, task: &mut Task) {
        task.story.note(now, None, "cancelled", "by the caller".into());
        let may_act = task.spec.effect == Effect::Once && task.tries.iter().any(Try::is_open);
        if !may_act {
            return self.finish(now, task, Outcome::Cancelled, None);
        }
        if !task.cancelled {
            task.cancelled = true;
            (task.hedge_at, task.again_at) = (None, None);
            self.cancel_tries(task);
        }
    }

    fn cancel_tries(&mut self, task: &Task) {
        for one in task.tries.iter().filter(|t| t.is_open()) {
            let body = ToWorker::Cancel { task: task.story.task.clone(), attempt: one.attempt };
            let (to, realm) = (one.place.node.clone(), one.place.realm);
            self.outputs.push_back(Output::Send { to, realm, body });
        }
    }

    /// Ends a task: cancels what is still out, files the report.
    pub(super) fn finish(
        &mut self,
        now: Timestamp,
        task: &mut Task,
        outcome: Outcome,
        from: Option<(NodeId, u64)>,
    ) {
        if task.story.report.is_some() {
            let detail = alloc::format!("{}", task.story.task);
            self.outputs.push_back(Output::Alarm(Alarm { name: "task-reported-twice".into(), detail }));
            return;
        }
        self.cancel_tries(task);
        let report = report(now, task, outcome, from);
        let why = outcome_text(&report);
        task.story.note(now, None, report.outcome.word(), why);
        task.story.report = Some(report.clone());
        self.outputs.push_back(Output::Report(report));
    }
}

fn report(now: Timestamp, task: &Task, outcome: Outcome, from: Option<(NodeId, u64)>) -> TaskReport {
    let total_us = micros(now.since(task.submitted));
    let matching_us = micros(task.matched.unwrap_or(now).since(task.submitted));
    let (node, execution_us) = from.map_or((None, 0), |(node, us)| (Some(node), us));
    let pipelining_us = total_us.saturating_sub(matching_us).saturating_sub(execution_us);
    TaskReport {
        task: task.story.task.clone(),
        function: task.spec.function.clone(),
        tenant: task.spec.tenant.clone(),
        class: task.spec.class,
        effect: task.spec.effect,
        outcome,
        node,
        attempts: u32::try_from(task.tries.len()).unwrap_or(u32::MAX),
        hedged: task.hedged,
        phases: Phases { matching_us, pipelining_us, execution_us },
        submitted: task.submitted,
        ended: now,
        deadline: task.deadline,
    }
}

fn outcome_text(report: &TaskReport) -> String {
    let Phases { matching_us, pipelining_us, execution_us } = report.phases;
    let phases = alloc::format!(
        "matching {matching_us} us, pipelining {pipelining_us} us, execution {execution_us} us"
    );
    match &report.outcome {
        Outcome::Done { .. } | Outcome::Cancelled => phases,
        Outcome::Failed { code, why } => alloc::format!("code {code}: {why}; {phases}"),
        Outcome::Missed { why } | Outcome::Indeterminate { why } | Outcome::Refused { why } => {
            alloc::format!("{why}; {phases}")
        }
    }
}
