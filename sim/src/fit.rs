//! Fits a [`Model`] to a recorded road. Every second task of a function, and every second measurement of a
//! process, is for the fit; the others are left to be compared with.
//!
//! Nothing is measured across two clocks: what a way takes is half of what a message and its immediate answer
//! took on the clock of its sender.

use std::collections::{BTreeMap, BTreeSet};

use policies::id::{Digest, FunctionName, NodeId, TaskId};
use policies::task::Outcome;
use v2e_core::report::{Realm, TaskReport};

use crate::model::{BULKY, FaceTimes, LinkTimes, Model, Samples};
use crate::road::{Life, Measured, Receipt, Road};

/// Inputs must differ by so many bytes before a rate can be told from them.
const SPREAD_MIN: u64 = 4_096;

/// Fewer receipts than this tell no rate.
const RECEIPTS_MIN: usize = 12;

/// So many receipts of small messages tell what they take.
const SMALL_MIN: usize = 4;

/// The square root of one half, in ten thousandths. Two draws that deviate by so much of what a round trip
/// deviates have in sum the deviation of the round trip.
const ROOT_HALF: i64 = 7_071;

/// Tasks in two halves, by owner and function in turn.
#[derive(Clone, Debug, Default)]
pub struct Halves<'a> {
    /// For the fit.
    pub fit: Vec<&'a TaskReport>,
    /// For the comparison.
    pub held_out: Vec<&'a TaskReport>,
}

/// Parts reports of tasks.
pub fn halves<'a>(reports: impl Iterator<Item = &'a TaskReport>) -> Halves<'a> {
    let mut all: Vec<&TaskReport> = reports.collect();
    all.sort_by_key(|report| &report.task);
    let mut counts: BTreeMap<(&NodeId, &FunctionName), usize> = BTreeMap::new();
    let mut halves = Halves::default();
    for report in all {
        let count = counts.entry((&report.task.owner, &report.function)).or_default();
        let half = if count.is_multiple_of(2) { &mut halves.fit } else { &mut halves.held_out };
        half.push(report);
        *count += 1;
    }
    halves
}

/// Fits a model to one half of what was recorded.
pub fn fit(road: &Road) -> Model {
    let halves = halves(road.lives.iter().flat_map(|life| &life.reports));
    let tasks: BTreeSet<&TaskId> = halves.fit.iter().map(|report| &report.task).collect();
    let mut model = Model { links: links(road, &tasks), ..Model::default() };
    for life in &road.lives {
        model.shapes.extend(life.shapes.iter().map(|(module, shape)| (*module, shape.clone())));
        for function in life.functions.values() {
            model.modules.entry(function.bundle).or_insert_with(|| function.name.clone());
            let service = model.services.entry(function.name.clone()).or_default();
            service.declared_us = function.service_time.as_micros();
        }
    }
    for life in &road.lives {
        for (name, input) in &life.asked {
            let known = road.lives.iter().filter_map(|life| life.functions.get(name));
            model.calls.extend(known.map(|function| ((function.bundle, *input), name.clone())));
        }
    }
    services(&mut model, &halves.fit);
    model.faces = faces(road);
    model
}

fn services(model: &mut Model, reports: &[&TaskReport]) {
    let mut found: BTreeMap<&FunctionName, BTreeMap<&NodeId, Vec<u64>>> = BTreeMap::new();
    let mut ends: BTreeMap<&FunctionName, (u64, u64)> = BTreeMap::new();
    for report in reports {
        let (failed, all) = ends.entry(&report.function).or_default();
        match (&report.outcome, &report.node) {
            (Outcome::Done { .. }, Some(node)) => {
                *all += 1;
                let times = found.entry(&report.function).or_default().entry(node).or_default();
                times.push(report.phases.execution_us);
            }
            (Outcome::Failed { .. }, _) => (*failed, *all) = (*failed + 1, *all + 1),
            _ => {}
        }
    }
    for (name, by_node) in found {
        let service = model.services.entry(name.clone()).or_default();
        service.anywhere = Samples::new(by_node.values().flatten().copied().collect());
        let samples = by_node.into_iter().map(|(node, times)| (node.clone(), Samples::new(times)));
        service.by_node = samples.collect();
    }
    for (name, (failed, all)) in ends {
        let service = model.services.entry(name.clone()).or_default();
        service.failed_permille = (failed * 1000).checked_div(all).unwrap_or(0);
    }
}

/// Every second of them; the only one there is.
fn every_second<'a>(values: impl Iterator<Item = &'a u64>) -> Samples {
    Samples::new(values.step_by(2).copied().collect())
}

fn faces(road: &Road) -> BTreeMap<NodeId, FaceTimes> {
    let mut by_node: BTreeMap<&NodeId, Vec<&Life>> = BTreeMap::new();
    for life in &road.lives {
        by_node.entry(&life.node).or_default().push(life);
    }
    let times = |lives: Vec<&Life>| {
        let of = |which: fn(&Measured) -> &Vec<u64>| {
            every_second(lives.iter().flat_map(|life| which(&life.measured)))
        };
        FaceTimes {
            inbox: of(|m| &m.inbox),
            began: of(|m| &m.began),
            call: of(|m| &m.call),
            calls: calls(&lives),
            save: of(|m| &m.save),
            effect: of(|m| &m.effect),
            load: of(|m| &m.load),
            import: of(|m| &m.import),
            face: of(|m| &m.face),
        }
    };
    by_node.into_iter().map(|(node, lives)| (node.clone(), times(lives))).collect()
}

fn calls(lives: &[&Life]) -> BTreeMap<(Digest, bool), Samples> {
    let mut found: BTreeMap<(Digest, bool), Vec<u64>> = BTreeMap::new();
    for (key, times) in lives.iter().flat_map(|life| &life.measured.calls) {
        found.entry(*key).or_default().extend(times);
    }
    found.into_iter().map(|(key, times)| (key, every_second(times.iter()))).collect()
}

fn links(road: &Road, tasks: &BTreeSet<&TaskId>) -> BTreeMap<Realm, LinkTimes> {
    let mut by_realm: BTreeMap<Realm, Vec<&Receipt>> = BTreeMap::new();
    let mine = road.lives.iter().flat_map(|life| &life.receipts);
    for receipt in mine.filter(|receipt| tasks.contains(&receipt.task)) {
        by_realm.entry(receipt.realm).or_default().push(receipt);
    }
    by_realm.into_iter().map(|(realm, receipts)| (realm, link(receipts))).collect()
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    Samples::new(values.collect()).quantile(500)
}

/// The rate out of short and long inputs, then the ways out of what is left. The answer is always small: of what
/// a bulky message and its answer took, a small one's way belongs to the answer.
fn link(mut receipts: Vec<&Receipt>) -> LinkTimes {
    receipts.sort_by_key(|receipt| (receipt.len, receipt.round_us));
    let rate_kb_s = rate(&receipts).unwrap_or(u32::MAX);
    let rest = |receipt: &&Receipt| {
        let transfer = u64::from(receipt.len) * 1000 / u64::from(rate_kb_s);
        receipt.round_us.saturating_sub(transfer)
    };
    let is_small = |receipt: &&&Receipt| u64::from(receipt.len) < BULKY;
    let small = Samples::new(receipts.iter().filter(is_small).map(rest).collect());
    let bulky = Samples::new(receipts.iter().filter(|receipt| !is_small(receipt)).map(rest).collect());
    if small.len() < SMALL_MIN || bulky.is_empty() {
        let all = Samples::new(receipts.iter().map(rest).collect());
        let one_way = part(&all, all.quantile(500) / 2, ROOT_HALF);
        return LinkTimes { bulky: one_way.clone(), one_way, rate_kb_s };
    }
    let one_way = part(&small, small.quantile(500) / 2, ROOT_HALF);
    let there = bulky.quantile(500).saturating_sub(one_way.quantile(500));
    let bulky = part(&bulky, there, rest_of_spread(&bulky, &one_way));
    LinkTimes { one_way, bulky, rate_kb_s }
}

/// One way out of round trips: `middle` is its median; it deviates by `share` (in ten thousandths) of what the
/// round trips do.
fn part(rounds: &Samples, middle: u64, share: i64) -> Samples {
    let off = |round: u64| (round.cast_signed() - rounds.quantile(500).cast_signed()) * share / 10_000;
    Samples::new(rounds.values().map(|round| middle.saturating_add_signed(off(round))).collect())
}

/// By how much of the deviation of `rounds` one way must deviate if the other deviates as `answer`, in ten
/// thousandths: the squares of the two make up that of the whole. Told by the middle halves, for the tails are
/// few.
fn rest_of_spread(rounds: &Samples, answer: &Samples) -> i64 {
    let wide = |samples: &Samples| samples.quantile(750) - samples.quantile(250);
    let (whole, part) = (wide(rounds), wide(answer).min(wide(rounds)));
    let rest = (whole * whole - part * part).isqrt();
    (rest * 10_000).checked_div(whole).unwrap_or(0).cast_signed()
}

/// Kilobytes per second, if the third with the longest inputs took longer than the third with the shortest.
fn rate(by_len: &[&Receipt]) -> Option<u32> {
    let third = by_len.len() / 3;
    let (short, long) = (by_len.get(..third)?, by_len.get(by_len.len() - third..)?);
    let lens = [short, long].map(|part| median(part.iter().map(|receipt| u64::from(receipt.len))));
    let rounds = [short, long].map(|part| median(part.iter().map(|receipt| receipt.round_us)));
    let bytes = lens[1].checked_sub(lens[0]).filter(|bytes| *bytes >= SPREAD_MIN)?;
    let us = rounds[1].checked_sub(rounds[0]).filter(|us| *us > 0)?;
    let enough = by_len.len() >= RECEIPTS_MIN;
    u32::try_from(bytes * 1000 / us).ok().filter(|rate| enough && *rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::name;
    use policies::id::Incarnation;

    fn receipt(len: u32, round_us: u64) -> Receipt {
        let task = TaskId { owner: name!(NodeId, "a1"), incarnation: Incarnation(1), number: 1 };
        Receipt { realm: Realm::Car, task, len, round_us }
    }

    fn fitted(receipts: &[Receipt]) -> (u64, u32) {
        let link = link(receipts.iter().collect());
        (link.one_way.quantile(500), link.rate_kb_s)
    }

    #[test]
    fn a_way_is_half_a_round_trip_less_what_length_adds() {
        // 1 ms each way, 10 MB/s.
        let receipts: Vec<Receipt> =
            (0..30).map(|i| receipt(i * 10_000, 2_000 + u64::from(i) * 1_000)).collect();
        assert_eq!(fitted(&receipts), (1_000, 10_000));
    }

    #[test]
    fn a_bulky_message_may_take_longer_than_its_answer() {
        let small = (0..20).map(|_| receipt(0, 2_000));
        let bulky = (0..20).map(|_| receipt(5_000, 9_000));
        let receipts: Vec<Receipt> = small.chain(bulky).collect();
        let link = link(receipts.iter().collect());
        let transfer = 5_000 * 1_000 / u64::from(link.rate_kb_s);
        assert_eq!((link.way(0).quantile(500), link.way(5_000).quantile(500) + transfer), (1_000, 8_000));
    }

    #[test]
    fn inputs_of_one_length_tell_no_rate() {
        let receipts: Vec<Receipt> = (0..30).map(|i| receipt(10_000, 2_000 + i % 3)).collect();
        assert_eq!(fitted(&receipts), (1_000, u32::MAX));
    }

    #[test]
    fn two_ways_deviate_like_the_round_trip() {
        let receipts: Vec<Receipt> = (0..=1_000).map(|i| receipt(10, 1_000 + i * 2)).collect();
        let link = link(receipts.iter().collect());
        let mut chance = crate::chance::Chance::new(1, "test");
        let mut draw = || link.one_way.draw(&mut chance).unwrap_or(0);
        let rounds = Samples::new((0..10_000).map(|_| draw() + draw()).collect());
        // The quartiles of 1 000 to 3 000 µs are 1 500 and 2 500; a sum of two is rounder, and as wide.
        let wide = |permille, at: u64| rounds.quantile(permille).abs_diff(at) < at / 10;
        assert!(wide(250, 1_550) && wide(500, 2_000) && wide(750, 2_450), "{:?}", rounds.quantile(250));
    }
}
