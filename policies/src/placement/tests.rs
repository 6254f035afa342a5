//! The specification of placement: one road situation per row.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::quantile::{Hint, Sketch};

const MS: u64 = 1000;

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn needs(class: Class, deadline_ms: u64) -> TaskNeeds {
    TaskNeeds {
        function: FunctionName::new("lane").unwrap(),
        tenant: TenantId::new("oem").unwrap(),
        class,
        effect: Effect::Pure,
        deadline_us: deadline_ms * MS,
        input_len: 100_000,
        pinned: false,
        export_rule: Some("r1".into()),
    }
}

/// A place whose every run takes `service_ms`, as measured.
fn at<'a>(id: &str, realm: Realm, service: &'a Sketch) -> Candidate<'a> {
    let rtt = if realm == Realm::Local { Hint::ZERO } else { Hint { p50_us: 500, p95_us: 500, p99_us: 500 } };
    Candidate {
        node: node(id),
        realm,
        has_function: true,
        allowed: Ok(None),
        rtt: Estimate::assumed(rtt),
        queue_us: 0,
        service: Estimate { sketch: Some(service), hint: Hint::from_p95(1) },
        bandwidth_bytes_per_s: if realm == Realm::Local { 0 } else { 100_000_000 },
        price_milli: 0,
        energy_mw: 0,
        stay_us: None,
        fresh: true,
        suspect: false,
    }
}

fn always(ms: u64) -> Sketch {
    let mut sketch = Sketch::new();
    (0..50).for_each(|_| sketch.add(ms * MS));
    sketch
}

/// Mostly `ms`, one run in ten takes `tail_ms`.
fn with_tail(ms: u64, tail_ms: u64) -> Sketch {
    let mut sketch = Sketch::new();
    (0..50).for_each(|i| sketch.add(if i % 10 == 0 { tail_ms } else { ms } * MS));
    sketch
}

fn word(placement: &Placement, id: &str) -> String {
    let found = placement.considered.iter().find(|c| c.node == node(id)).unwrap();
    match &found.verdict {
        Ok(_) => "passed".into(),
        Err(why) => why.to_string(),
    }
}

type Change = fn(&mut TaskNeeds, &mut Candidate<'_>);

/// The car alone takes 40 ms, the edge 10 ms plus 0.5 ms of round trip plus 1 ms of transfer; the deadline is
/// in 100 ms. Each row changes one fact of the task or of the edge.
#[test]
#[rustfmt::skip]
fn gate_table() {
    check("nothing against the edge",      |_, _| {},                                    "e1", "passed");
    check("pinned to the car",             |t, _| t.pinned = true,                       "a1", "the task is pinned to the car");
    check("pinned, sibling instead",       |t, e| { t.pinned = true; e.realm = Realm::Car; }, "e1", "passed");
    check("policy says no",                |_, e| e.allowed = Err("tenant not known there".into()), "a1", "not allowed: tenant not known there");
    check("nothing lets the input out",    |t, _| t.export_rule = None,                  "a1", "no rule lets its input leave the car");
    check("a sibling needs no such rule",  |t, e| { t.export_rule = None; e.realm = Realm::Car; }, "e1", "passed");
    check("no code there",                 |_, e| e.has_function = false,                "a1", "does not hold the function");
    check("old advert",                    |_, e| e.fresh = false,                       "a1", "its last report is too old");
    check("silent lately",                 |_, e| e.suspect = true,                      "a1", "did not answer lately");
    check("leaves too soon",               |_, e| e.stay_us = Some(11 * MS),             "a1", "leaves coverage in 11.0 ms, 11.7 ms needed");
    check("stays just long enough",        |_, e| e.stay_us = Some(12 * MS),             "e1", "passed");
    check("stays longer than the deadline",|_, e| e.stay_us = Some(200 * MS),            "e1", "passed");
    check("long queue, still best",        |_, e| e.queue_us = 15 * MS,                  "e1", "passed");
    check("queue longer than local",       |_, e| e.queue_us = 40 * MS,                  "a1", "passed");
    check("queue beyond the deadline",     |_, e| e.queue_us = 90 * MS,                  "a1", "takes 101.7 ms, the deadline is in 100.0 ms");
    check("thin link",                     |_, e| e.bandwidth_bytes_per_s = 1_000_000,   "a1", "takes 110.7 ms, the deadline is in 100.0 ms");
    check("data is there already",         |t, e| { t.input_len = 1 << 30; e.bandwidth_bytes_per_s = 0; e.realm = Realm::Car; }, "e1", "passed");
    check("expensive",                     |_, e| e.price_milli = 2_000,                 "a1", "passed");
    check("power hungry radio",            |_, e| e.energy_mw = 900_000,                 "a1", "passed");
    check("many bytes over the air",       |t, e| { t.input_len = 8 << 20; e.bandwidth_bytes_per_s = 1 << 30; }, "a1", "passed");
    check("round trip not known to end",   |t, _| t.class = Class::Critical,             "e1", "passed");
}

#[track_caller]
fn check(situation: &str, change: Change, chosen: &str, edge: &str) {
    let (slow, fast) = (always(40), always(10));
    let mut task = needs(Class::Driving, 100);
    let mut candidates = [at("a1", Realm::Local, &slow), at("e1", Realm::Outside, &fast)];
    change(&mut task, &mut candidates[1]);
    let placement = place(&task, &candidates, None, &PlacementPolicy::default());
    assert_eq!(
        (placement.chosen.clone(), word(&placement, "e1").as_str()),
        (Some(node(chosen)), edge),
        "{situation}\n{placement}"
    );
}

/// The tail decides, not the mean: a place that is late one time in ten serves only those who can bear it.
#[test]
#[rustfmt::skip]
fn class_table() {
    for (class, expected) in [
        (Class::Critical,   "in time with 90.0 %, the class asks for 98.0 %"),
        (Class::Driving,    "in time with 90.0 %, the class asks for 95.0 %"),
        (Class::Comfort,    "passed"),
        (Class::Background, "passed"),
    ] {
        let service = with_tail(5, 500);
        let mut candidate = at("a2", Realm::Car, &service);
        candidate.rtt = Estimate::assumed(Hint::ZERO);
        let placement = place(&needs(class, 100), &[candidate], None, &PlacementPolicy::default());
        assert_eq!(word(&placement, "a2"), expected, "{class}");
    }
}

/// Two siblings; costs are their times. Nobody moves for less than 10 %.
#[test]
#[rustfmt::skip]
fn hysteresis_table() {
    //     situation                      a1   a2   last        chosen
    for (what, a1, a2, last, chosen) in [
        ("no last choice",                50,  48,  None,       "a2"),
        ("a little better elsewhere",     50,  46,  Some("a1"), "a1"),
        ("much better elsewhere",         50,  40,  Some("a1"), "a2"),
        ("last choice is also the best",  40,  50,  Some("a1"), "a1"),
        ("last choice is gone",           50,  48,  Some("a9"), "a2"),
        ("last choice fails the gate",    500, 48,  Some("a1"), "a2"),
        ("a tie goes to the lowest id",   50,  50,  None,       "a1"),
        ("a tie keeps the last choice",   50,  50,  Some("a2"), "a2"),
    ] {
        let (one, two) = (always(a1), always(a2));
        let candidates = [at("a2", Realm::Car, &two), at("a1", Realm::Car, &one)];
        let last = last.map(node);
        let placement = place(&needs(Class::Comfort, 100), &candidates, last.as_ref(), &PlacementPolicy::default());
        assert_eq!(placement.chosen, Some(node(chosen)), "{what}\n{placement}");
    }
}

#[test]
fn reasons_read_as_lines() {
    let (slow, fast) = (always(40), always(10));
    let mut edge = at("e1", Realm::Outside, &fast);
    edge.suspect = true;
    let candidates = [at("a1", Realm::Local, &slow), edge, at("a2", Realm::Car, &fast)];
    let placement = place(&needs(Class::Driving, 100), &candidates, None, &PlacementPolicy::default());
    let expected = "  a1 (here): cost 409, done in 40.9 ms (p95 40.9 ms), in time with 100.0 %\n\
                    > a2 (car): cost 127, done in 11.7 ms (p95 11.7 ms), in time with 99.0 %\n\
                    \u{20} e1 (outside): no, did not answer lately";
    assert_eq!(placement.to_string(), expected);
    assert_eq!(placement.ranked(), [&node("a2"), &node("a1")]);
    let nobody = place(&needs(Class::Driving, 100), &[], None, &PlacementPolicy::default());
    assert_eq!((nobody.chosen.clone(), nobody.to_string()), (None, "no place passed".into()));
}

#[test]
fn exports_carry_their_rule() {
    let fast = always(1);
    let edge = at("e1", Realm::Outside, &fast);
    let placement = place(&needs(Class::Driving, 100), &[edge], None, &PlacementPolicy::default());
    assert_eq!(placement.choice().unwrap().1.rule.as_deref(), Some("r1"));
}

proptest! {
    #[test]
    fn the_choice_passed_and_order_does_not_matter(
        rows in prop::collection::vec((0u64..200, 0u64..100, any::<bool>(), 0u64..5000), 0..12),
        deadline in 1u64..300,
    ) {
        let sketches: Vec<Sketch> = rows.iter().map(|row| always(row.0)).collect();
        let ids: Vec<String> = (0..rows.len()).map(|i| alloc::format!("n{i}")).collect();
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for ((row, sketch), id) in rows.iter().zip(&sketches).zip(&ids) {
            let mut candidate = at(id, Realm::Car, sketch);
            (candidate.queue_us, candidate.fresh, candidate.price_milli) = (row.1 * MS, row.2, row.3);
            candidates.push(candidate);
        }
        let task = needs(Class::Comfort, deadline);
        let placement = place(&task, &candidates, None, &PlacementPolicy::default());
        candidates.reverse();
        prop_assert_eq!(&place(&task, &candidates, None, &PlacementPolicy::default()), &placement);
        prop_assert_eq!(placement.chosen.is_some(), placement.considered.iter().any(|c| c.verdict.is_ok()));
        if let Some((_, cost)) = placement.choice() {
            prop_assert!(cost.finish_p50_us <= task.deadline_us && cost.chance >= 900);
        }
        prop_assert_eq!(placement.ranked().first().copied(), placement.chosen.as_ref());
    }
}
