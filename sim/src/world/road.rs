//! A recorded road in the world: its nodes with their own configurations, what they were asked at the same times,
//! with the faults that the recordings show, between links and processes as the model has them.

use std::collections::BTreeMap;
use std::path::Path;

use obu_core::io::{Boot, Input};
use policies::host::HostEvent;
use policies::id::{CarId, NodeId};
use policies::manifest::Manifest;
use policies::time::Timestamp;
use v2e_core::report::{Realm, TaskReport};

use super::{Event, Failure, Options, World};
use crate::body::{Body, Clock};
use crate::check::Checker;
use crate::fault::{Fault, Faults};
use crate::fleet::Member;
use crate::log::{LogError, LogWriter};
use crate::model::{FaceTimes, Model, Samples};
use crate::network::LinkModel;
use crate::road::{Life, Road};

/// How long the real carriers wait for an answer inside a car and outside, microseconds (`v2e::carrier`).
const PATIENCE: (u64, u64) = (400_000, 1_000_000);

/// How long after its recording a node lives on, to end what is under way.
const LIVES_ON: u64 = 100_000;

/// Something that the recordings say happened to a node.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// It started.
    Start(Box<Boot>),
    /// It was gone, with all its processes.
    End,
    /// It stood still from here on.
    Stop,
    /// It went on.
    Go,
    /// It was told something.
    Tell(Box<Input>),
}

impl World {
    /// Makes the world of a recorded road; its own run is recorded in `log`, if that is wanted.
    ///
    /// # Errors
    /// If the log cannot be made.
    pub fn of_road(road: &Road, model: Model, seed: u64, log: Option<&Path>) -> Result<Self, LogError> {
        let bodies = bodies(road, seed);
        let seconds = road.end().div_ceil(1_000_000);
        let options = Options {
            seed,
            nodes: bodies.len(),
            seconds,
            faults: Faults::default(),
            log: log.map(Into::into),
        };
        let car = LinkModel { patience: PATIENCE.0, ..LinkModel::CAR };
        let outside = LinkModel { patience: PATIENCE.1, ..LinkModel::OUTSIDE };
        let mut world = Self::with(options, bodies, car, outside, Checker::new(false));
        world.log = log.map(LogWriter::create).transpose()?;
        for (realm, link) in &model.links {
            world.network.measured(*realm, link);
        }
        for life in &road.lives {
            let Some(unit) = world.ids.get(&life.node).copied() else { continue };
            let heard = life.heard.iter().filter_map(|(realm, other)| Some((*realm, *world.ids.get(other)?)));
            for (realm, other) in heard.collect::<Vec<_>>() {
                world.pairs.extend([(realm, unit, other), (realm, other, unit)]);
            }
            world.script(unit, life);
        }
        world.model = Some(model);
        Ok(world)
    }

    /// Runs a recorded road to its end; the reports of all tasks come out.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_road(mut self) -> Result<Vec<TaskReport>, Failure> {
        let (nodes, seed) = (self.options.nodes, self.options.seed);
        self.run_recorded(format!("the model of a recorded road of {nodes} nodes, seed {seed}"))?;
        Ok(self.reports)
    }

    /// Plans what happened to a node in one life.
    fn script(&mut self, unit: usize, life: &Life) {
        let mut plan = |at: Timestamp, act: Act| {
            self.queue.add(life.world(at), Event::Act { unit, act });
        };
        plan(life.from, Act::Start(Box::new(life.boot.clone())));
        for (from, until) in &life.still {
            plan(*from, Act::Stop);
            plan(*until, Act::Go);
        }
        for (at, input) in &life.told {
            plan(*at, Act::Tell(Box::new(input.clone())));
        }
        let until = life.world(life.until) + LIVES_ON;
        self.queue.add(until, Event::Act { unit, act: Act::End });
    }

    /// Something of the script happens.
    pub(super) fn act(&mut self, unit: usize, act: Act) -> Result<(), Failure> {
        match act {
            Act::Start(boot) => {
                let body = &mut self.bodies[unit];
                body.member.config = boot.config;
                // Two processes of one life of a host are two lives here.
                body.life = body.life.max(boot.incarnation.0.saturating_sub(1));
                self.start(unit)
            }
            Act::End => {
                let id = self.id(unit);
                self.checker.gone(&id);
                self.bodies[unit].power_cut();
                Ok(())
            }
            Act::Stop => {
                self.bodies[unit].held = Some(Vec::new());
                Ok(())
            }
            Act::Go => self.relieve(unit, Fault::Freeze, Realm::Car),
            Act::Tell(input) => self.told(unit, *input),
        }
    }

    fn told(&mut self, unit: usize, input: Input) -> Result<(), Failure> {
        match input {
            Input::Host(HostEvent::Sampled { pressure, .. }) => {
                self.bodies[unit].host.pressure = pressure;
                Ok(())
            }
            Input::Ask { tenant, app, request, ask, .. } => {
                let arrived = self.bodies[unit].now(self.now);
                let after = self.drawn(unit, |times| &times.inbox, (0, 0));
                self.tell(unit, after, Input::Ask { tenant, app, request, arrived, ask });
                Ok(())
            }
            input => self.feed(unit, input),
        }
    }

    /// A duration of a node's processes as measured, or else within `usual`, microseconds.
    pub(super) fn drawn(&mut self, unit: usize, which: fn(&FaceTimes) -> &Samples, usual: (u64, u64)) -> u64 {
        let body = &mut self.bodies[unit];
        let times = self.model.as_ref().and_then(|model| model.faces.get(&body.member.config.node));
        let measured = times.and_then(|times| which(times).draw(&mut body.chance));
        measured.unwrap_or_else(|| body.chance.between(usual))
    }
}

/// The nodes of a road, each as its first life found it.
fn bodies(road: &Road, seed: u64) -> Vec<Body> {
    let mut first: BTreeMap<&NodeId, &Life> = BTreeMap::new();
    let mut cars: Vec<&CarId> = Vec::new();
    for life in &road.lives {
        first.entry(&life.node).or_insert(life);
        if !cars.contains(&&life.boot.config.car) {
            cars.push(&life.boot.config.car);
        }
    }
    let body = |life: &&Life| {
        let config = life.boot.config.clone();
        let car = cars.iter().position(|car| **car == config.car).unwrap_or(0);
        let mut body = Body::new(seed, Member { config, manifest: Manifest::default(), car, zone: 0 }, false);
        body.clock = Clock { zero: u64::try_from(life.zero).unwrap_or(0), fast_ppm: 0 };
        body.disk.restore(&life.boot);
        body
    };
    first.values().map(body).collect()
}
