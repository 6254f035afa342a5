//! Stories of one task, as tables of steps; and the invariant over random ones.

use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

fn task(number: u64) -> TaskId {
    TaskId { owner: NodeId::new("a1").unwrap(), incarnation: Incarnation(3), number }
}

fn port() -> EffectPort {
    let mut port = EffectPort::default();
    port.handle(Timestamp::ZERO, Input::Server { reachable: true });
    port
}

fn drain(port: &mut EffectPort) -> String {
    let mut got = Vec::new();
    while let Some(output) = port.poll() {
        got.push(match output {
            Output::Append { attempt, line, .. } => format!("append {} {line}", attempt.0),
            Output::Report { attempt, result: Ok(()), .. } => format!("ok {}", attempt.0),
            Output::Report { attempt, result: Err(why), .. } => format!("{why} {}", attempt.0),
        });
    }
    got.join("; ")
}

/// Steps of one task: `a2` applies attempt 2, `ok`/`none`/`part` say how the append went, `up`/`down`.
#[track_caller]
fn story(steps: &str, expected: &str) {
    let mut port = port();
    let mut last = Attempt(0);
    let mut got = Vec::new();
    for step in steps.split(' ') {
        let (task, attempt) = (task(7), last);
        let input = match step {
            "up" | "down" => Input::Server { reachable: step == "up" },
            "ok" => Input::Appended { task, attempt },
            "none" | "part" => Input::AppendFailed { task, attempt, nothing_written: step == "none" },
            apply => {
                last = Attempt(apply[1..].parse().unwrap());
                Input::Apply { task, attempt: last, line: "L".into() }
            }
        };
        port.handle(Timestamp::ZERO, input);
        got.push(drain(&mut port));
    }
    got.retain(|text| !text.is_empty());
    assert_eq!(got.join("; "), expected, "{steps}");
}

#[test]
#[rustfmt::skip]
#[cfg(not(feature = "testing-no-fence"))]
fn story_table() {
    //    steps                      what came out
    story("a1 ok",                   "append 1 L; ok 1");
    story("a1 ok a1",                "append 1 L; ok 1; already done 1");
    story("a1 ok a2",                "append 1 L; ok 1; already done 2");
    story("a2 ok a1",                "append 2 L; ok 2; older attempt 1");
    story("a1 a1",                   "append 1 L; in progress 1");
    story("a1 a2 ok a2",             "append 1 L; in progress 2; ok 2; already done 2");
    story("a1 none a1 ok",           "append 1 L; server unreachable 1; append 1 L; ok 1");
    story("a2 none a1",              "append 2 L; server unreachable 2; older attempt 1");
    story("a1 part a2",              "append 1 L; outcome unknown 1; outcome unknown 2");
    story("down a1 up a1 ok",        "server unreachable 1; append 1 L; ok 1");
    story("down a2 up a1",           "server unreachable 2; older attempt 1");
}

#[test]
#[cfg(feature = "testing-no-fence")]
fn without_the_fence_every_repeat_is_applied() {
    story("a1 ok a1 ok a2 ok", "append 1 L; ok 1; append 1 L; ok 1; append 2 L; ok 2");
}

#[test]
fn what_is_not_one_line_is_refused() {
    for line in ["a\nb", "a\r", &"x".repeat(LINE_LEN_MAX + 1)] {
        let mut port = port();
        port.handle(Timestamp::ZERO, Input::Apply { task: task(1), attempt: Attempt(1), line: line.into() });
        assert_eq!(drain(&mut port), "not one line 1");
    }
}

#[test]
#[cfg(not(feature = "testing-no-fence"))]
fn a_full_table_refuses_and_what_it_forgets_it_never_applies_again() {
    let mut port = port();
    let apply = |port: &mut EffectPort, now, number| {
        let attempt = Attempt(1);
        port.handle(now, Input::Apply { task: task(number), attempt, line: "L".into() });
        port.handle(now, Input::Appended { task: task(number), attempt });
        drain(port)
    };
    for number in 1..=FENCE_MAX as u64 {
        assert!(apply(&mut port, Timestamp::ZERO, number).starts_with("append"));
    }
    let next = FENCE_MAX as u64 + 1;
    let just_before = Timestamp::ZERO + (FENCE_KEPT - Duration::from_secs(1));
    assert!(apply(&mut port, just_before, next).starts_with("effect table full"));
    let after = Timestamp::ZERO + FENCE_KEPT;
    assert!(apply(&mut port, after, next).starts_with("append"));
    assert!(apply(&mut port, after, 5).starts_with("too old to judge"), "5 was applied, and forgotten");
    assert!(apply(&mut port, after, next).starts_with("already done"));
}

proptest! {
    #[test]
    #[cfg(not(feature = "testing-no-fence"))]
    fn no_task_is_appended_twice(
        steps in proptest::collection::vec((1u64..4, 1u32..5, 0u8..6, 0u64..900), 1..80),
    ) {
        let mut port = port();
        let mut now = Timestamp::ZERO;
        let mut applied: BTreeMap<u64, u32> = BTreeMap::new();
        for (number, attempt, fate, wait) in steps {
            now = now + Duration::from_secs(wait);
            let attempt = Attempt(attempt);
            port.handle(now, Input::Apply { task: task(number), attempt, line: "L".into() });
            let mut reports = 0;
            while let Some(output) = port.poll() {
                match output {
                    Output::Report { .. } => reports += 1,
                    Output::Append { task, attempt, .. } if fate == 0 => {
                        port.handle(now, Input::AppendFailed { task, attempt, nothing_written: true });
                    }
                    Output::Append { task, attempt, .. } => {
                        *applied.entry(task.number).or_default() += 1;
                        let cut = Input::AppendFailed { task: task.clone(), attempt, nothing_written: false };
                        port.handle(now, if fate == 1 { cut } else { Input::Appended { task, attempt } });
                    }
                }
            }
            prop_assert_eq!(reports, 1, "I2");
        }
        prop_assert!(applied.values().all(|count| *count <= 1), "I1: {:?}", applied);
    }
}
