//! What the control API may change. A change of the desired state is checked as a whole, made durable, and
//! only then carried out and answered.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use policies::admission::{Capacity, admit_app};
use policies::grant;
use policies::host::AppRef;
use policies::id::FunctionName;
use policies::limits::FUNCTIONS_MAX;
use policies::manifest::{App, Manifest};
use policies::task::Class;
use policies::time::Timestamp;
use policies::unit::CpuMilli;
use v2e_core::requester;

use super::asks::{Caller, Wanted};
use super::tickets::Ticket;
use super::{Live, fact};
use crate::io::{ControlCall, ControlRefusal, ControlReply, DecisionKind, Desired, Durable};
use crate::supervisor;

/// Most changes that wait for the disk: more than any operator types while it is busy.
const CHANGES_MAX: usize = 64;

/// A change of the desired state and what it means for the machines.
#[derive(Clone, Debug)]
struct Change {
    request: u64,
    desired: Desired,
    steps: Vec<Step>,
    lines: Vec<String>,
}

#[derive(Clone, Debug)]
enum Step {
    Set(AppRef),
    Remove(AppRef),
    Hold(AppRef, bool),
    SetFunction(FunctionName),
    RemoveFunction(FunctionName),
}

/// Changes under way: one at the disk, the others waiting in order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    saving: Option<Change>,
    waiting: VecDeque<(u64, ControlCall)>,
}

impl Live {
    pub(super) fn control(&mut self, now: Timestamp, request: u64, call: ControlCall) {
        match call {
            ControlCall::RunTask { function, deadline_us, class, effect, input } => {
                let wanted = Wanted { function, deadline_us, class, effect, input };
                match self.spec_of(None, &wanted) {
                    Ok(spec) => self.submit(now, spec, now, Caller::Control { request }),
                    Err(why) => {
                        let fix =
                            Some("verge get functions lists what is known; verge apply adds to it".into());
                        let refusal = ControlRefusal { what: "task run".into(), why, fix };
                        self.reply(request, ControlReply::Refused { refusals: alloc::vec![refusal] });
                    }
                }
            }
            ControlCall::Cancel { task } => {
                if task.owner != self.config.node || task.incarnation != self.life {
                    let why = alloc::format!("{task} does not belong to this life of this node");
                    return self.reply_refused(request, "task cancel", why);
                }
                self.requester.handle(now, requester::Input::Cancel { number: task.number });
                self.reply_ok(request, alloc::vec![alloc::format!("task {task} is being cancelled")]);
            }
            ControlCall::Restart { app } => {
                if self.supervisor.app(&app).is_none() {
                    return self.reply_refused(
                        request,
                        "restart",
                        alloc::format!("no app {app} is kept here"),
                    );
                }
                self.supervisor.handle(now, supervisor::Input::Restart(app.clone()));
                self.reply_ok(request, alloc::vec![alloc::format!("app {app} restarts")]);
            }
            ControlCall::Call { want, area, function, wait_us } => {
                self.open_call(now, request, want, area, function, wait_us);
            }
            ControlCall::Shutdown { grace } => {
                self.supervisor.handle(now, supervisor::Input::Shutdown { grace });
                self.reply_ok(request, alloc::vec!["the node shuts down".into()]);
            }
            change @ (ControlCall::Apply { .. }
            | ControlCall::Delete { .. }
            | ControlCall::DeleteFunction { .. }
            | ControlCall::Freeze { .. }
            | ControlCall::Thaw { .. }
            | ControlCall::Resize { .. }) => self.queue_change(request, change),
        }
    }

    fn reply_ok(&mut self, request: u64, lines: Vec<String>) {
        self.reply(request, ControlReply::Ok { lines });
    }

    fn queue_change(&mut self, request: u64, call: ControlCall) {
        if self.changes.waiting.len() >= CHANGES_MAX {
            let why = alloc::format!("{CHANGES_MAX} changes wait for the disk already");
            return self.reply_refused(request, "change", why);
        }
        self.changes.waiting.push_back((request, call));
        self.next_change();
    }

    /// Hands the next change to the disk, if none is there.
    fn next_change(&mut self) {
        while self.changes.saving.is_none() {
            let Some((request, call)) = self.changes.waiting.pop_front() else { return };
            match self.draft(request, call) {
                Ok(change) => {
                    self.persist(Durable::Desired(change.desired.clone()), Ticket::Desired);
                    self.changes.saving = Some(change);
                }
                Err(refusals) => {
                    for refusal in &refusals {
                        let (about, why) = (refusal.what.clone(), refusal.why.clone());
                        self.decide(DecisionKind::Refuse, about, why, Vec::new());
                    }
                    self.reply(request, ControlReply::Refused { refusals });
                }
            }
        }
    }

    pub(super) fn change_saved(&mut self, now: Timestamp, result: Result<(), String>) {
        let Some(change) = self.changes.saving.take() else { return };
        match result {
            Ok(()) => {
                self.desired = change.desired;
                for step in change.steps {
                    self.carry_out(now, step);
                }
                self.reply_ok(change.request, change.lines);
            }
            Err(why) => {
                let why = alloc::format!("the desired state could not be saved: {why}");
                let fix = Some("free space on the state directory's disk, then repeat".into());
                let refusals = alloc::vec![ControlRefusal { what: "change".into(), why, fix }];
                self.reply(change.request, ControlReply::Refused { refusals });
            }
        }
        self.next_change();
    }

    fn carry_out(&mut self, now: Timestamp, step: Step) {
        match step {
            Step::Set(name) => {
                let Some(app) = find(&self.desired.manifest, &name).cloned() else { return };
                let held = self.desired.frozen.contains(&name);
                let facts = alloc::vec![fact("class", app.class), fact("bundle", app.bundle)];
                self.decide(DecisionKind::Admit, alloc::format!("{name}"), "applied".into(), facts);
                self.supervisor.handle(now, supervisor::Input::Set { app, held });
            }
            Step::Remove(name) => self.supervisor.handle(now, supervisor::Input::Remove(name)),
            Step::Hold(app, held) => self.supervisor.handle(now, supervisor::Input::Hold { app, held }),
            Step::SetFunction(name) => {
                let function = self.desired.manifest.functions.iter().find(|f| f.name == name).cloned();
                if let Some(function) = function {
                    let facts = alloc::vec![fact("bundle", function.bundle)];
                    self.decide(
                        DecisionKind::Admit,
                        alloc::format!("function {name}"),
                        "applied".into(),
                        facts,
                    );
                    self.set_function(now, function);
                }
            }
            Step::RemoveFunction(name) => self.functions.remove(&name),
        }
    }

    /// What a call would change, checked as a whole.
    fn draft(&self, request: u64, call: ControlCall) -> Result<Change, Vec<ControlRefusal>> {
        let mut desired = self.desired.clone();
        desired.version += 1;
        let (steps, lines) = match call {
            ControlCall::Apply { manifest } => return self.draft_apply(request, desired, manifest),
            ControlCall::Delete { app } => {
                self.must_exist(&app)?;
                desired.manifest.apps.retain(|kept| kept.app_ref() != app);
                desired.frozen.retain(|frozen| *frozen != app);
                (alloc::vec![Step::Remove(app.clone())], alloc::format!("app {app} deleted"))
            }
            ControlCall::DeleteFunction { function } => {
                if self.functions.get(&function).is_none() {
                    return Err(refusal("function", alloc::format!("no function {function} is kept here")));
                }
                desired.manifest.functions.retain(|kept| kept.name != function);
                let line = alloc::format!("function {function} deleted");
                (alloc::vec![Step::RemoveFunction(function)], line)
            }
            ControlCall::Freeze { app } => {
                self.must_exist(&app)?;
                if !desired.frozen.contains(&app) {
                    desired.frozen.push(app.clone());
                }
                (alloc::vec![Step::Hold(app.clone(), true)], alloc::format!("app {app} frozen"))
            }
            ControlCall::Thaw { app } => {
                self.must_exist(&app)?;
                desired.frozen.retain(|frozen| *frozen != app);
                (alloc::vec![Step::Hold(app.clone(), false)], alloc::format!("app {app} thawed"))
            }
            ControlCall::Resize { app, resources } => {
                let Some(kept) = find(&self.desired.manifest, &app) else {
                    return Err(refusal("app", alloc::format!("no app {app} is kept here")));
                };
                let resized = App { resources, ..kept.clone() };
                let manifest = Manifest { apps: alloc::vec![resized], functions: Vec::new() };
                return self.draft_apply(request, desired, manifest);
            }
            ControlCall::Restart { .. }
            | ControlCall::RunTask { .. }
            | ControlCall::Cancel { .. }
            | ControlCall::Call { .. }
            | ControlCall::Shutdown { .. } => {
                return Err(refusal("change", "it changes nothing that is kept".into()));
            }
        };
        Ok(Change { request, desired, steps, lines: alloc::vec![lines] })
    }

    fn must_exist(&self, app: &AppRef) -> Result<(), Vec<ControlRefusal>> {
        match find(&self.desired.manifest, app) {
            Some(_) => Ok(()),
            None => Err(refusal("app", alloc::format!("no app {app} is kept here"))),
        }
    }

    fn draft_apply(
        &self,
        request: u64,
        mut desired: Desired,
        manifest: Manifest,
    ) -> Result<Change, Vec<ControlRefusal>> {
        let (mut steps, mut lines, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for app in manifest.apps {
            let name = app.app_ref();
            let kept = desired.manifest.apps.len();
            desired.manifest.apps.retain(|kept| kept.app_ref() != name);
            if !app.nodes.have(&self.config.node) {
                lines.push(alloc::format!("app {name} runs at {}, not here", app.nodes));
                if desired.manifest.apps.len() < kept {
                    desired.frozen.retain(|frozen| *frozen != name);
                    steps.push(Step::Remove(name));
                }
                continue;
            }
            refusals.extend(self.check_app(&desired.manifest, &app));
            lines.push(alloc::format!("app {name} applied{}", self.sources_missing(&app)));
            desired.manifest.apps.push(app);
            steps.push(Step::Set(name));
        }
        for function in manifest.functions {
            desired.manifest.functions.retain(|kept| kept.name != function.name);
            let here = function.nodes.have(&self.config.node);
            let elsewhere =
                if here { String::new() } else { alloc::format!("; it runs at {}", function.nodes) };
            lines.push(alloc::format!("function {} applied{elsewhere}", function.name));
            steps.push(Step::SetFunction(function.name.clone()));
            desired.manifest.functions.push(function);
        }
        if desired.manifest.functions.len() > FUNCTIONS_MAX {
            let got = desired.manifest.functions.len();
            let why = alloc::format!("{got} functions would be kept; {FUNCTIONS_MAX} is the maximum");
            refusals.extend(refusal("functions", why));
        }
        if refusals.is_empty() { Ok(Change { request, desired, steps, lines }) } else { Err(refusals) }
    }

    /// Whether an app was granted what this node has no source of.
    fn sources_missing(&self, app: &App) -> &'static str {
        let no_bus = !self.config.bus && !app.grants.signals.is_empty();
        let no_camera = !self.config.camera && !app.grants.cameras.is_empty();
        match (no_bus, no_camera) {
            (true, true) => "; this node has neither bus nor camera: it gets no signal and no frame",
            (true, false) => "; this node has no bus: it gets no signal",
            (false, true) => "; this node has no camera: it gets no frame",
            (false, false) => "",
        }
    }

    /// Everything that speaks against an app: class, grants, room.
    fn check_app(&self, kept: &Manifest, app: &App) -> Vec<ControlRefusal> {
        let what = alloc::format!("app {}", app.app_ref());
        let mut refusals = Vec::new();
        let mut refuse = |why: String, fix: Option<String>| {
            refusals.push(ControlRefusal { what: what.clone(), why, fix });
        };
        let best = self.config.policy.tenant(&app.tenant).map_or(Class::default(), |rule| rule.best_class);
        if app.class < best {
            let why =
                alloc::format!("class {} is better than tenant {} may have: {best}", app.class, app.tenant);
            let fix = alloc::format!("write class: {best}, or raise best_class in the node's policy");
            refuse(why, Some(fix));
        }
        if let Err(refused) = grant::decide(&self.config.policy, &app.tenant, &app.grants) {
            for one in refused {
                let fix = alloc::format!("allow it for tenant {} in the node's policy", one.tenant);
                refuse(alloc::format!("{one}"), Some(fix));
            }
        }
        let existing: Vec<_> = kept.apps.iter().map(|app| (app.class, app.resources)).collect();
        let cpu = CpuMilli::new(u32::from(self.config.cores) * 1000).unwrap_or(CpuMilli::MAX);
        let capacity = Capacity { cpu, memory: self.config.memory };
        if let Err(reject) = admit_app(&existing, (app.class, &app.resources), capacity) {
            refuse(alloc::format!("{reject}"), Some(reject.fix().into()));
        }
        refusals
    }
}

fn find<'a>(manifest: &'a Manifest, name: &AppRef) -> Option<&'a App> {
    manifest.apps.iter().find(|app| app.tenant == name.tenant && app.name == name.app)
}

fn refusal(what: &str, why: String) -> Vec<ControlRefusal> {
    alloc::vec![ControlRefusal { what: what.into(), why, fix: None }]
}
