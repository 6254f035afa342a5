//! One requester and three workers on a lossy network in fake time, with disks, sandboxes and a ledger that
//! counts every effect that reaches it and refuses none: at most one effect is the protocol's own doing.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use policies::id::{Attempt, Digest, FunctionName, Incarnation, NodeId, TaskId, TenantId};
use policies::placement::Realm;
use policies::task::{BlobRef, Class, Effect, Outcome};
use policies::time::Timestamp;

use crate::message::{ToRequester, ToWorker};
use crate::record::JobRecord;
use crate::report::TaskReport;
use crate::requester::{self, Place, Plan, Requester, TaskSpec};
use crate::worker::{self, CallEnd, EffectVerdict, Terms, Worker};

mod chaos;
mod scenarios;
mod worker_table;

pub(crate) const MS: u64 = 1_000;

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn blob() -> BlobRef {
    BlobRef { digest: Digest::of(b"bytes"), len: 64 }
}

pub(crate) fn spec(effect: Effect, deadline_ms: u64) -> TaskSpec {
    TaskSpec {
        function: FunctionName::new(effect.as_str()).unwrap(),
        bundle: Digest::of(b"code"),
        tenant: TenantId::new("oem").unwrap(),
        effect,
        class: Class::Driving,
        deadline_us: deadline_ms * MS,
        input: blob(),
    }
}

#[derive(Clone, Debug)]
enum Event {
    ToWorker { to: NodeId, body: ToWorker },
    ToRequester { from: NodeId, life: Incarnation, body: ToRequester },
    Ended { at: NodeId, life: Incarnation, job: u64, end: CallEnd },
    Saved { at: NodeId, life: Incarnation, record: JobRecord },
    Applied { at: NodeId, life: Incarnation, task: TaskId, attempt: Attempt },
}

struct Site {
    worker: Option<Worker>,
    life: Incarnation,
    disk: BTreeMap<TaskId, JobRecord>,
    exec_us: u64,
    refuses: bool,
}

pub(crate) struct World {
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    seq: u64,
    requester: Requester,
    sites: BTreeMap<NodeId, Site>,
    /// Places in the order in which they are preferred; `a1` is where the requester is.
    order: Vec<NodeId>,
    cut: BTreeSet<NodeId>,
    /// Thousandths of messages that are lost, and that arrive twice.
    pub(crate) lose: u64,
    pub(crate) twice: u64,
    /// Whether second copies come up to two seconds late, sandboxes ignore half of the stops, and the effect
    /// port is slow.
    pub(crate) wild: bool,
    random: u64,
    ledger: BTreeMap<TaskId, u32>,
    executions: BTreeMap<TaskId, u32>,
    reports: Vec<TaskReport>,
    alarms: Vec<String>,
    next_task: u64,
}

const DELAY: u64 = 2 * MS;

impl World {
    pub(crate) fn new(order: &[&str]) -> Self {
        let sites = ["a1", "a2", "e1"].map(|name| {
            (
                node(name),
                Site {
                    worker: Some(Worker::new(Incarnation(1), 2)),
                    life: Incarnation(1),
                    disk: BTreeMap::new(),
                    exec_us: 10 * MS,
                    refuses: false,
                },
            )
        });
        Self {
            now: 1_000_000,
            events: BTreeMap::new(),
            seq: 0,
            requester: Requester::new(node("a1"), Incarnation(9)),
            sites: sites.into_iter().collect(),
            order: order.iter().map(|name| node(name)).collect(),
            cut: BTreeSet::new(),
            lose: 0,
            twice: 0,
            wild: false,
            random: 7,
            ledger: BTreeMap::new(),
            executions: BTreeMap::new(),
            reports: Vec::new(),
            alarms: Vec::new(),
            next_task: 1,
        }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn chance(&mut self, permille: u64) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 1000 < permille
    }

    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    pub(crate) fn submit(&mut self, spec: TaskSpec) -> u64 {
        let number = self.next_task;
        self.next_task += 1;
        let arrived = self.at();
        self.ask(requester::Input::Submit { number, spec, arrived });
        number
    }

    pub(crate) fn cancel(&mut self, number: u64) {
        self.ask(requester::Input::Cancel { number });
    }

    pub(crate) fn exec(&mut self, name: &str, us: u64) {
        self.sites.get_mut(&node(name)).unwrap().exec_us = us;
    }

    pub(crate) fn refuse(&mut self, name: &str) {
        self.sites.get_mut(&node(name)).unwrap().refuses = true;
    }

    pub(crate) fn cut(&mut self, name: &str) {
        self.cut.insert(node(name));
    }

    pub(crate) fn join(&mut self, name: &str) {
        self.cut.remove(&node(name));
    }

    pub(crate) fn kill(&mut self, name: &str) {
        self.sites.get_mut(&node(name)).unwrap().worker = None;
    }

    /// Boots a site anew from its disk and lets the requester see its new life.
    pub(crate) fn restart(&mut self, name: &str) {
        let now = self.at();
        let peer = node(name);
        let site = self.sites.get_mut(&peer).unwrap();
        site.life = Incarnation(site.life.0 + 1);
        let mut worker = Worker::new(site.life, 2);
        worker.handle(now, worker::Input::Recovered { records: site.disk.values().cloned().collect() });
        site.worker = Some(worker);
        let life = site.life;
        self.ask(requester::Input::PeerLife { peer, life });
    }

    pub(crate) fn gone(&mut self, name: &str) {
        self.ask(requester::Input::PeerGone { peer: node(name) });
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.seq += 1;
        self.events.insert((self.now + delay, self.seq), event);
    }

    /// Puts a message on the network: it may be lost, late or doubled.
    fn wire(&mut self, peer: &NodeId, event: Event) {
        if *peer == node("a1") {
            return self.later(0, event);
        }
        if self.cut.contains(peer) || self.chance(self.lose) {
            return;
        }
        if self.chance(self.twice) {
            let late = if self.wild { self.random >> 43 } else { 7 * DELAY };
            self.later(late, event.clone());
        }
        self.later(DELAY, event);
    }

    fn ask(&mut self, input: requester::Input) {
        let now = self.at();
        self.requester.handle(now, input);
        while let Some(output) = self.requester.poll() {
            match output {
                requester::Output::Place { number, avoid, .. } => {
                    let plan = self.plan(&avoid);
                    self.requester.handle(now, requester::Input::Placed { number, plan });
                }
                requester::Output::Send { to, body, .. } => {
                    self.wire(&to.clone(), Event::ToWorker { to, body });
                }
                requester::Output::Report(report) => self.reports.push(report),
                requester::Output::Alarm(alarm) => self.alarms.push(alarm.name),
                requester::Output::Hedged { .. }
                | requester::Output::Measured { .. }
                | requester::Output::Suspect { .. } => {}
            }
        }
    }

    fn plan(&self, avoid: &[NodeId]) -> Plan {
        let place = |name: &NodeId| Place {
            node: name.clone(),
            life: self.sites[name].life,
            realm: if *name == node("a1") { Realm::Local } else { Realm::Car },
            accept_us: 60 * MS,
            p95_us: 30 * MS,
        };
        let places = self.order.iter().filter(|name| !avoid.contains(name)).map(place).collect();
        Plan { places, why: String::from("in the order of the test") }
    }

    fn tell(&mut self, at: &NodeId, input: worker::Input) {
        let now = self.at();
        let Some(site) = self.sites.get_mut(at) else { return };
        let (life, exec_us) = (site.life, site.exec_us);
        let Some(worker) = site.worker.as_mut() else { return };
        worker.handle(now, input);
        let outputs: Vec<_> = core::iter::from_fn(|| worker.poll()).collect();
        for output in outputs {
            self.perform(at, life, exec_us, output);
        }
    }

    fn perform(&mut self, at: &NodeId, life: Incarnation, exec_us: u64, output: worker::Output) {
        let at = at.clone();
        match output {
            worker::Output::Send { body, .. } => {
                self.wire(&at.clone(), Event::ToRequester { from: at, life, body });
            }
            worker::Output::Start { job, function, .. } => {
                let effect = (function.as_str() == "once").then(|| String::from("toll"));
                let end = CallEnd::Returned { result: blob(), effect };
                self.later(exec_us, Event::Ended { at, life, job, end });
            }
            worker::Output::Stop { .. } if self.wild && self.chance(500) => {}
            worker::Output::Stop { job, .. } => {
                let end = CallEnd::Failed { code: -1, why: String::from("stopped") };
                self.later(0, Event::Ended { at, life, job, end });
            }
            worker::Output::Effect { task, attempt, .. } => {
                let delay = if self.wild { 100 * MS } else { MS };
                self.later(delay, Event::Applied { at, life, task, attempt });
            }
            worker::Output::Persist(record) => self.later(MS, Event::Saved { at, life, record }),
            worker::Output::Forget { task } => {
                if let Some(site) = self.sites.get_mut(&at) {
                    site.disk.remove(&task);
                }
            }
            worker::Output::Alarm(alarm) => self.alarms.push(alarm.name),
            worker::Output::Decided { .. } | worker::Output::Measured { .. } => {}
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToWorker { to, body: ToWorker::Run(run) } => {
                let refuses = self.sites[&to].refuses;
                let tenant = TenantId::new("oem").unwrap();
                let terms =
                    if refuses { Err("policy".to_string()) } else { Ok(Terms { tenant, cost_us: 20 * MS }) };
                self.tell(&to, worker::Input::Run { from: node("a1"), run, terms });
            }
            Event::ToWorker { to, body } => {
                self.tell(&to, worker::Input::Control { from: node("a1"), message: body });
            }
            Event::ToRequester { from, life, body } => {
                self.ask(requester::Input::Received { from, life, body });
            }
            Event::Ended { at, life, job, end } if self.lives(&at, life) => {
                self.tell(&at, worker::Input::Ended { job, end, took_us: 10 * MS });
            }
            Event::Saved { at, life, record } if self.lives(&at, life) => {
                let (task, attempt, starts) = (record.task.clone(), record.attempt, record.end.is_none());
                self.sites.get_mut(&at).unwrap().disk.insert(record.task.clone(), record);
                if starts {
                    *self.executions.entry(task.clone()).or_default() += 1;
                    self.tell(&at, worker::Input::Persisted { task, attempt, result: Ok(()) });
                }
            }
            // The port is another process: the effect happens even if the node that asked for it died.
            Event::Applied { at, life, task, attempt } => {
                *self.ledger.entry(task.clone()).or_default() += 1;
                if self.lives(&at, life) {
                    let verdict = EffectVerdict::Applied;
                    self.tell(&at, worker::Input::EffectDone { task, attempt, verdict });
                }
            }
            Event::Ended { .. } | Event::Saved { .. } => {}
        }
    }

    fn lives(&self, at: &NodeId, life: Incarnation) -> bool {
        self.sites.get(at).is_some_and(|site| site.worker.is_some() && site.life == life)
    }

    /// Lets time pass: every event and every wake in its order.
    pub(crate) fn run_for(&mut self, us: u64) {
        let until = self.now + us;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.sites.values().filter_map(|s| s.worker.as_ref()?.next_wake());
            let wake = wakes.map(|(at, _)| at).chain(self.requester.next_wake().map(|(at, _)| at)).min();
            let wake = wake.map(|at| at.as_micros().max(self.now));
            match event.into_iter().chain(wake).min().filter(|at| *at <= until) {
                None => break,
                Some(at) if event == Some(at) => {
                    self.now = at;
                    let (_, event) = self.events.pop_first().unwrap();
                    self.happen(event);
                }
                Some(at) => {
                    self.now = at;
                    self.ask(requester::Input::Tick);
                    let names: Vec<NodeId> = self.sites.keys().cloned().collect();
                    names.iter().for_each(|name| self.tell(name, worker::Input::Tick));
                }
            }
        }
        self.now = until;
    }

    pub(crate) fn outcome(&self, number: u64) -> &'static str {
        self.report(number).map_or("open", |report| report.outcome.word())
    }

    pub(crate) fn report(&self, number: u64) -> Option<&TaskReport> {
        self.reports.iter().find(|report| report.task.number == number)
    }

    pub(crate) fn effects(&self, number: u64) -> u32 {
        self.ledger.iter().filter(|(task, _)| task.number == number).map(|(_, count)| *count).sum()
    }

    /// What must hold whatever happened, once every deadline is over.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.alarms, Vec::<String>::new());
        for number in 1..self.next_task {
            let reports = self.reports.iter().filter(|report| report.task.number == number);
            assert_eq!(reports.count(), 1, "task {number} has exactly one outcome");
            let report = self.report(number).unwrap();
            assert!(report.ended <= report.deadline, "task {number} is reported by its deadline");
            if report.effect != Effect::Once {
                continue;
            }
            let effects = self.effects(number);
            assert!(effects <= 1, "task {number} had its effect {effects} times");
            match report.outcome {
                Outcome::Done { .. } => assert_eq!(effects, 1, "task {number} is done"),
                Outcome::Indeterminate { .. } => {}
                _ => assert_eq!(effects, 0, "task {number} is {}", report.outcome.word()),
            }
        }
        for site in self.sites.values().filter_map(|site| site.worker.as_ref()) {
            assert_eq!(site.sizes().0, 0, "no job is left");
        }
        assert_eq!(self.requester.open(), 0, "no task is left");
    }
}
