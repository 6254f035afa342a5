//! A model of `verge-host`: carries out commands and answers after times as measured. It decides nothing that
//! the real one does not decide, and keeps what the kernel would keep: which apps run.

use std::collections::{BTreeMap, BTreeSet};

use policies::host::{
    AppRef, Enforced, Exit, Face, HostCommand, HostEvent, HostRefusal, Pressure, StartApp, Usage,
};
use policies::id::{Incarnation, NodeId};

use crate::chance::{Chance, Ratio};

/// An app as the kernel has it.
#[derive(Clone, Debug)]
struct Running {
    instance: u64,
    frozen: bool,
}

/// One node's host.
#[derive(Clone, Debug, Default)]
pub struct HostModel {
    apps: BTreeMap<AppRef, Running>,
    faces: BTreeSet<Face>,
    /// What the next sample reports.
    pub pressure: Pressure,
    /// Whether starts and imports may fail.
    pub unreliable: bool,
}

/// An answer and how long it takes, microseconds.
pub type Answer = (u64, HostEvent);

impl HostModel {
    /// The first event for a new node process.
    pub fn hello(&self, node: &NodeId, incarnation: Incarnation) -> HostEvent {
        let adopted = self.apps.iter().map(|(app, running)| (app.clone(), running.instance)).collect();
        HostEvent::Hello { node: node.clone(), incarnation, machine: Vec::new(), adopted }
    }

    /// Power is gone: nothing runs any more.
    pub fn power_cut(&mut self) {
        self.apps.clear();
        self.faces.clear();
        self.pressure = Pressure::default();
    }

    /// Whether an app runs and is not frozen.
    pub fn is_running(&self, app: &AppRef) -> bool {
        self.apps.get(app).is_some_and(|running| !running.frozen)
    }

    /// Kills one of the running apps.
    pub fn crash_one(&mut self, chance: &mut Chance) -> Option<HostEvent> {
        let names: Vec<AppRef> = self.apps.keys().cloned().collect();
        let app = chance.pick(&names)?.clone();
        let instance = self.apps.remove(&app)?.instance;
        Some(HostEvent::Exited { app, instance, exit: Exit::Signal(11) })
    }

    /// Carries out a command; the answers follow.
    pub fn handle(&mut self, command: HostCommand, chance: &mut Chance) -> Vec<Answer> {
        match command {
            HostCommand::Import { bundle } if self.fails(chance) => {
                let refusal = refusal("import", "the signature does not match");
                vec![(2_000, HostEvent::ImportRefused { bundle, refusal })]
            }
            HostCommand::Import { bundle } => {
                let event = HostEvent::Imported { bundle, signed_by: "fleet".into() };
                vec![(chance.between((2_000, 20_000)), event)]
            }
            HostCommand::Start(start) => self.start(start, chance),
            HostCommand::Stop { app, grace } => {
                self.stop(&app, chance.between((500, grace.as_micros().max(500))))
            }
            HostCommand::Freeze { app } => self.set_frozen(app, true),
            HostCommand::Thaw { app } => self.set_frozen(app, false),
            HostCommand::Resize { app, .. } if self.apps.contains_key(&app) => {
                vec![(50, HostEvent::Confined { app, enforced: enforced() })]
            }
            HostCommand::Resize { app, .. } => not_running(&app),
            HostCommand::SqueezeClass { class, share } => {
                vec![(50, HostEvent::Squeezed { class, share, by: "cgroup2 cpu.weight".into() })]
            }
            HostCommand::StartFace { face } => {
                self.faces.insert(face.clone());
                vec![(chance.between((2_000, 8_000)), HostEvent::FaceStarted { face })]
            }
            HostCommand::Sample => {
                let apps = self.apps.iter().map(|(app, running)| (app.clone(), usage(running))).collect();
                vec![(200, HostEvent::Sampled { apps, pressure: self.pressure })]
            }
            HostCommand::Shutdown { grace } => {
                let apps: Vec<AppRef> = self.apps.keys().cloned().collect();
                apps.iter().flat_map(|app| self.stop(app, grace.as_micros())).collect()
            }
        }
    }

    fn fails(&self, chance: &mut Chance) -> bool {
        chance.happens(if self.unreliable { Ratio::permille(20) } else { Ratio::NEVER })
    }

    fn start(&mut self, start: StartApp, chance: &mut Chance) -> Vec<Answer> {
        let StartApp { app, instance, .. } = start;
        if self.apps.contains_key(&app) {
            let refusal = refusal("start", "it is running already");
            return vec![(100, HostEvent::StartFailed { app, instance, refusal })];
        }
        if self.fails(chance) {
            let refusal = refusal("start", "no memory");
            return vec![(1_000, HostEvent::StartFailed { app, instance, refusal })];
        }
        self.apps.insert(app.clone(), Running { instance, frozen: false });
        let took_us = chance.between((900, 3_000));
        vec![(took_us, HostEvent::Started { app, instance, took_us, enforced: enforced() })]
    }

    fn stop(&mut self, app: &AppRef, after: u64) -> Vec<Answer> {
        match self.apps.remove(app) {
            Some(Running { instance, .. }) => {
                vec![(after, HostEvent::Exited { app: app.clone(), instance, exit: Exit::Code(0) })]
            }
            None => not_running(app),
        }
    }

    fn set_frozen(&mut self, app: AppRef, frozen: bool) -> Vec<Answer> {
        match self.apps.get_mut(&app) {
            Some(running) => {
                running.frozen = frozen;
                vec![(100, HostEvent::FreezeChanged { app, frozen, by: "cgroup2 cgroup.freeze".into() })]
            }
            None => not_running(&app),
        }
    }
}

fn not_running(app: &AppRef) -> Vec<Answer> {
    let refusal = refusal("find", "it is not running");
    vec![(50, HostEvent::Refused { command: app.to_string(), refusal })]
}

fn refusal(what: &str, why: &str) -> HostRefusal {
    HostRefusal { what: what.into(), why: why.into(), fix: None }
}

fn enforced() -> Vec<Enforced> {
    vec![Enforced {
        what: "memory".into(),
        by: "cgroup2 memory.max".into(),
        value: "33554432".into(),
        degraded: false,
    }]
}

fn usage(running: &Running) -> Usage {
    Usage { frozen: running.frozen, pids: Some(1), memory: Some(4 << 20), ..Usage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fleet;
    use policies::task::Class;

    #[test]
    fn an_app_runs_once_until_it_stops() {
        let app = fleet(1, 2)[1].manifest.apps[0].clone();
        let name = AppRef { tenant: app.tenant, app: app.name };
        let start = |instance| {
            HostCommand::Start(StartApp {
                app: name.clone(),
                instance,
                bundle: app.bundle,
                base: None,
                command: Vec::new(),
                env: Vec::new(),
                class: Class::Comfort,
                resources: app.resources,
                island: false,
            })
        };
        let (mut host, mut chance) = (HostModel::default(), Chance::new(1, "test"));
        assert!(matches!(host.handle(start(1), &mut chance)[0].1, HostEvent::Started { instance: 1, .. }));
        assert!(matches!(host.handle(start(2), &mut chance)[0].1, HostEvent::StartFailed { .. }));
        host.handle(HostCommand::Freeze { app: name.clone() }, &mut chance);
        assert!(!host.is_running(&name));
        assert!(matches!(host.crash_one(&mut chance), Some(HostEvent::Exited { instance: 1, .. })));
        assert_eq!(host.crash_one(&mut chance), None);
    }
}
