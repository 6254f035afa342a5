//! The network as its own machine: what becomes of a message, decided when it is sent. It knows nothing of what
//! messages mean.
//!
//! A message is a query that wants a receipt, as on Zenoh: if the way there or the way back fails, the sender
//! hears that nobody answered, and cannot know which of the two it was.

use std::collections::{BTreeMap, BTreeSet};

use v2e_core::report::Realm;

use crate::chance::{Chance, Ratio};
use crate::model::LinkTimes;

/// One kind of link. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct LinkModel {
    /// One way, least and most.
    pub latency: (u64, u64),
    /// Kilobytes per second.
    pub rate_kb_s: u32,
    /// A way (there or back) fails.
    pub loss: Ratio,
    /// The message arrives twice.
    pub duplicate: Ratio,
    /// The message may overtake earlier ones.
    pub reorder: Ratio,
    /// How long the sender waits for the receipt.
    pub patience: u64,
}

impl LinkModel {
    /// Ethernet within a car (measured on the real daemons: 0.1 to 0.3 ms a hop), without faults.
    pub const CAR: Self = Self {
        latency: (100, 400),
        rate_kb_s: 100_000,
        loss: Ratio::NEVER,
        duplicate: Ratio::NEVER,
        reorder: Ratio::NEVER,
        patience: 200_000,
    };

    /// Radio between car and roadside (a modelled radio: 2 to 12 ms), without faults.
    pub const OUTSIDE: Self = Self {
        latency: (2_000, 12_000),
        rate_kb_s: 5_000,
        loss: Ratio::NEVER,
        duplicate: Ratio::NEVER,
        reorder: Ratio::NEVER,
        patience: 600_000,
    };
}

/// What becomes of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives: never, once or twice.
    pub arrives: Vec<u64>,
    /// When the sender hears that nobody answered, if it does.
    pub silent: Option<u64>,
}

/// Counts of what happened, for the coverage table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Messages sent.
    pub sent: u64,
    /// Lost on the way there.
    pub lost: u64,
    /// Receipts lost on the way back.
    pub receipts_lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Sent into a partition.
    pub cut: u64,
}

/// All links.
#[derive(Clone, Debug)]
pub struct Network {
    /// Links within cars.
    pub car: LinkModel,
    /// Links to the roadside.
    pub outside: LinkModel,
    /// What happened so far.
    pub counts: NetworkCounts,
    chance: Chance,
    isolated: BTreeSet<(Realm, usize)>,
    /// Ways as measured, of realms where they were.
    ways: BTreeMap<Realm, LinkTimes>,
    /// The latest arrival so far by pair: a stream does not overtake itself.
    latest: BTreeMap<(Realm, usize, usize), u64>,
}

impl Network {
    /// A network without partitions.
    pub fn new(seed: u64, car: LinkModel, outside: LinkModel) -> Self {
        let (isolated, latest) = (BTreeSet::new(), BTreeMap::new());
        Self {
            car,
            outside,
            counts: NetworkCounts::default(),
            chance: Chance::new(seed, "network"),
            isolated,
            ways: BTreeMap::new(),
            latest,
        }
    }

    /// From now on the links of a realm take what was measured.
    pub fn measured(&mut self, realm: Realm, times: &LinkTimes) {
        let model = match realm {
            Realm::Car => &mut self.car,
            Realm::Outside => &mut self.outside,
        };
        model.rate_kb_s = times.rate_kb_s;
        self.ways.insert(realm, times.clone());
    }

    /// What one way takes now, without what the length of the message adds.
    fn way(&mut self, realm: Realm, len: u64) -> u64 {
        let measured = self.ways.get(&realm).and_then(|times| times.way(len).draw(&mut self.chance));
        let usual = self.model(realm).latency;
        measured.unwrap_or_else(|| self.chance.between(usual))
    }

    /// The model of a realm's links.
    pub const fn model(&self, realm: Realm) -> LinkModel {
        match realm {
            Realm::Car => self.car,
            Realm::Outside => self.outside,
        }
    }

    /// Cuts a node off from a realm, or joins it again.
    pub fn isolate(&mut self, realm: Realm, node: usize, cut: bool) {
        if cut {
            self.isolated.insert((realm, node));
        } else {
            self.isolated.remove(&(realm, node));
        }
    }

    /// Whether two nodes can reach each other.
    pub fn connects(&self, realm: Realm, from: usize, to: usize) -> bool {
        !self.isolated.contains(&(realm, from)) && !self.isolated.contains(&(realm, to))
    }

    /// Decides the fate of a message of `len` bytes sent at `now`.
    pub fn send(&mut self, now: u64, realm: Realm, from: usize, to: usize, len: u64) -> Fate {
        let model = self.model(realm);
        self.counts.sent += 1;
        let silent = Some(now + model.patience);
        if !self.connects(realm, from, to) {
            self.counts.cut += 1;
            return Fate { arrives: Vec::new(), silent };
        }
        if self.chance.happens(model.loss) {
            self.counts.lost += 1;
            return Fate { arrives: Vec::new(), silent };
        }
        let transfer = len * 1000 / u64::from(model.rate_kb_s.max(1));
        let mut at = now + self.way(realm, len) + transfer;
        let latest = self.latest.entry((realm, from, to)).or_default();
        if !self.chance.happens(model.reorder) {
            at = at.max(*latest);
            *latest = at;
        }
        let mut fate = Fate { arrives: vec![at], silent: None };
        if self.chance.happens(model.duplicate) {
            self.counts.duplicated += 1;
            fate.arrives.push(at + self.chance.between((1, model.patience)));
        }
        if self.chance.happens(model.loss) {
            self.counts.receipts_lost += 1;
            fate.silent = silent;
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(outside: LinkModel, cut: bool) -> Vec<Fate> {
        let mut network = Network::new(3, LinkModel::CAR, outside);
        network.isolate(Realm::Outside, 1, cut);
        (0..200).map(|i| network.send(i * 10, Realm::Outside, 0, 1, 1000)).collect()
    }

    #[test]
    fn a_sound_link_delivers_once_and_in_order() {
        let fates = fates(LinkModel::OUTSIDE, false);
        assert!(fates.iter().all(|fate| fate.arrives.len() == 1 && fate.silent.is_none()));
        assert!(fates.is_sorted_by_key(|fate| fate.arrives[0]));
    }

    #[test]
    fn a_partition_is_silence() {
        let fates = fates(LinkModel::OUTSIDE, true);
        assert!(fates.iter().all(|fate| fate.arrives.is_empty() && fate.silent.is_some()));
    }

    #[test]
    fn a_silent_sender_cannot_know_whether_it_arrived() {
        let bad =
            LinkModel { loss: Ratio::permille(200), duplicate: Ratio::permille(100), ..LinkModel::OUTSIDE };
        let fates = fates(bad, false);
        let silent = |arrived: bool| {
            fates.iter().filter(|f| f.silent.is_some() && f.arrives.is_empty() != arrived).count()
        };
        assert!(silent(true) > 10 && silent(false) > 10);
        assert!(fates.iter().any(|fate| fate.arrives.len() == 2));
        assert!(
            fates.iter().all(|fate| fate.silent.is_some() || !fate.arrives.is_empty()),
            "no loss without a sign"
        );
    }
}
