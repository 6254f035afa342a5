//! The specification of the ladder: sequences of samples and the steps that come out.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

const ALL: &[Class] = &Class::ALL;

/// A machine whose kernel has PSI, with so much CPU pressure.
fn cpu(permille: u16) -> Pressure {
    Pressure { cpu: Some(permille), memory: Some(0), ..Pressure::default() }
}

/// A machine whose kernel has no PSI, with so much of its CPU time in use.
fn cpu_used(permille: u16) -> Pressure {
    Pressure { cpu_used: permille, ..Pressure::default() }
}

/// Feeds one sample per half second; each entry is how many samples, and the figure that `machine` makes a sample of.
/// Returns the steps without their reasons, with the time in seconds.
fn steps(machine: fn(u16) -> Pressure, running: &[Class], samples: &[(u32, u16)]) -> Vec<String> {
    let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
    let pressures = samples.iter().flat_map(|(n, value)| (0..*n).map(|_| machine(*value)));
    let mut said = Vec::new();
    for (index, pressure) in pressures.enumerate() {
        let now = Timestamp::from_micros(index as u64 * 500_000);
        if let Some(step) = ladder.handle(now, pressure, running) {
            let text = step.to_string();
            let what = text.split(':').next().unwrap_or_default();
            said.push(format!("{}.{} {what}", index / 2, index % 2 * 5));
        }
    }
    said
}

#[test]
#[rustfmt::skip]
fn ladder_table() {
    use Class::{Background, Comfort, Critical, Driving};
    check("quiet",                       ALL, &[(40, 100)],            &[]);
    check("a short burst is not enough", ALL, &[(2, 900), (40, 100)],  &[]);
    check("the middle holds",            ALL, &[(40, 300)],            &[]);
    check("exactly the level counts",    ALL, &[(3, 400)],             &["1.0 squeeze background to 100"]);
    check("one rung per wait, all the way, never critical", ALL, &[(20, 900)], &[
        "1.0 squeeze background to 100", "2.0 freeze background", "3.0 squeeze comfort to 250",
        "4.0 freeze comfort", "5.0 squeeze driving to 500",
    ]);
    check("given back in reverse order", ALL, &[(5, 900), (30, 100)], &[
        "1.0 squeeze background to 100", "2.0 freeze background",
        "7.5 thaw background", "12.5 unsqueeze background to 1000",
    ]);
    check("held in the middle",          ALL, &[(5, 900), (30, 300)],  &["1.0 squeeze background to 100", "2.0 freeze background"]);
    check("classes without apps are skipped", &[Driving, Critical], &[(9, 900)], &["1.0 squeeze driving to 500"]);
    check("only critical is running",    &[Critical], &[(20, 900)],    &[]);
    check("what was taken is given back though it has no apps any more", &[Background, Comfort], &[(3, 900), (12, 0)],
        &["1.0 squeeze background to 100", "6.5 unsqueeze background to 1000"]);
    check("a relapse doubles the wait",  ALL, &[(5, 900), (11, 0), (3, 900), (22, 0)], &[
        "1.0 squeeze background to 100", "2.0 freeze background", "7.5 thaw background",
        "9.0 freeze background", "19.5 thaw background",
    ]);
}

#[track_caller]
fn check(situation: &str, running: &[Class], samples: &[(u32, u16)], expected: &[&str]) {
    assert_eq!(steps(cpu, running, samples), expected, "{situation}");
}

// tests: P4-06
#[test]
#[rustfmt::skip]
fn without_psi_table() {
    check_without_psi("busy, not full",            &[(40, 940)],           &[]);
    check_without_psi("a short burst",             &[(2, 1000), (40, 300)], &[]);
    check_without_psi("exactly the level counts",  &[(3, 950)],            &["1.0 squeeze background to 100"]);
    check_without_psi("one rung per wait, never critical", &[(20, 1000)], &[
        "1.0 squeeze background to 100", "2.0 freeze background", "3.0 squeeze comfort to 250",
        "4.0 freeze comfort", "5.0 squeeze driving to 500",
    ]);
    check_without_psi("given back below the fall", &[(5, 1000), (30, 790)], &[
        "1.0 squeeze background to 100", "2.0 freeze background",
        "7.5 thaw background", "12.5 unsqueeze background to 1000",
    ]);
    check_without_psi("held in the middle",        &[(5, 1000), (30, 800)], &["1.0 squeeze background to 100", "2.0 freeze background"]);
}

#[track_caller]
fn check_without_psi(situation: &str, samples: &[(u32, u16)], expected: &[&str]) {
    assert_eq!(steps(cpu_used, ALL, samples), expected, "{situation}");
}

#[test]
fn with_psi_a_busy_machine_in_which_nobody_waits_is_left_alone() {
    let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
    for second in 0..20 {
        let now = Timestamp::from_micros(second * 1_000_000);
        assert_eq!(ladder.handle(now, Pressure { cpu_used: 1000, ..cpu(0) }, ALL), None);
    }
}

/// The figure that decides is named: on which machine, and the reason of its first step.
#[test]
#[rustfmt::skip]
fn reason_table() {
    let none = Pressure::default();
    reason(Pressure { cpu_used: 970, ..cpu(410) },                    "cpu pressure 410 >= 400 permille for 1001 ms");
    reason(Pressure { memory: Some(210), ..cpu(0) },                  "memory pressure 210 >= 200 permille for 1001 ms");
    reason(Pressure { cpu_used: 970, ..none },                        "cpu use 970 >= 950 permille for 1001 ms");
    reason(Pressure { cpu_used: 1000, memory_used: 930, ..none },     "cpu use 1000 >= 950 permille for 1001 ms");
    reason(Pressure { cpu_used: 300, memory_used: 930, ..none },      "memory in use 930 >= 920 permille for 1001 ms");
    reason(Pressure { cpu_used: 960, memory: Some(900), ..none },     "memory pressure 900 >= 200 permille for 1001 ms");
}

#[track_caller]
fn reason(pressure: Pressure, expected: &str) {
    let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
    assert_eq!(ladder.handle(Timestamp::ZERO, pressure, ALL), None);
    let step = ladder.handle(Timestamp::from_micros(1_001_000), pressure, ALL).unwrap();
    assert_eq!(step.to_string(), format!("squeeze background to 100: {expected}"));
}

#[test]
fn a_step_names_the_numbers_that_decided() {
    let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
    let pressure = Pressure { memory_used: 990, ..cpu(410) };
    assert_eq!(ladder.handle(Timestamp::ZERO, pressure, ALL), None);
    let step = ladder.handle(Timestamp::from_micros(1_200_000), pressure, ALL).unwrap();
    assert_eq!(step.to_string(), "squeeze background to 100: memory in use 990 >= 920 permille for 1200 ms");
    assert_eq!((ladder.share(Class::Background), ladder.is_frozen(Class::Background)), (100, false));
    assert_eq!(ladder.share(Class::Critical), 1000);
}

#[test]
#[rustfmt::skip]
fn bad_policies_are_refused() {
    let with = |change: fn(&mut LadderPolicy)| {
        let mut policy = LadderPolicy::default();
        change(&mut policy);
        Ladder::new(policy).unwrap_err().to_string()
    };
    assert_eq!(with(|p| p.rungs[1].class = Class::Critical), "rung 2: class critical is never squeezed or frozen");
    assert_eq!(with(|p| p.memory.fall = 200), "memory pressure: fall is 200, it must be below raise, which is 200");
    assert_eq!(with(|p| p.cpu_used.fall = 960), "cpu use: fall is 960, it must be below raise, which is 950");
    assert_eq!(with(|p| p.rungs = p.rungs.repeat(2)), "10 rungs, the maximum is 9");
}

proptest! {
    #[test]
    fn whatever_comes_it_ends_where_it_began(
        psi: bool,
        samples in prop::collection::vec((0u16..1000, 0u16..1000, 0u16..1000, 0u64..3_000_000), 0..200),
        present in prop::collection::vec(prop::sample::select(ALL), 0..4),
    ) {
        let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
        let (mut now, mut open) = (Timestamp::ZERO, Vec::new());
        let quiet = (0..60).map(|_| (0, 0, 0, 10_000_000));
        for (cpu, memory, memory_used, wait) in samples.into_iter().chain(quiet) {
            now = now + Duration::from_micros(wait);
            let told = |value: u16| psi.then_some(value);
            let pressure = Pressure { cpu: told(cpu), memory: told(memory), memory_used, cpu_used: cpu };
            match ladder.handle(now, pressure, &present) {
                Some(Step::Squeeze { class, .. }) => open.push((class, false)),
                Some(Step::Freeze { class, .. }) => open.push((class, true)),
                Some(Step::Thaw { class, .. }) => prop_assert_eq!(open.pop(), Some((class, true))),
                Some(Step::Unsqueeze { class, .. }) => prop_assert_eq!(open.pop(), Some((class, false))),
                None => {}
            }
            prop_assert!(open.iter().all(|(class, _)| *class != Class::Critical));
        }
        prop_assert!(open.is_empty() && ladder.taken().is_empty());
    }
}

#[test]
fn a_lower_class_that_comes_later_is_taken_first_and_given_back_last() {
    let mut ladder = Ladder::new(LadderPolicy::default()).unwrap();
    let high = cpu(900);
    let mut steps = Vec::new();
    let mut at = |ladder: &mut Ladder, seconds: core::ops::Range<u64>, pressure, running: &[Class]| {
        for second in seconds {
            let now = Timestamp::from_micros(second * 1_000_000);
            steps.extend(ladder.handle(now, pressure, running).map(|step| match step {
                Step::Squeeze { class, .. } => alloc::format!("squeeze {class}"),
                Step::Freeze { class, .. } => alloc::format!("freeze {class}"),
                Step::Thaw { class, .. } => alloc::format!("thaw {class}"),
                Step::Unsqueeze { class, .. } => alloc::format!("unsqueeze {class}"),
            }));
        }
    };
    at(&mut ladder, 0..5, high, &[Class::Driving]);
    at(&mut ladder, 5..10, high, &[Class::Driving, Class::Background]);
    at(&mut ladder, 10..60, Pressure::default(), &[Class::Driving, Class::Background]);
    assert_eq!(
        steps,
        [
            "squeeze driving",
            "squeeze background",
            "freeze background",
            "unsqueeze driving",
            "thaw background",
            "unsqueeze background",
        ]
    );
}
