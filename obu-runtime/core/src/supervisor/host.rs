//! What host says, event by event.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use policies::host::{AppRef, Enforced, Exit, HostCommand, HostEvent, HostRefusal};
use policies::time::Timestamp;
use policies::unit::Span;

use super::app::Stage;
use super::{Kept, SAMPLE_EVERY, Supervisor};
use crate::io::DecisionKind;

impl Supervisor {
    pub(super) fn host_says(&mut self, now: Timestamp, event: HostEvent) {
        match event {
            HostEvent::Hello { adopted, .. } => self.greet(now, adopted),
            HostEvent::Imported { bundle, .. } => self.imported(now, bundle),
            HostEvent::ImportRefused { bundle, refusal } => self.import_refused(bundle, text(&refusal)),
            HostEvent::Started { app, instance, took_us, enforced } => {
                self.started(now, &app, instance, took_us, enforced);
            }
            HostEvent::StartFailed { app, instance, refusal } => {
                if self.is_instance(&app, instance) {
                    self.instance_ended(now, &app, None, &text(&refusal));
                }
            }
            HostEvent::Exited { app, instance, exit } => {
                if self.is_instance(&app, instance) {
                    self.instance_ended(now, &app, Some(exit), &exit_text(exit));
                }
            }
            HostEvent::FreezeChanged { app, frozen, by } => self.freeze_changed(&app, frozen, &by),
            HostEvent::Confined { app, enforced } => {
                if let Some(kept) = self.apps.get_mut(&app) {
                    kept.enforced = enforced;
                }
            }
            HostEvent::Squeezed { .. } => {}
            HostEvent::Refused { command, refusal } => {
                self.decide(DecisionKind::Refuse, command, text(&refusal));
            }
            HostEvent::FaceStarted { face } => self.face_up(now, face),
            HostEvent::FaceExited { face, exit, why } => {
                self.face_down(face, why.unwrap_or_else(|| exit_text(exit)));
            }
            HostEvent::Sampled { apps, pressure } => self.sampled(now, apps, pressure),
            HostEvent::Ending { .. } if self.closing => {}
            HostEvent::Ending { grace } => {
                self.decide(DecisionKind::Stop, "node".into(), "its host was told to end".into());
                self.close(now, grace);
            }
        }
    }

    fn is_instance(&self, app: &AppRef, instance: u64) -> bool {
        self.apps.get(app).is_some_and(|kept| kept.instance == instance && kept.has_instance())
    }

    /// Host is there, for the first time or again: take over what runs, ask anew for everything else.
    fn greet(&mut self, now: Timestamp, adopted: Vec<(AppRef, u64)>) {
        self.greeted = true;
        self.sample_at = now + SAMPLE_EVERY;
        self.imports.clear();
        self.faces_up.clear();
        self.faces_lost.clear();
        let wanted = core::mem::take(&mut self.faces_wanted);
        wanted.iter().for_each(|face| self.want_face(face));
        let mut adopted: BTreeMap<AppRef, u64> = adopted.into_iter().collect();
        for name in self.by_class() {
            match adopted.remove(&name) {
                Some(instance) => self.adopt(now, &name, instance),
                None if self.apps.get(&name).is_some_and(Kept::has_instance) => {
                    self.instance_ended(now, &name, Some(Exit::Unknown), "gone while host was away");
                }
                None => self.advance(now, &name),
            }
        }
        for app in adopted.into_keys() {
            let why = "it runs, but is not in the desired state";
            self.decide(DecisionKind::Stop, alloc::format!("{app}"), why.into());
            self.command(HostCommand::Stop { app, grace: Span::from_millis(2_000) });
        }
    }

    fn adopt(&mut self, now: Timestamp, name: &AppRef, instance: u64) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        kept.instance = instance;
        // A node process that died in this life of host has given these numbers; host takes none twice.
        self.instances = self.instances.max(instance.saturating_sub(self.instance_base));
        kept.starts = kept.starts.max(1);
        kept.freeze_asked = None;
        if !matches!(kept.stage, Stage::Stopping { .. }) {
            kept.stage = Stage::Running { since: now };
            kept.why = "adopted".into();
        }
        let bundle = kept.app.bundle;
        self.import(bundle);
        if let Some(kept) = self.apps.get(name).filter(|kept| kept.wants_island()) {
            let border = policies::host::Face::Border(kept.app.tenant.clone());
            self.want_face(&border);
        }
        let why = alloc::format!("instance {instance} was found running");
        self.decide(DecisionKind::Adopt, alloc::format!("{name}"), why);
        self.reconcile_freeze(name, "");
    }

    fn started(
        &mut self,
        now: Timestamp,
        name: &AppRef,
        instance: u64,
        took_us: u64,
        enforced: Vec<Enforced>,
    ) {
        let Some(kept) = self.apps.get_mut(name).filter(|kept| kept.instance == instance) else { return };
        let Stage::Starting { .. } = kept.stage else { return };
        kept.stage = Stage::Running { since: now };
        kept.start_us = took_us;
        kept.why = String::new();
        kept.enforced = enforced;
        self.reconcile_freeze(name, "");
    }

    fn freeze_changed(&mut self, name: &AppRef, frozen: bool, by: &str) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        kept.frozen = frozen;
        if frozen && !kept.why.contains(by) {
            kept.why = alloc::format!("{}; by {by}", kept.why);
        } else if !frozen {
            kept.why = String::new();
        }
    }
}

fn text(refusal: &HostRefusal) -> String {
    match &refusal.fix {
        Some(fix) => alloc::format!("{refusal} ({fix})"),
        None => alloc::format!("{refusal}"),
    }
}

fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => alloc::format!("exit code {code}"),
        Exit::Signal(signal) => alloc::format!("ended by signal {signal}"),
        Exit::OutOfMemory => "killed by the kernel: out of memory".into(),
        Exit::Unknown => "gone without a trace".into(),
    }
}
