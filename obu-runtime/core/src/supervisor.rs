//! Keeps apps as their manifests say: bundle in the store, border up, island open, running; started again
//! when they end; squeezed and frozen when the machine is pressed.
//!
//! ```text
//!             Set                                         Exited
//!   (none) --------> importing -> waiting -> starting -> running -----> back-off -> starting ...
//!                        |        (border)      |           |              \--> failed (burst), stopped
//!                        v refused              v failed    v Remove, Restart, Set
//!                      failed                back-off    stopping -> (none) or importing
//! ```
//!
//! Invariants
//! - Host is never asked to start an app twice without having said that the first instance ended.
//! - Nothing starts before host has said which apps it adopted.
//! - An island and its routes are open from just before a start until the end of that instance.

mod app;
mod faces;
mod host;
mod pressure;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::alarm::Alarm;
use policies::host::{AppRef, Enforced, Exit, Face, HostCommand, HostEvent, Pressure, Usage};
use policies::id::Digest;
use policies::ladder::{Ladder, LadderPolicy};
use policies::manifest::{App, Resources};
use policies::signal::SignalPattern;
use policies::task::Class;
use policies::time::Timestamp;
use policies::unit::Span;
use serde::{Deserialize, Serialize};

use crate::io::{self, Decision, DecisionKind};
use app::{Kept, Stage};

/// First wait before an app that ended is started again; it doubles with each further end.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Longest wait.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// An app that ran this long is healthy: its next end counts as the first.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Ends in a row, none of them after [`HEALTHY_AFTER`], before an app is given up: about three minutes.
pub const BURST_MAX: u32 = 10;

/// How long host may take to answer a start or, beyond the grace, a stop.
pub const HOST_WAIT: Duration = Duration::from_secs(10);

/// How often usage and pressure are read.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What the node can tell its supervisor.
#[derive(Clone, Debug)]
pub enum Input {
    /// Keep this app as given; `held` freezes it until further notice.
    Set {
        /// The app.
        app: App,
        /// Whether an operator froze it.
        held: bool,
    },
    /// Stop an app and forget it.
    Remove(AppRef),
    /// Freeze an app by hand, or let go.
    Hold {
        /// Which.
        app: AppRef,
        /// Whether.
        held: bool,
    },
    /// Stop an app and start it again.
    Restart(AppRef),
    /// This bundle is needed for a function of this tenant's worker.
    NeedModule {
        /// The bundle.
        bundle: Digest,
        /// The worker.
        face: Face,
    },
    /// Host says something.
    Host(HostEvent),
    /// A border opened an island, or could not.
    Island {
        /// The app.
        app: AppRef,
        /// `Err` says why not.
        result: Result<(), String>,
    },
    /// No bus of this node maps these of the app's signals.
    Unmapped {
        /// The app.
        app: AppRef,
        /// Which.
        signals: Vec<SignalPattern>,
    },
    /// Stop everything.
    Shutdown {
        /// Time the apps get.
        grace: Span,
    },
    /// Time passed.
    Tick,
}

/// What a supervisor wants done or has learnt.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// To the outside.
    Do(io::Output),
    /// A bundle is in the store, or will not be.
    Imported {
        /// Which.
        bundle: Digest,
        /// `Err` says why not.
        result: Result<(), String>,
    },
    /// A face is up.
    FaceUp(Face),
    /// A face is gone.
    FaceDown(Face),
}

/// An app as `verge get apps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppView {
    /// Which.
    pub app: AppRef,
    /// Service quality.
    pub class: Class,
    /// `importing`, `waiting`, `starting`, `running`, `frozen`, `back-off`, `stopping`, `stopped`, `failed`.
    pub state: String,
    /// Why it is in that state.
    pub why: String,
    /// Its code.
    pub bundle: Digest,
    /// Which start.
    pub instance: u64,
    /// Starts after the first one.
    pub restarts: u64,
    /// How it last ended.
    pub last_exit: Option<Exit>,
    /// From host's receipt of the start to exec, microseconds.
    pub start_us: u64,
    /// Limits.
    pub resources: Resources,
    /// What confines it, read back.
    pub enforced: Vec<Enforced>,
    /// Whether its island is open.
    pub island: bool,
    /// Usage at the last sample.
    pub usage: Usage,
}

/// The machine's state as `verge get nodes` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureView {
    /// The last sample.
    pub pressure: Pressure,
    /// Class shares now, in thousandths, best class first.
    pub shares: Vec<(Class, u16)>,
    /// Classes that are frozen.
    pub frozen: Vec<Class>,
}

/// The machine.
#[derive(Debug)]
pub struct Supervisor {
    seed: u64,
    /// High bits of every instance number, so that none is used in two lives.
    instance_base: u64,
    instances: u64,
    apps: BTreeMap<AppRef, Kept>,
    /// Whether host has said what it adopted.
    greeted: bool,
    closing: bool,
    imports: BTreeMap<Digest, Import>,
    faces_wanted: BTreeSet<Face>,
    faces_up: BTreeSet<Face>,
    /// Faces that are away, with the last reason. Host bounds them: it has a face per kind, and a bounded number of tenants.
    faces_lost: BTreeMap<Face, String>,
    ladder: Option<Ladder>,
    pressure: Pressure,
    sample_at: Timestamp,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Import {
    Asked,
    Here,
}

impl Supervisor {
    /// A supervisor for one life of a node.
    pub fn new(life: u64, seed: u64, ladder: LadderPolicy) -> Self {
        let mut outputs = VecDeque::new();
        let ladder = Ladder::new(ladder).map_err(|error| {
            let detail = alloc::format!("{error}; the node runs without a ladder");
            let alarm = Alarm { name: "ladder-policy-unusable".into(), detail };
            outputs.push_back(Output::Do(io::Output::Alarm(alarm)));
        });
        Self {
            seed,
            instance_base: life << 24,
            instances: 0,
            apps: BTreeMap::new(),
            greeted: false,
            closing: false,
            imports: BTreeMap::new(),
            faces_wanted: BTreeSet::new(),
            faces_up: BTreeSet::new(),
            faces_lost: BTreeMap::new(),
            ladder: ladder.ok(),
            pressure: Pressure::default(),
            sample_at: Timestamp::ZERO,
            outputs,
        }
    }

    /// Feeds one input. `now` must not run backwards. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Set { app, held } => self.set(now, app, held),
            Input::Remove(app) => self.remove(now, &app),
            Input::Hold { app, held } => self.hold(&app, held),
            Input::Restart(app) => self.restart(now, &app),
            Input::NeedModule { bundle, face } => self.need_module(bundle, face),
            Input::Host(event) => self.host_says(now, event),
            Input::Island { app, result } => self.island(now, &app, result),
            Input::Unmapped { app, signals } => self.unmapped(&app, signals),
            Input::Shutdown { grace } => self.shutdown(now, grace),
            Input::Tick => self.tick(now),
        }
    }

    /// Takes the next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Tick`] next, and why.
    pub fn next_wake(&self) -> Option<(Timestamp, io::WakeReason)> {
        if !self.greeted {
            return None;
        }
        let sample = (self.sample_at, io::WakeReason::Sample);
        self.apps.values().filter_map(Kept::wake).chain([sample]).min()
    }

    /// Every app.
    pub fn views(&self) -> Vec<AppView> {
        self.apps.values().map(Kept::view).collect()
    }

    /// The app, if it is kept.
    pub fn app(&self, app: &AppRef) -> Option<&App> {
        self.apps.get(app).map(|kept| &kept.app)
    }

    /// Whether an instance of the app is running.
    pub fn is_running(&self, app: &AppRef) -> bool {
        self.apps.get(app).is_some_and(|kept| matches!(kept.stage, Stage::Running { .. }))
    }

    /// Whether a face is up.
    pub fn is_up(&self, face: &Face) -> bool {
        self.faces_up.contains(face)
    }

    /// Faces that should be there and are away, with the last reason.
    pub fn faces_lost(&self) -> Vec<(Face, String)> {
        self.faces_lost.iter().map(|(face, why)| (face.clone(), why.clone())).collect()
    }

    /// The machine's pressure, and what is done about it.
    pub fn pressure(&self) -> PressureView {
        let share = |class| self.ladder.as_ref().map_or(1000, |ladder| ladder.share(class));
        let is_frozen = |class: &Class| self.class_is_frozen(*class);
        PressureView {
            pressure: self.pressure,
            shares: Class::ALL.into_iter().map(|class| (class, share(class))).collect(),
            frozen: Class::ALL.into_iter().filter(is_frozen).collect(),
        }
    }

    /// CPU in use at the last sample, thousandths of the machine.
    pub const fn cpu_used(&self) -> u16 {
        self.pressure.cpu_used
    }

    fn command(&mut self, command: HostCommand) {
        self.outputs.push_back(Output::Do(io::Output::Host(command)));
    }

    fn decide(&mut self, kind: DecisionKind, about: String, why: String) {
        let decision = Decision { kind, about, why, facts: Vec::new() };
        self.outputs.push_back(Output::Do(io::Output::Decision(decision)));
    }

    /// All apps, best class first: the order in which they are started.
    fn by_class(&self) -> Vec<AppRef> {
        let mut all: Vec<(Class, AppRef)> =
            self.apps.iter().map(|(app, kept)| (kept.app.class, app.clone())).collect();
        all.sort();
        all.into_iter().map(|(_, app)| app).collect()
    }

    fn tick(&mut self, now: Timestamp) {
        if !self.greeted {
            return;
        }
        if self.sample_at <= now {
            self.sample_at = now + SAMPLE_EVERY;
            self.command(HostCommand::Sample);
        }
        for app in self.by_class() {
            if self.apps.get(&app).and_then(Kept::wake).is_some_and(|(at, _)| at <= now) {
                self.app_due(now, &app);
            }
        }
    }

    fn shutdown(&mut self, now: Timestamp, grace: Span) {
        self.decide(DecisionKind::Stop, "node".into(), "asked to shut down".into());
        self.command(HostCommand::Shutdown { grace });
        self.close(now, grace);
    }

    /// Every app is being stopped, by host.
    fn close(&mut self, now: Timestamp, grace: Span) {
        self.closing = true;
        for kept in self.apps.values_mut() {
            kept.stage = match kept.stage {
                Stage::Running { .. } | Stage::Starting { .. } | Stage::Stopping { .. } => {
                    Stage::Stopping { until: now + grace.duration() + HOST_WAIT, then: app::Then::Rest }
                }
                _ => Stage::Stopped,
            };
            kept.why = "the node shuts down".into();
        }
    }
}
