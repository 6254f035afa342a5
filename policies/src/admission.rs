//! Whether there is room: for one more task by its deadline ([`admit`]), for one more app within the machine
//! ([`admit_app`]). The one who has the resource decides, never the one who asks.

use core::fmt;
use serde::{Deserialize, Serialize};

use crate::limits::{APPS_MAX, JOBS_MAX};
use crate::manifest::Resources;
use crate::task::Class;
use crate::time::{Timestamp, micros};
use crate::unit::{Bytes, CpuMilli};

/// A task that has been admitted and is not finished, or wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booked {
    /// When its result is due, on this node's clock.
    pub deadline: Timestamp,
    /// CPU time still to be spent on it, microseconds, at the 95th percentile.
    pub cost_us: u64,
    /// Its class.
    pub class: Class,
}

/// When an admitted task will be worked on if every booked task takes what it is booked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// Microseconds from now to its start.
    pub start_us: u64,
    /// Microseconds from now to its end.
    pub finish_us: u64,
}

/// A task that is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Reject {
    /// Which rule.
    pub why: RejectWhy,
    /// Microseconds after which it would be done if it came after all that is booked; `None` if never.
    pub eta_us: Option<u64>,
}

/// Why a task is not admitted. One variant per rule, with the two numbers that were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejectWhy {
    /// The table is full.
    Full {
        /// Tasks in it.
        jobs: usize,
    },
    /// One core alone could not do it in time, even if all others were idle.
    TooLong {
        /// Its own cost.
        needs_us: u64,
        /// Time to its deadline.
        has_us: u64,
    },
    /// Up to some deadline more work would be due than the cores can do.
    Overload {
        /// Time to that deadline.
        until_us: u64,
        /// Work due by then.
        demand_us: u64,
        /// Work that the cores can do by then, at the share the new task's class may fill.
        supply_us: u64,
    },
}

impl fmt::Display for RejectWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { jobs } => write!(f, "{jobs} tasks are admitted, {JOBS_MAX} is the maximum"),
            Self::TooLong { needs_us, has_us } => {
                write!(f, "needs {needs_us} us of one core, the deadline is in {has_us} us")
            }
            Self::Overload { until_us, demand_us, supply_us } => {
                write!(
                    f,
                    "within {until_us} us {demand_us} us of work would be due, {supply_us} us can be done"
                )
            }
        }
    }
}

/// How much of the cores, in thousandths, may be booked when a task of this class is the newcomer. 800 leaves
/// room for estimates that fall short; the lower classes leave more, so that a better task still finds room.
pub const fn bookable(class: Class) -> u64 {
    match class {
        Class::Critical | Class::Driving => 800,
        Class::Comfort => 700,
        Class::Background => 500,
    }
}

/// Decides whether `new` can be promised beside all that is `booked`, under earliest deadline first on `cores`
/// cores: for every deadline among them, the work due by then must fit into the bookable share of the time.
///
/// # Errors
/// [`Reject`] with the rule, its two numbers and an honest estimate.
pub fn admit(booked: &[Booked], new: &Booked, now: Timestamp, cores: u32) -> Result<Eta, Reject> {
    let cores = u64::from(cores.max(1));
    let all: u64 = booked.iter().fold(0, |sum, task| sum.saturating_add(task.cost_us));
    let eta_us = Some((all / cores).saturating_add(new.cost_us));
    let reject = |why| Err(Reject { why, eta_us });
    if booked.len() >= JOBS_MAX {
        return reject(RejectWhy::Full { jobs: booked.len() });
    }
    let has_us = micros(new.deadline.since(now));
    if new.cost_us > has_us {
        return reject(RejectWhy::TooLong { needs_us: new.cost_us, has_us });
    }
    // Deadlines before the new one see no more work than before and were checked when they were booked.
    let later = booked.iter().map(|task| task.deadline).filter(|deadline| *deadline > new.deadline);
    for deadline in core::iter::once(new.deadline).chain(later) {
        let until_us = micros(deadline.since(now));
        let demand_us = due_by(booked, deadline).saturating_add(new.cost_us);
        let supply_us = until_us.saturating_mul(cores).saturating_mul(bookable(new.class)) / 1000;
        if demand_us > supply_us {
            return reject(RejectWhy::Overload { until_us, demand_us, supply_us });
        }
    }
    let start_us = due_by(booked, new.deadline) / cores;
    Ok(Eta { start_us, finish_us: start_us.saturating_add(new.cost_us) })
}

/// Work of the booked tasks whose deadline is not after `deadline`.
fn due_by(booked: &[Booked], deadline: Timestamp) -> u64 {
    let due = booked.iter().filter(|task| task.deadline <= deadline);
    due.fold(0, |sum, task| sum.saturating_add(task.cost_us))
}

/// What a machine has for apps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// All cores together.
    pub cpu: CpuMilli,
    /// Memory.
    pub memory: Bytes,
}

/// How far limits may add up, in thousandths of the machine: (CPU, memory), counting the apps of this class
/// and of better ones. A `critical` app's limits are promises: no overcommit, and a fifth is left for the rest.
/// Limits of lower classes are ceilings that rarely meet; what gives way under pressure is the ladder's choice.
pub const fn overcommit(class: Class) -> (u64, u64) {
    match class {
        Class::Critical => (800, 800),
        Class::Driving => (1000, 900),
        Class::Comfort => (2000, 1200),
        Class::Background => (4000, 1500),
    }
}

/// Why an app is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AppReject {
    /// The node is full.
    #[error("{apps} apps are here, {APPS_MAX} is the maximum")]
    Full {
        /// Apps on the node.
        apps: usize,
    },
    /// CPU shares would add up to more than the class may claim.
    #[error("class {class}: CPU limits would add up to {sum_milli}m, {bound_milli}m is the bound")]
    Cpu {
        /// The app's class.
        class: Class,
        /// Sum of this and better classes with the new app.
        sum_milli: u64,
        /// The bound.
        bound_milli: u64,
    },
    /// Memory limits would add up to more than the class may claim.
    #[error("class {class}: memory limits would add up to {sum} bytes, {bound} is the bound")]
    Memory {
        /// The app's class.
        class: Class,
        /// Sum of this and better classes with the new app.
        sum: u64,
        /// The bound.
        bound: u64,
    },
}

impl AppReject {
    /// What the operator can do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Full { .. } => "remove an app, or apply it to another node",
            Self::Cpu { .. } => "lower resources.cpu of this app or of one of the same or a better class",
            Self::Memory { .. } => {
                "lower resources.memory of this app or of one of the same or a better class"
            }
        }
    }
}

/// Decides whether an app fits beside the `existing` ones (see [`overcommit`] for the bounds).
///
/// # Errors
/// [`AppReject`] with the sum and the bound.
pub fn admit_app(
    existing: &[(Class, Resources)],
    new: (Class, &Resources),
    capacity: Capacity,
) -> Result<(), AppReject> {
    let (class, wants) = new;
    if existing.len() >= APPS_MAX {
        return Err(AppReject::Full { apps: existing.len() });
    }
    let peers = || existing.iter().filter(|(other, _)| *other <= class).map(|(_, resources)| resources);
    let sum_milli = peers().chain([wants]).map(|r| u64::from(r.cpu.get())).sum();
    let sum = peers().chain([wants]).map(|r| r.memory.get()).sum();
    let (cpu_factor, memory_factor) = overcommit(class);
    let bound_milli = u64::from(capacity.cpu.get()) * cpu_factor / 1000;
    let bound = capacity.memory.get() / 1000 * memory_factor;
    if sum_milli > bound_milli {
        return Err(AppReject::Cpu { class, sum_milli, bound_milli });
    }
    if sum > bound {
        return Err(AppReject::Memory { class, sum, bound });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_micros(5_000_000);

    fn booked(rows: &[(u64, u64)], class: Class) -> Vec<Booked> {
        let at = |ms: u64| NOW + core::time::Duration::from_millis(ms);
        rows.iter().map(|(due, cost)| Booked { deadline: at(*due), cost_us: cost * 1000, class }).collect()
    }

    /// Milliseconds. Booked tasks and the new one as (deadline, cost).
    #[test]
    #[rustfmt::skip]
    fn admission_table() {
        use Class::{Background, Comfort, Driving};
        //    situation                    booked                    new         class       cores  expected
        check("idle",                      &[],                      (100, 50),  Driving,    1, "start 0 finish 50000");
        check("exactly the bookable share", &[],                     (100, 80),  Driving,    1, "start 0 finish 80000");
        check("above the bookable share",  &[],                      (100, 81),  Driving,    1, "within 100000 us 81000 us of work would be due, 80000 us can be done; eta 81000");
        check("comfort leaves more room",  &[],                      (100, 71),  Comfort,    1, "within 100000 us 71000 us of work would be due, 70000 us can be done; eta 71000");
        check("background even more",      &[],                      (100, 50),  Background, 1, "start 0 finish 50000");
        check("one core cannot, two idle", &[],                      (100, 101), Driving,    4, "needs 101000 us of one core, the deadline is in 100000 us; eta 101000");
        check("deadline is over",          &[],                      (0, 1),     Driving,    1, "needs 1000 us of one core, the deadline is in 0 us; eta 1000");
        check("behind an earlier one",     &[(50, 30)],              (100, 50),  Driving,    1, "start 30000 finish 80000");
        check("ahead of a later one",      &[(200, 100)],            (50, 40),   Driving,    1, "start 0 finish 40000");
        check("would push a later one over", &[(100, 70)],           (50, 20),   Driving,    1, "within 100000 us 90000 us of work would be due, 80000 us can be done; eta 90000");
        check("two cores take it",         &[(100, 70)],             (50, 20),   Driving,    2, "start 0 finish 20000");
        check("equal deadlines queue up",  &[(100, 20), (100, 20)],  (100, 40),  Driving,    1, "start 40000 finish 80000");
    }

    #[track_caller]
    fn check(what: &str, rows: &[(u64, u64)], new: (u64, u64), class: Class, cores: u32, expected: &str) {
        let new = booked(&[new], class)[0];
        let got = match admit(&booked(rows, Class::Driving), &new, NOW, cores) {
            Ok(eta) => alloc::format!("start {} finish {}", eta.start_us, eta.finish_us),
            Err(reject) => alloc::format!("{reject}; eta {}", reject.eta_us.unwrap_or(0)),
        };
        assert_eq!(got, expected, "{what}");
    }

    #[test]
    fn a_full_table_admits_nothing() {
        let row = booked(&[(1_000_000, 0)], Class::Critical);
        let full = row.repeat(JOBS_MAX);
        let why = admit(&full, &row[0], NOW, 8).unwrap_err().why;
        assert_eq!(why, RejectWhy::Full { jobs: JOBS_MAX });
    }

    proptest! {
        /// Runs what was admitted, one after the other, under earliest deadline first on one core.
        #[test]
        fn what_is_admitted_meets_its_deadline(rows in prop::collection::vec((1u64..400, 0u64..80), 0..40)) {
            let mut accepted: Vec<Booked> = Vec::new();
            for task in booked(&rows, Class::Driving) {
                if admit(&accepted, &task, NOW, 1).is_ok() {
                    accepted.push(task);
                }
            }
            accepted.sort_by_key(|task| task.deadline);
            let mut clock = NOW.as_micros();
            for task in accepted {
                clock += task.cost_us;
                prop_assert!(clock <= task.deadline.as_micros());
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn app_admission_table() {
        use Class::{Background, Comfort, Critical, Driving};
        // A machine of 2 cores and 1000 MB. Apps as (class, CPU in thousandths, MB).
        //   situation                   existing                new                expected
        app("fits",                      &[],                    (Critical, 1600, 800),   "ok");
        app("critical leaves a fifth",   &[],                    (Critical, 1601, 100),   "class critical: CPU limits would add up to 1601m, 1600m is the bound");
        app("critical memory",           &[(Critical, 100, 500)], (Critical, 100, 301),   "class critical: memory limits would add up to 801000000 bytes, 800000000 is the bound");
        app("worse classes do not count", &[(Background, 8000, 1500)], (Critical, 1600, 800), "ok");
        app("better classes count",      &[(Critical, 1600, 800)], (Driving, 401, 50),    "class driving: CPU limits would add up to 2001m, 2000m is the bound");
        app("comfort may overcommit",    &[(Driving, 2000, 800)], (Comfort, 2000, 400),   "ok");
        app("background the most",       &[(Driving, 2000, 800)], (Background, 6000, 700), "ok");
        app("but not without end",       &[(Driving, 2000, 800)], (Background, 6000, 701), "class background: memory limits would add up to 1501000000 bytes, 1500000000 is the bound");
    }

    #[track_caller]
    fn app(what: &str, existing: &[(Class, u32, u64)], new: (Class, u32, u64), expected: &str) {
        let resources = |(class, milli, mb): (Class, u32, u64)| {
            let cpu = CpuMilli::new(milli).unwrap();
            let memory = Bytes::new(mb * 1_000_000).unwrap();
            (class, Resources { cpu, memory, ..Resources::default() })
        };
        let existing: Vec<_> = existing.iter().copied().map(resources).collect();
        let (class, wants) = resources(new);
        let capacity =
            Capacity { cpu: CpuMilli::new(2000).unwrap(), memory: Bytes::new(1_000_000_000).unwrap() };
        let got = admit_app(&existing, (class, &wants), capacity);
        assert_eq!(got.map_or_else(|e| e.to_string(), |()| "ok".into()), expected, "{what}");
    }
}
