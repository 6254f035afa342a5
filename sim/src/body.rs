//! Everything of a simulated node that is not the [`Node`] machine: its clock, its disk, its host, its worker
//! processes, its effect port. What survives a power cut is in [`Disk`], the rest is not.

use std::collections::{BTreeMap, BTreeSet};

use can_core::effect::{self, EffectPort};
use obu_core::io::{Boot, CallEnd, Desired, Durable, Input, JobInput};
use obu_core::node::Node;
use policies::host::{AppRef, Face, HostEvent};
use policies::id::{Digest, Incarnation, TaskId};
use policies::signal::{Quality, Signal, SignalPath, SignalPattern, Value};
use policies::task::{BlobRef, Effect};
use policies::time::Timestamp;
use v2e_core::message::Reading;
use v2e_core::record::JobRecord;

use crate::chance::{Chance, Ratio};
use crate::fleet::{AIR, FunctionModel, Member, name};
use crate::host::HostModel;

/// A node's monotonic clock: its own zero, its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it shows at world time 0.
    pub zero: u64,
    /// Parts per million that it runs fast.
    pub fast_ppm: u64,
}

impl Clock {
    const MILLION: u64 = 1_000_000;

    /// What it shows at a world time.
    pub const fn local(&self, world: u64) -> Timestamp {
        Timestamp::from_micros(self.zero + world + world * self.fast_ppm / Self::MILLION)
    }

    /// The earliest world time at which it shows at least `local`.
    pub fn world(&self, local: Timestamp) -> u64 {
        let elapsed = local.as_micros().saturating_sub(self.zero);
        let guess =
            u128::from(elapsed) * u128::from(Self::MILLION) / u128::from(Self::MILLION + self.fast_ppm);
        let guess = u64::try_from(guess).unwrap_or(u64::MAX);
        if self.local(guess) < local { guess.saturating_add(1) } else { guess }
    }
}

/// What a power cut leaves.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    desired: Option<Desired>,
    records: BTreeMap<TaskId, JobRecord>,
}

impl Disk {
    /// What was on a real node's disk when it booted.
    pub fn restore(&mut self, boot: &Boot) {
        self.desired.clone_from(&boot.desired);
        self.records = boot.records.iter().map(|record| (record.task.clone(), record.clone())).collect();
    }

    /// A write has become durable.
    pub fn write(&mut self, what: Durable) {
        match what {
            Durable::Desired(desired) => self.desired = Some(desired),
            Durable::Job(record) => {
                self.records.insert(record.task.clone(), record);
            }
            Durable::ForgetJob { task } => {
                self.records.remove(&task);
            }
        }
    }
}

/// One simulated node.
#[derive(Debug)]
pub struct Body {
    /// Name, policy, place.
    pub member: Member,
    /// The zone it is in now.
    pub zone: usize,
    /// The machine; `None` while the node is down.
    pub node: Option<Node>,
    /// This life; events of an earlier one are dropped.
    pub life: u64,
    /// Its clock.
    pub clock: Clock,
    /// Inputs that wait while it stands still.
    pub held: Option<Vec<Input>>,
    /// What survives.
    pub disk: Disk,
    /// Writes under way by ticket.
    pub writes: BTreeMap<u64, Durable>,
    /// Its host.
    pub host: HostModel,
    /// Calls that run in its worker processes.
    pub jobs: BTreeSet<u64>,
    /// Its effect port.
    pub port: EffectPort,
    /// Apps whose islands are open.
    pub islands: BTreeSet<AppRef>,
    /// The newest wake-up asked for; older ones are void.
    pub wake: Option<(Timestamp, u64)>,
    /// Counts the times that power came back; what is under way at the effect port does not survive it.
    pub power: u64,
    /// Whether its operator's manifest has been applied.
    pub applied: bool,
    /// The request that applies it, while it is open.
    pub apply_request: Option<u64>,
    /// Numbers for requests.
    pub requests: u64,
    /// Its own stream of chance.
    pub chance: Chance,
}

impl Body {
    /// A node that has never run.
    pub fn new(seed: u64, member: Member, skewed: bool) -> Self {
        let mut chance = Chance::new(seed, member.config.node.as_str());
        let clock = Clock {
            zero: chance.below(1 << 40),
            // Quartz is good to 100 ppm; ten times that is already a defect.
            fast_ppm: if skewed { chance.below(1_000) } else { 0 },
        };
        Self {
            zone: member.zone,
            member,
            node: None,
            life: 0,
            clock,
            held: None,
            disk: Disk::default(),
            writes: BTreeMap::new(),
            host: HostModel::default(),
            jobs: BTreeSet::new(),
            port: EffectPort::default(),
            islands: BTreeSet::new(),
            wake: None,
            power: 0,
            applied: false,
            apply_request: None,
            requests: 0,
            chance,
        }
    }

    /// Begins a new life and says what the node must be told first.
    pub fn boot(&mut self) -> Vec<Input> {
        self.life += 1;
        self.node = Some(Node::new());
        // The bus process has its connection to the effect server before the node is told of the bus.
        self.port.handle(Timestamp::ZERO, effect::Input::Server { reachable: true });
        let incarnation = Incarnation(self.life);
        let boot = Boot {
            config: self.member.config.clone(),
            incarnation,
            desired: self.disk.desired.clone(),
            records: self.disk.records.values().cloned().collect(),
        };
        let hello = self.host.hello(&self.member.config.node, incarnation);
        let bus = self.member.config.bus.then_some(HostEvent::FaceStarted { face: Face::Bus });
        let events = [Some(hello), bus].into_iter().flatten().map(Input::Host);
        [Input::Boot(boot)].into_iter().chain(events).collect()
    }

    /// Ends this life. Of the writes under way the first few are durable, in order, by chance.
    pub fn end_life(&mut self) {
        let durable = self.chance.index(self.writes.len() + 1);
        for what in std::mem::take(&mut self.writes).into_values().take(durable) {
            self.disk.write(what);
        }
        self.node = None;
        self.held = None;
        self.wake = None;
        self.jobs.clear();
        self.islands.clear();
    }

    /// Power is gone, with all processes of the node.
    pub fn power_cut(&mut self) {
        self.end_life();
        self.power += 1;
        self.host.power_cut();
        self.port = EffectPort::default();
    }

    /// What this node is at a world time on its own clock.
    pub const fn now(&self, world: u64) -> Timestamp {
        self.clock.local(world)
    }

    /// Runs a call: how it ends and how long it takes, microseconds.
    pub fn run_call(&mut self, module: &Digest, input: &JobInput, budget_us: u64) -> (CallEnd, u64) {
        let Some(model) = FunctionModel::of_bundle(module) else {
            return (CallEnd::Failed { code: -1, why: "no such module".into() }, 10);
        };
        let tail = if self.chance.happens(Ratio::permille(10)) { 5 } else { 1 };
        let took_us = self.chance.between(model.service) * tail;
        if took_us > budget_us {
            return (CallEnd::Failed { code: -1, why: "out of its budget".into() }, budget_us);
        }
        if self.chance.happens(Ratio::permille(5)) {
            return (CallEnd::Failed { code: 2, why: "cannot read the input".into() }, took_us);
        }
        (returned(model, input), took_us)
    }

    /// The latest values of the signals that these patterns cover.
    pub fn snapshot(&self, patterns: &[SignalPattern]) -> Vec<(Signal, u64)> {
        let known = ["Vehicle.Speed", "Vehicle.Exterior.AirTemperature", "Vehicle.Exterior.Humidity"];
        let paths = known.into_iter().map(|path| name!(SignalPath, path));
        let covered = paths.filter(|path| patterns.iter().any(|pattern| pattern.matches(path)));
        let sample = |path| Signal {
            path,
            value: Value::Number(21.5),
            unit: String::new(),
            source_time: Timestamp::ZERO,
            seq: 1,
            quality: Quality::Ok,
        };
        covered.map(|path| (sample(path), 10_000)).collect()
    }
}

fn returned(model: &FunctionModel, input: &JobInput) -> CallEnd {
    let digest = match input {
        JobInput::Blob(blob) => blob.digest,
        JobInput::Signals { .. } => Digest::of(b"signals"),
    };
    let bytes = model.result(&digest);
    CallEnd::Returned {
        result: BlobRef { digest: Digest::of(&bytes), len: 64 },
        effect: (model.effect == Effect::Once).then(|| "paid".into()),
        reading: (model.name == AIR.name).then_some(Reading { value_micro: 21_500_000, n: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wake_up_is_never_early_and_never_late(zero in 0u64..1 << 40, fast_ppm in 0u64..1000, at in 0u64..1 << 40) {
            let clock = Clock { zero, fast_ppm };
            let local = Timestamp::from_micros(zero + at);
            let world = clock.world(local);
            prop_assert!(clock.local(world) >= local);
            prop_assert!(world == 0 || clock.local(world - 1) < local);
        }
    }
}
