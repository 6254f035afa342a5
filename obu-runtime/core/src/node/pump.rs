//! Carries what one machine inside the node wants to the machine, or to the outside, that does it; until all
//! are silent. What a node asks of itself takes the same way as what it asks of others, without the wire.

use alloc::string::String;
use alloc::vec::Vec;
use policies::host::{Face, HostEvent};
use policies::id::NodeId;
use policies::placement;
use policies::time::Timestamp;
use v2e_core::message::{Envelope, Message, ToRequester, ToWorker};
use v2e_core::report::{Realm, TaskReport};
use v2e_core::{requester, worker};

use super::{Live, fact};
use crate::io::{DecisionKind, Durable, JobInput, Output};
use crate::supervisor;

impl Live {
    pub(super) fn pump(&mut self, now: Timestamp) {
        loop {
            if let Some(output) = self.supervisor.poll() {
                self.supervisor_wants(now, output);
            } else if let Some(output) = self.requester.poll() {
                self.requester_wants(now, output);
            } else if let Some(output) = self.worker.poll() {
                self.worker_wants(now, output);
            } else {
                break;
            }
        }
        self.announce(now);
    }

    pub(super) fn host_says(&mut self, now: Timestamp, event: HostEvent) {
        let greeting = matches!(event, HostEvent::Hello { .. });
        self.supervisor.handle(now, supervisor::Input::Host(event));
        if greeting {
            self.functions_anew(now);
        }
    }

    fn supervisor_wants(&mut self, now: Timestamp, output: supervisor::Output) {
        match output {
            supervisor::Output::Do(output) => self.outputs.push_back(output),
            supervisor::Output::Imported { bundle, result } => self.bundle_imported(bundle, result),
            supervisor::Output::FaceUp(Face::Worker(tenant)) => self.load_modules(&tenant),
            supervisor::Output::FaceDown(Face::Worker(tenant)) => self.worker_gone(now, &tenant),
            supervisor::Output::FaceDown(Face::Border(tenant)) => self.border_gone(now, &tenant),
            supervisor::Output::FaceDown(Face::Bus) => self.bus_gone(now),
            supervisor::Output::FaceUp(_) | supervisor::Output::FaceDown(_) => {}
        }
    }

    fn requester_wants(&mut self, now: Timestamp, output: requester::Output) {
        match output {
            requester::Output::Place { number, spec, left_us, avoid, purpose } => {
                let plan = self.plan(now, number, &spec, left_us, &avoid, purpose);
                self.requester.handle(now, requester::Input::Placed { number, plan });
            }
            requester::Output::Send { to, realm, body } => self.send_to_worker(now, to, realm, body),
            requester::Output::Hedged { task, why } => {
                self.decide(DecisionKind::Hedge, alloc::format!("{task}"), why, Vec::new());
            }
            requester::Output::Report(report) => self.report(report),
            requester::Output::Measured { peer, function, measure } => {
                // Local executions are measured by the worker already.
                if !self.is_me(&peer) {
                    self.peers.measured(&peer, function, measure);
                }
            }
            requester::Output::Suspect { peer, why } => self.suspect(now, &peer, why),
            requester::Output::Alarm(alarm) => self.outputs.push_back(Output::Alarm(alarm)),
        }
    }

    fn suspect(&mut self, now: Timestamp, peer: &NodeId, why: String) {
        let news = self.peers.table.get(peer).is_some_and(|known| !known.is_suspect(now));
        self.peers.suspect(now, peer);
        if news {
            self.decide(
                DecisionKind::Peer,
                alloc::format!("{peer}"),
                alloc::format!("suspect: {why}"),
                Vec::new(),
            );
        }
    }

    fn send_to_worker(&mut self, now: Timestamp, to: NodeId, realm: placement::Realm, body: ToWorker) {
        let realm = match realm {
            placement::Realm::Local => return self.tell_own_worker(now, to, body),
            placement::Realm::Car => Realm::Car,
            placement::Realm::Outside => Realm::Outside,
        };
        if let ToWorker::Run(run) = &body {
            let peer = self.peers.table.get(&to);
            let cost = peer.and_then(|p| p.offer(&run.function).map(|o| p.service(o).quantile(950)));
            self.peers.sent(&to, run.task.number, run.attempt.0, cost.unwrap_or(0));
        }
        let message = Message::ToWorker(self.envelope(body));
        self.outputs.push_back(Output::Send { realm, to, message });
    }

    fn tell_own_worker(&mut self, now: Timestamp, from: NodeId, body: ToWorker) {
        let input = match body {
            ToWorker::Run(run) => {
                let terms = self.terms(None, &run);
                worker::Input::Run { from, run, terms }
            }
            message => worker::Input::Control { from, message },
        };
        self.worker.handle(now, input);
    }

    pub(super) fn envelope<T>(&self, body: T) -> Envelope<T> {
        Envelope { sender: self.config.node.clone(), incarnation: self.life, body }
    }

    fn worker_wants(&mut self, now: Timestamp, output: worker::Output) {
        match output {
            worker::Output::Send { to, body } => self.send_to_requester(now, to, body),
            worker::Output::Start { job, tenant, function, bundle, input, budget_us } => {
                if self.functions.is_ready(&function) {
                    let input = JobInput::Blob(input);
                    self.outputs.push_back(Output::RunJob { job, tenant, module: bundle, input, budget_us });
                } else {
                    let end = worker::CallEnd::Lost { why: "its sandbox process is not there".into() };
                    self.worker.handle(now, worker::Input::Ended { job, end, took_us: 0 });
                }
            }
            worker::Output::Stop { job, tenant } => self.outputs.push_back(Output::CancelJob { tenant, job }),
            worker::Output::Effect { task, attempt, line } => {
                if self.supervisor.is_up(&Face::Bus) {
                    self.outputs.push_back(Output::Effect { task, attempt, line });
                } else {
                    let verdict =
                        worker::EffectVerdict::Fenced { why: "the effect port is not there".into() };
                    self.worker.handle(now, worker::Input::EffectDone { task, attempt, verdict });
                }
            }
            worker::Output::Persist(record) => self.persist_job(record),
            worker::Output::Forget { task } => {
                self.persist(Durable::ForgetJob { task }, super::tickets::Ticket::Other);
            }
            worker::Output::Decided { task, attempt, taken, why } => {
                // What this node takes of its own is told by the task's story.
                if !taken || !self.is_me(&task.owner) {
                    let facts = alloc::vec![fact("attempt", attempt.0), fact("taken", taken)];
                    self.decide(DecisionKind::Work, alloc::format!("{task}"), why, facts);
                }
            }
            worker::Output::Measured { function, exec_us } => self.functions.measured(&function, exec_us),
            worker::Output::Alarm(alarm) => self.outputs.push_back(Output::Alarm(alarm)),
        }
    }

    fn send_to_requester(&mut self, now: Timestamp, to: NodeId, body: ToRequester) {
        if self.is_me(&to) {
            let input = requester::Input::Received { from: to, life: self.life, body };
            return self.requester.handle(now, input);
        }
        // Through the realm that it was last heard in; if it was never heard, there is nowhere to answer.
        let Some(realm) = self.peers.table.get(&to).map(|peer| peer.realm) else {
            self.counters.ignored += 1;
            return;
        };
        let message = Message::ToRequester(self.envelope(body));
        self.outputs.push_back(Output::Send { realm, to, message });
    }

    fn report(&mut self, report: TaskReport) {
        self.peers.task_over(report.task.number);
        self.counters.count(&report);
        let node = report.node.as_ref().map_or("nowhere", NodeId::as_str);
        let facts = alloc::vec![
            fact("outcome", report.outcome.word()),
            fact("function", &report.function),
            fact("node", node),
            fact("attempts", report.attempts),
            fact("hedged", report.hedged),
            fact("matching_us", report.phases.matching_us),
            fact("pipelining_us", report.phases.pipelining_us),
            fact("execution_us", report.phases.execution_us),
        ];
        let why = alloc::format!("{} at {node}", report.outcome.word());
        self.decide(DecisionKind::Outcome, alloc::format!("{}", report.task), why, facts);
        self.answer_task(report);
    }
}
