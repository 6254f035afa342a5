//! Which app sees which leaf, and the samples that wait to be sent to each.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use policies::host::AppRef;
use policies::signal::Signal;

use crate::frame::BusIndex;

/// A leaf of a bus.
type LeafRef = (BusIndex, u32);

/// One app's route.
#[derive(Debug, Default)]
struct Route {
    leaves: BTreeSet<LeafRef>,
    waiting: Vec<Signal>,
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: BTreeMap<AppRef, Route>,
    /// Apps by leaf, by bus and leaf number: what the hot path looks at.
    fan_out: Vec<Vec<Vec<AppRef>>>,
    published: u64,
}

impl Routes {
    /// Sets an app's leaves; none closes its route. Gives back those it had before.
    pub(super) fn set(&mut self, app: AppRef, leaves: BTreeSet<LeafRef>) -> BTreeSet<LeafRef> {
        let before = if leaves.is_empty() {
            self.routes.remove(&app).map(|route| route.leaves).unwrap_or_default()
        } else {
            core::mem::replace(&mut self.routes.entry(app).or_default().leaves, leaves)
        };
        self.fan_out.clear();
        for (app, route) in &self.routes {
            for (BusIndex(bus), leaf) in &route.leaves {
                let (bus, leaf) = (usize::from(*bus), *leaf as usize);
                grow(&mut self.fan_out, bus);
                if let Some(leaves) = self.fan_out.get_mut(bus) {
                    grow(leaves, leaf);
                    if let Some(apps) = leaves.get_mut(leaf) {
                        apps.push(app.clone());
                    }
                }
            }
        }
        before
    }

    /// A sample for every app that sees its leaf.
    pub(super) fn push(&mut self, bus: BusIndex, leaf: u32, signal: &Signal) {
        let Self { routes, fan_out, .. } = self;
        let apps = fan_out.get(usize::from(bus.0)).and_then(|leaves| leaves.get(leaf as usize));
        for app in apps.into_iter().flatten() {
            if let Some(route) = routes.get_mut(app) {
                route.waiting.push(signal.clone());
            }
        }
    }

    /// A sample for one app.
    pub(super) fn push_to(&mut self, app: &AppRef, signal: &Signal) {
        if let Some(route) = self.routes.get_mut(app) {
            route.waiting.push(signal.clone());
        }
    }

    /// Up to `most` samples that wait for one app.
    pub(super) fn take(&mut self, most: usize) -> Option<(AppRef, Vec<Signal>)> {
        let (app, route) = self.routes.iter_mut().find(|(_, route)| !route.waiting.is_empty())?;
        let rest = route.waiting.split_off(route.waiting.len().min(most));
        let taken = core::mem::replace(&mut route.waiting, rest);
        self.published += taken.len() as u64;
        Some((app.clone(), taken))
    }

    /// Samples taken since start.
    pub(super) const fn published(&self) -> u64 {
        self.published
    }
}

fn grow<T: Default>(list: &mut Vec<T>, at: usize) {
    if list.len() <= at {
        list.resize_with(at + 1, T::default);
    }
}
