//! The reverse direction: a roadside element calls for a sample in its zone; cars whose policy allows it make
//! a reading out of their own signals, on their own computer; the rest stays silent.
//!
//! ```text
//!   edge: Call --> every peer outside            car: policy? --> snapshot --> in the zone? --> function
//!         Partial <-- those who answer                no: silence, counted          Partial --> edge
//!         merged, with how many were asked
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::face::ToBus;
use policies::host::Face;
use policies::id::{Digest, FunctionName, NodeId, TaskId, TenantId};
use policies::signal::{Quality, Signal, SignalPath, SignalPattern, Value};
use policies::time::{Timestamp, micros};
use v2e_core::message::{
    Area, CallForTask, Message, READINGS_MAX, Reading, Role, ToRequester, ToWorker, WAIT_MAX, WANT_LEN_MAX,
};
use v2e_core::report::Realm;

use super::{Live, fact};
use crate::io::{CallEnd, CallReport, ControlReply, DecisionKind, JobInput, Output};

/// Most calls that are open or being answered at a time: a zone has few questions, and each costs CPU here
/// that nobody in the car asked for.
pub(super) const CALLS_MAX: usize = 8;

/// Jobs for calls are told apart from the worker's by this bit.
const CALL_JOB: u64 = 1 << 63;

/// Signals that say where the car is (VSS 6).
const LATITUDE: &str = "Vehicle.CurrentLocation.Latitude";
const LONGITUDE: &str = "Vehicle.CurrentLocation.Longitude";

pub(super) const fn is_call(job: u64) -> bool {
    job & CALL_JOB != 0
}

/// A call of ours.
#[derive(Debug)]
struct Open {
    request: u64,
    call: TaskId,
    want: String,
    asked: BTreeSet<NodeId>,
    parts: BTreeMap<NodeId, Reading>,
    until: Timestamp,
}

/// A call of the roadside that this node answers.
#[derive(Debug)]
struct Answering {
    issuer: NodeId,
    call: CallForTask,
    until: Timestamp,
    stage: Stage,
    tenant: TenantId,
    /// Rules that let the signals out.
    rules: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Snapshot,
    Running,
}

/// All calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<u64, Open>,
    /// By number of the snapshot and the job.
    answering: BTreeMap<u64, Answering>,
    next: u64,
}

impl Calls {
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let open = self.open.values().map(|open| open.until);
        open.chain(self.answering.values().map(|answering| answering.until)).min()
    }
}

impl Live {
    /// An edge's operator calls for a sample.
    pub(super) fn open_call(
        &mut self,
        now: Timestamp,
        request: u64,
        want: String,
        area: Option<Area>,
        function: FunctionName,
        wait_us: u64,
    ) {
        let most = micros(WAIT_MAX);
        let wrong = if self.config.role == Role::Obu {
            Some("only a roadside element or a cloud may call for a sample".into())
        } else if want.is_empty() || want.len() > WANT_LEN_MAX {
            Some(alloc::format!("what is wanted must have 1 to {WANT_LEN_MAX} characters"))
        } else if wait_us == 0 || wait_us > most {
            Some(alloc::format!("the wait is {wait_us} us; it must be 1 to {most} us"))
        } else if self.calls.open.len() >= CALLS_MAX {
            Some(alloc::format!("{CALLS_MAX} calls are open, which is the maximum"))
        } else {
            None
        };
        if let Some(why) = wrong {
            return self.reply_refused(request, "call", why);
        }
        let number = self.task_number();
        let call = TaskId { owner: self.config.node.clone(), incarnation: self.life, number };
        let asked: BTreeSet<NodeId> = self.cars_outside(now);
        for to in &asked {
            let (want, function) = (want.clone(), function.clone());
            let body = ToWorker::Call(CallForTask {
                call: call.clone(),
                function,
                want,
                area,
                deadline_us: wait_us,
            });
            let message = Message::ToWorker(self.envelope(body));
            self.outputs.push_back(Output::Send { realm: Realm::Outside, to: to.clone(), message });
        }
        let until = now + Duration::from_micros(wait_us);
        let open = Open { request, call, want, asked, parts: BTreeMap::new(), until };
        self.calls.open.insert(number, open);
        self.end_call_if_complete(number);
    }

    fn cars_outside(&self, now: Timestamp) -> BTreeSet<NodeId> {
        let peers = self.peers.table.iter();
        let there = peers.filter(|(_, peer)| {
            let is_car = peer.advert.as_ref().is_some_and(|advert| advert.role == Role::Obu);
            peer.realm == Realm::Outside && peer.is_fresh(now) && is_car
        });
        there.map(|(node, _)| node.clone()).collect()
    }

    /// A car's answer. The first one of each car that was asked counts.
    pub(super) fn partial(&mut self, _now: Timestamp, from: &NodeId, call: &TaskId, reading: Reading) {
        let open = self.calls.open.get_mut(&call.number).filter(|open| open.call == *call);
        let open = open.filter(|open| open.asked.contains(from) && (1..=READINGS_MAX).contains(&reading.n));
        let Some(open) = open else {
            self.counters.ignored += 1;
            return;
        };
        open.parts.entry(from.clone()).or_insert(reading);
        self.end_call_if_complete(call.number);
    }

    fn end_call_if_complete(&mut self, number: u64) {
        if self.calls.open.get(&number).is_some_and(|open| open.parts.len() == open.asked.len()) {
            self.end_call(number);
        }
    }

    fn end_call(&mut self, number: u64) {
        let Some(open) = self.calls.open.remove(&number) else { return };
        let parts: Vec<(NodeId, Reading)> = open.parts.into_iter().collect();
        let readings: Vec<Reading> = parts.iter().map(|(_, reading)| *reading).collect();
        let report = CallReport {
            call: open.call,
            want: open.want,
            reading: merge(&readings),
            asked: u32::try_from(open.asked.len()).unwrap_or(u32::MAX),
            parts,
        };
        let why = alloc::format!("{} of {} cars answered", report.parts.len(), report.asked);
        self.decide(DecisionKind::Outcome, alloc::format!("call {}", report.call), why, Vec::new());
        self.reply(open.request, ControlReply::Called(report));
    }

    pub(super) fn calls_due(&mut self, now: Timestamp) {
        let due: Vec<u64> =
            self.calls.open.iter().filter(|(_, open)| open.until <= now).map(|(number, _)| *number).collect();
        for number in due {
            self.end_call(number);
        }
        let late: Vec<u64> =
            self.calls.answering.iter().filter(|(_, a)| a.until <= now).map(|(number, _)| *number).collect();
        for number in late {
            self.stay_silent(number, "too late for the roadside");
        }
    }

    /// The roadside calls. Whatever speaks against an answer leads to silence, not to a refusal that would
    /// tell the roadside who is there.
    pub(super) fn called(&mut self, now: Timestamp, realm: Realm, issuer: &NodeId, call: CallForTask) {
        let about = alloc::format!("call {} for {}", call.call, call.want);
        match self.may_answer(realm, issuer, &call) {
            Err(why) => {
                self.counters.calls_silent += 1;
                if self.counters.calls_silent.is_power_of_two() {
                    let facts = alloc::vec![fact("silent so far", self.counters.calls_silent)];
                    self.decide(DecisionKind::Answer, about, alloc::format!("silent: {why}"), facts);
                }
            }
            Ok((tenant, mut signals, rules)) => {
                let facts = alloc::vec![fact("rules", rules.join(", "))];
                self.decide(DecisionKind::Answer, about, "policy allows an answer".into(), facts);
                if call.area.is_some() {
                    signals
                        .extend([LATITUDE, LONGITUDE].into_iter().filter_map(|p| SignalPattern::new(p).ok()));
                }
                self.calls.next += 1;
                let request = CALL_JOB | self.calls.next;
                let until = now + Duration::from_micros(call.deadline_us);
                let (issuer, stage) = (issuer.clone(), Stage::Snapshot);
                let answering = Answering { issuer, call, until, stage, tenant, rules };
                self.calls.answering.insert(request, answering);
                self.outputs.push_back(Output::Bus(ToBus::Snapshot { request, signals }));
            }
        }
    }

    /// Whether policy lets this node answer: whose function, which signals, by which rules.
    fn may_answer(
        &self,
        realm: Realm,
        issuer: &NodeId,
        call: &CallForTask,
    ) -> Result<(TenantId, Vec<SignalPattern>, Vec<String>), &'static str> {
        let policy = &self.config.policy;
        if realm != Realm::Outside || call.call.owner != *issuer {
            return Err("it is not the roadside's own call");
        }
        if !policy.answer_calls.contains(&call.function) {
            return Err("policy: answer_calls does not name the function");
        }
        let rules = policy.exports.iter().filter(|rule| !rule.signals.is_empty());
        let signals: Vec<SignalPattern> = rules.clone().flat_map(|rule| rule.signals.clone()).collect();
        if signals.is_empty() {
            return Err("policy: no export rule lets a signal out");
        }
        let function = self.functions.get(&call.function).filter(|_| self.functions.is_ready(&call.function));
        let Some(function) = function else { return Err("the function is not ready here") };
        if !self.supervisor.is_up(&Face::Bus) {
            return Err("there is no bus here");
        }
        if self.calls.answering.len() >= CALLS_MAX {
            return Err("too many calls at a time");
        }
        Ok((function.tenant.clone(), signals, rules.map(|rule| rule.id.clone()).collect()))
    }

    /// The bus has told its signals.
    pub(super) fn snapshot(&mut self, now: Timestamp, request: u64, samples: Vec<(Signal, u64)>) {
        let known = self.calls.answering.get(&request).filter(|a| a.stage == Stage::Snapshot);
        let Some(answering) = known else { return };
        let good = || samples.iter().map(|(signal, _)| signal).filter(|s| s.quality == Quality::Ok);
        if answering.call.area.is_some_and(|area| !is_inside(area, good())) {
            return self.stay_silent(request, "not in the zone");
        }
        let policy = &self.config.policy;
        let may_leave = |path: &SignalPath| {
            policy.exports.iter().any(|rule| rule.signals.iter().any(|pattern| pattern.matches(path)))
        };
        let signals: Vec<(SignalPath, Value)> =
            good().filter(|s| may_leave(&s.path)).map(|s| (s.path.clone(), s.value.clone())).collect();
        let Some(module) = self.module_of(&answering.call.function) else {
            return self.stay_silent(request, "the function is gone");
        };
        let budget_us = micros(answering.until.since(now)).max(1);
        let (tenant, want) = (answering.tenant.clone(), answering.call.want.clone());
        let input = JobInput::Signals { want, signals };
        self.outputs.push_back(Output::RunJob { job: request, tenant, module, input, budget_us });
        if let Some(answering) = self.calls.answering.get_mut(&request) {
            answering.stage = Stage::Running;
        }
    }

    fn module_of(&self, function: &FunctionName) -> Option<Digest> {
        self.functions.get(function).filter(|_| self.functions.is_ready(function)).map(|f| f.bundle)
    }

    /// The function has made its reading.
    pub(super) fn call_ended(&mut self, now: Timestamp, job: u64, end: CallEnd, took_us: u64) {
        let reading = match end {
            CallEnd::Returned { reading: Some(reading), effect: None, .. } => Ok(reading),
            CallEnd::Returned { .. } => Err("the function gave no reading".into()),
            CallEnd::Failed { code, why } => Err(alloc::format!("the function failed with {code}: {why}")),
        };
        let reading = reading.and_then(|reading| {
            if (1..=READINGS_MAX).contains(&reading.n) {
                Ok(reading)
            } else {
                Err("it claims no samples".into())
            }
        });
        let reading = match reading {
            Ok(reading) => reading,
            Err(why) => return self.stay_silent(job, &why),
        };
        let Some(answering) = self.calls.answering.remove(&job).filter(|a| now < a.until) else { return };
        self.functions.measured(&answering.call.function, took_us);
        self.counters.calls_answered += 1;
        let about = alloc::format!("call {} for {}", answering.call.call, answering.call.want);
        let facts = alloc::vec![fact("to", &answering.issuer), fact("samples", reading.n)];
        self.decide(
            DecisionKind::Export,
            about,
            alloc::format!("rule {}", answering.rules.join(", ")),
            facts,
        );
        let body = ToRequester::Partial { call: answering.call.call, reading };
        let message = Message::ToRequester(self.envelope(body));
        self.outputs.push_back(Output::Send { realm: Realm::Outside, to: answering.issuer, message });
    }

    fn stay_silent(&mut self, request: u64, why: &str) {
        let Some(answering) = self.calls.answering.remove(&request) else { return };
        self.counters.calls_silent += 1;
        if answering.stage == Stage::Running {
            let tenant = answering.tenant.clone();
            self.outputs.push_back(Output::CancelJob { tenant, job: request });
        }
        let about = alloc::format!("call {} for {}", answering.call.call, answering.call.want);
        self.decide(DecisionKind::Answer, about, alloc::format!("silent: {why}"), Vec::new());
    }

    /// A tenant's worker is gone with its calls.
    pub(super) fn calls_lost(&mut self, tenant: &TenantId) {
        self.silence(|answering| answering.stage == Stage::Running && answering.tenant == *tenant);
    }

    pub(super) fn snapshots_lost(&mut self) {
        self.silence(|answering| answering.stage == Stage::Snapshot);
    }

    fn silence(&mut self, lost: impl Fn(&Answering) -> bool) {
        let lost: Vec<u64> =
            self.calls.answering.iter().filter(|(_, a)| lost(a)).map(|(number, _)| *number).collect();
        for number in lost {
            self.stay_silent(number, "the process that worked on it ended");
        }
    }
}

/// Whether the car is inside the box, by its own position; a car that does not know is outside.
fn is_inside<'a>(area: Area, signals: impl Iterator<Item = &'a Signal>) -> bool {
    let (mut latitude, mut longitude) = (None, None);
    for signal in signals {
        match (signal.path.as_str(), &signal.value) {
            (LATITUDE, Value::Number(degrees)) => latitude = micro_degrees(*degrees, 90.0),
            (LONGITUDE, Value::Number(degrees)) => longitude = micro_degrees(*degrees, 180.0),
            _ => {}
        }
    }
    matches!((latitude, longitude), (Some(latitude), Some(longitude)) if area.contains(latitude, longitude))
}

fn micro_degrees(degrees: f64, most: f64) -> Option<i64> {
    let known = (-most..=most).contains(&degrees);
    // Within the range the product is far below 2^53: the conversion is exact but for the fraction.
    known.then_some((degrees * 1_000_000.0) as i64)
}

/// The mean of all readings, each weighted by its samples; `None` of none. Integers only, so that neither the
/// order of the parts nor the machine matters.
pub fn merge(parts: &[Reading]) -> Option<Reading> {
    let samples: i128 = parts.iter().map(|part| i128::from(part.n)).sum();
    let sum: i128 = parts.iter().map(|part| i128::from(part.value_micro) * i128::from(part.n)).sum();
    let value_micro = i64::try_from(sum.checked_div(samples)?).ok()?;
    Some(Reading { value_micro, n: u32::try_from(samples).unwrap_or(u32::MAX) })
}
