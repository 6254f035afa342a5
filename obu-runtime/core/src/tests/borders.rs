//! What apps may ask, by the identity of the channel.

use super::*;
use policies::face::TxFrame;
use policies::grant::CanTxGrant;
use policies::id::BusName;

/// What an app is told, in one line.
fn said(rig: &Rig, request: u64) -> String {
    match rig.answers("a1", request).as_slice() {
        [AppAnswer::Refused { why }] => why.clone(),
        [AppAnswer::Ok] => "ok".into(),
        [AppAnswer::Task(report)] => report.outcome.word().into(),
        other => alloc::format!("{} answers", other.len()),
    }
}

fn task(name: &str, deadline_us: u64, effect: Option<Effect>, len: u32) -> AppAsk {
    let input = BlobRef { digest: Digest::of(b"x"), len };
    AppAsk::RunTask { function: function(name), deadline_us, class: Class::Critical, effect, input }
}

#[test]
#[rustfmt::skip]
fn ask_table() {
    //    ask                                                   what the app is told
    check(task("lane", 200 * MS, None, 10),                     "done");
    check(task("toll", 200 * MS, Some(Effect::Once), 10),       "done");
    check(task("lane", 200 * MS, Some(Effect::Once), 10),       "is pure, not once");
    check(task("road-sample", 200 * MS, None, 10),              "no grant for tasks: road-sample");
    check(task("lane", 0, None, 10),                            "deadline is 0 us");
    check(task("lane", u64::MAX, None, 10),                     "it must be 1 to");
    check(task("lane", 200 * MS, None, 2 << 20),                "input has 2097152 bytes");
    check(AppAsk::Denied { key: "vss/**".into() },              "no grant");
    check(frame("can0", 0x100),                                 "ok");
    check(frame("can0", 0x101),                                 "no grant for this bus and id");
    check(frame("can1", 0x100),                                 "no grant for this bus and id");
}

fn frame(bus: &str, id: u32) -> AppAsk {
    AppAsk::SendFrame(TxFrame { bus: BusName::new(bus).unwrap(), id, extended: false, data: vec![1] })
}

fn rig_with_transmit() -> Rig {
    let mut rig = Rig::bare(&["a1"]);
    let grant = CanTxGrant { bus: BusName::new("can0").unwrap(), id: 0x100, extended: false };
    let mut config = config("a1");
    config.policy.tenants[0].allow.can_tx.push(grant.clone());
    rig.site("a1").config = config;
    rig.boot("a1");
    let mut manifest = manifest();
    manifest.apps[0].grants.can_tx.push(grant);
    rig.control("a1", ControlCall::Apply { manifest });
    rig.run_for(500 * MS);
    rig
}

#[track_caller]
fn check(ask: AppAsk, expected: &str) {
    let mut rig = rig_with_transmit();
    let request = rig.ask("a1", "speedo", ask);
    rig.run_for(400 * MS);
    let said = said(&rig, request);
    assert!(said.contains(expected), "{said:?} does not say {expected:?}");
}

#[test]
fn a_border_cannot_speak_for_an_app_that_is_not_there_or_of_another_tenant() {
    let mut rig = Rig::new(&["a1"]);
    let request = rig.ask("a1", "nobody", lane(100));
    assert!(said(&rig, request).contains("no such app"));
    let (other, app) = (TenantId::new("city").unwrap(), AppName::new("speedo").unwrap());
    let arrived = Timestamp::ZERO;
    rig.feed("a1", Input::Ask { tenant: other, app, request: 99, arrived, ask: lane(100) });
    assert!(said(&rig, 99).contains("no such app"));
}

#[test]
fn an_app_never_gets_a_better_class_than_its_own() {
    let mut rig = Rig::new(&["a1"]);
    let request = rig.ask("a1", "games", lane(300));
    rig.run_for(400 * MS);
    assert_eq!(rig.report("a1", request).class, Class::Background);
}

#[test]
fn one_app_cannot_take_all_places_and_cannot_fill_the_log() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").exec_us = 400 * MS;
    let requests: Vec<u64> = (0..200).map(|_| rig.ask("a1", "games", lane(500))).collect();
    let refused = requests.iter().filter(|r| said(&rig, **r).contains("64 asks are open"));
    assert_eq!(refused.count(), 136);
    assert!(rig.decisions("a1", DecisionKind::Refuse).len() <= 9, "log 2 of 136, and the first");
    let view = rig.site("a1").node.status(Timestamp::ZERO).unwrap();
    assert_eq!(view.refused, [(app_ref("games"), 136)]);
}

#[test]
fn who_gives_up_gets_no_answer_and_its_task_is_cancelled() {
    let mut rig = Rig::new(&["a1"]);
    rig.site("a1").exec_us = 100 * MS;
    let request = rig.ask("a1", "speedo", lane(500));
    rig.run_for(10 * MS);
    rig.feed("a1", Input::GiveUp { tenant: tenant(), request });
    rig.run_for(1_000 * MS);
    assert_eq!(rig.answers("a1", request), []);
    assert!(rig.site("a1").log.iter().any(|o| matches!(o, Output::CancelJob { .. })));
}

#[test]
fn frames_under_way_are_answered_when_the_bus_process_dies() {
    let mut rig = rig_with_transmit();
    let request = rig.ask("a1", "speedo", frame("can0", 0x100));
    rig.feed("a1", Input::Host(HostEvent::FaceExited { face: Face::Bus, exit: Exit::Signal(9), why: None }));
    assert!(said(&rig, request).contains("may have been sent"));
    let request = rig.ask("a1", "speedo", frame("can0", 0x100));
    assert!(said(&rig, request).contains("not running"));
}
