//! Where a task runs: first a gate of rules, then a cost over what passed it. The answer carries a reason for
//! every candidate, so that `verge task explain` is a print and not a guess.
//!
//! ```text
//!   candidates --> gate: pinned? function? allowed? export? fresh? suspect? stay? deadline? chance?
//!                    |  no: WhyNot with the numbers that were compared
//!                    v yes
//!                  cost: time + energy + bytes + price + risk, by the policy's weights
//!                    |
//!                    v
//!                  the cheapest; the last choice is left only for a gain above the hysteresis
//! ```
//!
//! Local execution is a candidate like the others. Integers only: the same facts give the same answer on
//! every machine.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::id::{FunctionName, NodeId, TenantId};
use crate::quantile::{Estimate, chance_of_sum};
use crate::task::{Class, Effect};

/// What a task needs of its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNeeds {
    /// The function to run.
    pub function: FunctionName,
    /// On whose behalf.
    pub tenant: TenantId,
    /// Service quality: chooses the threshold.
    pub class: Class,
    /// What a repeat would do.
    pub effect: Effect,
    /// Time until the result is due, microseconds.
    pub deadline_us: u64,
    /// Input bytes that must travel to any place but this node.
    pub input_len: u64,
    /// Whether the task must stay in the car (a stage marked sensor, actuator or private).
    pub pinned: bool,
    /// Id of the policy rule that lets its input leave the car, if one does.
    pub export_rule: Option<String>,
}

/// Which realm a candidate belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Realm {
    /// This node itself.
    Local,
    /// Another node of this car.
    Car,
    /// The roadside, another car, the cloud.
    Outside,
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "here",
            Self::Car => "car",
            Self::Outside => "outside",
        })
    }
}

/// What is known of one place.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The place.
    pub node: NodeId,
    /// How it is reached.
    pub realm: Realm,
    /// Whether it says that it holds the function.
    pub has_function: bool,
    /// Whether policy lets this tenant use this place: the rule's id, if one was needed, or why not.
    pub allowed: Result<Option<String>, String>,
    /// Round trip of a small message; [`crate::quantile::Hint::ZERO`] for this node.
    pub rtt: Estimate<'a>,
    /// Work ahead of the task there, microseconds, own tasks in flight included.
    pub queue_us: u64,
    /// Execution time of the function there.
    pub service: Estimate<'a>,
    /// Rate towards it; 0 if the input needs no transfer (this node, or the data is there already).
    pub bandwidth_bytes_per_s: u64,
    /// Price of one call, in thousandths of the policy's unit.
    pub price_milli: u64,
    /// Power that the car spends while the task is there (own CPU, or own radio and idling), milliwatts.
    pub energy_mw: u64,
    /// How long it stays within reach, microseconds; `None` if that has no end in sight.
    pub stay_us: Option<u64>,
    /// Whether its last report is young enough to be believed.
    pub fresh: bool,
    /// Whether it failed to answer lately.
    pub suspect: bool,
}

/// What counts how much, in thousandths. All parts are normalised to about 1000 for a plain bad case (see
/// [`Parts`]), so weights of the same size mean the same importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of finishing early.
    pub time: u16,
    /// Of saving the car's energy.
    pub energy: u16,
    /// Of saving bytes over the air.
    pub bytes: u16,
    /// Of saving money.
    pub price: u16,
    /// Of finishing surely.
    pub risk: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { time: 1000, energy: 100, bytes: 100, price: 500, risk: 1000 }
    }
}

/// The least chance of finishing in time that a class accepts, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// For `critical`.
    pub critical: u16,
    /// For `driving`.
    pub driving: u16,
    /// For `comfort`.
    pub comfort: u16,
    /// For `background`.
    pub background: u16,
}

impl Default for Thresholds {
    /// At most 990 for any class, because a [`crate::quantile::Hint`] promises no more than that.
    fn default() -> Self {
        Self { critical: 980, driving: 950, comfort: 900, background: 500 }
    }
}

impl Thresholds {
    /// The threshold of one class.
    pub const fn of(&self, class: Class) -> u16 {
        match class {
            Class::Critical => self.critical,
            Class::Driving => self.driving,
            Class::Comfort => self.comfort,
            Class::Background => self.background,
        }
    }
}

/// The policy of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementPolicy {
    /// What counts how much.
    pub weights: Weights,
    /// How sure is sure enough.
    pub thresholds: Thresholds,
    /// The last choice is left only if the cost drops by more than this, in thousandths.
    pub hysteresis: u16,
}

impl Default for PlacementPolicy {
    fn default() -> Self {
        Self { weights: Weights::default(), thresholds: Thresholds::default(), hysteresis: 100 }
    }
}

/// Why a candidate was not chosen. One variant per rule, in the order in which the rules are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyNot {
    /// The task must stay in the car.
    Pinned,
    /// Policy refuses this place.
    NotAllowed {
        /// The rule.
        why: String,
    },
    /// No rule lets its input leave the car.
    NoExportRule,
    /// It does not hold the function.
    NoFunction,
    /// Its last report is too old.
    Stale,
    /// It failed to answer lately.
    Suspect,
    /// It leaves before the task would be done.
    LeavesCoverage {
        /// How long it stays.
        stay_us: u64,
        /// How long the task takes at the 95th percentile.
        needed_us: u64,
    },
    /// Even an ordinary run would be too late.
    MissesDeadline {
        /// How long the task takes at the median.
        finish_us: u64,
        /// Time to the deadline.
        deadline_us: u64,
    },
    /// An ordinary run would do, but it is not sure enough for the class.
    TooUnsure {
        /// Chance of finishing in time, thousandths.
        chance: u16,
        /// The class's threshold.
        threshold: u16,
    },
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("the task is pinned to the car"),
            Self::NotAllowed { why } => write!(f, "not allowed: {why}"),
            Self::NoExportRule => f.write_str("no rule lets its input leave the car"),
            Self::NoFunction => f.write_str("does not hold the function"),
            Self::Stale => f.write_str("its last report is too old"),
            Self::Suspect => f.write_str("did not answer lately"),
            Self::LeavesCoverage { stay_us, needed_us } => {
                write!(f, "leaves coverage in {}, {} needed", Millis(*stay_us), Millis(*needed_us))
            }
            Self::MissesDeadline { finish_us, deadline_us } => {
                write!(f, "takes {}, the deadline is in {}", Millis(*finish_us), Millis(*deadline_us))
            }
            Self::TooUnsure { chance, threshold } => {
                write!(f, "in time with {}, the class asks for {}", Percent(*chance), Percent(*threshold))
            }
        }
    }
}

/// The terms of a cost, each already weighted. Before weighting, 1000 stands for: the whole deadline (time),
/// one joule (energy), one mebibyte over the air (bytes), one unit of the policy's currency (price), certain
/// failure (risk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Median time to the result, of the deadline.
    pub time: u64,
    /// The car's energy.
    pub energy: u64,
    /// Bytes over the air.
    pub bytes: u64,
    /// Price.
    pub price: u64,
    /// Chance of being late.
    pub risk: u64,
}

impl Parts {
    /// The cost that candidates are compared by.
    pub const fn total(&self) -> u64 {
        let own = self.time.saturating_add(self.energy).saturating_add(self.bytes);
        own.saturating_add(self.price).saturating_add(self.risk)
    }
}

/// What running the task at one place would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Time to the result at the median, microseconds.
    pub finish_p50_us: u64,
    /// The same at the 95th percentile (sum of the parts' percentiles, which is on the safe side).
    pub finish_p95_us: u64,
    /// Chance of being in time, thousandths.
    pub chance: u16,
    /// The terms of the cost.
    pub parts: Parts,
    /// Rule that let the input leave the car; for the audit log.
    pub rule: Option<String>,
}

/// One candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// The place.
    pub node: NodeId,
    /// How it is reached.
    pub realm: Realm,
    /// Its cost, or why not.
    pub verdict: Result<Cost, WhyNot>,
}

/// Where a task runs, and what was considered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The place; `None` if no candidate passed the gate.
    pub chosen: Option<NodeId>,
    /// Every candidate, in the order of node ids.
    pub considered: Vec<Considered>,
}

impl Placement {
    /// The chosen candidate with its realm and cost.
    pub fn choice(&self) -> Option<(&Considered, &Cost)> {
        let node = self.chosen.as_ref()?;
        let found = self.considered.iter().find(|c| c.node == *node)?;
        found.verdict.as_ref().ok().map(|cost| (found, cost))
    }

    /// Candidates that passed the gate, cheapest first, the chosen one foremost: where to go next if the
    /// first place fails.
    pub fn ranked(&self) -> Vec<&NodeId> {
        let passed = self.considered.iter().filter_map(|c| Some((c.verdict.as_ref().ok()?, &c.node)));
        let mut passed: Vec<_> = passed.collect();
        passed.sort_by_key(|(cost, node)| (Some(*node) != self.chosen.as_ref(), cost.parts.total(), *node));
        passed.into_iter().map(|(_, node)| node).collect()
    }
}

/// Chooses a place. Pure: same arguments, same answer; the order of candidates does not matter. Ties go to
/// the lowest node id. `last` is where this kind of task ran last: it is kept unless another place is better
/// by more than the policy's hysteresis.
pub fn place(
    needs: &TaskNeeds,
    candidates: &[Candidate<'_>],
    last: Option<&NodeId>,
    policy: &PlacementPolicy,
) -> Placement {
    let judge_one = |candidate: &Candidate<'_>| Considered {
        node: candidate.node.clone(),
        realm: candidate.realm,
        verdict: judge(needs, candidate, policy),
    };
    let mut considered: Vec<Considered> = candidates.iter().map(judge_one).collect();
    considered.sort_by(|a, b| a.node.cmp(&b.node));
    let passed = || considered.iter().filter_map(|c| Some((c.verdict.as_ref().ok()?.parts.total(), &c.node)));
    let best = passed().min();
    let kept = passed().find(|(_, node)| Some(*node) == last);
    let chosen = match (best, kept) {
        (Some(best), Some(kept)) if !is_worth_a_change(best.0, kept.0, policy.hysteresis) => Some(kept.1),
        (best, _) => best.map(|(_, node)| node),
    };
    Placement { chosen: chosen.cloned(), considered }
}

fn is_worth_a_change(best: u64, kept: u64, hysteresis: u16) -> bool {
    best.saturating_mul(1000) < kept.saturating_mul(1000u64.saturating_sub(u64::from(hysteresis)))
}

/// The rules, hardest first: permission, then capability, then freshness, then time.
fn judge(needs: &TaskNeeds, place: &Candidate<'_>, policy: &PlacementPolicy) -> Result<Cost, WhyNot> {
    let rule = may(needs, place)?;
    if !place.has_function {
        return Err(WhyNot::NoFunction);
    }
    if !place.fresh {
        return Err(WhyNot::Stale);
    }
    if place.suspect {
        return Err(WhyNot::Suspect);
    }
    let fixed_us = place.queue_us.saturating_add(transfer_us(needs, place));
    let finish = |permille| {
        fixed_us.saturating_add(place.rtt.quantile(permille)).saturating_add(place.service.quantile(permille))
    };
    let (finish_p50_us, finish_p95_us) = (finish(500), finish(950));
    let chance_within = |limit: u64| {
        limit.checked_sub(fixed_us).map_or(0, |rest| chance_of_sum(&place.rtt, &place.service, rest))
    };
    let threshold = policy.thresholds.of(needs.class);
    let chance = chance_within(needs.deadline_us);
    if needs.deadline_us < finish_p50_us {
        return Err(WhyNot::MissesDeadline { finish_us: finish_p50_us, deadline_us: needs.deadline_us });
    }
    if chance < threshold {
        return Err(WhyNot::TooUnsure { chance, threshold });
    }
    let chance = match place.stay_us.filter(|stay_us| *stay_us < needs.deadline_us) {
        Some(stay_us) if chance_within(stay_us) < threshold => {
            return Err(WhyNot::LeavesCoverage { stay_us, needed_us: finish_p95_us });
        }
        Some(stay_us) => chance_within(stay_us),
        None => chance,
    };
    let parts = parts(needs, place, policy.weights, finish_p50_us, chance);
    Ok(Cost { finish_p50_us, finish_p95_us, chance, parts, rule })
}

/// Whether policy lets the task go there; the id of the rule that lets its input leave the car.
fn may(needs: &TaskNeeds, place: &Candidate<'_>) -> Result<Option<String>, WhyNot> {
    if needs.pinned && place.realm == Realm::Outside {
        return Err(WhyNot::Pinned);
    }
    let rule = place.allowed.clone().map_err(|why| WhyNot::NotAllowed { why })?;
    if place.realm != Realm::Outside {
        return Ok(rule);
    }
    needs.export_rule.clone().map(Some).ok_or(WhyNot::NoExportRule)
}

fn transfer_us(needs: &TaskNeeds, place: &Candidate<'_>) -> u64 {
    needs.input_len.saturating_mul(1_000_000).checked_div(place.bandwidth_bytes_per_s).unwrap_or(0)
}

fn parts(needs: &TaskNeeds, place: &Candidate<'_>, weights: Weights, finish_us: u64, chance: u16) -> Parts {
    let weighted = |weight: u16, value: u64| value.saturating_mul(u64::from(weight)) / 1000;
    let over_the_air = if place.realm == Realm::Outside { needs.input_len } else { 0 };
    // Milliwatts times microseconds are nanojoules; a millionth of that is a thousandth of a joule.
    let energy = place.energy_mw.saturating_mul(finish_us) / 1_000_000;
    Parts {
        time: weighted(weights.time, finish_us.saturating_mul(1000) / needs.deadline_us.max(1)),
        energy: weighted(weights.energy, energy),
        bytes: weighted(weights.bytes, over_the_air.saturating_mul(1000) >> 20),
        price: weighted(weights.price, place.price_milli),
        risk: weighted(weights.risk, u64::from(1000u16.saturating_sub(chance))),
    }
}

/// Microseconds as milliseconds with one decimal.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX {
            return f.write_str("no known time");
        }
        write!(f, "{}.{} ms", self.0 / 1000, self.0 % 1000 / 100)
    }
}

/// Thousandths as percent with one decimal.
struct Percent(u16);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}

impl fmt::Display for Considered {
    /// One line: the place, then its cost or the reason against it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.node, self.realm)?;
        match &self.verdict {
            Err(why) => write!(f, "no, {why}"),
            Ok(cost) => write!(
                f,
                "cost {}, done in {} (p95 {}), in time with {}",
                cost.parts.total(),
                Millis(cost.finish_p50_us),
                Millis(cost.finish_p95_us),
                Percent(cost.chance)
            ),
        }
    }
}

impl fmt::Display for Placement {
    /// One line per candidate, the chosen one marked; a last line if nobody may or can.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, considered) in self.considered.iter().enumerate() {
            let mark = if self.chosen.as_ref() == Some(&considered.node) { '>' } else { ' ' };
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{mark} {considered}")?;
        }
        if self.chosen.is_none() {
            write!(f, "{}no place passed", if self.considered.is_empty() { "" } else { "\n" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
