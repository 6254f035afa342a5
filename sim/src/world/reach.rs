//! Who can reach whom, and who is told of it.

use obu_core::io::{Input, Link};
use v2e_core::report::Realm;

use super::{Failure, World};
use crate::body::Body;

impl World {
    /// The others whom a node can reach in a realm if nothing is cut.
    pub(super) fn peers(&self, realm: Realm, unit: usize) -> Vec<usize> {
        if self.model.is_some() {
            let reached = |other: &usize| self.pairs.contains(&(realm, unit, *other));
            return (0..self.bodies.len()).filter(reached).collect();
        }
        let own = &self.bodies[unit];
        let is_peer = |other: &Body| match realm {
            Realm::Car => other.member.car == own.member.car,
            Realm::Outside => {
                other.member.config.outside && own.member.config.outside && other.zone == own.zone
            }
        };
        (0..self.bodies.len()).filter(|other| *other != unit && is_peer(&self.bodies[*other])).collect()
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, unit: usize) -> Result<(), Failure> {
        if self.bodies[unit].node.is_some() {
            return Ok(());
        }
        for input in self.bodies[unit].boot() {
            self.feed(unit, input)?;
        }
        for realm in [Realm::Car, Realm::Outside] {
            self.link_up(realm, unit)?;
        }
        Ok(())
    }

    /// Tells a node and its peers of each other.
    pub(super) fn link_up(&mut self, realm: Realm, unit: usize) -> Result<(), Failure> {
        // On a recorded road they were told what was recorded.
        if self.model.is_some() {
            return Ok(());
        }
        for peer in self.peers(realm, unit) {
            let link = self.link(realm);
            for (told, about) in [(unit, peer), (peer, unit)] {
                let about = self.id(about);
                self.feed(told, Input::Link { realm, peer: about, link })?;
            }
        }
        Ok(())
    }

    fn link(&self, realm: Realm) -> Link {
        let model = self.network.model(realm);
        let rtt_us = u32::try_from(model.latency.0 + model.latency.1).unwrap_or(u32::MAX);
        Link { up: true, rtt_us, rate_kb_s: model.rate_kb_s, price_milli_mb: 0 }
    }
}
