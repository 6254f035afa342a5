//! One axis of time out of the clocks of many nodes. A node's clock means nothing to another one, so they are
//! compared by the adverts that both ways carry: what the quickest of them took there and back, halved, is the way;
//! the rest is the difference of the clocks.

use std::collections::BTreeMap;

use policies::id::{Incarnation, NodeId};
use policies::time::Timestamp;
use v2e_core::report::Realm;

use super::Life;

/// Adverts of one life: what it sent, and what it had of others.
#[derive(Clone, Debug, Default)]
pub(super) struct Adverts {
    /// When each was sent, by realm and number.
    pub(super) sent: BTreeMap<(Realm, u64), Timestamp>,
    /// When each arrived first, by sender, its life, realm and number.
    pub(super) had: BTreeMap<(NodeId, Incarnation, Realm, u64), Timestamp>,
    /// When each life of another node was last heard.
    pub(super) last: BTreeMap<(NodeId, Incarnation), Timestamp>,
}

const fn signed(at: Timestamp) -> i64 {
    // 292 000 years.
    at.as_micros().cast_signed()
}

/// The least that lies between the clock of `from` at the sending and that of `to` at the arrival of an advert.
fn least(from: &Life, to: &Life) -> Option<i64> {
    let mine = to
        .adverts
        .had
        .iter()
        .filter(|((node, life, ..), _)| *node == from.node && *life == from.boot.incarnation);
    let spans = mine.filter_map(|((_, _, realm, seq), had)| {
        let sent = from.adverts.sent.get(&(*realm, *seq))?;
        Some(signed(*had) - signed(*sent))
    });
    spans.min()
}

/// How far the clock of `to` is ahead of that of `from`.
fn ahead(from: &Life, to: &Life) -> Option<i64> {
    match (least(from, to), least(to, from)) {
        (Some(there), Some(back)) => Some((there - back) / 2),
        (Some(there), None) => Some(there),
        (None, Some(back)) => Some(-back),
        (None, None) => None,
    }
}

/// Finds what each clock shows at world time 0, which is when the first of them was started, and how long each
/// life was seen. Says which lives could not be compared with any other.
pub(super) fn align(lives: &mut [Life]) -> Vec<String> {
    let mut zeros: BTreeMap<usize, i64> = BTreeMap::new();
    let mut notes = Vec::new();
    let firsts: Vec<usize> = (0..lives.len()).filter(|index| !is_later_process(lives, *index)).collect();
    for root in firsts.iter().copied() {
        if zeros.contains_key(&root) {
            continue;
        }
        let (zero, note) = alone(lives, &zeros, root);
        notes.extend(note);
        zeros.insert(root, zero);
        let mut open = vec![root];
        while let Some(known) = open.pop() {
            for other in firsts.iter().copied() {
                let Some(by) = ahead(&lives[known], &lives[other]) else { continue };
                if !zeros.contains_key(&other) {
                    zeros.insert(other, zeros[&known] + by);
                    open.push(other);
                }
            }
        }
    }
    for later in (0..lives.len()).filter(|index| is_later_process(lives, *index)) {
        let zero = zeros[&(later - 1)];
        zeros.insert(later, zero);
    }
    let first = zeros.iter().map(|(life, zero)| signed(lives[*life].from) - zero).min().unwrap_or(0);
    for (index, life) in lives.iter_mut().enumerate() {
        life.zero = zeros.get(&index).map_or(0, |zero| zero + first);
    }
    extend(lives);
    notes
}

/// Whether this is a node process that followed one which died in the same life of its host: its adverts are
/// numbered anew under the same name, and cannot be told from those before. Its clock is the same.
fn is_later_process(lives: &[Life], index: usize) -> bool {
    let before = index.checked_sub(1).and_then(|before| lives.get(before));
    let same = |a: &Life, b: &Life| a.node == b.node && a.boot.incarnation == b.boot.incarnation;
    before.zip(lives.get(index)).is_some_and(|(before, life)| same(before, life))
}

/// The zero of a life that exchanged nothing with those before it: its node's clock goes on, or it began with
/// the first.
fn alone(lives: &[Life], zeros: &BTreeMap<usize, i64>, root: usize) -> (i64, Option<String>) {
    let life = &lives[root];
    let Some(begun) = zeros.iter().map(|(i, zero)| signed(lives[*i].from) - zero).min() else {
        return (signed(life.from), None);
    };
    let before = zeros.iter().rev().find(|(index, _)| lives[**index].node == life.node);
    let what =
        format!("life {} of {} exchanged no advert with another recording", life.boot.incarnation, life.node);
    match before {
        Some((_, zero)) => (*zero, Some(format!("{what}; its clock is taken to have gone on"))),
        None => {
            (signed(life.from) - begun, Some(format!("{what}; it is taken to have begun with the first")))
        }
    }
}

/// A writer that was killed had more to write: the others still heard it.
fn extend(lives: &mut [Life]) {
    for index in 0..lives.len() {
        // Who was heard under the name of both was the last of them.
        if is_later_process(lives, index + 1) {
            continue;
        }
        let life = &lives[index];
        let key = (life.node.clone(), life.boot.incarnation);
        let heard = lives.iter().filter_map(|other| {
            let last = other.adverts.last.get(&key)?;
            Some(Timestamp::from_micros(other.world(*last).saturating_add_signed(life.zero)))
        });
        // What was under way arrives later than the next life begins, at most.
        let next = lives.get(index + 1).filter(|next| next.node == life.node);
        let end = next.map_or(Timestamp::MAX, |next| {
            Timestamp::from_micros(next.world(next.from).saturating_add_signed(life.zero))
        });
        let until = heard.max().map_or(life.until, |heard| heard.min(end).max(life.until));
        lives[index].until = until;
    }
}
