//! One app: what is wanted of it, how far it is, and the steps between.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::grant::Grants;
use policies::host::{AppRef, Enforced, Exit, Face, HostCommand, StartApp, Usage};
use policies::manifest::{App, Restart};
use policies::signal::SignalPattern;
use policies::time::Timestamp;
use policies::unit::Span;

use super::{AppView, BACK_OFF_FIRST, BACK_OFF_MAX, BURST_MAX, HEALTHY_AFTER, HOST_WAIT, Import, Supervisor};
use crate::io::{DecisionKind, WakeReason};

/// How far an app is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its bundle or base is on its way into the store, or its border is being started.
    Waiting,
    /// Host has been asked to start it.
    Starting {
        /// When to stop waiting for the answer.
        until: Timestamp,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It will be started again.
    BackOff {
        /// When.
        until: Timestamp,
    },
    /// Host has been asked to stop it.
    Stopping {
        /// When to ask again.
        until: Timestamp,
        /// What comes next.
        then: Then,
    },
    /// It ended as it should.
    Stopped,
    /// It was given up.
    Failed,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Start it as the manifest says now.
    Start,
    /// Forget it.
    Forget,
    /// Leave it.
    Rest,
}

/// One app.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) app: App,
    /// Whether an operator froze it.
    pub(super) held: bool,
    pub(super) stage: Stage,
    pub(super) why: String,
    pub(super) instance: u64,
    pub(super) starts: u64,
    /// Ends in a row without a healthy time before them.
    pub(super) failures: u32,
    /// What was last asked for; `None` if the state of the instance is not known.
    pub(super) freeze_asked: Option<bool>,
    /// As host reports it.
    pub(super) frozen: bool,
    pub(super) island: bool,
    pub(super) last_exit: Option<Exit>,
    pub(super) start_us: u64,
    pub(super) enforced: Vec<Enforced>,
    pub(super) usage: Usage,
    /// Granted signals that no bus maps.
    pub(super) unmapped: Vec<SignalPattern>,
}

impl Kept {
    fn new(app: App, held: bool) -> Self {
        Self {
            app,
            held,
            stage: Stage::Waiting,
            why: String::new(),
            instance: 0,
            starts: 0,
            failures: 0,
            freeze_asked: Some(false),
            frozen: false,
            island: false,
            last_exit: None,
            start_us: 0,
            enforced: Vec::new(),
            usage: Usage::default(),
            unmapped: Vec::new(),
        }
    }

    /// Whether anything may cross its border.
    pub(super) fn wants_island(&self) -> bool {
        self.app.grants != Grants::default()
    }

    /// Whether host may have an instance of it.
    pub(super) const fn has_instance(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Running { .. } | Stage::Stopping { .. })
    }

    pub(super) const fn wake(&self) -> Option<(Timestamp, WakeReason)> {
        match self.stage {
            Stage::Starting { until } | Stage::Stopping { until, .. } => {
                Some((until, WakeReason::HostTimeout))
            }
            Stage::BackOff { until } => Some((until, WakeReason::BackOff)),
            Stage::Waiting | Stage::Running { .. } | Stage::Stopped | Stage::Failed => None,
        }
    }

    /// Why it is in its state, and what its author should know.
    pub(super) fn why_now(&self) -> String {
        let weaker = self.enforced.iter().filter(|e| e.degraded && self.has_instance());
        let weaker: Vec<&str> = weaker.map(|e| e.what.as_str()).collect();
        let unmapped: Vec<&str> = self.unmapped.iter().map(SignalPattern::as_str).collect();
        let parts = [self.why.clone(), listed("degraded: ", &weaker), listed("no bus here maps ", &unmapped)];
        let said: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        said.join("; ")
    }

    pub(super) fn view(&self) -> AppView {
        let state = match self.stage {
            Stage::Waiting => "waiting",
            Stage::Starting { .. } => "starting",
            Stage::Running { .. } if self.frozen => "frozen",
            Stage::Running { .. } => "running",
            Stage::BackOff { .. } => "back-off",
            Stage::Stopping { .. } => "stopping",
            Stage::Stopped => "stopped",
            Stage::Failed => "failed",
        };
        AppView {
            app: self.app.app_ref(),
            class: self.app.class,
            state: state.into(),
            why: self.why_now(),
            bundle: self.app.bundle,
            instance: self.instance,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit,
            start_us: self.start_us,
            resources: self.app.resources,
            enforced: self.enforced.clone(),
            island: self.island,
            usage: self.usage.clone(),
        }
    }
}

/// The names after what they have in common; nothing if there are none.
fn listed(what: &str, names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { alloc::format!("{what}{}", names.join(", ")) }
}

impl Supervisor {
    pub(super) fn set(&mut self, now: Timestamp, app: App, held: bool) {
        let name = app.app_ref();
        let Some(kept) = self.apps.get_mut(&name) else {
            self.apps.insert(name.clone(), Kept::new(app, held));
            return self.advance(now, &name);
        };
        let old = core::mem::replace(&mut kept.app, app);
        let new = &kept.app;
        let (grants, nodes) = (old.grants.clone(), old.nodes.clone());
        let live = App { resources: old.resources, grants, nodes, ..new.clone() } == old;
        let (resized, regranted) = (old.resources != new.resources, old.grants != new.grants);
        let running = matches!(kept.stage, Stage::Running { .. });
        let same_island = (old.grants != Grants::default()) == kept.wants_island();
        if running && live && same_island {
            let resources = kept.app.resources;
            if regranted {
                self.open_island(&name);
            }
            if resized {
                self.command(HostCommand::Resize { app: name.clone(), resources });
            }
        } else if kept.has_instance() && (!live || resized || regranted) {
            self.stop(now, &name, Then::Start, "its manifest changed");
        } else if !kept.has_instance() {
            kept.failures = 0;
            kept.stage = Stage::Waiting;
            self.advance(now, &name);
        }
        self.hold(&name, held);
    }

    pub(super) fn remove(&mut self, now: Timestamp, name: &AppRef) {
        match self.apps.get(name).map(Kept::has_instance) {
            Some(true) => self.stop(now, name, Then::Forget, "it was deleted"),
            Some(false) => {
                self.apps.remove(name);
            }
            None => {}
        }
    }

    pub(super) fn restart(&mut self, now: Timestamp, name: &AppRef) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        kept.failures = 0;
        if kept.has_instance() {
            self.stop(now, name, Then::Start, "a restart was asked for");
        } else {
            kept.stage = Stage::Waiting;
            self.advance(now, name);
        }
    }

    pub(super) fn stop(&mut self, now: Timestamp, name: &AppRef, then: Then, why: &str) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        let grace = kept.app.stop_timeout;
        kept.stage = Stage::Stopping { until: now + grace.duration() + HOST_WAIT, then };
        kept.why = why.into();
        self.decide(DecisionKind::Stop, alloc::format!("{name}"), why.into());
        self.command(HostCommand::Stop { app: name.clone(), grace });
    }

    /// Takes an app as far as it can go: bundle, border, start.
    pub(super) fn advance(&mut self, now: Timestamp, name: &AppRef) {
        if !self.greeted || self.closing {
            return;
        }
        let Some(kept) = self.apps.get(name).filter(|kept| kept.stage == Stage::Waiting) else { return };
        let bundles: Vec<_> = core::iter::once(kept.app.bundle).chain(kept.app.base).collect();
        let border = kept.wants_island().then(|| Face::Border(kept.app.tenant.clone()));
        let mut missing: Vec<String> = Vec::new();
        for bundle in bundles {
            self.import(bundle);
            if self.imports.get(&bundle) != Some(&Import::Here) {
                missing.push(alloc::format!("bundle {bundle}"));
            }
        }
        if let Some(border) = border {
            self.want_face(&border);
            if !self.faces_up.contains(&border) {
                missing.push(alloc::format!("face {border}"));
            }
        }
        if missing.is_empty() {
            return self.start(now, name);
        }
        if let Some(kept) = self.apps.get_mut(name) {
            kept.why = alloc::format!("waits for {}", missing.join(", "));
        }
    }

    fn start(&mut self, now: Timestamp, name: &AppRef) {
        self.instances += 1;
        let instance = self.instance_base + self.instances;
        let Some(kept) = self.apps.get_mut(name) else { return };
        kept.instance = instance;
        kept.starts += 1;
        kept.stage = Stage::Starting { until: now + HOST_WAIT };
        kept.why = String::new();
        (kept.freeze_asked, kept.frozen) = (Some(false), false);
        let start = StartApp {
            app: name.clone(),
            instance,
            bundle: kept.app.bundle,
            base: kept.app.base,
            command: kept.app.command.clone(),
            env: kept.app.env.clone(),
            class: kept.app.class,
            resources: kept.app.resources,
            island: kept.wants_island(),
        };
        let why = alloc::format!("instance {instance}, start {}", kept.starts);
        self.decide(DecisionKind::Start, alloc::format!("{name}"), why);
        self.open_island(name);
        self.command(HostCommand::Start(start));
    }

    /// An instance is gone, or never came to be.
    pub(super) fn instance_ended(&mut self, now: Timestamp, name: &AppRef, exit: Option<Exit>, why: &str) {
        self.close_island(name);
        let Some(kept) = self.apps.get_mut(name) else { return };
        let stage = kept.stage;
        kept.last_exit = exit.or(kept.last_exit);
        (kept.frozen, kept.freeze_asked) = (false, Some(false));
        kept.why = why.into();
        if let Stage::Stopping { then, .. } = stage {
            return self.stopped(now, name, then);
        }
        let success = exit.is_some_and(|exit| exit.is_success());
        let again = match kept.app.restart {
            Restart::Never => exit.is_none(),
            Restart::OnFailure => !success,
            Restart::Always => true,
        };
        if self.closing || !again {
            kept.stage = if success || self.closing { Stage::Stopped } else { Stage::Failed };
            return;
        }
        if matches!(stage, Stage::Running { since } if now.since(since) >= HEALTHY_AFTER) {
            kept.failures = 0;
        }
        kept.failures += 1;
        if kept.failures > BURST_MAX {
            kept.stage = Stage::Failed;
            kept.why = alloc::format!("ended {BURST_MAX} times in a row; last: {why}");
            let why = kept.why.clone();
            return self.decide(DecisionKind::GiveUp, alloc::format!("{name}"), why);
        }
        let wait = back_off(self.seed, kept.instance, kept.failures);
        kept.stage = Stage::BackOff { until: now + wait };
        let why = alloc::format!("{why}; end {} in a row, again in {} ms", kept.failures, wait.as_millis());
        self.decide(DecisionKind::BackOff, alloc::format!("{name}"), why);
    }

    fn stopped(&mut self, now: Timestamp, name: &AppRef, then: Then) {
        match then {
            Then::Forget => {
                self.apps.remove(name);
            }
            Then::Start => {
                if let Some(kept) = self.apps.get_mut(name) {
                    kept.stage = Stage::Waiting;
                }
                self.advance(now, name);
            }
            Then::Rest => {
                if let Some(kept) = self.apps.get_mut(name) {
                    kept.stage = Stage::Stopped;
                }
            }
        }
    }

    /// Time has come for something about an app.
    pub(super) fn app_due(&mut self, now: Timestamp, name: &AppRef) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        match kept.stage {
            Stage::BackOff { .. } => {
                kept.stage = Stage::Waiting;
                self.advance(now, name);
            }
            Stage::Starting { .. } => {
                // It may have started after all: whatever runs of it must be gone before the next start.
                self.stop(now, name, Then::Start, "host did not answer the start in time");
            }
            Stage::Stopping { then, .. } => {
                kept.stage = Stage::Stopping { until: now + HOST_WAIT, then };
                self.command(HostCommand::Stop { app: name.clone(), grace: Span::default() });
            }
            Stage::Waiting | Stage::Running { .. } | Stage::Stopped | Stage::Failed => {}
        }
    }
}

/// Doubles from [`BACK_OFF_FIRST`] to [`BACK_OFF_MAX`], moved by up to a quarter either way so that apps that
/// ended together do not start together. The same seed and instance give the same wait.
fn back_off(seed: u64, instance: u64, failures: u32) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACK_OFF_MAX);
    let permille = 750 + mix(seed ^ instance) % 501;
    doubled.saturating_mul(u32::try_from(permille).unwrap_or(1000)) / 1000
}

/// SplitMix64, one step: spreads a number over 64 bits. Source: Steele, Lea, Flood, OOPSLA 2014.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
