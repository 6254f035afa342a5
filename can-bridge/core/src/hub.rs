//! The bus process as one machine: decoders, routes, transmit guard and effect port together, so that the car
//! and the simulator run the same wiring.
//!
//! ```text
//!   node   -- Route, Transmit, Effect, Snapshot, Stats -->  +-----+  -- ToNode -->    node
//!   driver -- frames (batch), Bus, Sent, Effect, Tick  -->  | Hub |  -- ToBorder -->  border of the app's tenant
//!                                                           +-----+  -- Send, Append, Alarm --> driver
//! ```
//! Invariants
//! - I1: a sample goes to exactly the apps whose route covers its path, each through its own tenant's border.
//! - I2: every `Transmit`, `Effect` and `Snapshot` is answered exactly once (given that the driver answers
//!   `Send` and `Append`).
//! - I3: nothing is sent that the guard did not pass.

mod routes;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use policies::alarm::Alarm;
use policies::face::{BusStats, FromBus, ToBorder, ToBus, TxFrame};
use policies::host::AppRef;
use policies::id::{Attempt, BusName, TaskId, TenantId};
use policies::signal::{Signal, SignalPath, SignalPattern};
use policies::time::{Timestamp, micros};
use serde::{Deserialize, Serialize};

use crate::dbc::DecodePlan;
use crate::decoder::{self, Decoder};
use crate::effect::{self, EffectPort};
use crate::frame::{BusIndex, CanFrame, TimedFrame};
use crate::guard::{Guard, GuardClaim, GuardError};
use routes::Routes;

/// Most buses of one node.
pub const BUSES_MAX: usize = 16;

/// Most samples in one message to a border: about 60 kB, a fraction of the largest message.
pub const BATCH_MAX: usize = 512;

/// What the hub is told, besides frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A message of node.
    FromNode(ToBus),
    /// A bus came up or went down.
    Bus {
        /// Which.
        bus: BusIndex,
        /// Whether it is up.
        up: bool,
    },
    /// Frames that the driver could not hand over: damaged, or lost before it read them.
    Trouble {
        /// Damaged.
        bad: u64,
        /// Lost.
        lost: u64,
    },
    /// Messages to borders that the driver dropped because a border lagged.
    Dropped {
        /// How many.
        messages: u64,
    },
    /// What became of an [`Output::Send`].
    Sent {
        /// Its request.
        request: u64,
        /// Whether the bus took it.
        result: Result<(), SendFailure>,
    },
    /// What became of an [`Output::Append`], and whether the effect server is there.
    Effect(effect::Input),
    /// Time passed.
    Tick,
}

/// Why a bus did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendFailure {
    /// Its queue is full. The frame is dropped: sent later it would be a stale burst.
    Full,
    /// It is down or gone.
    Down,
}

impl SendFailure {
    /// Its name among the counters of refusals.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Full => "bus-full",
            Self::Down => "bus-down",
        }
    }
}

/// What the hub wants done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Tell node.
    ToNode(FromBus),
    /// Tell the border of a tenant; drop it if there is none.
    ToBorder {
        /// Whose.
        tenant: TenantId,
        /// What.
        message: ToBorder,
    },
    /// Put a frame on a bus now or never, then report [`Input::Sent`].
    Send {
        /// Number for the report.
        request: u64,
        /// Where.
        bus: BusIndex,
        /// What.
        frame: CanFrame,
    },
    /// Append a line to the effect server's ledger, then report through [`Input::Effect`].
    Append {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line, without a line feed.
        line: String,
    },
    /// The impossible, or an attack: log and count it.
    Alarm(Alarm),
}

/// One bus as the hub needs it.
#[derive(Debug)]
pub struct HubBus {
    /// Its name.
    pub name: BusName,
    /// Its decoder; one without messages if it has no DBC.
    pub decoder: Decoder,
}

/// Why a hub cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HubError {
    /// More than [`BUSES_MAX`].
    #[error("{got} buses; {BUSES_MAX} is the maximum")]
    Buses {
        /// How many.
        got: usize,
    },
    /// Two buses of one name.
    #[error("bus {bus} is configured twice")]
    BusTwice {
        /// Which.
        bus: BusName,
    },
    /// Two buses map the same path.
    #[error("{path} is mapped on {first} and on {second}")]
    PathTwice {
        /// The path.
        path: SignalPath,
        /// A bus.
        first: BusName,
        /// Another bus.
        second: BusName,
    },
    /// The guard's configuration.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

impl HubError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Buses { .. } => None,
            Self::BusTwice { .. } => Some("remove one of the two bus entries".into()),
            Self::PathTwice { .. } => Some("map each VSS path on one bus only".into()),
            Self::Guard(error) => error.fix(),
        }
    }
}

/// The bus process without its sockets.
#[derive(Debug)]
pub struct Hub {
    buses: Vec<HubBus>,
    guard: Guard,
    effects: EffectPort,
    routes: Routes,
    outputs: VecDeque<Output>,
    counters: BusStats,
}

impl Hub {
    /// Puts the parts together.
    ///
    /// # Errors
    /// [`HubError`] if they contradict each other.
    pub fn new(buses: Vec<HubBus>, guard: &GuardClaim) -> Result<Self, HubError> {
        if buses.len() > BUSES_MAX {
            return Err(HubError::Buses { got: buses.len() });
        }
        let mut owners: BTreeMap<&SignalPath, &BusName> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for bus in &buses {
            if !names.insert(&bus.name) {
                return Err(HubError::BusTwice { bus: bus.name.clone() });
            }
            for leaf in bus.decoder.leaves() {
                if let Some(first) = owners.insert(&leaf.path, &bus.name) {
                    let (first, second) = (first.clone(), bus.name.clone());
                    return Err(HubError::PathTwice { path: leaf.path.clone(), first, second });
                }
            }
        }
        let plan = |bus: &HubBus| (bus.name.clone(), bus.decoder.plan().clone());
        let plans: BTreeMap<BusName, DecodePlan> = buses.iter().map(plan).collect();
        let guard = Guard::new(guard, &plans)?;
        let (effects, outputs) = (EffectPort::default(), VecDeque::new());
        Ok(Self { buses, guard, effects, routes: Routes::default(), outputs, counters: BusStats::default() })
    }

    /// Takes frames of one bus, in order. Drain [`Self::poll`] afterwards.
    pub fn frames(&mut self, now: Timestamp, bus: BusIndex, frames: &[TimedFrame]) {
        let Self { buses, guard, routes, counters, .. } = self;
        let Some(HubBus { name, decoder }) = buses.get_mut(usize::from(bus.0)) else { return };
        counters.frames_in += frames.len() as u64;
        if guard.watches(name) {
            for timed in frames {
                guard.seen_from_outside(timed.at, name, timed.frame.id());
            }
        }
        decoder.frames(frames, |leaf, signal| {
            guard.observe(signal);
            routes.push(bus, leaf, signal);
        });
        self.drain_decoder(bus);
        self.flush(now);
    }

    /// Takes one input. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::FromNode(ToBus::Route { app, signals }) => self.route(app, &signals),
            Input::FromNode(ToBus::Transmit { request, app, frame }) => {
                self.transmit(now, request, &app, &frame);
            }
            Input::FromNode(ToBus::Effect { task, attempt, line }) => {
                self.effects.handle(now, effect::Input::Apply { task, attempt, line });
            }
            Input::FromNode(ToBus::Snapshot { request, signals }) => self.snapshot(now, request, &signals),
            Input::FromNode(ToBus::Stats) => {
                let stats = self.stats();
                self.outputs.push_back(Output::ToNode(FromBus::Stats(stats)));
            }
            Input::Bus { bus, up } => {
                let input = if up { decoder::Input::BusUp } else { decoder::Input::BusDown };
                self.tell_decoder(now, bus, input);
            }
            Input::Trouble { bad, lost } => {
                self.counters.frames_bad += bad;
                self.counters.frames_lost += lost;
            }
            Input::Dropped { messages } => self.counters.dropped += messages,
            Input::Sent { request, result } => self.sent(request, result),
            Input::Effect(input) => self.effects.handle(now, input),
            Input::Tick => {
                for number in 0..self.buses.len() as u16 {
                    self.tell_decoder(now, BusIndex(number), decoder::Input::Tick);
                }
            }
        }
        self.flush(now);
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Tick`] next, and why.
    pub fn next_wake(&self) -> Option<(Timestamp, decoder::WakeReason)> {
        self.buses.iter().filter_map(|bus| bus.decoder.next_wake()).min_by_key(|(at, _)| *at)
    }

    /// Counters since start.
    pub fn stats(&self) -> BusStats {
        let mut stats = BusStats {
            refused: self.guard.refused(),
            effects: self.effects.counters(),
            published: self.routes.published(),
            ..self.counters.clone()
        };
        for bus in &self.buses {
            let decoded = bus.decoder.stats();
            stats.frames_unknown += decoded.unknown;
            stats.signals += decoded.signals;
        }
        stats
    }

    fn tell_decoder(&mut self, now: Timestamp, bus: BusIndex, input: decoder::Input) {
        if let Some(HubBus { decoder, .. }) = self.buses.get_mut(usize::from(bus.0)) {
            decoder.handle(now, input);
        }
        self.drain_decoder(bus);
    }

    /// Samples whose quality changed.
    fn drain_decoder(&mut self, bus: BusIndex) {
        let Self { buses, guard, routes, .. } = self;
        let Some(HubBus { decoder, .. }) = buses.get_mut(usize::from(bus.0)) else { return };
        while let Some((leaf, signal)) = decoder.poll() {
            guard.observe(signal);
            routes.push(bus, leaf, signal);
        }
    }

    /// Opens, changes or closes a route; what is newly covered is sent at once as it is known.
    fn route(&mut self, app: AppRef, patterns: &[SignalPattern]) {
        let Self { buses, routes, .. } = self;
        let covered = |path: &SignalPath| patterns.iter().any(|pattern| pattern.matches(path));
        let mut leaves = BTreeSet::new();
        for (number, bus) in (0u16..).zip(buses.iter()) {
            for (leaf, described) in (0u32..).zip(bus.decoder.leaves()) {
                if covered(&described.path) {
                    leaves.insert((BusIndex(number), leaf));
                }
            }
        }
        let mapped = |pattern: &&SignalPattern| {
            buses.iter().any(|bus| bus.decoder.leaves().iter().any(|leaf| pattern.matches(&leaf.path)))
        };
        let unmapped: Vec<_> = patterns.iter().filter(|pattern| !mapped(pattern)).cloned().collect();
        if !unmapped.is_empty() {
            self.outputs.push_back(Output::ToNode(FromBus::Unmapped { app: app.clone(), signals: unmapped }));
        }
        let before = routes.set(app.clone(), leaves);
        for (number, bus) in (0u16..).zip(buses.iter()) {
            for (leaf, signal) in bus.decoder.latest().filter(|(_, signal)| covered(&signal.path)) {
                if !before.contains(&(BusIndex(number), leaf)) {
                    routes.push_to(&app, signal);
                }
            }
        }
    }

    fn transmit(&mut self, now: Timestamp, request: u64, app: &AppRef, frame: &TxFrame) {
        let bus = (0u16..).zip(&self.buses).find(|(_, bus)| bus.name == frame.bus).map(|(n, _)| BusIndex(n));
        let output = match (self.guard.decide(now, app, frame), bus) {
            (Ok(frame), Some(bus)) => Output::Send { request, bus, frame },
            (Ok(_), None) => {
                self.guard.count_unsent(SendFailure::Down.rule());
                refused(request, alloc::format!("bus-down: {} is not open", frame.bus))
            }
            (Err(refusal), _) => refused(request, alloc::format!("{}: {refusal}", refusal.rule())),
        };
        self.outputs.push_back(output);
    }

    fn sent(&mut self, request: u64, result: Result<(), SendFailure>) {
        let output = match result {
            Ok(()) => {
                self.counters.frames_out += 1;
                Output::ToNode(FromBus::Transmitted { request, result: Ok(()) })
            }
            Err(failure) => {
                self.guard.count_unsent(failure.rule());
                refused(request, failure.rule().into())
            }
        };
        self.outputs.push_back(output);
    }

    fn snapshot(&mut self, now: Timestamp, request: u64, patterns: &[SignalPattern]) {
        let covered = |signal: &Signal| patterns.iter().any(|pattern| pattern.matches(&signal.path));
        let latest = self.buses.iter().flat_map(|bus| bus.decoder.latest().map(|(_, signal)| signal));
        let samples =
            latest.filter(|signal| covered(signal)).map(|signal| (signal.clone(), age(now, signal)));
        let samples = samples.collect();
        self.outputs.push_back(Output::ToNode(FromBus::Snapshot { request, samples }));
    }

    /// Moves what the parts have to say into the outputs.
    fn flush(&mut self, now: Timestamp) {
        while let Some((app, samples)) = self.routes.take(BATCH_MAX) {
            let samples = samples.into_iter().map(|signal| (age(now, &signal), signal));
            let samples = samples.map(|(age, signal)| (signal, age)).collect();
            let AppRef { tenant, app } = app;
            self.outputs.push_back(Output::ToBorder { tenant, message: ToBorder::Signals { app, samples } });
        }
        while let Some(output) = self.effects.poll() {
            self.outputs.push_back(match output {
                effect::Output::Append { task, attempt, line } => Output::Append { task, attempt, line },
                effect::Output::Report { task, attempt, result } => {
                    let result = result.map_err(effect::Refusal::rule);
                    Output::ToNode(FromBus::EffectDone { task, attempt, result })
                }
            });
        }
        while let Some(alarm) = self.guard.poll_alarm() {
            self.outputs.push_back(Output::Alarm(alarm));
        }
    }
}

fn refused(request: u64, why: String) -> Output {
    Output::ToNode(FromBus::Transmitted { request, result: Err(why) })
}

/// Age of a sample, microseconds.
fn age(now: Timestamp, signal: &Signal) -> u64 {
    micros(now.since(signal.source_time))
}
