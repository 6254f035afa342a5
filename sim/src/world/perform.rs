//! Carrying out what a machine wants: each [`Output`] becomes events in the world.

use can_core::effect;
use obu_core::io::{AppAnswer, AppAsk, CallEnd, ControlReply, Input, JobEvent, JobInput, Output};
use obu_core::record::{Entry, Record};
use policies::face::{FromBus, ToBorder, ToBus};
use policies::host::{AppRef, HostEvent};
use policies::id::{Attempt, Digest, NodeId, TaskId, TenantId};
use v2e_core::message::Message;
use v2e_core::report::Realm;

use super::{Event, Failure, World};
use crate::chance::Ratio;
use crate::check::{Rule, Violation};
use crate::fault::Fault;
use crate::model::{Call, Order};

/// Bytes of a message besides its payload, on the air.
const OVERHEAD: u64 = 100;

/// Share of effect requests that arrive twice under [`Fault::Repeat`].
const REPEATED: Ratio = Ratio::permille(100);

/// Share of appends at which the effect server breaks off under [`Fault::Ledger`].
const BREAKS: Ratio = Ratio::permille(50);

/// From the effect server's answer to the port, and from the port's to the node, microseconds.
const APPENDED: u64 = 50;
const TOLD: u64 = 100;

impl World {
    /// Carries out one output of a node.
    pub(super) fn perform(&mut self, unit: usize, output: Output) -> Result<(), Failure> {
        match output {
            Output::Host(command) => {
                let body = &mut self.bodies[unit];
                for (after, event) in body.host.handle(command, &mut body.chance) {
                    let after = self.host_time(unit, after, &event);
                    self.tell(unit, after, Input::Host(event));
                }
            }
            Output::Border { tenant, message } => self.border(unit, tenant, message),
            Output::Bus(message) => self.bus(unit, message),
            Output::LoadModule { tenant, module, .. } => {
                let after = self.drawn(unit, |times| &times.load, (5_000, 20_000));
                self.tell(unit, after, Input::Job(JobEvent::Loaded { tenant, module }));
            }
            Output::RunJob { job, module, input, budget_us, .. } => {
                self.run_job(unit, job, &module, &input, budget_us);
            }
            Output::CancelJob { job, .. } => self.cancel_job(unit, job),
            Output::Effect { task, attempt, line } => self.request_effect(unit, &task, attempt, &line),
            Output::Send { realm, to, message } => self.send(unit, realm, &to, &message)?,
            Output::Announce { realm, advert } => self.announce(unit, realm, &Message::Advert(advert))?,
            Output::Persist { ticket, what } => {
                let life = self.bodies[unit].life;
                self.bodies[unit].writes.insert(ticket, what);
                let after = self.drawn(unit, |times| &times.save, (500, 5_000));
                self.queue.add(self.now + after, Event::Written { unit, life, ticket });
            }
            Output::Answer { answer: AppAnswer::Task(report), .. }
            | Output::Reply { reply: ControlReply::Task(report), .. }
                if self.model.is_some() =>
            {
                self.reports.push(report);
            }
            Output::Reply { request, reply } => self.replied(unit, request, &reply),
            Output::Decision(decision) => {
                *self.report.decisions.entry(decision.kind).or_default() += 1;
            }
            // The checker has looked at these; there is nothing more to do.
            Output::Answer { .. } | Output::Camera(_) | Output::Alarm(_) => {}
        }
        Ok(())
    }

    fn border(&mut self, unit: usize, tenant: TenantId, message: ToBorder) {
        match message {
            ToBorder::Open { app, .. } => {
                let app = AppRef { tenant, app };
                self.bodies[unit].islands.insert(app.clone());
                self.tell(unit, 1_000, Input::Island { app, result: Ok(()) });
            }
            ToBorder::Close { app } => {
                self.bodies[unit].islands.remove(&AppRef { tenant, app });
            }
            ToBorder::Signals { .. } | ToBorder::Frame { .. } | ToBorder::Reply { .. } => {}
        }
    }

    fn bus(&mut self, unit: usize, message: ToBus) {
        match message {
            ToBus::Transmit { request, .. } => {
                self.tell(unit, 200, Input::Bus(FromBus::Transmitted { request, result: Ok(()) }));
            }
            ToBus::Snapshot { request, signals } => {
                let samples = self.bodies[unit].snapshot(&signals);
                self.tell(unit, 200, Input::Bus(FromBus::Snapshot { request, samples }));
            }
            ToBus::Effect { task, attempt, line } => self.request_effect(unit, &task, attempt, &line),
            ToBus::Route { .. } | ToBus::Stats => {}
        }
    }

    fn run_job(&mut self, unit: usize, job: u64, module: &Digest, input: &JobInput, budget_us: u64) {
        let body = &mut self.bodies[unit];
        body.jobs.insert(job);
        let Call { began_us, ended_us, took_us, end } = match &self.model {
            Some(model) => {
                let crowded = body.jobs.len() > 1;
                let order = Order { module, input, budget_us };
                model.call(&body.member.config.node, &order, crowded, &mut body.chance)
            }
            None => {
                let (end, took_us) = body.run_call(module, input, budget_us);
                Call { began_us: 30, ended_us: 30 + took_us, took_us, end }
            }
        };
        let life = body.life;
        self.tell(unit, began_us, Input::Job(JobEvent::Began { job }));
        let end = Box::new(end);
        self.queue.add(self.now + ended_us, Event::CallEnds { unit, life, job, end, took_us });
    }

    fn cancel_job(&mut self, unit: usize, job: u64) {
        if self.bodies[unit].jobs.remove(&job) {
            let end = CallEnd::Failed { code: -1, why: "cancelled".into() };
            self.tell(unit, 50, Input::Job(JobEvent::Ended { job, end, took_us: 0 }));
        }
    }

    /// A request on its way from the node process to its effect port.
    fn request_effect(&mut self, unit: usize, task: &TaskId, attempt: Attempt, line: &str) {
        let repeats = self.options.faults.has(Fault::Repeat) && self.bodies[unit].chance.happens(REPEATED);
        for _ in 0..=u32::from(repeats) {
            let input = effect::Input::Apply { task: task.clone(), attempt, line: line.into() };
            let after = self.effect_time(unit);
            self.port_event(unit, after, input);
        }
        self.struck(Fault::Repeat, repeats);
    }

    /// How long an effect is on its way to the port.
    fn effect_time(&mut self, unit: usize) -> u64 {
        let back = if self.model.is_some() { APPENDED + TOLD } else { 0 };
        self.drawn(unit, |times| &times.effect, (50, 2_000)).saturating_sub(back)
    }

    /// How long host takes, where that was measured.
    fn host_time(&mut self, unit: usize, usual: u64, event: &HostEvent) -> u64 {
        match event {
            HostEvent::Imported { .. } if self.model.is_some() => {
                self.drawn(unit, |times| &times.import, (usual, usual))
            }
            HostEvent::FaceStarted { .. } if self.model.is_some() => {
                self.drawn(unit, |times| &times.face, (usual, usual))
            }
            _ => usual,
        }
    }

    fn port_event(&mut self, unit: usize, after: u64, input: effect::Input) {
        let (life, power) = (self.bodies[unit].life, self.bodies[unit].power);
        self.queue.add(self.now + after, Event::AtPort { unit, life, power, input: Box::new(input) });
    }

    /// The effect port of a node is told something.
    pub(super) fn at_port(&mut self, unit: usize, life: u64, power: u64, input: effect::Input) {
        let body = &mut self.bodies[unit];
        if body.power != power {
            return;
        }
        body.port.handle(body.clock.local(self.now), input);
        while let Some(output) = self.bodies[unit].port.poll() {
            match output {
                effect::Output::Append { task, attempt, line: _ } => {
                    // What was measured holds the server's part already.
                    let usual = if self.model.is_some() { (0, 0) } else { (100, 1_000) };
                    let at = self.now + self.bodies[unit].chance.between(usual);
                    self.queue.add(at, Event::AtServer { unit, life, power, task, attempt });
                }
                effect::Output::Report { task, attempt, result } if self.bodies[unit].life == life => {
                    let result = result.map_err(effect::Refusal::rule);
                    self.tell(unit, TOLD, Input::Bus(FromBus::EffectDone { task, attempt, result }));
                }
                // The node process that asked is gone.
                effect::Output::Report { .. } => {}
            }
        }
    }

    /// A line reaches the effect server, or the connection breaks before or after it does.
    pub(super) fn at_server(
        &mut self,
        unit: usize,
        life: u64,
        power: u64,
        task: TaskId,
        attempt: Attempt,
    ) -> Result<(), Failure> {
        let breaks = self.options.faults.has(Fault::Ledger) && self.bodies[unit].chance.happens(BREAKS);
        self.struck(Fault::Ledger, breaks);
        let written = !breaks || self.bodies[unit].chance.below(2) == 0;
        if written {
            self.applied(&task, attempt)?;
        }
        let nothing_written = !written && self.bodies[unit].chance.below(2) == 0;
        let input = match breaks {
            true => effect::Input::AppendFailed { task, attempt, nothing_written },
            false => effect::Input::Appended { task, attempt },
        };
        self.queue.add(self.now + APPENDED, Event::AtPort { unit, life, power, input: Box::new(input) });
        Ok(())
    }

    /// The observer at the effect server notes an effect, by the clock of the task's owner.
    fn applied(&mut self, task: &TaskId, attempt: Attempt) -> Result<(), Failure> {
        let Some(owner) = self.ids.get(&task.owner) else { return Ok(()) };
        let at = self.bodies[*owner].now(self.now);
        let entry = Entry::Applied { task: task.clone(), attempt };
        self.see(&Record { node: task.owner.clone(), at, entry })
    }

    fn send(&mut self, unit: usize, realm: Realm, to: &NodeId, message: &Message) -> Result<(), Failure> {
        let peer = self.ids.get(to).copied().filter(|peer| self.peers(realm, unit).contains(peer));
        let Some(peer) = peer else {
            let patience = self.network.model(realm).patience;
            self.tell(unit, patience, Input::Silent { realm, peer: to.clone() });
            return Ok(());
        };
        let frame = self.frame(unit, message)?;
        let payload = message.payload().map_or(0, |blob| u64::from(blob.len));
        let len = frame.len() as u64 + OVERHEAD + payload;
        let mut fate = self.network.send(self.now, realm, unit, peer, len);
        if self.bodies[peer].node.is_none() && fate.silent.is_none() {
            fate.silent = Some(self.now + self.network.model(realm).patience);
        }
        if let Some(at) = fate.silent {
            self.tell(unit, at - self.now, Input::Silent { realm, peer: to.clone() });
        }
        for at in fate.arrives {
            self.queue.add(at, Event::Arrival { realm, from: unit, to: peer, frame: frame.clone() });
        }
        Ok(())
    }

    /// A publication: nobody hears whether it arrived.
    fn announce(&mut self, unit: usize, realm: Realm, message: &Message) -> Result<(), Failure> {
        let frame = self.frame(unit, message)?;
        for to in self.peers(realm, unit) {
            let fate = self.network.send(self.now, realm, unit, to, frame.len() as u64 + OVERHEAD);
            for at in fate.arrives {
                self.queue.add(at, Event::Arrival { realm, from: unit, to, frame: frame.clone() });
            }
        }
        Ok(())
    }

    fn frame(&self, unit: usize, message: &Message) -> Result<Vec<u8>, Violation> {
        message.encode().map_err(|error| Violation {
            rule: Rule::BadMessage,
            node: self.id(unit),
            at: self.bodies[unit].now(self.now),
            detail: error.to_string(),
        })
    }

    /// An operator whose manifest was refused tries again.
    fn replied(&mut self, unit: usize, request: u64, reply: &ControlReply) {
        let body = &mut self.bodies[unit];
        if body.apply_request != Some(request) {
            return;
        }
        body.apply_request = None;
        if matches!(reply, ControlReply::Ok { .. }) {
            body.applied = true;
        } else {
            self.queue.add(self.now + 1_000_000, Event::Operate { unit });
        }
    }

    /// An app's request, as its border passes it on.
    pub(super) fn ask(&mut self, unit: usize, app: AppRef, ask: AppAsk) -> Result<u64, Failure> {
        let body = &mut self.bodies[unit];
        body.requests += 1;
        let request = body.requests;
        let arrived = body.now(self.now);
        let AppRef { tenant, app } = app;
        self.feed(unit, Input::Ask { tenant, app, request, arrived, ask })?;
        Ok(request)
    }
}
