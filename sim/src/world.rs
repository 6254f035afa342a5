//! The simulated world: bodies, network, time. It feeds the same [`obu_core::node::Node`] machines that the daemon
//! drives, carries out what they want, and shows every step to the checker.
//!
//! ```text
//!   queue --> event --> feed(node, input) --> outputs --> perform --> network, host, disk, worker, port
//!     ^                     |        |                                     |
//!     |                  recorded  checked                                 |
//!     +--------------------------------- later events ---------------------+
//! ```
//! All chance is drawn before an input exists, so the inputs alone replay a run.

mod load;
mod perform;
mod reach;
mod road;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use can_core::effect;
use obu_core::io::{CallEnd, DecisionKind, Input, JobEvent, Output};
use obu_core::record::{Entry, Record, Trail};
use policies::id::{Attempt, NodeId, TaskId};
use policies::limits;
use v2e_core::message::Message;
use v2e_core::report::{Realm, TaskReport};

use crate::body::Body;
use crate::chance::{Chance, Ratio};
use crate::check::{Checker, Counts, Rule, Violation};
use crate::fault::{Fault, Faults};
use crate::fleet::fleet;
use crate::log::{LogError, LogWriter, encode};
use crate::model::Model;
use crate::network::{LinkModel, Network, NetworkCounts};
use crate::queue::Queue;

/// Wake-ups that a machine may ask for at one instant. More is a loop.
const SPINS_MAX: u32 = 200;

/// A node's tables are looked at on one event in so many.
const LOOK_EVERY: u64 = 16;

/// Most writes that a node may have under way: one per job, one per record that may go, and its desired state.
const WRITES_MAX: usize = 2 * limits::JOBS_MAX + 1;

/// Simulated time after load and faults have ended: the longest fault, deadline and back-off fit into it.
const SETTLE_AFTER: u64 = 10_000_000;

/// What one run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Simulated seconds with load and faults; a while to settle follows.
    pub seconds: u64,
    /// What may go wrong.
    pub faults: Faults,
    /// Where the inputs are recorded, if they are.
    pub log: Option<PathBuf>,
}

impl std::fmt::Display for Options {
    /// The command that runs it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, nodes, seconds, faults, log: _ } = self;
        write!(f, "verge-sim run --seed {seed} --nodes {nodes} --seconds {seconds} --faults {faults}")
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number and digest of all outputs.
    pub trail: Trail,
    /// Events taken from the queue.
    pub events: u64,
    /// What the checker counted.
    pub counts: Counts,
    /// What the network counted.
    pub network: NetworkCounts,
    /// How often each kind of fault struck.
    pub strikes: BTreeMap<Fault, u64>,
    /// Decisions by kind.
    pub decisions: BTreeMap<DecisionKind, u64>,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A rule is broken.
    #[error(transparent)]
    Broken(#[from] Violation),
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Something that will happen.
#[derive(Debug)]
enum Event {
    /// A process of the node, or its channel, tells it something.
    Local { unit: usize, life: u64, input: Box<Input> },
    /// A message arrives.
    Arrival { realm: Realm, from: usize, to: usize, frame: Vec<u8> },
    /// A wake-up; void unless it is still the newest.
    Wake { unit: usize, life: u64, number: u64 },
    /// A write is through.
    Written { unit: usize, life: u64, ticket: u64 },
    /// A call ends.
    CallEnds { unit: usize, life: u64, job: u64, end: Box<CallEnd>, took_us: u64 },
    /// Something reaches the effect port, which outlives the node process but not the power.
    AtPort { unit: usize, life: u64, power: u64, input: Box<effect::Input> },
    /// A line reaches the effect server, which outlives everything.
    AtServer { unit: usize, life: u64, power: u64, task: TaskId, attempt: Attempt },
    /// The node starts.
    Start { unit: usize },
    /// The operator applies the node's manifest, if that has not succeeded yet.
    Operate { unit: usize },
    /// An app asks for a task.
    Demand { unit: usize, app: usize },
    /// Somebody runs a task by hand, or an edge calls for a sample.
    ByHand,
    /// The next fault.
    Strike,
    /// A fault ends.
    Relief { unit: usize, fault: Fault, realm: Realm },
    /// What a recording says happened.
    Act { unit: usize, act: road::Act },
}

/// The world of one run.
#[derive(Debug)]
pub struct World {
    options: Options,
    now: u64,
    queue: Queue<Event>,
    bodies: Vec<Body>,
    ids: BTreeMap<NodeId, usize>,
    network: Network,
    checker: Checker,
    log: Option<LogWriter>,
    load: Chance,
    faults: Chance,
    report: Report,
    wakes: u64,
    spins: (u64, u32),
    /// What was measured, if this is a recorded road.
    model: Option<Model>,
    /// Who reaches whom on a recorded road.
    pairs: BTreeSet<(Realm, usize, usize)>,
    /// What became of the tasks of a recorded road.
    reports: Vec<TaskReport>,
}

impl World {
    /// Makes the world of a run.
    ///
    /// # Errors
    /// If the log cannot be made.
    pub fn new(options: Options) -> Result<Self, LogError> {
        let seed = options.seed;
        let skewed = options.faults.has(Fault::Skew);
        let bodies: Vec<Body> =
            fleet(seed, options.nodes).into_iter().map(|member| Body::new(seed, member, skewed)).collect();
        let mut strength = Chance::new(seed, "links");
        let car = options.faults.apply_to(LinkModel::CAR, &mut strength);
        let outside = options.faults.apply_to(LinkModel::OUTSIDE, &mut strength);
        let log = options.log.as_deref().map(LogWriter::create).transpose()?;
        let mut world = Self::with(options, bodies, car, outside, Checker::new(true));
        world.log = log;
        world.prepare();
        Ok(world)
    }

    /// A world in which nothing is planned yet.
    fn with(
        options: Options,
        bodies: Vec<Body>,
        car: LinkModel,
        outside: LinkModel,
        checker: Checker,
    ) -> Self {
        let seed = options.seed;
        let ids =
            bodies.iter().enumerate().map(|(unit, body)| (body.member.config.node.clone(), unit)).collect();
        let report = Report {
            trail: Trail::default(),
            events: 0,
            counts: Counts::default(),
            network: NetworkCounts::default(),
            strikes: BTreeMap::new(),
            decisions: BTreeMap::new(),
        };
        Self {
            now: 0,
            queue: Queue::default(),
            bodies,
            ids,
            network: Network::new(seed, car, outside),
            checker,
            log: None,
            load: Chance::new(seed, "load"),
            faults: Chance::new(seed, "faults"),
            report,
            options,
            wakes: 0,
            spins: (0, 0),
            model: None,
            pairs: BTreeSet::new(),
            reports: Vec::new(),
        }
    }

    fn prepare(&mut self) {
        for unit in 0..self.bodies.len() {
            let at = self.load.between((0, 500_000));
            self.queue.add(at, Event::Start { unit });
            self.queue.add(at + 100_000, Event::Operate { unit });
            for app in 0..self.bodies[unit].member.manifest.apps.len() {
                self.queue.add(at + 1_000_000, Event::Demand { unit, app });
            }
        }
        self.queue.add(2_000_000, Event::ByHand);
        self.queue.add(2_000_000, Event::Strike);
    }

    /// Runs to the end or to the first broken rule. The log then holds everything up to it.
    ///
    /// # Errors
    /// [`Failure::Broken`], or [`Failure::Log`] if the log cannot be written.
    pub fn run(mut self) -> Result<Report, Failure> {
        self.run_recorded(format!("{}", self.options))?;
        self.report.counts = self.checker.counts.clone();
        self.report.network = self.network.counts;
        Ok(self.report)
    }

    /// Runs, with a log of it if one is wanted.
    fn run_recorded(&mut self, what: String) -> Result<(), Failure> {
        self.note(what)?;
        let result = self.run_events();
        if let Err(Failure::Broken(violation)) = &result {
            self.note(format!("violation: {violation}"))?;
        }
        self.write_trail()?;
        if let Some(log) = self.log.take() {
            log.finish()?;
        }
        result
    }

    fn run_events(&mut self) -> Result<(), Failure> {
        let settled = self.end_of_load() + SETTLE_AFTER;
        while let Some((at, event)) = self.queue.next_until(settled) {
            self.now = at;
            self.report.events += 1;
            self.happen(event)?;
        }
        // A machine that asked for no wake-up is looked at all the same, twice: an overdue request counts as
        // lost if it stays so.
        for at in [settled, settled + 1_000_000] {
            self.now = at;
            for unit in 0..self.bodies.len() {
                self.feed(unit, Input::Tick)?;
            }
        }
        Ok(())
    }

    /// When load and faults end.
    const fn end_of_load(&self) -> u64 {
        self.options.seconds * 1_000_000
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Local { unit, life, input } => self.feed_life(unit, life, *input),
            Event::Arrival { realm, from, to, frame } => self.arrive(realm, from, to, &frame),
            Event::Wake { unit, life, number } => {
                let valid = self.bodies[unit].wake.is_some_and(|(_, newest)| newest == number);
                if valid { self.feed_life(unit, life, Input::Tick) } else { Ok(()) }
            }
            Event::Written { unit, life, ticket } => self.written(unit, life, ticket),
            Event::CallEnds { unit, life, job, end, took_us } => {
                // A cancelled call has ended before.
                if self.bodies[unit].life == life && self.bodies[unit].jobs.remove(&job) {
                    self.feed(unit, Input::Job(JobEvent::Ended { job, end: *end, took_us }))?;
                }
                Ok(())
            }
            Event::AtPort { unit, life, power, input } => {
                self.at_port(unit, life, power, *input);
                Ok(())
            }
            Event::AtServer { unit, life, power, task, attempt } => {
                self.at_server(unit, life, power, task, attempt)
            }
            Event::Start { unit } => self.start(unit),
            Event::Operate { unit } => self.operate(unit),
            Event::Demand { unit, app } => self.demand(unit, app),
            Event::ByHand => self.by_hand(),
            Event::Strike => self.strike(),
            Event::Relief { unit, fault, realm } => self.relieve(unit, fault, realm),
            Event::Act { unit, act } => self.act(unit, act),
        }
    }

    /// Tells a node something that belongs to one life of it.
    fn feed_life(&mut self, unit: usize, life: u64, input: Input) -> Result<(), Failure> {
        if self.bodies[unit].life == life { self.feed(unit, input) } else { Ok(()) }
    }

    /// Tells a node something now: records it, feeds it, carries out what follows.
    fn feed(&mut self, unit: usize, input: Input) -> Result<(), Failure> {
        let body = &mut self.bodies[unit];
        if let Some(held) = &mut body.held {
            held.push(input);
            return Ok(());
        }
        if body.node.is_none() {
            return Ok(());
        }
        let at = body.now(self.now);
        let record = Record { node: body.member.config.node.clone(), at, entry: Entry::Input(input) };
        self.see(&record)?;
        let body = &mut self.bodies[unit];
        let (Some(node), Record { node: id, entry: Entry::Input(input), .. }) = (&mut body.node, record)
        else {
            return Ok(());
        };
        node.handle(at, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| node.poll()).collect();
        for output in outputs {
            let record = Record { node: id.clone(), at, entry: Entry::Output(output) };
            self.report.trail.add(&encode(&record)?);
            self.checker.saw(&record)?;
            if let Entry::Output(output) = record.entry {
                self.perform(unit, output)?;
            }
        }
        if self.report.events.is_multiple_of(LOOK_EVERY) {
            self.check_tables(unit)?;
        }
        self.arm(unit)
    }

    /// Whether the tables of a node are within their maxima.
    fn check_tables(&self, unit: usize) -> Result<(), Violation> {
        let body = &self.bodies[unit];
        let at = body.now(self.now);
        let Some((node, view)) = body.node.as_ref().and_then(|node| Some((node, node.status(at)?))) else {
            return Ok(());
        };
        let jobs = usize::from(view.load.running) + usize::from(view.load.queued);
        let tables = [
            ("tasks owned", view.open_tasks as usize, limits::TASKS_OWNED_MAX),
            ("jobs", jobs, limits::JOBS_MAX),
            ("peers", node.peers(at).len(), limits::PEERS_MAX),
            ("apps", view.apps as usize, limits::APPS_MAX),
            ("functions", view.functions as usize, limits::FUNCTIONS_MAX),
            ("writes under way", body.writes.len(), WRITES_MAX),
        ];
        match tables.into_iter().find(|(_, len, most)| len > most) {
            Some((table, len, most)) => {
                let detail = format!("{table}: {len}, the maximum is {most}");
                Err(Violation { rule: Rule::Unbounded, node: view.node, at, detail })
            }
            None => Ok(()),
        }
    }

    /// Records an entry and shows it to the checker.
    fn see(&mut self, record: &Record) -> Result<(), Failure> {
        if let Some(log) = &mut self.log {
            log.write(record)?;
        }
        Ok(self.checker.saw(record)?)
    }

    fn note(&mut self, text: String) -> Result<(), LogError> {
        self.write_entry(Entry::Note(text))
    }

    fn write_trail(&mut self) -> Result<(), LogError> {
        self.write_entry(Entry::Trail(self.report.trail))
    }

    fn write_entry(&mut self, entry: Entry) -> Result<(), LogError> {
        let (Some(log), Some(body)) = (&mut self.log, self.bodies.first()) else { return Ok(()) };
        log.write(&Record { node: body.member.config.node.clone(), at: body.now(self.now), entry })
    }

    /// Schedules the wake-up that the node asks for, unless it is scheduled already.
    fn arm(&mut self, unit: usize) -> Result<(), Failure> {
        let body = &mut self.bodies[unit];
        let wanted = body.node.as_ref().and_then(obu_core::node::Node::next_wake).map(|(at, _why)| at);
        let Some(at) = wanted else {
            body.wake = None;
            return Ok(());
        };
        if body.wake.is_some_and(|(armed, _)| armed == at && at > body.clock.local(self.now)) {
            return Ok(());
        }
        self.wakes += 1;
        body.wake = Some((at, self.wakes));
        let due = body.clock.world(at).max(self.now);
        let (life, node, local) = (body.life, body.member.config.node.clone(), body.now(self.now));
        self.spins =
            if due == self.now && self.spins.0 == self.now { (due, self.spins.1 + 1) } else { (due, 0) };
        if self.spins.1 > SPINS_MAX * self.bodies.len() as u32 {
            let detail = format!("{} wake-ups without time passing", self.spins.1);
            return Err(Violation { rule: Rule::Spinning, node, at: local, detail }.into());
        }
        self.queue.add(due, Event::Wake { unit, life, number: self.wakes });
        Ok(())
    }

    /// Tells a node something after a while, if it then still lives the same life.
    fn tell(&mut self, unit: usize, after: u64, input: Input) {
        let life = self.bodies[unit].life;
        self.queue.add(self.now + after, Event::Local { unit, life, input: Box::new(input) });
    }

    fn id(&self, unit: usize) -> NodeId {
        self.bodies[unit].member.config.node.clone()
    }

    fn arrive(&mut self, realm: Realm, from: usize, to: usize, frame: &[u8]) -> Result<(), Failure> {
        let message = Message::decode(frame).map_err(|error| {
            let (node, at) = (self.id(to), self.bodies[to].now(self.now));
            Violation { rule: Rule::BadMessage, node, at, detail: error.to_string() }
        })?;
        let payload = message.payload();
        let from = self.id(from);
        self.feed(to, Input::Received { realm, from, message, payload })
    }

    fn written(&mut self, unit: usize, life: u64, ticket: u64) -> Result<(), Failure> {
        let fails = Ratio::permille(if self.options.faults.has(Fault::Disk) { 20 } else { 0 });
        let body = &mut self.bodies[unit];
        if body.life != life {
            return Ok(());
        }
        let Some(what) = body.writes.remove(&ticket) else { return Ok(()) };
        let result = if body.chance.happens(fails) {
            self.struck(Fault::Disk, true);
            Err("no space left on device".into())
        } else {
            body.disk.write(what);
            Ok(())
        };
        self.feed(unit, Input::Persisted { ticket, result })
    }
}

#[cfg(test)]
mod tests;
