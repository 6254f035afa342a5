//! What is done about pressure, and by hand: squeeze, freeze, thaw.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use policies::host::{AppRef, HostCommand, Pressure, Usage};
use policies::ladder::Step;
use policies::task::Class;
use policies::time::Timestamp;

use super::app::Stage;
use super::{Kept, Supervisor};
use crate::io::DecisionKind;

impl Supervisor {
    pub(super) fn class_is_frozen(&self, class: Class) -> bool {
        self.ladder.as_ref().is_some_and(|ladder| ladder.is_frozen(class))
    }

    pub(super) fn sampled(&mut self, now: Timestamp, apps: Vec<(AppRef, Usage)>, pressure: Pressure) {
        self.pressure = pressure;
        for (app, usage) in apps {
            if let Some(kept) = self.apps.get_mut(&app) {
                kept.usage = usage;
            }
        }
        let running = |kept: &&Kept| matches!(kept.stage, Stage::Running { .. });
        let classes: BTreeSet<Class> = self.apps.values().filter(running).map(|k| k.app.class).collect();
        let classes: Vec<Class> = classes.into_iter().collect();
        let step = self.ladder.as_mut().and_then(|ladder| ladder.handle(now, pressure, &classes));
        if let Some(step) = step {
            self.take_step(step);
        }
    }

    fn take_step(&mut self, step: Step) {
        let (kind, class, share) = match step {
            Step::Squeeze { class, share, .. } => (DecisionKind::Squeeze, class, Some(share)),
            Step::Unsqueeze { class, share, .. } => (DecisionKind::Squeeze, class, Some(share)),
            Step::Freeze { class, .. } => (DecisionKind::Freeze, class, None),
            Step::Thaw { class, .. } => (DecisionKind::Thaw, class, None),
        };
        let why = alloc::format!("{step}");
        self.decide(kind, alloc::format!("class {class}"), why.clone());
        if let Some(share) = share {
            return self.command(HostCommand::SqueezeClass { class, share });
        }
        for name in self.by_class() {
            if self.apps.get(&name).is_some_and(|kept| kept.app.class == class) {
                self.reconcile_freeze(&name, &why);
            }
        }
    }

    pub(super) fn hold(&mut self, name: &AppRef, held: bool) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        if core::mem::replace(&mut kept.held, held) == held {
            return;
        }
        let kind = if held { DecisionKind::Freeze } else { DecisionKind::Thaw };
        self.decide(kind, alloc::format!("{name}"), "asked for by the operator".into());
        self.reconcile_freeze(name, "by the operator");
    }

    /// Asks host to freeze or thaw a running app, if that is not what was asked last.
    pub(super) fn reconcile_freeze(&mut self, name: &AppRef, why: &str) {
        let Some(kept) = self.apps.get(name).filter(|k| matches!(k.stage, Stage::Running { .. })) else {
            return;
        };
        let by_pressure = self.class_is_frozen(kept.app.class);
        let wanted = kept.held || by_pressure;
        if kept.freeze_asked == Some(wanted) {
            return;
        }
        if let Some(kept) = self.apps.get_mut(name) {
            kept.freeze_asked = Some(wanted);
            if wanted {
                kept.why =
                    if why.is_empty() { "its class is frozen, or an operator froze it" } else { why }.into();
            }
        }
        let app = name.clone();
        self.command(if wanted { HostCommand::Freeze { app } } else { HostCommand::Thaw { app } });
    }
}
