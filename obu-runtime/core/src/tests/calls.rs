//! The reverse direction: the roadside calls, cars answer or stay silent.

use super::*;
use crate::node::merge;
use v2e_core::message::Area;

fn call(area: Option<Area>) -> ControlCall {
    let (want, function) = ("road_temperature".into(), function("road-sample"));
    ControlCall::Call { want, area, function, wait_us: 300 * MS }
}

fn called(reply: ControlReply) -> crate::io::CallReport {
    match reply {
        ControlReply::Called(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn cars_whose_policy_allows_it_answer_and_the_others_stay_silent() {
    let mut rig = Rig::bare(&["a1", "b1", "e1"]);
    let mut config = config("b1");
    config.policy.answer_calls.clear();
    rig.site("b1").config = config;
    rig.boot("b1");
    for name in ["a1", "b1", "e1"] {
        rig.control(name, ControlCall::Apply { manifest: manifest() });
    }
    rig.run_for(2_500 * MS);
    rig.site("b1").log.clear();
    let report = called(rig.control("e1", call(None)));
    assert_eq!((report.asked, report.parts.len()), (2, 1));
    assert_eq!(report.parts[0].0, node_id("a1"));
    assert_eq!(report.reading, Some(Reading { value_micro: 21_500_000, n: 1 }));
    let sent = |o: &Output| matches!(o, Output::Send { .. } | Output::RunJob { .. } | Output::Bus(_));
    assert!(!rig.site("b1").log.iter().any(sent), "silence is silence");
    assert_eq!(rig.site("b1").node.status(Timestamp::ZERO).unwrap().counters.calls_silent, 1);
    assert_eq!(rig.decisions("a1", DecisionKind::Export).last().unwrap().why, "rule export-1");
}

#[test]
fn only_signals_that_a_rule_exports_reach_the_function() {
    let mut rig = Rig::new(&["a1", "e1"]);
    rig.control("e1", call(None));
    let inputs = rig.site("a1").log.iter().filter_map(|o| match o {
        Output::RunJob { input: JobInput::Signals { signals, .. }, .. } => Some(signals.clone()),
        _ => None,
    });
    let paths: Vec<String> = inputs.flatten().map(|(path, _)| path.to_string()).collect();
    assert_eq!(paths, ["Vehicle.Exterior.AirTemperature"]);
}

#[test]
fn a_car_outside_the_zone_stays_silent() {
    let mut rig = Rig::new(&["a1", "e1"]);
    let around = Area { south: 52_000_000, north: 53_000_000, west: 13_000_000, east: 14_000_000 };
    assert_eq!(called(rig.control("e1", call(Some(around)))).parts.len(), 1);
    let elsewhere = Area { south: 48_000_000, north: 49_000_000, ..around };
    assert_eq!(called(rig.control("e1", call(Some(elsewhere)))).parts.len(), 0);
}

#[test]
fn a_car_may_not_call_and_a_stranger_may_not_answer() {
    let mut rig = Rig::new(&["a1", "e1"]);
    assert!(matches!(rig.control("a1", call(None)), ControlReply::Refused { .. }));
    rig.cut.insert(node_id("a1"));
    rig.feed("e1", Input::Control { request: 900, call: call(None) });
    let number = rig.site("e1").log.iter().rev().find_map(|o| match o {
        Output::Send { message: Message::ToWorker(e), .. } => match &e.body {
            v2e_core::message::ToWorker::Call(call) => Some(call.call.clone()),
            _ => None,
        },
        _ => None,
    });
    let body = v2e_core::message::ToRequester::Partial {
        call: number.unwrap(),
        reading: Reading { value_micro: 99, n: 1 },
    };
    let (sender, incarnation) = (node_id("c1"), Incarnation(1));
    let message = Message::ToRequester(v2e_core::message::Envelope { sender, incarnation, body });
    let from = node_id("c1");
    rig.feed("e1", Input::Received { realm: Realm::Outside, from, message, payload: None });
    rig.run_for(500 * MS);
    let reply = rig.site("e1").log.iter().find_map(|o| match o {
        Output::Reply { request: 900, reply } => Some(reply.clone()),
        _ => None,
    });
    assert_eq!(called(reply.unwrap()).reading, None);
}

#[test]
#[rustfmt::skip]
fn merge_table() {
    let part = |value_micro, n| Reading { value_micro, n };
    //    parts                                   merged
    check(&[],                                    None);
    check(&[part(5, 0)],                          None);
    check(&[part(10, 1)],                         Some(part(10, 1)));
    check(&[part(10, 1), part(40, 2)],            Some(part(30, 3)));
    check(&[part(i64::MAX, 1), part(i64::MAX, 1)], Some(part(i64::MAX, 2)));
    check(&[part(-3, 1), part(3, 1)],             Some(part(0, 2)));
}

#[track_caller]
fn check(parts: &[Reading], merged: Option<Reading>) {
    let reversed: Vec<Reading> = parts.iter().rev().copied().collect();
    assert_eq!(merge(parts), merged);
    assert_eq!(merge(&reversed), merged, "the order does not matter");
}
