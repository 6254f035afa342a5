//! What apps ask through their islands. Every grant is checked here, by the identity of the channel that the
//! ask came in on; a border only carries it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use policies::face::{FromBus, ToBus, TxFrame};
use policies::host::{AppRef, Face};
use policies::id::{FunctionName, TenantId};
use policies::limits::INLINE_LEN_MAX;
use policies::task::{BlobRef, Class, Effect};
use policies::time::{Timestamp, micros};
use v2e_core::message::WAIT_MAX;
use v2e_core::report::TaskReport;
use v2e_core::requester::{self, TaskSpec};
use v2e_core::worker;

use super::{Live, fact};
use crate::io::{AppAnswer, AppAsk, ControlRefusal, ControlReply, DecisionKind, Output};

/// Most asks of one app that have no answer yet: two per task of a generous pipeline. Beyond it the app is
/// told at once.
pub(super) const ASKS_PER_APP_MAX: usize = 64;

/// Who waits for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// An app.
    App { app: AppRef, request: u64 },
    /// Someone at the control API.
    Control { request: u64 },
}

/// What a task that someone wants looks like.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) function: FunctionName,
    pub(super) deadline_us: u64,
    pub(super) class: Class,
    pub(super) effect: Option<Effect>,
    pub(super) input: BlobRef,
}

/// Asks that have no answer yet, and what was refused.
#[derive(Debug, Default)]
pub(super) struct Asks {
    tasks: BTreeMap<u64, Caller>,
    frames: BTreeMap<u64, (AppRef, u64)>,
    next_frame: u64,
    refused: BTreeMap<AppRef, u64>,
}

impl Asks {
    fn open_of(&self, app: &AppRef) -> usize {
        let tasks =
            self.tasks.values().filter(|caller| matches!(caller, Caller::App { app: a, .. } if a == app));
        tasks.count() + self.frames.values().filter(|(a, _)| a == app).count()
    }

    pub(super) fn refused(&self) -> Vec<(AppRef, u64)> {
        self.refused.iter().map(|(app, count)| (app.clone(), *count)).collect()
    }

    pub(super) fn open(&self) -> usize {
        self.tasks.len() + self.frames.len()
    }
}

impl Live {
    pub(super) fn ask(&mut self, now: Timestamp, app: AppRef, request: u64, arrived: Timestamp, ask: AppAsk) {
        let Some(class) = self.supervisor.app(&app).map(|app| app.class) else {
            self.counters.unknown_apps += 1;
            return self.answer(&app, request, AppAnswer::Refused { why: "no such app is kept here".into() });
        };
        if self.asks.open_of(&app) >= ASKS_PER_APP_MAX {
            let why = alloc::format!("{ASKS_PER_APP_MAX} asks are open, which is the maximum");
            return self.refuse(&app, request, "too many asks", why);
        }
        match ask {
            AppAsk::RunTask { function, deadline_us, class: wanted, effect, input } => {
                // A larger class is a lesser one: an app never gets better than its own.
                let class = class.max(wanted);
                let wanted = Wanted { function, deadline_us, class, effect, input };
                self.run_for_app(now, app, request, arrived, wanted);
            }
            AppAsk::SendFrame(frame) => self.send_frame(app, request, frame),
            AppAsk::Denied { key } => {
                let key: String = key.chars().take(120).collect();
                self.refuse(&app, request, &key, "no grant".into());
            }
        }
    }

    fn run_for_app(&mut self, now: Timestamp, app: AppRef, request: u64, arrived: Timestamp, wanted: Wanted) {
        let granted =
            self.supervisor.app(&app).is_some_and(|app| app.grants.tasks.contains(&wanted.function));
        let what = alloc::format!("task/run/{}", wanted.function);
        if !granted {
            let why = alloc::format!("no grant for tasks: {}", wanted.function);
            return self.refuse(&app, request, &what, why);
        }
        match self.spec_of(Some(app.tenant.clone()), &wanted) {
            Ok(spec) => self.submit(now, spec, arrived, Caller::App { app, request }),
            Err(why) => self.refuse(&app, request, &what, why),
        }
    }

    /// Makes a task out of a wish, or says what is wrong with it.
    pub(super) fn spec_of(&self, tenant: Option<TenantId>, wanted: &Wanted) -> Result<TaskSpec, String> {
        let Some(function) = self.functions.get(&wanted.function) else {
            return Err(alloc::format!("function {} is not known here", wanted.function));
        };
        if let Some(effect) = wanted.effect.filter(|effect| *effect != function.effect) {
            let is = function.effect.as_str();
            return Err(alloc::format!("function {} is {is}, not {}", wanted.function, effect.as_str()));
        }
        let most = micros(WAIT_MAX);
        if wanted.deadline_us == 0 || wanted.deadline_us > most {
            return Err(alloc::format!("deadline is {} us; it must be 1 to {most} us", wanted.deadline_us));
        }
        if wanted.input.len as usize > INLINE_LEN_MAX {
            return Err(alloc::format!(
                "input has {} bytes; {INLINE_LEN_MAX} is the maximum",
                wanted.input.len
            ));
        }
        Ok(TaskSpec {
            function: wanted.function.clone(),
            bundle: function.bundle,
            tenant: tenant.unwrap_or_else(|| function.tenant.clone()),
            effect: function.effect,
            class: wanted.class,
            deadline_us: wanted.deadline_us,
            input: wanted.input,
        })
    }

    pub(super) fn submit(&mut self, now: Timestamp, spec: TaskSpec, arrived: Timestamp, caller: Caller) {
        let number = self.task_number();
        self.asks.tasks.insert(number, caller);
        self.requester.handle(now, requester::Input::Submit { number, spec, arrived });
    }

    /// A task has ended: whoever waits for it hears of it.
    pub(super) fn answer_task(&mut self, report: TaskReport) {
        match self.asks.tasks.remove(&report.task.number) {
            Some(Caller::App { app, request }) => self.answer(&app, request, AppAnswer::Task(report)),
            Some(Caller::Control { request }) => self.reply(request, ControlReply::Task(report)),
            None => {}
        }
    }

    pub(super) fn give_up(&mut self, now: Timestamp, tenant: TenantId, request: u64) {
        let theirs = |caller: &Caller| matches!(caller, Caller::App { app, request: r } if app.tenant == tenant && *r == request);
        let number = self.asks.tasks.iter().find(|(_, caller)| theirs(caller)).map(|(number, _)| *number);
        if let Some(number) = number {
            self.asks.tasks.remove(&number);
            self.requester.handle(now, requester::Input::Cancel { number });
        }
        self.asks.frames.retain(|_, (app, r)| !(app.tenant == tenant && *r == request));
    }

    /// A border is gone, and with it everyone who waited behind it.
    pub(super) fn border_gone(&mut self, now: Timestamp, tenant: &TenantId) {
        let theirs = |caller: &Caller| matches!(caller, Caller::App { app, .. } if app.tenant == *tenant);
        let numbers: Vec<u64> =
            self.asks.tasks.iter().filter(|(_, caller)| theirs(caller)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.asks.tasks.remove(&number);
            self.requester.handle(now, requester::Input::Cancel { number });
        }
        self.asks.frames.retain(|_, (app, _)| app.tenant != *tenant);
    }

    fn send_frame(&mut self, app: AppRef, request: u64, frame: TxFrame) {
        let same = |g: &policies::grant::CanTxGrant| {
            g.bus == frame.bus && g.id == frame.id && g.extended == frame.extended
        };
        let granted = self.supervisor.app(&app).is_some_and(|app| app.grants.can_tx.iter().any(same));
        let what = alloc::format!("can/{}/tx id {:#x}", frame.bus, frame.id);
        if !granted {
            return self.refuse(&app, request, &what, "no grant for this bus and id".into());
        }
        if frame.data.len() > 64 {
            let why = alloc::format!("{} bytes; a frame has 64 at the most", frame.data.len());
            return self.refuse(&app, request, &what, why);
        }
        if !self.supervisor.is_up(&Face::Bus) {
            return self.refuse(&app, request, &what, "the bus process is not running".into());
        }
        self.asks.next_frame += 1;
        let number = self.asks.next_frame;
        self.asks.frames.insert(number, (app.clone(), request));
        let facts = alloc::vec![fact("frame", &what)];
        let why = "granted; the guard decides".into();
        self.decide(DecisionKind::Transmit, alloc::format!("{app}"), why, facts);
        self.outputs.push_back(Output::Bus(ToBus::Transmit { request: number, app, frame }));
    }

    pub(super) fn bus_says(&mut self, now: Timestamp, message: FromBus) {
        match message {
            FromBus::Transmitted { request, result } => {
                let Some((app, asked)) = self.asks.frames.remove(&request) else { return };
                match result {
                    Ok(()) => self.answer(&app, asked, AppAnswer::Ok),
                    Err(why) => self.refuse(&app, asked, "the transmit guard", why),
                }
            }
            FromBus::EffectDone { task, attempt, result } => {
                let verdict = verdict(result);
                self.worker.handle(now, worker::Input::EffectDone { task, attempt, verdict });
            }
            FromBus::Snapshot { request, samples } => self.snapshot(now, request, samples),
            FromBus::Stats(_) => {}
            FromBus::Unmapped { app, signals } => {
                self.supervisor.handle(now, crate::supervisor::Input::Unmapped { app, signals });
            }
        }
    }

    /// The bus process is gone: what it had been asked will not be answered.
    pub(super) fn bus_gone(&mut self, _now: Timestamp) {
        for (app, request) in core::mem::take(&mut self.asks.frames).into_values() {
            self.refuse(&app, request, "can", "the bus process ended; the frame may have been sent".into());
        }
        self.snapshots_lost();
    }

    fn answer(&mut self, app: &AppRef, request: u64, answer: AppAnswer) {
        let tenant = app.tenant.clone();
        self.outputs.push_back(Output::Answer { tenant, request, answer });
    }

    pub(super) fn reply(&mut self, request: u64, reply: ControlReply) {
        self.outputs.push_back(Output::Reply { request, reply });
    }

    pub(super) fn reply_refused(&mut self, request: u64, what: &str, why: String) {
        let refusals = alloc::vec![ControlRefusal { what: what.into(), why, fix: None }];
        self.reply(request, ControlReply::Refused { refusals });
    }

    /// Refuses an app and counts it. The log hears of the 1st, 2nd, 4th, 8th ... refusal: a hostile app must
    /// not be able to fill it.
    fn refuse(&mut self, app: &AppRef, request: u64, what: &str, why: String) {
        let count = self.asks.refused.entry(app.clone()).or_default();
        *count += 1;
        if count.is_power_of_two() {
            let facts = alloc::vec![fact("asked", what), fact("refused so far", *count)];
            self.decide(DecisionKind::Refuse, alloc::format!("{app}"), why.clone(), facts);
        }
        self.answer(app, request, AppAnswer::Refused { why });
    }
}

/// What the effect port's words mean for the job.
fn verdict(result: Result<(), String>) -> worker::EffectVerdict {
    match result {
        Ok(()) => worker::EffectVerdict::Applied,
        Err(why) if why.starts_with("already done") => worker::EffectVerdict::Applied,
        Err(why) if why.starts_with("older attempt") => worker::EffectVerdict::Fenced { why },
        Err(why) => worker::EffectVerdict::Unknown { why },
    }
}
