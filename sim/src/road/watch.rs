//! Reads one life of a node, record by record, and keeps what the model needs of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use obu_core::io::{AppAnswer, AppAsk, Boot, CallEnd, ControlCall, ControlReply, Input, JobEvent, Output};
use policies::face::FromBus;
use policies::host::{Face, HostCommand, HostEvent};
use policies::id::{Attempt, Digest, NodeId, TaskId};
use policies::manifest::Manifest;
use policies::time::Timestamp;
use v2e_core::message::{Envelope, Message, ToRequester, ToWorker};
use v2e_core::report::Realm;

use super::{Life, Measured, Receipt, clocks};
use crate::model::Shape;

/// A node samples its machine every second; without a record for this long it stood still.
const STILL: Duration = Duration::from_millis(2_500);

/// A call that runs.
#[derive(Debug)]
struct Job {
    ordered: Timestamp,
    module: Digest,
    crowded: bool,
}

/// One life under observation, with everything that has no answer yet.
#[derive(Debug)]
pub(super) struct Watch {
    life: Life,
    runs: BTreeMap<(NodeId, TaskId, Attempt), (Timestamp, Realm, u32)>,
    jobs: BTreeMap<u64, Job>,
    writes: BTreeMap<u64, Timestamp>,
    effects: BTreeMap<(TaskId, Attempt), Timestamp>,
    loads: BTreeMap<Digest, Timestamp>,
    imports: BTreeMap<Digest, Timestamp>,
    faces: BTreeMap<Face, Timestamp>,
}

const fn since(now: Timestamp, then: Timestamp) -> u64 {
    now.as_micros().saturating_sub(then.as_micros())
}

impl Watch {
    pub(super) fn new(node: NodeId, at: Timestamp, boot: Boot) -> Self {
        let manifest = boot.desired.as_ref().map(|desired| desired.manifest.clone()).unwrap_or_default();
        let life = Life {
            node,
            boot,
            from: at,
            until: at,
            zero: 0,
            told: Vec::new(),
            still: Vec::new(),
            reports: Vec::new(),
            receipts: Vec::new(),
            measured: Measured::default(),
            asked: BTreeSet::new(),
            functions: BTreeMap::new(),
            shapes: BTreeMap::new(),
            heard: BTreeSet::new(),
            adverts: clocks::Adverts::default(),
        };
        let mut watch = Self {
            life,
            runs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            writes: BTreeMap::new(),
            effects: BTreeMap::new(),
            loads: BTreeMap::new(),
            imports: BTreeMap::new(),
            faces: BTreeMap::new(),
        };
        watch.note_functions(&manifest);
        watch
    }

    pub(super) fn finish(self) -> Life {
        self.life
    }

    fn note_functions(&mut self, manifest: &Manifest) {
        let named = manifest.functions.iter().map(|function| (function.name.clone(), function.clone()));
        self.life.functions.extend(named);
    }

    /// The node was told something.
    pub(super) fn told(&mut self, at: Timestamp, input: &Input) {
        if at.since(self.life.until) > STILL {
            self.life.still.push((self.life.until, at));
        }
        self.life.until = self.life.until.max(at);
        match input {
            Input::Ask { arrived, ask: AppAsk::RunTask { function, input: blob, .. }, .. } => {
                self.life.measured.inbox.push(since(at, *arrived));
                self.life.asked.insert((function.clone(), blob.digest));
                self.life.told.push((*arrived, input.clone()));
            }
            Input::Control { call, .. } => self.control(at, input, call),
            Input::Host(event) => self.host(at, input, event),
            Input::GiveUp { .. } | Input::PeerGone { .. } | Input::Link { .. } => {
                self.life.told.push((at, input.clone()));
            }
            Input::Bus(FromBus::EffectDone { task, attempt, .. }) => {
                let asked = self.effects.remove(&(task.clone(), *attempt));
                self.life.measured.effect.extend(asked.map(|then| since(at, then)));
            }
            Input::Job(event) => self.job(at, event),
            Input::Received { realm, from, message, .. } => self.received(at, *realm, from, message),
            Input::Persisted { ticket, result: Ok(()) } => {
                let asked = self.writes.remove(ticket);
                self.life.measured.save.extend(asked.map(|then| since(at, then)));
            }
            // What the world itself brings about again.
            Input::Boot(_)
            | Input::Tick
            | Input::Ask { .. }
            | Input::Island { .. }
            | Input::Bus(_)
            | Input::Silent { .. }
            | Input::Persisted { .. } => {}
        }
    }

    fn control(&mut self, at: Timestamp, input: &Input, call: &ControlCall) {
        match call {
            ControlCall::Apply { manifest } => self.note_functions(manifest),
            ControlCall::RunTask { function, input: blob, .. } => {
                self.life.asked.insert((function.clone(), blob.digest));
            }
            ControlCall::Delete { .. } | ControlCall::DeleteFunction { .. } | ControlCall::Call { .. } => {}
            // The end of a life is the end of its records; the rest concerns apps alone, or names a task by a
            // number that another run need not give it.
            ControlCall::Freeze { .. }
            | ControlCall::Thaw { .. }
            | ControlCall::Resize { .. }
            | ControlCall::Restart { .. }
            | ControlCall::Cancel { .. }
            | ControlCall::Shutdown { .. } => return,
        }
        self.life.told.push((at, input.clone()));
    }

    fn host(&mut self, at: Timestamp, input: &Input, event: &HostEvent) {
        match event {
            HostEvent::Sampled { .. } => self.life.told.push((at, input.clone())),
            HostEvent::Imported { bundle, .. } => {
                let asked = self.imports.remove(bundle);
                self.life.measured.import.extend(asked.map(|then| since(at, then)));
            }
            HostEvent::FaceStarted { face } => {
                let asked = self.faces.remove(face);
                self.life.measured.face.extend(asked.map(|then| since(at, then)));
            }
            _ => {}
        }
    }

    fn job(&mut self, at: Timestamp, event: &JobEvent) {
        match event {
            JobEvent::Loaded { module, .. } => {
                let asked = self.loads.remove(module);
                self.life.measured.load.extend(asked.map(|then| since(at, then)));
            }
            JobEvent::LoadFailed { .. } => {}
            JobEvent::Began { job } => {
                let ordered = self.jobs.get(job).map(|job| job.ordered);
                self.life.measured.began.extend(ordered.map(|then| since(at, then)));
            }
            JobEvent::Ended { job, end, took_us } => {
                let Some(job) = self.jobs.remove(job) else { return };
                let CallEnd::Returned { result, effect, reading } = end else { return };
                let around = since(at, job.ordered).saturating_sub(*took_us);
                self.life.measured.call.push(around);
                self.life.measured.calls.entry((job.module, job.crowded)).or_default().push(around);
                let shape = Shape { len: result.len, effect: effect.clone(), reading: *reading };
                self.life.shapes.insert(job.module, shape);
            }
        }
    }

    fn received(&mut self, at: Timestamp, realm: Realm, from: &NodeId, message: &Message) {
        self.life.heard.insert((realm, from.clone()));
        let (_, life) = message.sender();
        self.life.adverts.last.insert((from.clone(), life), at);
        match message {
            Message::Advert(Envelope { body, .. }) => {
                self.life.adverts.had.entry((from.clone(), life, realm, body.seq)).or_insert(at);
            }
            Message::ToRequester(Envelope { body, .. }) => self.answered(at, from, body),
            Message::ToWorker(Envelope { body: ToWorker::Run(run), .. }) => {
                self.life.asked.insert((run.function.clone(), run.input.digest));
            }
            Message::ToWorker(_) => {}
        }
    }

    /// The first answer to a run. Only one that a worker gives at once tells what the way took.
    fn answered(&mut self, at: Timestamp, from: &NodeId, body: &ToRequester) {
        let (task, attempt, at_once) = match body {
            ToRequester::Accepted { task, attempt, .. } | ToRequester::Rejected { task, attempt, .. } => {
                (task, *attempt, true)
            }
            ToRequester::Busy { task, attempt, .. }
            | ToRequester::Began { task, attempt }
            | ToRequester::Ended { task, attempt, .. } => (task, *attempt, false),
            ToRequester::Partial { .. } => return,
        };
        let Some((sent, realm, len)) = self.runs.remove(&(from.clone(), task.clone(), attempt)) else {
            return;
        };
        if at_once {
            let round_us = since(at, sent);
            self.life.receipts.push(Receipt { realm, task: task.clone(), len, round_us });
        }
    }

    /// The node wanted something.
    pub(super) fn wants(&mut self, at: Timestamp, output: &Output) {
        match output {
            Output::Send {
                realm,
                to,
                message: Message::ToWorker(Envelope { body: ToWorker::Run(run), .. }),
            } => {
                let key = (to.clone(), run.task.clone(), run.attempt);
                self.runs.insert(key, (at, *realm, run.input.len));
            }
            Output::Announce { realm, advert } => {
                self.life.adverts.sent.entry((*realm, advert.body.seq)).or_insert(at);
            }
            Output::RunJob { job, module, .. } => {
                let crowded = !self.jobs.is_empty();
                self.jobs.insert(*job, Job { ordered: at, module: *module, crowded });
            }
            Output::Persist { ticket, .. } => {
                self.writes.insert(*ticket, at);
            }
            Output::Effect { task, attempt, .. } => {
                self.effects.insert((task.clone(), *attempt), at);
            }
            Output::LoadModule { module, .. } => {
                self.loads.insert(*module, at);
            }
            Output::Host(HostCommand::Import { bundle }) => {
                self.imports.insert(*bundle, at);
            }
            Output::Host(HostCommand::StartFace { face }) => {
                self.faces.insert(face.clone(), at);
            }
            Output::Answer { answer: AppAnswer::Task(report), .. }
            | Output::Reply { reply: ControlReply::Task(report), .. } => {
                self.life.reports.push(report.clone())
            }
            _ => {}
        }
    }
}

const _: () = assert!(STILL.as_micros() > obu_core::supervisor::SAMPLE_EVERY.as_micros());
