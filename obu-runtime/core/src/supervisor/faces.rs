//! What apps and functions need beside themselves: bundles in the store, borders, workers, islands, routes.

use alloc::collections::btree_map::Entry;
use alloc::string::String;
use alloc::vec::Vec;
use policies::face::{ToBorder, ToBus, ToCamera};
use policies::host::{AppRef, Face, HostCommand};
use policies::id::Digest;
use policies::signal::SignalPattern;
use policies::time::Timestamp;

use super::{Import, Output, Supervisor};
use crate::io::{self, DecisionKind};

impl Supervisor {
    pub(super) fn import(&mut self, bundle: Digest) {
        if let Entry::Vacant(place) = self.imports.entry(bundle) {
            place.insert(Import::Asked);
            self.command(HostCommand::Import { bundle });
        }
    }

    pub(super) fn want_face(&mut self, face: &Face) {
        if self.faces_wanted.insert(face.clone()) && !self.faces_up.contains(face) {
            self.command(HostCommand::StartFace { face: face.clone() });
        }
    }

    pub(super) fn need_module(&mut self, bundle: Digest, face: Face) {
        if !self.greeted {
            self.imports.remove(&bundle);
            self.faces_wanted.insert(face);
            return;
        }
        if self.imports.get(&bundle) == Some(&Import::Here) {
            self.outputs.push_back(Output::Imported { bundle, result: Ok(()) });
        }
        self.import(bundle);
        self.want_face(&face);
    }

    pub(super) fn imported(&mut self, now: Timestamp, bundle: Digest) {
        self.imports.insert(bundle, Import::Here);
        self.outputs.push_back(Output::Imported { bundle, result: Ok(()) });
        for name in self.by_class() {
            self.advance(now, &name);
        }
    }

    pub(super) fn import_refused(&mut self, bundle: Digest, why: String) {
        self.imports.remove(&bundle);
        self.outputs.push_back(Output::Imported { bundle, result: Err(why.clone()) });
        let wants = |kept: &&mut super::Kept| {
            kept.stage == super::Stage::Waiting
                && (kept.app.bundle == bundle || kept.app.base == Some(bundle))
        };
        let mut failed = Vec::new();
        for kept in self.apps.values_mut().filter(wants) {
            kept.stage = super::Stage::Failed;
            kept.why = why.clone();
            failed.push(kept.app.app_ref());
        }
        for name in failed {
            self.decide(DecisionKind::GiveUp, alloc::format!("{name}"), why.clone());
        }
    }

    pub(super) fn face_up(&mut self, now: Timestamp, face: Face) {
        self.faces_up.insert(face.clone());
        self.faces_lost.remove(&face);
        self.outputs.push_back(Output::FaceUp(face.clone()));
        let names = self.by_class();
        match &face {
            Face::Border(tenant) => {
                for name in names.iter().filter(|name| name.tenant == *tenant) {
                    if self.apps.get(name).is_some_and(super::Kept::has_instance) {
                        self.open_island(name);
                    }
                    self.advance(now, name);
                }
            }
            Face::Bus | Face::Camera => {
                for name in &names {
                    if self.apps.get(name).is_some_and(super::Kept::has_instance) {
                        self.route(name, &face, true);
                    }
                }
            }
            Face::Node | Face::Link | Face::Worker(_) => {}
        }
    }

    pub(super) fn face_down(&mut self, face: Face, why: String) {
        self.faces_up.remove(&face);
        self.faces_lost.insert(face.clone(), why);
        if let Face::Border(tenant) = &face {
            for kept in self.apps.values_mut().filter(|kept| kept.app.tenant == *tenant) {
                kept.island = false;
            }
        }
        self.outputs.push_back(Output::FaceDown(face));
    }

    /// Opens an app's island with its grants, or changes them, and sends it what it may see.
    pub(super) fn open_island(&mut self, name: &AppRef) {
        let Some(kept) = self.apps.get(name).filter(|kept| kept.wants_island()) else { return };
        let tenant = name.tenant.clone();
        if !self.faces_up.contains(&Face::Border(tenant.clone())) {
            return;
        }
        let grants = kept.app.grants.clone();
        let message = ToBorder::Open {
            app: name.app.clone(),
            tasks: grants.tasks,
            cameras: grants.cameras,
            can_tx: grants.can_tx,
        };
        self.outputs.push_back(Output::Do(io::Output::Border { tenant, message }));
        self.route(name, &Face::Bus, true);
        self.route(name, &Face::Camera, true);
    }

    pub(super) fn close_island(&mut self, name: &AppRef) {
        let Some(kept) = self.apps.get_mut(name).filter(|kept| kept.wants_island()) else { return };
        kept.island = false;
        self.route(name, &Face::Bus, false);
        self.route(name, &Face::Camera, false);
        let tenant = name.tenant.clone();
        if self.faces_up.contains(&Face::Border(tenant.clone())) {
            let message = ToBorder::Close { app: name.app.clone() };
            self.outputs.push_back(Output::Do(io::Output::Border { tenant, message }));
        }
    }

    /// Opens or closes the route of signals or frames to one app. An empty list is how a route is closed.
    fn route(&mut self, name: &AppRef, face: &Face, open: bool) {
        let Some(kept) = self.apps.get_mut(name).filter(|_| self.faces_up.contains(face)) else { return };
        let (app, grants) = (name.clone(), &kept.app.grants);
        let output = match face {
            Face::Bus => {
                kept.unmapped.clear();
                let signals = if open { grants.signals.clone() } else { Vec::new() };
                io::Output::Bus(ToBus::Route { app, signals })
            }
            Face::Camera => {
                let cameras = if open { grants.cameras.clone() } else { Vec::new() };
                io::Output::Camera(ToCamera::Route { app, cameras })
            }
            Face::Node | Face::Link | Face::Border(_) | Face::Worker(_) => return,
        };
        self.outputs.push_back(Output::Do(output));
    }

    /// The bus process maps none of these. Only what was granted is believed.
    pub(super) fn unmapped(&mut self, name: &AppRef, signals: Vec<SignalPattern>) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        let granted = |signal: &SignalPattern| kept.app.grants.signals.contains(signal);
        kept.unmapped = signals.into_iter().filter(granted).collect();
        if !kept.unmapped.is_empty() {
            let why = kept.why_now();
            self.decide(DecisionKind::Admit, alloc::format!("{name}"), why);
        }
    }

    pub(super) fn island(&mut self, now: Timestamp, name: &AppRef, result: Result<(), String>) {
        let Some(kept) = self.apps.get_mut(name) else { return };
        match result {
            Ok(()) => kept.island = true,
            Err(why) if kept.has_instance() => {
                let why = alloc::format!("its island could not be opened: {why}");
                self.stop(now, name, super::app::Then::Start, &why);
            }
            Err(_) => {}
        }
    }
}
