//! What gives way under pressure: one rung at a time the lower classes are squeezed, then frozen, and given
//! back in the reverse order. `critical` is never touched.
//!
//! ```text
//!   pressure >= raise for `climb_after`  --> next rung:  Squeeze or Freeze
//!   pressure <  fall  for `descend_after` --> last rung back: Thaw or Unsqueeze
//!   in between                            --> hold
//! ```
//!
//! Where the kernel does not tell who waits for CPU (no PSI), the CPU time in use stands in, with levels of its own; for
//! memory the share in use counts either way.
//!
//! A class that brings the pressure back as soon as it is let go would swing for ever: each relapse doubles
//! the wait before the next descent, up to eight times. Every step carries the numbers that decided it.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

use crate::host::Pressure;
use crate::task::Class;
use crate::time::{Timestamp, micros};
use crate::unit::Span;

/// Most rungs: each of the three lower classes squeezed and frozen, with room for a second squeeze each.
pub const RUNGS_MAX: usize = 9;

/// How often the wait before a descent may double.
const RELAPSES_MAX: u32 = 3;

/// When a measure calls for a step, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// From here on up it is too much.
    pub raise: u16,
    /// Below this it is fine again.
    pub fall: u16,
}

/// What is done to a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// Its share of the machine falls to this many thousandths of normal.
    Squeeze(u16),
    /// Its processes stop; memory stays.
    Freeze,
}

/// One rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// Whose turn it is.
    pub class: Class,
    /// What happens.
    pub means: Means,
}

/// The policy of the ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LadderPolicy {
    /// Share of time in which some task waits for CPU.
    pub cpu: Levels,
    /// CPU time in use, of all; counts only where the kernel has no PSI. A machine that is busy and nobody waits cannot be
    /// told from a pressed one by it, hence the high levels.
    pub cpu_used: Levels,
    /// Share of time in which some task waits for memory.
    pub memory: Levels,
    /// Memory in use, of all.
    pub memory_used: Levels,
    /// How long the pressure must last before a step up, and between two.
    pub climb_after: Span,
    /// How long it must be gone before a step down, and between two.
    pub descend_after: Span,
    /// The rungs, first to last.
    pub rungs: Vec<Rung>,
}

impl Default for LadderPolicy {
    fn default() -> Self {
        let rung = |class, means| Rung { class, means };
        Self {
            cpu: Levels { raise: 400, fall: 200 },
            cpu_used: Levels { raise: 950, fall: 800 },
            memory: Levels { raise: 200, fall: 50 },
            memory_used: Levels { raise: 920, fall: 850 },
            climb_after: Span::from_millis(1_000),
            descend_after: Span::from_millis(5_000),
            rungs: alloc::vec![
                rung(Class::Background, Means::Squeeze(100)),
                rung(Class::Background, Means::Freeze),
                rung(Class::Comfort, Means::Squeeze(250)),
                rung(Class::Comfort, Means::Freeze),
                rung(Class::Driving, Means::Squeeze(500)),
            ],
        }
    }
}

/// Why a policy is not a ladder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// A rung names the class that is never touched.
    #[error("rung {rung}: class critical is never squeezed or frozen")]
    Critical {
        /// Its place, counted from 1.
        rung: usize,
    },
    /// Levels that would swing at once.
    #[error("{measure}: fall is {fall}, it must be below raise, which is {raise}")]
    Levels {
        /// Which.
        measure: Measure,
        /// As given.
        raise: u16,
        /// As given.
        fall: u16,
    },
    /// Too many rungs.
    #[error("{got} rungs, the maximum is {RUNGS_MAX}")]
    TooMany {
        /// How many.
        got: usize,
    },
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// [`Pressure::cpu`].
    Cpu,
    /// [`Pressure::cpu_used`].
    CpuUsed,
    /// [`Pressure::memory`].
    Memory,
    /// [`Pressure::memory_used`].
    MemoryUsed,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu pressure",
            Self::CpuUsed => "cpu use",
            Self::Memory => "memory pressure",
            Self::MemoryUsed => "memory in use",
        })
    }
}

/// The numbers that decided a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What was measured: the measure that is worst against its level.
    pub measure: Measure,
    /// The value, thousandths.
    pub value: u16,
    /// The level that it reached (going up) or stayed below (going down).
    pub level: u16,
    /// For how long it has, microseconds.
    pub held_us: u64,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.value >= self.level { ">=" } else { "<" };
        let Self { measure, value, level, held_us } = self;
        write!(f, "{measure} {value} {sign} {level} permille for {} ms", held_us / 1000)
    }
}

/// What the supervisor shall do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Lower the class's share.
    Squeeze {
        /// Whose.
        class: Class,
        /// To this many thousandths of normal.
        share: u16,
        /// The numbers.
        why: Why,
    },
    /// Stop the class's processes.
    Freeze {
        /// Whose.
        class: Class,
        /// The numbers.
        why: Why,
    },
    /// Let them run again.
    Thaw {
        /// Whose.
        class: Class,
        /// The numbers.
        why: Why,
    },
    /// Give the share back.
    Unsqueeze {
        /// Whose.
        class: Class,
        /// To this many thousandths: 1000, unless an earlier rung still holds.
        share: u16,
        /// The numbers.
        why: Why,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Squeeze { class, share, why } => write!(f, "squeeze {class} to {share}: {why}"),
            Self::Freeze { class, why } => write!(f, "freeze {class}: {why}"),
            Self::Thaw { class, why } => write!(f, "thaw {class}: {why}"),
            Self::Unsqueeze { class, share, why } => write!(f, "unsqueeze {class} to {share}: {why}"),
        }
    }
}

/// Which way the pressure points, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trend {
    High,
    Middle,
    Low,
}

/// The machine. Fed with every sample of the pressure.
#[derive(Clone, Debug)]
pub struct Ladder {
    policy: LadderPolicy,
    taken: Vec<Rung>,
    trend: Trend,
    since: Timestamp,
    /// When the last rung was given back, while a relapse still counts as one.
    gave_back_at: Option<Timestamp>,
    relapses: u32,
}

impl Ladder {
    /// A ladder with nothing taken.
    ///
    /// # Errors
    /// [`LadderError`] if the policy touches `critical`, swings, or is too long.
    pub fn new(policy: LadderPolicy) -> Result<Self, LadderError> {
        check(&policy)?;
        let (taken, trend, since) = (Vec::new(), Trend::Middle, Timestamp::ZERO);
        Ok(Self { policy, taken, trend, since, gave_back_at: None, relapses: 0 })
    }

    /// Takes a sample of the pressure and the classes that have apps running; at most one step comes out.
    /// `now` must not run backwards.
    pub fn handle(&mut self, now: Timestamp, pressure: Pressure, running: &[Class]) -> Option<Step> {
        let (trend, measure, value, level) = self.read(pressure);
        if trend != self.trend {
            (self.trend, self.since) = (trend, now);
        }
        let why = Why { measure, value, level, held_us: micros(now.since(self.since)) };
        match trend {
            Trend::High if why.held_us >= self.policy.climb_after.as_micros() => {
                self.climb(now, why, running)
            }
            Trend::Low if why.held_us >= micros(self.descend_after()) => self.descend(now, why),
            Trend::High | Trend::Middle | Trend::Low => None,
        }
    }

    /// Whether a class is frozen now: an app of it that starts must be frozen as well.
    pub fn is_frozen(&self, class: Class) -> bool {
        self.taken.iter().any(|rung| rung.class == class && rung.means == Means::Freeze)
    }

    /// The share of a class now, in thousandths of normal.
    pub fn share(&self, class: Class) -> u16 {
        let mut shares =
            self.taken.iter().filter(|rung| rung.class == class).filter_map(|rung| match rung.means {
                Means::Squeeze(share) => Some(share),
                Means::Freeze => None,
            });
        shares.next_back().unwrap_or(1000)
    }

    /// The rungs taken, first to last.
    pub fn taken(&self) -> &[Rung] {
        &self.taken
    }

    /// The wait before the next descent, with what relapses added to it.
    fn descend_after(&self) -> Duration {
        self.policy.descend_after.duration() * (1 << self.relapses.min(RELAPSES_MAX))
    }

    /// The trend, and the measure that is worst against the level that decides it.
    fn read(&self, pressure: Pressure) -> (Trend, Measure, u16, u16) {
        let cpu = match pressure.cpu {
            Some(value) => (Measure::Cpu, value, self.policy.cpu),
            None => (Measure::CpuUsed, pressure.cpu_used, self.policy.cpu_used),
        };
        let memory = pressure.memory.map(|value| (Measure::Memory, value, self.policy.memory));
        let memory_used = (Measure::MemoryUsed, pressure.memory_used, self.policy.memory_used);
        let rest = memory.into_iter().chain([memory_used]);
        let excess = |value: u16, level: u16| i32::from(value) - i32::from(level);
        let worst = |level: fn(&Levels) -> u16| {
            rest.clone().fold(cpu, |worst, next| {
                if excess(next.1, level(&next.2)) > excess(worst.1, level(&worst.2)) { next } else { worst }
            })
        };
        let (measure, value, levels) = worst(|levels| levels.raise);
        if value >= levels.raise {
            return (Trend::High, measure, value, levels.raise);
        }
        let (measure, value, levels) = worst(|levels| levels.fall);
        let trend = if value < levels.fall { Trend::Low } else { Trend::Middle };
        (trend, measure, value, levels.fall)
    }

    fn climb(&mut self, now: Timestamp, why: Why, running: &[Class]) -> Option<Step> {
        // The lowest rung that is free, not the next above: an app of a lower class may have come later.
        let place = |rung: &Rung| self.policy.rungs.iter().position(|other| other == rung);
        let free = |rung: &&Rung| running.contains(&rung.class) && !self.taken.contains(rung);
        let next = self.policy.rungs.iter().find(free).copied()?;
        let at = self.taken.partition_point(|rung| place(rung) < place(&next));
        if self.gave_back_at.take().is_some_and(|at| now.since(at) <= self.descend_after()) {
            self.relapses = (self.relapses + 1).min(RELAPSES_MAX);
        }
        self.taken.insert(at, next);
        self.since = now;
        Some(match next {
            Rung { class, means: Means::Squeeze(share) } => Step::Squeeze { class, share, why },
            Rung { class, means: Means::Freeze } => Step::Freeze { class, why },
        })
    }

    fn descend(&mut self, now: Timestamp, why: Why) -> Option<Step> {
        let Some(last) = self.taken.pop() else {
            // All is given back and stayed quiet for a whole wait: the past is forgiven.
            (self.relapses, self.gave_back_at) = (0, None);
            return None;
        };
        (self.since, self.gave_back_at) = (now, Some(now));
        let class = last.class;
        Some(match last.means {
            Means::Freeze => Step::Thaw { class, why },
            Means::Squeeze(_) => Step::Unsqueeze { class, share: self.share(class), why },
        })
    }
}

fn check(policy: &LadderPolicy) -> Result<(), LadderError> {
    if policy.rungs.len() > RUNGS_MAX {
        return Err(LadderError::TooMany { got: policy.rungs.len() });
    }
    if let Some(index) = policy.rungs.iter().position(|rung| rung.class == Class::Critical) {
        return Err(LadderError::Critical { rung: index + 1 });
    }
    let levels = [
        (Measure::Cpu, policy.cpu),
        (Measure::CpuUsed, policy.cpu_used),
        (Measure::Memory, policy.memory),
        (Measure::MemoryUsed, policy.memory_used),
    ];
    match levels.into_iter().find(|(_, levels)| levels.fall >= levels.raise) {
        Some((measure, Levels { raise, fall })) => Err(LadderError::Levels { measure, raise, fall }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
