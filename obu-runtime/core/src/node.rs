//! The whole node: supervisor, requester, worker and policies, driven as one machine. The daemon and the
//! simulator drive this very type.
//!
//! ```text
//!   control API --> control.rs --> desired state --> Supervisor --> host, borders, routes
//!   apps ---------> asks.rs -----> grants --------> Requester --> place.rs --> here, car, outside
//!   peers --------> peers.rs ----> policy --------> Worker ----> sandbox, disk, effect port
//!   roadside -----> calls.rs ----> export rules --> sandbox --> a reading, or silence
//! ```
//!
//! Absent on purpose: clock, randomness (jitter comes from a seed), bytes (references only), I/O.

mod adverts;
mod asks;
mod calls;
mod control;
mod functions;
mod peers;
mod place;
mod pump;
mod tickets;
mod views;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use policies::alarm::Alarm;
use policies::host::AppRef;
use policies::id::{FunctionName, Incarnation, NodeId, TaskId};
use policies::time::Timestamp;
use v2e_core::report::Story;
use v2e_core::requester::{self, Requester, TaskView};
use v2e_core::worker::{self, Worker};

use crate::io::{Boot, Decision, DecisionKind, Desired, Input, NodeConfig, Output, WakeReason};
use crate::supervisor::{self, AppView, Supervisor};
use adverts::Adverts;
use asks::Asks;
use calls::Calls;
use control::Changes;
use functions::Functions;
use peers::Peers;
use tickets::Tickets;

pub use calls::merge;
pub use views::{Counters, FunctionView, NodeView, PeerView};

/// One running Verge, as a machine.
#[derive(Debug, Default)]
pub struct Node {
    live: Option<Box<Live>>,
    /// Inputs before [`Input::Boot`].
    too_early: u64,
}

/// A node that has booted.
#[derive(Debug)]
struct Live {
    config: NodeConfig,
    life: Incarnation,
    desired: Desired,
    supervisor: Supervisor,
    requester: Requester,
    worker: Worker,
    peers: Peers,
    functions: Functions,
    adverts: Adverts,
    asks: Asks,
    changes: Changes,
    calls: Calls,
    tickets: Tickets,
    /// Where each function ran last, for the placement's hysteresis.
    last_place: BTreeMap<FunctionName, NodeId>,
    next_task: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that waits for [`Input::Boot`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Feeds one input. `now` must not run backwards. Never fails: what makes no sense in the present state
    /// is counted and dropped. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match (&mut self.live, input) {
            (None, Input::Boot(boot)) => {
                let mut live = Box::new(Live::new(boot.config.clone(), boot.incarnation));
                live.boot(now, boot);
                live.pump(now);
                self.live = Some(live);
            }
            (None, _) => self.too_early += 1,
            (Some(live), Input::Boot(_)) => live.alarm("booted-twice", String::new()),
            (Some(live), input) => {
                live.handle(now, input);
                live.pump(now);
            }
        }
    }

    /// Takes the next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.live.as_mut()?.outputs.pop_front()
    }

    /// When to feed [`Input::Tick`] next, and why. An early or extra tick is harmless.
    pub fn next_wake(&self) -> Option<(Timestamp, WakeReason)> {
        self.live.as_ref()?.next_wake()
    }

    /// Every app.
    pub fn apps(&self) -> Vec<AppView> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.supervisor.views())
    }

    /// Open tasks of this node, then finished ones, newest first.
    pub fn tasks(&self) -> Vec<TaskView> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.requester.views())
    }

    /// Every known peer; `now` tells fresh from stale.
    pub fn peers(&self, now: Timestamp) -> Vec<PeerView> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.peers.views(now))
    }

    /// Every function.
    pub fn functions(&self) -> Vec<FunctionView> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.functions.views())
    }

    /// A task of this node from submission to outcome.
    pub fn story(&self, task: &TaskId) -> Option<&Story> {
        self.live.as_ref()?.requester.story(task)
    }

    /// The node itself; `None` before it booted.
    pub fn status(&self, now: Timestamp) -> Option<NodeView> {
        self.live.as_ref().map(|live| live.view(now))
    }

    /// What is kept running, as last persisted; `None` before it booted.
    pub fn desired(&self) -> Option<&Desired> {
        self.live.as_ref().map(|live| &live.desired)
    }
}

impl Live {
    fn new(config: NodeConfig, life: Incarnation) -> Self {
        let owner = config.node.clone();
        Self {
            supervisor: Supervisor::new(life.0, config.seed, config.ladder.clone()),
            requester: Requester::new(owner, life),
            worker: Worker::new(life, config.cores),
            peers: Peers::default(),
            functions: Functions::default(),
            adverts: Adverts::default(),
            asks: Asks::default(),
            changes: Changes::default(),
            calls: Calls::default(),
            tickets: Tickets::default(),
            desired: Desired::default(),
            last_place: BTreeMap::new(),
            next_task: 1,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            config,
            life,
        }
    }

    fn boot(&mut self, now: Timestamp, boot: Boot) {
        // A node process that died had this very incarnation. Counted on from the clock, the numbers of its tasks are
        // behind us: the effect port and the peers still know those as done.
        self.next_task = now.as_micros().max(1);
        self.worker.handle(now, worker::Input::Recovered { records: boot.records });
        self.desired = boot.desired.unwrap_or_default();
        self.adverts.begin(now);
        let Desired { manifest, frozen, .. } = self.desired.clone();
        for app in manifest.apps {
            let name = app.app_ref();
            let held = frozen.contains(&name);
            self.supervisor.handle(now, supervisor::Input::Set { app, held });
        }
        for function in manifest.functions {
            self.set_function(now, function);
        }
    }

    fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Boot(_) => {}
            Input::Tick => self.tick(now),
            Input::Control { request, call } => self.control(now, request, call),
            Input::Host(event) => self.host_says(now, event),
            Input::Ask { tenant, app, request, arrived, ask } => {
                self.ask(now, AppRef { tenant, app }, request, arrived, ask);
            }
            Input::GiveUp { tenant, request } => self.give_up(now, tenant, request),
            Input::Island { app, result } => {
                self.supervisor.handle(now, supervisor::Input::Island { app, result });
            }
            Input::Bus(message) => self.bus_says(now, message),
            Input::Job(event) => self.job_says(now, event),
            Input::Received { realm, from, message, payload } => {
                self.received(now, realm, from, message, payload);
            }
            Input::PeerGone { realm, peer } => self.peer_gone(now, realm, peer),
            Input::Silent { realm, peer } => self.peer_silent(now, realm, peer),
            Input::Link { realm, peer, link } => self.peers.link(now, realm, &peer, link),
            Input::Persisted { ticket, result } => self.persisted(now, ticket, result),
        }
    }

    fn tick(&mut self, now: Timestamp) {
        self.requester.handle(now, requester::Input::Tick);
        self.worker.handle(now, worker::Input::Tick);
        self.supervisor.handle(now, supervisor::Input::Tick);
        self.calls_due(now);
    }

    fn next_wake(&self) -> Option<(Timestamp, WakeReason)> {
        let requester = self.requester.next_wake().map(|(at, why)| (at, requester_reason(why)));
        let worker = self.worker.next_wake().map(|(at, _)| (at, WakeReason::Job));
        let calls = self.calls.next_wake().map(|at| (at, WakeReason::Call));
        let advert = Some((self.adverts.next_wake(), WakeReason::Advert));
        [requester, worker, self.supervisor.next_wake(), calls, advert].into_iter().flatten().min()
    }

    fn is_me(&self, node: &NodeId) -> bool {
        self.config.node == *node
    }

    fn alarm(&mut self, name: &str, detail: String) {
        self.outputs.push_back(Output::Alarm(Alarm { name: name.into(), detail }));
    }

    fn decide(&mut self, kind: DecisionKind, about: String, why: String, facts: Vec<(String, String)>) {
        self.outputs.push_back(Output::Decision(Decision { kind, about, why, facts }));
    }

    /// A fresh task number; calls take theirs from the same row.
    fn task_number(&mut self) -> u64 {
        let number = self.next_task;
        self.next_task += 1;
        number
    }
}

const fn requester_reason(why: requester::WakeReason) -> WakeReason {
    match why {
        requester::WakeReason::AcceptTimeout => WakeReason::AcceptTimeout,
        requester::WakeReason::Lease => WakeReason::Lease,
        requester::WakeReason::Status => WakeReason::Status,
        requester::WakeReason::Hedge => WakeReason::Hedge,
        requester::WakeReason::Again | requester::WakeReason::Deadline => WakeReason::Deadline,
    }
}

/// One named fact of a decision.
fn fact(name: &str, value: impl core::fmt::Display) -> (String, String) {
    (name.into(), alloc::format!("{value}"))
}
