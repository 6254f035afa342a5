//! Functions that this node can run: bundle in the store, module loaded in its tenant's worker, service time
//! as measured.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use policies::host::Face;
use policies::id::{Digest, FunctionName, TenantId};
use policies::manifest::Function;
use policies::quantile::{Estimate, Hint, Sketch};
use policies::task::Effect;
use policies::time::Timestamp;
use v2e_core::message::{Offer, Run};
use v2e_core::report::Realm;
use v2e_core::worker::{self, Terms};

use super::{FunctionView, Live, calls};
use crate::io::{CallEnd, DecisionKind, JobEvent, Output};
use crate::supervisor;

/// How far a function is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Readiness {
    /// Its bundle is on its way into the store.
    Importing,
    /// Its bundle is there; its worker is not.
    Stored,
    /// Its worker makes it ready.
    Loading,
    /// It can be called.
    Ready,
    /// It can't be had.
    Failed(String),
    /// It runs at other nodes; this one only knows it.
    Elsewhere,
}

#[derive(Debug)]
struct Known {
    function: Function,
    readiness: Readiness,
    service: Sketch,
}

/// All functions by name.
#[derive(Debug, Default)]
pub(super) struct Functions {
    known: BTreeMap<FunctionName, Known>,
    /// Whether an offer came or went since somebody looked.
    changed: bool,
}

impl Functions {
    pub(super) fn get(&self, name: &FunctionName) -> Option<&Function> {
        self.known.get(name).map(|known| &known.function)
    }

    pub(super) fn is_ready(&self, name: &FunctionName) -> bool {
        self.known.get(name).is_some_and(|known| known.readiness == Readiness::Ready)
    }

    /// What it takes here.
    pub(super) fn service(&self, name: &FunctionName) -> Option<Estimate<'_>> {
        let known = self.known.get(name)?;
        let hint = Hint::from_p95(known.function.service_time.as_micros());
        Some(Estimate { sketch: Some(&known.service), hint })
    }

    pub(super) fn measured(&mut self, name: &FunctionName, exec_us: u64) {
        if let Some(known) = self.known.get_mut(name) {
            known.service.add(exec_us);
        }
    }

    /// What others may be told: functions that can be called.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let ready = self.known.values().filter(|known| known.readiness == Readiness::Ready);
        ready
            .map(|known| {
                let hint = Hint::from_p95(known.function.service_time.as_micros());
                let estimate = Estimate { sketch: Some(&known.service), hint };
                let most = policies::time::micros(v2e_core::message::WAIT_MAX);
                Offer {
                    name: known.function.name.clone(),
                    bundle: known.function.bundle,
                    service_us: estimate.quantile(950).min(most),
                }
            })
            .collect()
    }

    /// Whether an offer came or went since the last time.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    pub(super) fn remove(&mut self, name: &FunctionName) {
        self.known.remove(name);
        self.changed = true;
    }

    pub(super) fn views(&self) -> Vec<FunctionView> {
        let view = |known: &Known| FunctionView {
            function: known.function.name.clone(),
            tenant: known.function.tenant.clone(),
            bundle: known.function.bundle,
            effect: known.function.effect,
            state: match &known.readiness {
                Readiness::Importing => "importing".into(),
                Readiness::Stored => "stored".into(),
                Readiness::Loading => "loading".into(),
                Readiness::Ready => "ready".into(),
                Readiness::Failed(why) => alloc::format!("failed: {why}"),
                Readiness::Elsewhere => alloc::format!("elsewhere: {}", known.function.nodes),
            },
            service_p50_us: known.service.quantile(500),
            service_p95_us: known.service.quantile(950),
            calls: known.service.count(),
        };
        self.known.values().map(view).collect()
    }
}

impl Live {
    pub(super) fn set_function(&mut self, now: Timestamp, function: Function) {
        let known = self.functions.known.get(&function.name);
        if known.is_some_and(|k| k.function == function && !matches!(k.readiness, Readiness::Failed(_))) {
            return;
        }
        let here = function.nodes.have(&self.config.node);
        let (bundle, face) = (function.bundle, Face::Worker(function.tenant.clone()));
        self.functions.changed = true;
        let readiness = if here { Readiness::Importing } else { Readiness::Elsewhere };
        let name = function.name.clone();
        self.functions.known.insert(name, Known { function, readiness, service: Sketch::new() });
        if here {
            self.need_module(now, bundle, face);
        }
    }

    fn need_module(&mut self, now: Timestamp, bundle: Digest, face: Face) {
        self.supervisor.handle(now, supervisor::Input::NeedModule { bundle, face });
    }

    /// Host is new: its store and its workers have to be asked again.
    pub(super) fn functions_anew(&mut self, now: Timestamp) {
        let mut needs = Vec::new();
        let here = |known: &&mut Known| known.readiness != Readiness::Elsewhere;
        for known in self.functions.known.values_mut().filter(here) {
            known.readiness = Readiness::Importing;
            needs.push((known.function.bundle, Face::Worker(known.function.tenant.clone())));
        }
        for (bundle, face) in needs {
            self.need_module(now, bundle, face);
        }
    }

    pub(super) fn bundle_imported(&mut self, bundle: Digest, result: Result<(), String>) {
        let importing = |k: &&mut Known| k.function.bundle == bundle && k.readiness == Readiness::Importing;
        let mut tenants = Vec::new();
        for known in self.functions.known.values_mut().filter(importing) {
            known.readiness = match &result {
                Ok(()) => Readiness::Stored,
                Err(why) => Readiness::Failed(why.clone()),
            };
            tenants.push(known.function.tenant.clone());
        }
        for tenant in tenants {
            self.load_modules(&tenant);
        }
    }

    /// Loads what is in the store, if the tenant's worker is up.
    pub(super) fn load_modules(&mut self, tenant: &TenantId) {
        if !self.supervisor.is_up(&Face::Worker(tenant.clone())) {
            return;
        }
        let stored = |k: &&mut Known| k.function.tenant == *tenant && k.readiness == Readiness::Stored;
        for known in self.functions.known.values_mut().filter(stored) {
            known.readiness = Readiness::Loading;
            let (module, memory) = (known.function.bundle, known.function.memory);
            self.outputs.push_back(Output::LoadModule { tenant: tenant.clone(), module, memory });
        }
    }

    /// A tenant's worker is gone, and with it its modules and calls. None of the calls had an effect: those
    /// go through this node.
    pub(super) fn worker_gone(&mut self, now: Timestamp, tenant: &TenantId) {
        self.functions.changed = true;
        let there = |known: &&mut Known| known.function.tenant == *tenant;
        for known in self.functions.known.values_mut().filter(there) {
            if matches!(known.readiness, Readiness::Loading | Readiness::Ready) {
                known.readiness = Readiness::Stored;
            }
        }
        for job in self.worker.jobs_of(tenant) {
            let end = worker::CallEnd::Lost { why: "its sandbox process ended".into() };
            self.worker.handle(now, worker::Input::Ended { job, end, took_us: 0 });
        }
        self.calls_lost(tenant);
    }

    pub(super) fn job_says(&mut self, now: Timestamp, event: JobEvent) {
        match event {
            JobEvent::Loaded { tenant, module } => self.loaded(&tenant, module, Ok(())),
            JobEvent::LoadFailed { tenant, module, why } => self.loaded(&tenant, module, Err(why)),
            JobEvent::Began { job } if calls::is_call(job) => {}
            JobEvent::Began { job } => self.worker.handle(now, worker::Input::Began { job }),
            JobEvent::Ended { job, end, took_us } if calls::is_call(job) => {
                self.call_ended(now, job, end, took_us);
            }
            JobEvent::Ended { job, end, took_us } => {
                let end = match end {
                    CallEnd::Returned { result, effect, reading: _ } => {
                        worker::CallEnd::Returned { result, effect }
                    }
                    CallEnd::Failed { code, why } => worker::CallEnd::Failed { code, why },
                };
                self.worker.handle(now, worker::Input::Ended { job, end, took_us });
            }
        }
    }

    fn loaded(&mut self, tenant: &TenantId, module: Digest, result: Result<(), String>) {
        let this = |known: &&mut Known| {
            known.function.tenant == *tenant
                && known.function.bundle == module
                && known.readiness == Readiness::Loading
        };
        self.functions.changed = true;
        let mut failed = Vec::new();
        for known in self.functions.known.values_mut().filter(this) {
            known.readiness = match &result {
                Ok(()) => Readiness::Ready,
                Err(why) => {
                    failed.push((known.function.name.clone(), why.clone()));
                    Readiness::Failed(why.clone())
                }
            };
        }
        for (name, why) in failed {
            self.decide(DecisionKind::GiveUp, alloc::format!("function {name}"), why, Vec::new());
        }
    }

    /// Whether and on what terms this node runs a task that someone sends; `None` for the realm is itself.
    pub(super) fn terms(&self, realm: Option<Realm>, run: &Run) -> Result<Terms, String> {
        if realm == Some(Realm::Outside) && !self.config.serve_outside {
            return Err("policy: tasks from outside the car are not run here".into());
        }
        let Some(function) = self.functions.get(&run.function) else {
            return Err(alloc::format!("function {} is not known here", run.function));
        };
        if function.bundle != run.bundle {
            return Err(alloc::format!("function {} has other code here: {}", run.function, function.bundle));
        }
        if function.effect != run.effect {
            let here = function.effect.as_str();
            return Err(alloc::format!(
                "function {} is {here} here, not {}",
                run.function,
                run.effect.as_str()
            ));
        }
        if !function.nodes.have(&self.config.node) {
            return Err(alloc::format!("function {} runs at {}, not here", run.function, function.nodes));
        }
        if !self.functions.is_ready(&run.function) {
            return Err(alloc::format!("function {} is not ready yet", run.function));
        }
        if function.effect == Effect::Once && !(self.config.bus && self.supervisor.is_up(&Face::Bus)) {
            return Err("there is no effect port here".into());
        }
        let service = self.functions.service(&run.function);
        let cost_us = service.map_or(function.service_time.as_micros(), |service| service.quantile(950));
        Ok(Terms { tenant: function.tenant.clone(), cost_us: cost_us.max(1) })
    }
}
