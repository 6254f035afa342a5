//! Other nodes: who is there, in which life, how busy, how far; and what they may tell us.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::id::{FunctionName, Incarnation, NodeId};
use policies::limits::{ADVERT_FRESH, PEERS_MAX};
use policies::quantile::{Estimate, Hint, Sketch};
use policies::task::BlobRef;
use policies::time::{Timestamp, micros};
use v2e_core::message::{Advert, JobEnd, Message, Offer, ToRequester, ToWorker};
use v2e_core::report::Realm;
use v2e_core::{requester, worker};

use super::{Live, PeerView, fact};
use crate::io::{DecisionKind, Link};

/// How long a peer that did not answer is passed over, unless it is heard of again.
pub(super) const SUSPECT_FOR: Duration = Duration::from_secs(2);

/// Assumed of a link inside the car until measured or told: wired Ethernet, with two processes on the way.
const LINK_CAR: Link = Link { up: true, rtt_us: 1_000, rate_kb_s: 50_000, price_milli_mb: 0 };

/// Assumed of a link to the outside until measured or told: a good cellular or Wi-Fi link.
const LINK_OUTSIDE: Link = Link { up: true, rtt_us: 20_000, rate_kb_s: 2_000, price_milli_mb: 0 };

/// One other node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) realm: Realm,
    pub(super) life: Incarnation,
    pub(super) advert: Option<Advert>,
    advert_at: Timestamp,
    heard_at: Timestamp,
    gone: bool,
    suspect_until: Option<Timestamp>,
    pub(super) link: Link,
    receipt: Sketch,
    service: BTreeMap<FunctionName, Sketch>,
    /// Own tasks there that have not ended: what each needs, microseconds.
    in_flight: BTreeMap<(u64, u32), u64>,
}

impl Peer {
    fn new(realm: Realm, life: Incarnation, now: Timestamp) -> Self {
        Self {
            realm,
            life,
            advert: None,
            advert_at: now,
            heard_at: now,
            gone: false,
            suspect_until: None,
            link: if realm == Realm::Car { LINK_CAR } else { LINK_OUTSIDE },
            receipt: Sketch::new(),
            service: BTreeMap::new(),
            in_flight: BTreeMap::new(),
        }
    }

    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        !self.gone && self.link.up && self.advert.is_some() && now.since(self.advert_at) <= ADVERT_FRESH
    }

    pub(super) fn is_suspect(&self, now: Timestamp) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }

    pub(super) fn offer(&self, function: &FunctionName) -> Option<&Offer> {
        self.advert.as_ref()?.functions.iter().find(|offer| offer.name == *function)
    }

    pub(super) fn rtt(&self) -> Estimate<'_> {
        let us = u64::from(self.link.rtt_us);
        let hint = Hint { p50_us: us, p95_us: us.saturating_mul(2), p99_us: us.saturating_mul(4) };
        Estimate { sketch: Some(&self.receipt), hint }
    }

    pub(super) fn service(&self, offer: &Offer) -> Estimate<'_> {
        Estimate { sketch: self.service.get(&offer.name), hint: Hint::from_p95(offer.service_us) }
    }

    /// Work ahead of a new task there. Its report may be older than what we sent it, or may hold it already:
    /// the larger of the two counts.
    pub(super) fn queue_us(&self) -> u64 {
        let own: u64 = self.in_flight.values().fold(0, |sum, us| sum.saturating_add(*us));
        let Some(advert) = &self.advert else { return own };
        advert.load.backlog_us.max(own) / u64::from(advert.cores.max(1))
    }
}

/// All other nodes by name. A node that is seen in both realms counts as one of the car.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) table: BTreeMap<NodeId, Peer>,
}

impl Peers {
    /// Notes that a peer was heard of. `None`: it is an outdated life, or there is no room.
    fn heard(
        &mut self,
        now: Timestamp,
        realm: Realm,
        node: &NodeId,
        life: Incarnation,
    ) -> Option<(&mut Peer, bool)> {
        if !self.table.contains_key(node) && !self.make_room(now) {
            return None;
        }
        let peer = self.table.entry(node.clone()).or_insert_with(|| Peer::new(realm, life, now));
        if life < peer.life || (realm == Realm::Outside && peer.realm == Realm::Car) {
            return None;
        }
        let reborn = life > peer.life;
        if reborn {
            (peer.life, peer.advert) = (life, None);
            peer.in_flight.clear();
        }
        if peer.realm != realm {
            peer.realm = realm;
            peer.link = if realm == Realm::Car { LINK_CAR } else { LINK_OUTSIDE };
        }
        (peer.heard_at, peer.gone, peer.suspect_until) = (now, false, None);
        Some((peer, reborn))
    }

    /// Makes room by forgetting the peer that was silent longest, if it is not fresh any more.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if self.table.len() < PEERS_MAX {
            return true;
        }
        let oldest = self.table.iter().filter(|(_, peer)| !peer.is_fresh(now));
        let oldest = oldest.min_by_key(|(_, peer)| peer.heard_at).map(|(node, _)| node.clone());
        oldest.is_some_and(|node| self.table.remove(&node).is_some())
    }

    pub(super) fn link(&mut self, now: Timestamp, realm: Realm, node: &NodeId, link: Link) {
        if !self.table.contains_key(node) && !self.make_room(now) {
            return;
        }
        let new = || Peer::new(realm, Incarnation::default(), now);
        let peer = self.table.entry(node.clone()).or_insert_with(new);
        if peer.realm == realm {
            peer.link = link;
        }
    }

    pub(super) fn suspect(&mut self, now: Timestamp, node: &NodeId) {
        if let Some(peer) = self.table.get_mut(node) {
            peer.suspect_until = Some(now + SUSPECT_FOR);
        }
    }

    pub(super) fn measured(&mut self, node: &NodeId, function: FunctionName, measure: requester::Measure) {
        let Some(peer) = self.table.get_mut(node) else { return };
        match measure {
            requester::Measure::Receipt(us) => peer.receipt.add(us),
            requester::Measure::Execution(us) if peer.offer(&function).is_some() => {
                peer.service.entry(function).or_default().add(us);
            }
            requester::Measure::Execution(_) => {}
        }
    }

    pub(super) fn sent(&mut self, node: &NodeId, number: u64, attempt: u32, cost_us: u64) {
        if let Some(peer) = self.table.get_mut(node) {
            peer.in_flight.insert((number, attempt), cost_us);
        }
    }

    pub(super) fn task_over(&mut self, number: u64) {
        for peer in self.table.values_mut() {
            peer.in_flight.retain(|(task, _), _| *task != number);
        }
    }

    pub(super) fn views(&self, now: Timestamp) -> Vec<PeerView> {
        let view = |(node, peer): (&NodeId, &Peer)| PeerView {
            node: node.clone(),
            realm: peer.realm,
            incarnation: peer.life,
            role: peer.advert.as_ref().map(|advert| advert.role),
            car: peer.advert.as_ref().map(|advert| advert.car.clone()),
            fresh: peer.is_fresh(now),
            suspect: peer.is_suspect(now),
            heard_us_ago: micros(now.since(peer.heard_at)),
            functions: peer.advert.iter().flat_map(|a| &a.functions).map(|o| o.name.clone()).collect(),
            load: peer.advert.as_ref().map(|advert| advert.load).unwrap_or_default(),
            in_flight: u32::try_from(peer.in_flight.len()).unwrap_or(u32::MAX),
            receipt_p50_us: peer.receipt.quantile(500),
            link: peer.link,
        };
        self.table.iter().map(view).collect()
    }
}

impl Live {
    pub(super) fn received(
        &mut self,
        now: Timestamp,
        realm: Realm,
        from: NodeId,
        message: Message,
        payload: Option<BlobRef>,
    ) {
        let (sender, life) = message.sender();
        if *sender != from || self.is_me(&from) {
            self.counters.forged += 1;
            return;
        }
        let known = self.peers.table.get(&from).is_some_and(|peer| peer.life > Incarnation::default());
        let (new, whole) = (!known, message.payload() == payload);
        let Some((_, reborn)) = self.peers.heard(now, realm, &from, life) else {
            self.counters.outdated += 1;
            return;
        };
        if new || reborn {
            let what = if new { "seen for the first time" } else { "it has restarted" };
            let facts = alloc::vec![fact("realm", realm.as_str()), fact("incarnation", life)];
            self.decide(DecisionKind::Peer, alloc::format!("{from}"), what.into(), facts);
        }
        if reborn {
            let input = requester::Input::PeerLife { peer: from.clone(), life };
            self.requester.handle(now, input);
        }
        match message {
            Message::Advert(envelope) => self.advertised(now, &from, envelope.body),
            Message::ToWorker(envelope) => self.asked_to_work(now, realm, from, envelope.body, whole),
            Message::ToRequester(envelope) => self.told(now, from, life, envelope.body, whole),
        }
    }

    fn advertised(&mut self, now: Timestamp, from: &NodeId, advert: Advert) {
        let Some(peer) = self.peers.table.get_mut(from) else { return };
        if peer.advert.as_ref().is_some_and(|known| advert.seq <= known.seq) {
            self.counters.outdated += 1;
            return;
        }
        let held = |name: &FunctionName| advert.functions.iter().any(|offer| offer.name == *name);
        peer.service.retain(|name, _| held(name));
        (peer.advert, peer.advert_at) = (Some(advert), now);
    }

    fn asked_to_work(&mut self, now: Timestamp, realm: Realm, from: NodeId, body: ToWorker, whole: bool) {
        match body {
            ToWorker::Run(run) => {
                let terms = if whole {
                    self.terms(Some(realm), &run)
                } else {
                    Err("its input did not come with it, or is damaged".into())
                };
                self.worker.handle(now, worker::Input::Run { from, run, terms });
            }
            ToWorker::Call(call) => self.called(now, realm, &from, call),
            message @ (ToWorker::Renew { .. }
            | ToWorker::Status { .. }
            | ToWorker::Cancel { .. }
            | ToWorker::Ack { .. }) => self.worker.handle(now, worker::Input::Control { from, message }),
        }
    }

    fn told(&mut self, now: Timestamp, from: NodeId, life: Incarnation, body: ToRequester, whole: bool) {
        let body = match body {
            ToRequester::Partial { call, reading } => return self.partial(now, &from, &call, reading),
            ToRequester::Ended { task, attempt, end: JobEnd::Done { .. }, queued_us, exec_us } if !whole => {
                let end = JobEnd::Unknown { why: "the result did not come with it, or is damaged".into() };
                ToRequester::Ended { task, attempt, end, queued_us, exec_us }
            }
            body => body,
        };
        self.requester.handle(now, requester::Input::Received { from, life, body });
    }

    pub(super) fn peer_gone(&mut self, now: Timestamp, realm: Realm, peer: NodeId) {
        let Some(known) = self.peers.table.get_mut(&peer).filter(|known| known.realm == realm) else {
            return;
        };
        if core::mem::replace(&mut known.gone, true) {
            return;
        }
        let why = String::from("its session is gone");
        self.decide(DecisionKind::Peer, alloc::format!("{peer}"), why, Vec::new());
        self.requester.handle(now, requester::Input::PeerGone { peer });
    }

    pub(super) fn peer_silent(&mut self, now: Timestamp, realm: Realm, peer: NodeId) {
        if self.peers.table.get(&peer).is_some_and(|known| known.realm == realm) {
            self.requester.handle(now, requester::Input::Silent { peer });
        }
    }
}
