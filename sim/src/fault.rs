//! What goes wrong, and how often.

use std::collections::BTreeSet;

use crate::chance::{Chance, Ratio};
use crate::network::LinkModel;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Messages and receipts are lost.
    Loss,
    /// Messages arrive twice.
    Duplicate,
    /// Messages overtake each other.
    Reorder,
    /// A node loses power: everything volatile is gone, writes under way may be.
    Crash,
    /// The node process dies; host and apps go on.
    Kill,
    /// The node process stands still for a while and then goes on as if nothing had been; its other processes
    /// go on meanwhile.
    Freeze,
    /// A node is cut off from a realm.
    Partition,
    /// Clocks run at different rates.
    Skew,
    /// Writes fail.
    Disk,
    /// An app dies.
    AppCrash,
    /// The machine is pressed for CPU or memory.
    Pressure,
    /// A car leaves one zone and enters another.
    Handover,
    /// The effect server breaks off.
    Ledger,
    /// A request to an effect port arrives twice (a channel that was made anew repeats what had no answer).
    Repeat,
    /// An app asks for hundreds of tasks at once, sometimes for more than a node may own.
    Flood,
}

impl Fault {
    const fn strikes(self) -> bool {
        match self {
            Self::Loss
            | Self::Duplicate
            | Self::Reorder
            | Self::Skew
            | Self::Disk
            | Self::Ledger
            | Self::Repeat => false,
            Self::Crash
            | Self::Kill
            | Self::Freeze
            | Self::Partition
            | Self::AppCrash
            | Self::Pressure
            | Self::Handover
            | Self::Flood => true,
        }
    }
}

/// Every kind.
pub const ALL: [Fault; 15] = [
    Fault::Loss,
    Fault::Duplicate,
    Fault::Reorder,
    Fault::Crash,
    Fault::Kill,
    Fault::Freeze,
    Fault::Partition,
    Fault::Skew,
    Fault::Disk,
    Fault::AppCrash,
    Fault::Pressure,
    Fault::Handover,
    Fault::Ledger,
    Fault::Repeat,
    Fault::Flood,
];

/// The kinds of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub BTreeSet<Fault>);

impl Faults {
    /// Every kind.
    pub fn all() -> Self {
        Self(ALL.into_iter().collect())
    }

    /// A subset chosen by the seed, so that many seeds cover combinations and also the absence of each kind.
    pub fn swarm(seed: u64) -> Self {
        let mut chance = Chance::new(seed, "swarm");
        Self(ALL.into_iter().filter(|_| chance.happens(Ratio { of: 1, among: 2 })).collect())
    }

    /// Whether this kind is on.
    pub fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }

    /// `link` with the message faults that are on, at a strength chosen by the seed.
    pub fn apply_to(&self, mut link: LinkModel, chance: &mut Chance) -> LinkModel {
        let mut strength = |fault, most| {
            let drawn = Ratio::permille(chance.between((5, most)));
            if self.has(fault) { drawn } else { Ratio::NEVER }
        };
        link.loss = strength(Fault::Loss, 200);
        link.duplicate = strength(Fault::Duplicate, 200);
        link.reorder = strength(Fault::Reorder, 300);
        link
    }

    /// The kinds that strike a node at a moment; the others are properties of links, clocks, disks and ports.
    pub fn striking(&self) -> Vec<Fault> {
        self.0.iter().copied().filter(|fault| fault.strikes()).collect()
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().map(|fault| format!("{fault:?}").to_lowercase()).collect();
        f.write_str(&names.join(","))
    }
}

/// Which faults a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These.
    These(Faults),
    /// A subset drawn from the seed.
    Swarm,
}

impl Choice {
    /// The faults of a run with this seed.
    pub fn faults(self, seed: u64) -> Faults {
        match self {
            Self::These(faults) => faults,
            Self::Swarm => Faults::swarm(seed),
        }
    }
}

/// A word that names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is no fault; write all, none, swarm, or a list of: {all}", all = Faults::all())]
pub struct FaultError {
    /// The word.
    pub got: String,
}

impl std::str::FromStr for Choice {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        match text {
            "all" => return Ok(Self::These(Faults::all())),
            "none" => return Ok(Self::These(Faults::default())),
            "swarm" => return Ok(Self::Swarm),
            _ => {}
        }
        let named = |word: &str| {
            let found = ALL.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(word));
            found.ok_or_else(|| FaultError { got: word.into() })
        };
        text.split(',').map(named).collect::<Result<_, _>>().map(|set| Self::These(Faults(set)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for seed in 0..50 {
            let faults = Faults::swarm(seed);
            assert_eq!(faults.to_string().parse(), Ok(Choice::These(faults)));
        }
        assert_eq!("all".parse(), Ok(Choice::These(Faults::all())));
        assert!("loss,rain".parse::<Choice>().is_err());
    }
}
