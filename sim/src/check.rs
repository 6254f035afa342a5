//! What must hold after every single event, whatever the seed: told from outside, by what goes in and out of the
//! machines and by an observer at the effect ports. The machines only promise what they know; the checker
//! sees everything.
//!
//! It reads a stream of [`Record`]s and nothing else, so that a live run, a replayed failure and a recording
//! from the road pass through the same rules.

use std::collections::{BTreeMap, BTreeSet};

use obu_core::io::{
    AppAnswer, AppAsk, Boot, ControlCall, ControlReply, Input, JobEvent, JobInput, NodeConfig, Output,
};
use obu_core::record::{Entry, Record};
use policies::host::{AppRef, HostCommand};
use policies::id::{Attempt, Digest, FunctionName, NodeId, TaskId, TenantId};
use policies::manifest::Manifest;
use policies::task::{Class, Effect, Outcome};
use policies::time::Timestamp;
use v2e_core::message::{Envelope, Message, Role, ToRequester, ToWorker};
use v2e_core::report::{Realm, TaskReport};

use crate::fleet::FunctionModel;

/// How long after its deadline a task may still be unanswered. The requester answers at the deadline itself;
/// the rest is for clocks and for what has no deadline of its own.
pub const SETTLE_US: u64 = 1_000_000;

/// How long a request on the control API may take: bundles are verified and states written.
pub const CONTROL_US: u64 = 30_000_000;

/// How long after its owner's report an effect may still happen. A message may wait at a worker that stands
/// still (4 s) and may itself be a late copy (0.6 s); then its lease counts from there (1 s), and the port takes
/// its time. That a worker keeps to its lease as it knows it is told by [`Rule::EffectAfterLease`], without
/// slack.
const EFFECT_AFTER_REPORT_US: u128 = 6_500_000;

/// Most samples for the roadside that a node may take at a time.
const SAMPLES_MAX: usize = 8;

/// A node that is late because it stood still gets this long to catch up.
const CATCH_UP_US: u64 = 200_000;

/// One thing that must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A machine found one of its own invariants broken.
    Alarm,
    /// A request was answered twice, after it was given up, or without having been made.
    AnsweredTwice,
    /// A task was reported twice.
    ReportedTwice,
    /// A request had no answer long after its time, while its node lived.
    Lost,
    /// The effect of a `once` task happened twice.
    EffectTwice,
    /// A `once` task was reported as done, and its effect had not happened.
    DoneWithoutEffect,
    /// A task was reported as not done, and its effect happened.
    EffectDenied,
    /// A worker asked for the effect of a `once` task after its lease was over.
    EffectAfterLease,
    /// The effect of a `once` task happened long after its owner had stopped renewing the lease and reported
    /// that nobody knows.
    EffectBehindBack,
    /// A result that the function does not give for this input.
    WrongResult,
    /// An input or a reading left a car without a rule that allows it.
    ExportWithoutRule,
    /// More tasks run at a time than the node has cores, or more samples than it may take.
    TooManyCalls,
    /// A `critical` app or its class was squeezed or frozen.
    CriticalTouched,
    /// A table of a node holds more than its named maximum.
    Unbounded,
    /// A message that its own codec refuses.
    BadMessage,
    /// The machine asks to be woken again and again without end.
    Spinning,
    /// The machine panicked.
    Panic,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} at {node}, {at} on its clock: {detail}")]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// Where.
    pub node: NodeId,
    /// When, on that node's clock.
    pub at: Timestamp,
    /// The ids and numbers.
    pub detail: String,
}

/// What was counted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Finished tasks whose result came from another node.
    pub outsourced: u64,
    /// Tasks that were hedged.
    pub hedged: u64,
    /// Effects applied.
    pub effects: u64,
    /// Inputs that left a car, each by a rule.
    pub exports: u64,
    /// Records seen.
    pub records: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    App(TenantId, u64),
    Control(u64),
}

#[derive(Clone, Debug)]
struct Open {
    due: Timestamp,
    /// The function and the input's digest, of a task.
    task: Option<(FunctionName, Digest)>,
}

/// What was said of a task to its caller.
#[derive(Clone, Copy, Debug)]
struct Reported {
    effect: Effect,
    word: &'static str,
    /// On the owner's clock.
    at: Timestamp,
}

/// One life of a node, seen from outside.
#[derive(Debug)]
struct Life {
    config: NodeConfig,
    open: BTreeMap<Request, Open>,
    /// The open requests by the time when they are due.
    due: BTreeSet<(Timestamp, Request)>,
    /// Calls that run, and whether each is a sample for the roadside.
    calls: BTreeMap<u64, bool>,
    /// Until when each `once` attempt of another node holds its lease here.
    leases: BTreeMap<(TaskId, Attempt), Timestamp>,
    critical: BTreeSet<AppRef>,
    /// When the oldest overdue request was first seen to be overdue.
    overdue_since: Option<(Timestamp, Request)>,
}

/// The rules and what they remember.
#[derive(Debug)]
pub struct Checker {
    lives: BTreeMap<NodeId, Life>,
    applied: BTreeMap<TaskId, u32>,
    reported: BTreeMap<TaskId, Reported>,
    /// Whether the records are of a simulated world, whose functions and ports are known.
    simulated: bool,
    /// What was counted.
    pub counts: Counts,
}

type Checked = Result<(), (Rule, String)>;

impl Checker {
    /// A checker of an empty world. Without `simulated`, only the rules that need no observer are checked.
    pub fn new(simulated: bool) -> Self {
        Self {
            lives: BTreeMap::new(),
            applied: BTreeMap::new(),
            reported: BTreeMap::new(),
            simulated,
            counts: Counts::default(),
        }
    }

    /// Looks at the next record.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn saw(&mut self, record: &Record) -> Result<(), Violation> {
        self.counts.records += 1;
        let Record { node, at, entry } = record;
        let checked = match entry {
            Entry::Input(Input::Boot(boot)) => {
                self.lives.insert(node.clone(), Life::new(boot));
                Ok(())
            }
            Entry::Input(input) => self.lives.get_mut(node).map_or(Ok(()), |life| life.told(*at, input)),
            Entry::Output(output) => self.wants(*at, node, output),
            Entry::Applied { task, attempt } => self.effect(*at, task, attempt.0),
            Entry::Trail(_) | Entry::Note(_) => Ok(()),
        };
        checked.map_err(|(rule, detail)| Violation { rule, node: node.clone(), at: *at, detail })
    }

    /// The node's life is over without a new one yet: what it owed, it owes no more.
    pub fn gone(&mut self, node: &NodeId) {
        self.lives.remove(node);
    }

    fn effect(&mut self, at: Timestamp, task: &TaskId, attempt: u32) -> Checked {
        self.counts.effects += 1;
        let times = self.applied.entry(task.clone()).or_default();
        *times += 1;
        if *times > 1 {
            return Err((Rule::EffectTwice, format!("task {task}, attempt {attempt}")));
        }
        let Some(report) = self.reported.get(task).filter(|report| report.effect == Effect::Once) else {
            return Ok(());
        };
        let (word, late) = (report.word, at.since(report.at).as_micros());
        let detail =
            format!("task {task} was reported as {word}, attempt {attempt} was applied {late} us later");
        match denies_effect(word) {
            true => Err((Rule::EffectDenied, detail)),
            false if late > EFFECT_AFTER_REPORT_US => Err((Rule::EffectBehindBack, detail)),
            false => Ok(()),
        }
    }

    fn wants(&mut self, at: Timestamp, node: &NodeId, output: &Output) -> Checked {
        let Some(life) = self.lives.get_mut(node) else { return Ok(()) };
        match output {
            Output::Alarm(alarm) => Err((Rule::Alarm, format!("{}: {}", alarm.name, alarm.detail))),
            Output::Answer { tenant, request, answer } => {
                let open = life.close(&Request::App(tenant.clone(), *request))?;
                match answer {
                    AppAnswer::Task(report) => self.report(at, &open, report),
                    AppAnswer::Ok | AppAnswer::Refused { .. } => Ok(()),
                }
            }
            Output::Reply { request, reply } => {
                let open = life.close(&Request::Control(*request))?;
                match reply {
                    ControlReply::Task(report) => self.report(at, &open, report),
                    ControlReply::Ok { .. } | ControlReply::Refused { .. } | ControlReply::Called(_) => {
                        Ok(())
                    }
                }
            }
            Output::Send { realm: Realm::Outside, message, .. } => {
                self.counts.exports += u64::from(life.check_export(message)?);
                Ok(())
            }
            Output::RunJob { job, input, .. } => {
                life.check_call(*job, matches!(input, JobInput::Signals { .. }))
            }
            Output::Host(command) => life.check_command(command),
            Output::Effect { task, attempt, .. } => life.check_lease(at, task, *attempt),
            Output::Send { realm: Realm::Car, .. }
            | Output::Border { .. }
            | Output::Bus(_)
            | Output::Camera(_)
            | Output::LoadModule { .. }
            | Output::CancelJob { .. }
            | Output::Announce { .. }
            | Output::Persist { .. }
            | Output::Decision(_) => Ok(()),
        }
    }

    fn report(&mut self, at: Timestamp, open: &Open, report: &TaskReport) -> Checked {
        let (task, word) = (&report.task, report.outcome.word());
        *self.counts.outcomes.entry(word).or_default() += 1;
        self.counts.hedged += u64::from(report.hedged);
        self.counts.outsourced += u64::from(report.node.as_ref().is_some_and(|node| *node != task.owner));
        let told = Reported { effect: report.effect, word, at };
        if let Some(before) = self.reported.insert(task.clone(), told) {
            return Err((Rule::ReportedTwice, format!("task {task}: {}, then {word}", before.word)));
        }
        if !self.simulated {
            return Ok(());
        }
        let applied = self.applied.contains_key(task);
        match (&report.outcome, report.effect) {
            (Outcome::Done { .. }, Effect::Once) if !applied => {
                return Err((Rule::DoneWithoutEffect, format!("task {task}")));
            }
            (outcome, Effect::Once) if applied && denies_effect(outcome.word()) => {
                return Err((
                    Rule::EffectDenied,
                    format!("task {task} was applied, then reported as {word}"),
                ));
            }
            _ => {}
        }
        check_result(open, report)
    }
}

/// Whether an outcome says that the effect of a `once` task did not happen.
fn denies_effect(word: &str) -> bool {
    !matches!(word, "done" | "indeterminate")
}

fn check_result(open: &Open, report: &TaskReport) -> Checked {
    let (Outcome::Done { result }, Some((function, input))) = (&report.outcome, &open.task) else {
        return Ok(());
    };
    let expected = FunctionModel::named(function).map(|model| Digest::of(&model.result(input)));
    if expected == Some(result.digest) {
        return Ok(());
    }
    Err((
        Rule::WrongResult,
        format!("task {}: {} of input {input}: {}", report.task, function, result.digest),
    ))
}

impl Life {
    fn new(boot: &Boot) -> Self {
        let mut life = Self {
            config: boot.config.clone(),
            open: BTreeMap::new(),
            due: BTreeSet::new(),
            calls: BTreeMap::new(),
            leases: BTreeMap::new(),
            critical: BTreeSet::new(),
            overdue_since: None,
        };
        if let Some(desired) = &boot.desired {
            life.note_critical(&desired.manifest);
        }
        life
    }

    fn note_critical(&mut self, manifest: &Manifest) {
        for app in manifest.apps.iter().filter(|app| app.class == Class::Critical) {
            self.critical.insert(app.app_ref());
        }
    }

    fn told(&mut self, at: Timestamp, input: &Input) -> Checked {
        self.check_overdue(at)?;
        match input {
            Input::Ask { tenant, request, ask, .. } => {
                let (due_us, task) = match ask {
                    AppAsk::RunTask { function, deadline_us, input, .. } => {
                        (deadline_us.saturating_add(SETTLE_US), Some((function.clone(), input.digest)))
                    }
                    AppAsk::SendFrame(_) | AppAsk::Denied { .. } => (SETTLE_US, None),
                };
                self.open(Request::App(tenant.clone(), *request), at, due_us, task);
            }
            Input::GiveUp { tenant, request } => {
                // It may have been answered just before.
                let _ = self.close(&Request::App(tenant.clone(), *request));
            }
            Input::Control { request, call } => self.control(at, *request, call),
            Input::Job(JobEvent::Ended { job, .. }) => {
                self.calls.remove(job);
            }
            Input::Received { from, message: Message::ToWorker(envelope), .. } => {
                self.lease(at, from, &envelope.body);
            }
            _ => {}
        }
        Ok(())
    }

    /// A lease begins with the first copy of a run and goes on with every renewal that comes before its end.
    fn lease(&mut self, at: Timestamp, from: &NodeId, message: &ToWorker) {
        let until = |lease_us: u64| at + core::time::Duration::from_micros(lease_us);
        match message {
            ToWorker::Run(run) if run.effect == Effect::Once && run.task.owner == *from => {
                self.leases.entry((run.task.clone(), run.attempt)).or_insert(until(run.lease_us));
            }
            ToWorker::Renew { task, attempt, lease_us } if task.owner == *from => {
                if let Some(end) = self.leases.get_mut(&(task.clone(), *attempt)).filter(|end| **end > at) {
                    *end = until(*lease_us);
                }
            }
            _ => {}
        }
    }

    /// A worker asks for an effect. Its own tasks have no lease.
    fn check_lease(&mut self, at: Timestamp, task: &TaskId, attempt: Attempt) -> Checked {
        match self.leases.remove(&(task.clone(), attempt)).filter(|end| *end <= at) {
            Some(end) => {
                let detail = format!("task {task}, attempt {}, whose lease ended at {end}", attempt.0);
                Err((Rule::EffectAfterLease, detail))
            }
            None => Ok(()),
        }
    }

    fn control(&mut self, at: Timestamp, request: u64, call: &ControlCall) {
        let (due_us, task) = match call {
            ControlCall::RunTask { function, deadline_us, input, .. } => {
                (deadline_us.saturating_add(SETTLE_US), Some((function.clone(), input.digest)))
            }
            ControlCall::Call { wait_us, .. } => (wait_us.saturating_add(SETTLE_US), None),
            ControlCall::Apply { manifest } => {
                self.note_critical(manifest);
                (CONTROL_US, None)
            }
            _ => (CONTROL_US, None),
        };
        self.open(Request::Control(request), at, due_us, task);
    }

    fn open(&mut self, request: Request, at: Timestamp, due_us: u64, task: Option<(FunctionName, Digest)>) {
        let due = at + core::time::Duration::from_micros(due_us);
        self.due.insert((due, request.clone()));
        self.open.insert(request, Open { due, task });
    }

    fn close(&mut self, request: &Request) -> Result<Open, (Rule, String)> {
        let open = self.open.remove(request).ok_or_else(|| (Rule::AnsweredTwice, format!("{request:?}")))?;
        self.due.remove(&(open.due, request.clone()));
        Ok(open)
    }

    /// A request is lost if it is still open some time after the node has been seen awake past its due time.
    fn check_overdue(&mut self, at: Timestamp) -> Checked {
        let Some((due, request)) = self.due.first().filter(|(due, _)| *due < at) else { return Ok(()) };
        match &self.overdue_since {
            Some((since, seen)) if seen == request => {
                if at.since(*since).as_micros() > u128::from(CATCH_UP_US) {
                    return Err((Rule::Lost, format!("{request:?} was due at {due}")));
                }
            }
            _ => self.overdue_since = Some((at, request.clone())),
        }
        Ok(())
    }

    /// Tasks run on as many cores as there are; samples for the roadside run beside them, a few at a time.
    fn check_call(&mut self, job: u64, is_sample: bool) -> Checked {
        let (kind, most) =
            if is_sample { ("samples", SAMPLES_MAX) } else { ("tasks", self.config.cores.into()) };
        let before = self.calls.insert(job, is_sample);
        let running = self.calls.values().filter(|sample| **sample == is_sample).count();
        if before.is_some() || running > most {
            return Err((Rule::TooManyCalls, format!("call {job}: {running} {kind} run, {most} may")));
        }
        Ok(())
    }

    fn check_command(&self, command: &HostCommand) -> Checked {
        let touched = match command {
            HostCommand::SqueezeClass { class, share } => *class == Class::Critical && *share < 1000,
            HostCommand::Freeze { app } => self.critical.contains(app),
            _ => false,
        };
        if touched { Err((Rule::CriticalTouched, format!("{command:?}"))) } else { Ok(()) }
    }

    /// Whether the message is an export out of a car; an error if no rule allows it.
    fn check_export(&self, message: &Message) -> Result<bool, (Rule, String)> {
        let policy = &self.config.policy;
        let what = match message {
            _ if self.config.role != Role::Obu => return Ok(false),
            Message::ToWorker(Envelope { body: ToWorker::Run(run), .. }) => {
                if policy.export_of_task(&run.function).is_some() {
                    return Ok(true);
                }
                format!("input of {} (task {})", run.function, run.task)
            }
            Message::ToRequester(Envelope { body: ToRequester::Partial { call, .. }, .. }) => {
                if !policy.answer_calls.is_empty() {
                    return Ok(true);
                }
                format!("a reading for call {call}")
            }
            _ => return Ok(false),
        };
        Err((Rule::ExportWithoutRule, what))
    }
}

#[cfg(test)]
mod tests;
