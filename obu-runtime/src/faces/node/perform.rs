//! Outputs become acts. No decision is made here: what cannot be done comes back as an input.

use obu_core::io::{AppAnswer, CallEnd, Decision, Input, JobEvent, JobInput, Output};
use obu_core::record::{ASKED_AGAIN, SENT_TWICE};
use policies::face::{Answer, FromBus, ToBorder, ToBus, ToHost, ToWorkerFace};
use policies::id::{Attempt, Digest, TaskId, TenantId};
use policies::task::Effect;
use policies::time::Timestamp;
use policies::unit::Bytes;
use serde::Serialize;
use v2e_core::message::{Envelope, Message, ToWorker};

use super::{Driver, NodeError, answer};
use crate::channel::Sender;

impl Driver {
    pub(super) async fn perform(&mut self, now: Timestamp, output: Output) -> Result<(), NodeError> {
        match output {
            Output::Host(command) => self.host.send(&ToHost::Command(command)).await?,
            Output::Border { tenant, message } => {
                offer(self.channels.borders.get(&tenant), &message, "border");
            }
            Output::Bus(message) => offer(self.channels.bus.as_ref(), &message, "bus"),
            Output::Camera(message) => offer(self.channels.camera.as_ref(), &message, "camera"),
            Output::LoadModule { tenant, module, memory } => self.load_module(tenant, module, memory),
            Output::RunJob { job, tenant, module, input, budget_us } => {
                self.run_job(job, &tenant, module, input, budget_us);
            }
            Output::CancelJob { tenant, job } => {
                offer(self.channels.workers.get(&tenant), &ToWorkerFace::Cancel { job }, "worker");
            }
            Output::Effect { task, attempt, line } => self.effect(task, attempt, line),
            Output::Send { realm, to, message } => {
                let payload = message.payload().and_then(|blob| self.blobs.get(&blob));
                if self.faults.repeat_runs && is_run_of_once(&message) {
                    self.recorder.note(now, format!("{SENT_TWICE} {to} twice"));
                    self.realms.send(realm, to.clone(), &message, payload.clone());
                }
                self.realms.send(realm, to, &message, payload);
            }
            Output::Announce { realm, advert } => self.realms.announce(realm, advert),
            Output::Answer { tenant, request, answer } => self.answer(&tenant, request, answer),
            Output::Reply { request, reply } => self.reply(request, reply),
            Output::Persist { ticket, what } => {
                if let Err(why) = self.durable.persist(ticket, what) {
                    self.next.push_back(Input::Persisted { ticket, result: Err(why) });
                }
            }
            Output::Decision(decision) => self.decision(now, &decision),
            Output::Alarm(alarm) => {
                tracing::error!(name = alarm.name, detail = alarm.detail, "alarm");
                self.stats.alarms += 1;
                self.tell(
                    &serde_json::json!({ "event": "alarm", "name": alarm.name, "detail": alarm.detail }),
                );
            }
        }
        Ok(())
    }

    fn load_module(&mut self, tenant: TenantId, module: Digest, memory: Bytes) {
        let wasm = self.durable.module(module).or_else(|| {
            let wasm = self.spool.module(module)?;
            if let Err(error) = self.durable.store.keep_module(module, &wasm) {
                tracing::warn!(%error, "a reboot without network will lack this module");
            }
            Some(wasm)
        });
        let Some(wasm) = wasm else {
            let why = "its bundle is not on this node; push it with verge apply".to_owned();
            self.next.push_back(Input::Job(JobEvent::LoadFailed { tenant, module, why }));
            return;
        };
        let load = ToWorkerFace::Load { module, wasm, memory };
        if !offered(self.channels.workers.get(&tenant), &load) {
            let why = "the worker is not reachable".to_owned();
            self.next.push_back(Input::Job(JobEvent::LoadFailed { tenant, module, why }));
        }
    }

    fn run_job(&mut self, job: u64, tenant: &TenantId, module: Digest, input: JobInput, budget_us: u64) {
        let input = match input {
            JobInput::Blob(blob) => self.blobs.get(&blob).map(|bytes| bytes.to_vec()),
            JobInput::Signals { want, signals } => Some(answer::signals_input(&want, &signals)),
        };
        let why = match input {
            None => "its input is no longer held",
            Some(input) => {
                let run = ToWorkerFace::Run { job, module, input, budget_us };
                if offered(self.channels.workers.get(tenant), &run) {
                    return;
                }
                "the worker is not reachable"
            }
        };
        let end = CallEnd::Failed { code: -1, why: why.into() };
        self.next.push_back(Input::Job(JobEvent::Ended { job, end, took_us: 0 }));
    }

    fn effect(&mut self, task: TaskId, attempt: Attempt, line: String) {
        let line = format!("task={task} attempt={} {line}", attempt.0);
        let message = ToBus::Effect { task: task.clone(), attempt, line };
        if self.faults.repeat_effects {
            self.repeat = Some(message.clone());
        }
        if !offered(self.channels.bus.as_ref(), &message) {
            let result = Err("the effect port is not reachable".to_owned());
            self.next.push_back(Input::Bus(FromBus::EffectDone { task, attempt, result }));
        }
    }

    /// The fault on purpose `repeat_effects`: what was done is asked for once more.
    pub(super) fn repeat_effect(&mut self, done: &FromBus) {
        let FromBus::EffectDone { task: done, result: Ok(()), .. } = done else { return };
        let of_it = |m: &ToBus| matches!(m, ToBus::Effect { task, .. } if task == done);
        if let Some(message) = self.repeat.take_if(|message| of_it(message)) {
            let now = self.clock.now();
            self.recorder.note(now, format!("{ASKED_AGAIN} {done}"));
            offer(self.channels.bus.as_ref(), &message, "bus");
        }
    }

    fn answer(&mut self, tenant: &TenantId, request: u64, app_answer: AppAnswer) {
        let answer = match app_answer {
            AppAnswer::Ok => Answer::Ok,
            AppAnswer::Refused { why } => {
                self.stats.refused += 1;
                Answer::Refused { why }
            }
            AppAnswer::Task(report) => {
                let json = answer::report_json(&report);
                self.task_ended(&json);
                let result = answer::result_bytes(&self.blobs, &report);
                Answer::Task { json: json.to_string(), result }
            }
        };
        offer(self.channels.borders.get(tenant), &ToBorder::Reply { request, answer }, "border");
    }

    fn decision(&mut self, now: Timestamp, decision: &Decision) {
        tracing::debug!(kind = ?decision.kind, about = decision.about, why = decision.why, "decision");
        self.tell(&serde_json::json!({
            "event": "decision",
            "at_us": now.as_micros(),
            "kind": decision.kind,
            "about": decision.about,
            "why": decision.why,
            "facts": decision.facts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        }));
    }

    /// Counts a finished task and tells those who follow events.
    pub(super) fn task_ended(&mut self, report: &serde_json::Value) {
        let mut line = report.clone();
        line["event"] = "task".into();
        self.tell(&line);
    }

    /// Tells those who follow events; nobody following is fine.
    pub(super) fn tell(&self, line: &serde_json::Value) {
        let _ = self.events.send(line.to_string());
    }
}

/// Whether a message starts a `once` task at a peer.
fn is_run_of_once(message: &Message) -> bool {
    let Message::ToWorker(Envelope { body: ToWorker::Run(run), .. }) = message else { return false };
    run.effect == Effect::Once
}

/// Offers a message to a channel. `false` if there is none, or it is full or broken.
fn offered<S: Serialize>(channel: Option<&Sender<S>>, message: &S) -> bool {
    channel.is_some_and(|channel| channel.offer(message).unwrap_or(false))
}

/// As [`offered`], for messages whose loss the machine notices by itself.
fn offer<S: Serialize>(channel: Option<&Sender<S>>, message: &S, face: &str) {
    if !offered(channel, message) {
        tracing::warn!(face, "a message was dropped: the process is away or lags");
    }
}
