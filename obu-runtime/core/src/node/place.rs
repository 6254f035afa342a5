//! Which places a task has, and which of them is taken: facts in, a plan with its reasons out.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::id::NodeId;
use policies::placement::{Candidate, Considered, Placement, Realm, TaskNeeds, WhyNot, place};
use policies::quantile::{Estimate, Hint};
use policies::time::{Timestamp, micros};
use v2e_core::requester::{Place, Plan, Purpose, TaskSpec};

use super::peers::Peer;
use super::{Live, fact};
use crate::io::DecisionKind;
use v2e_core::report;

/// Power that a call costs on a computer of this car, milliwatts: one busy core of an automotive board.
const COMPUTE_MW: u64 = 3_000;

/// Power that it costs the car while it runs elsewhere: radio and idling.
const RADIO_MW: u64 = 1_200;

/// Shortest and longest wait for a receipt inside the car: silence there means a dead peer.
const ACCEPT_CAR: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(250));

/// The same for the outside, where a handover of the radio takes up to 150 ms.
const ACCEPT_OUTSIDE: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(500));

impl Live {
    /// Answers the requester's question.
    pub(super) fn plan(
        &mut self,
        now: Timestamp,
        number: u64,
        spec: &TaskSpec,
        left_us: u64,
        avoid: &[NodeId],
        purpose: Purpose,
    ) -> Plan {
        let needs = TaskNeeds {
            function: spec.function.clone(),
            tenant: spec.tenant.clone(),
            class: spec.class,
            effect: spec.effect,
            deadline_us: left_us,
            input_len: u64::from(spec.input.len),
            pinned: false,
            export_rule: self.config.policy.export_of_task(&spec.function).map(String::from),
        };
        let last = self.last_place.get(&spec.function).filter(|_| purpose == Purpose::First);
        let placement = place(&needs, &self.candidates(now, spec, avoid), last, &self.config.placement);
        let best_effort = self.best_effort(&placement, purpose);
        let ranked: Vec<NodeId> =
            placement.ranked().into_iter().cloned().chain(best_effort.clone()).collect();
        let mut why = alloc::format!("{placement}");
        if best_effort.is_some() {
            why.push_str("\n> here nevertheless: late or unsure is better than not at all");
        }
        if let Some(first) = ranked.first() {
            self.note_place(number, spec, purpose, &placement, first, best_effort.is_some());
        }
        let places = ranked.iter().filter_map(|node| self.place_of(&placement, node, left_us)).collect();
        Plan { places, why }
    }

    fn candidates<'a>(&'a self, now: Timestamp, spec: &TaskSpec, avoid: &[NodeId]) -> Vec<Candidate<'a>> {
        let allowed = |node: &NodeId| {
            if avoid.contains(node) { Err("it has just had this task".into()) } else { Ok(None) }
        };
        let remote = self.peers.table.iter().map(|(node, peer)| {
            let offer = peer.offer(&spec.function).filter(|offer| offer.bundle == spec.bundle);
            let rate = u64::from(peer.link.rate_kb_s).saturating_mul(1000);
            let price = u64::from(peer.link.price_milli_mb).saturating_mul(u64::from(spec.input.len)) >> 20;
            Candidate {
                node: node.clone(),
                realm: realm_of(peer),
                has_function: offer.is_some(),
                allowed: allowed(node),
                rtt: peer.rtt(),
                queue_us: peer.queue_us(),
                service: offer.map_or(Estimate::assumed(Hint::ZERO), |offer| peer.service(offer)),
                bandwidth_bytes_per_s: rate,
                price_milli: price,
                energy_mw: if peer.realm == report::Realm::Car { COMPUTE_MW } else { RADIO_MW },
                stay_us: None,
                fresh: peer.is_fresh(now),
                suspect: peer.is_suspect(now),
            }
        });
        let here = Candidate {
            node: self.config.node.clone(),
            realm: Realm::Local,
            has_function: self.functions.is_ready(&spec.function),
            allowed: allowed(&self.config.node),
            rtt: Estimate::assumed(Hint::ZERO),
            queue_us: self.worker.load(now).backlog_us / u64::from(self.config.cores.max(1)),
            service: self.functions.service(&spec.function).unwrap_or(Estimate::assumed(Hint::ZERO)),
            bandwidth_bytes_per_s: 0,
            price_milli: 0,
            energy_mw: COMPUTE_MW,
            stay_us: None,
            fresh: true,
            suspect: false,
        };
        core::iter::once(here).chain(remote).collect()
    }

    /// This node, if no place passed and only time spoke against it: the worker still may say no.
    fn best_effort(&self, placement: &Placement, purpose: Purpose) -> Option<NodeId> {
        let here = placement.considered.iter().find(|c| self.is_me(&c.node))?;
        let only_late = matches!(
            here.verdict,
            Err(WhyNot::TooUnsure { .. } | WhyNot::MissesDeadline { .. } | WhyNot::LeavesCoverage { .. })
        );
        let none = placement.chosen.is_none() && purpose != Purpose::Hedge;
        (none && only_late).then(|| here.node.clone())
    }

    fn place_of(&self, placement: &Placement, node: &NodeId, left_us: u64) -> Option<Place> {
        let considered = placement.considered.iter().find(|c| c.node == *node)?;
        let p95_us = considered.verdict.as_ref().map_or(left_us, |cost| cost.finish_p95_us);
        if self.is_me(node) {
            let accept_us = micros(ACCEPT_OUTSIDE.1);
            let (node, life) = (node.clone(), self.life);
            return Some(Place { node, life, realm: Realm::Local, accept_us, p95_us });
        }
        let peer = self.peers.table.get(node)?;
        let (least, most) = match peer.realm {
            report::Realm::Car => ACCEPT_CAR,
            report::Realm::Outside => ACCEPT_OUTSIDE,
        };
        let rtt = peer.rtt().quantile(950).saturating_mul(4);
        let accept_us = rtt.clamp(micros(least), micros(most));
        Some(Place { node: node.clone(), life: peer.life, realm: considered.realm, accept_us, p95_us })
    }

    /// Records the choice: what was considered, and the rule if something leaves the car.
    fn note_place(
        &mut self,
        number: u64,
        spec: &TaskSpec,
        purpose: Purpose,
        placement: &Placement,
        chosen: &NodeId,
        best_effort: bool,
    ) {
        let about = alloc::format!("{}.{}.{number}", self.config.node, self.life);
        let line = |c: &Considered| fact(c.node.as_str(), c);
        let mut facts: Vec<_> = placement.considered.iter().map(line).collect();
        facts.push(fact("function", &spec.function));
        facts.push(fact("chosen", chosen));
        let why = match (purpose, best_effort) {
            (_, true) => "no place passed; here it may still be in time",
            (Purpose::First, false) => "the cheapest that passed",
            (Purpose::Again, false) => "the cheapest that is left",
            (Purpose::Hedge, false) => "the cheapest for a second copy",
        };
        self.decide(DecisionKind::Place, about.clone(), why.into(), facts);
        let choice = placement.considered.iter().find(|c| c.node == *chosen);
        let outside = choice.filter(|c| c.realm == Realm::Outside).and_then(|c| c.verdict.as_ref().ok());
        if let Some(cost) = outside {
            let rule = cost.rule.clone().unwrap_or_default();
            let facts = alloc::vec![
                fact("to", chosen),
                fact("bytes", spec.input.len),
                fact("input", spec.input.digest),
                fact("rule", &rule),
            ];
            self.decide(DecisionKind::Export, about, alloc::format!("rule {rule}"), facts);
        }
        if purpose == Purpose::First {
            self.last_place.insert(spec.function.clone(), chosen.clone());
        }
    }
}

const fn realm_of(peer: &Peer) -> Realm {
    match peer.realm {
        report::Realm::Car => Realm::Car,
        report::Realm::Outside => Realm::Outside,
    }
}
