//! Every rule has rows that only it refuses; and nothing outside the list passes.

use alloc::string::ToString as _;
use policies::id::{AppName, TenantId};
use proptest::prelude::*;

use super::*;
use crate::dbc::compile;

const DBC: &str = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n\
BO_ 672 Request: 8 A\n SG_ Speed : 0|16@1+ (0.01,0) [0|130] \"km/h\" A\n\n\
BO_ 673 Paged: 8 A\n SG_ Page M : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ P1 m1 : 8|8@1+ (1,0) [0|0] \"\" A\n";

const CONFIG: &str = r#"{
  "buses": [{"bus": "can0", "bitrate": 500000, "load_permille": 100},
            {"bus": "fd0", "bitrate": 500000, "data_bitrate": 2000000, "load_permille": 1000}],
  "driving": {"signal": "Vehicle.Speed"},
  "rules": [
    {"tenant": "oem", "app": "lane", "bus": "can0", "id": 672, "len_min": 8, "per_second": 10, "burst": 3,
     "while_moving": true, "signals": [{"signal": "Speed", "min": 0, "max": 50}]},
    {"tenant": "oem", "app": "lane", "bus": "can0", "id": 673, "while_moving": true, "burst": 100,
     "signals": [{"signal": "Page", "min": 1, "max": 1}]},
    {"tenant": "oem", "app": "diag", "bus": "can0", "id": 2024, "per_second": 20, "burst": 2000},
    {"tenant": "oem", "app": "lane", "bus": "can0", "id": 1, "extended": true, "while_moving": true},
    {"tenant": "oem", "app": "lane", "bus": "fd0", "id": 2, "while_moving": true, "len_max": 64, "burst": 50}]}"#;

fn guard() -> Guard {
    let plan = compile("t.dbc", DBC.as_bytes()).unwrap();
    let plans = BTreeMap::from([(BusName::new("can0").unwrap(), plan)]);
    Guard::new(&serde_json::from_str(CONFIG).unwrap(), &plans).unwrap()
}

fn app(tenant: &str, app: &str) -> AppRef {
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(app).unwrap() }
}

fn tx(bus: &str, id: u32, extended: bool, data: &[u8]) -> TxFrame {
    TxFrame { bus: BusName::new(bus).unwrap(), id, extended, data: data.to_vec() }
}

fn speed(kmh: f64, quality: Quality) -> Signal {
    let path = SignalPath::new("Vehicle.Speed").unwrap();
    let source_time = Timestamp::ZERO;
    Signal { path, value: Value::Number(kmh), unit: String::new(), source_time, seq: 1, quality }
}

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

/// A fresh guard, parked, then one frame.
#[track_caller]
fn check(situation: &str, who: AppRef, frame: TxFrame, expected: &str) {
    let mut guard = guard();
    guard.observe(&speed(0.0, Quality::Ok));
    let got = guard.decide(NOW, &who, &frame);
    assert_eq!(got.as_ref().map_or_else(TxRefusal::rule, |_| "sent"), expected, "{situation}: {got:?}");
    let counted: u64 = guard.refused().iter().map(|(_, count)| count).sum();
    assert_eq!(counted, u64::from(got.is_err()), "{situation}");
}

#[test]
#[rustfmt::skip]
fn rule_table() {
    let lane = || app("oem", "lane");
    //    situation                  who                   frame                                          outcome
    check("granted",                 lane(),               tx("can0", 672, false, &[0; 8]),               "sent");
    check("highest speed",           lane(),               tx("can0", 672, false, &[0x88, 0x13, 0, 0, 0, 0, 0, 0]), "sent");
    check("one step more",           lane(),               tx("can0", 672, false, &[0x89, 0x13, 0, 0, 0, 0, 0, 0]), "signal-range");
    check("granted page",            lane(),               tx("can0", 673, false, &[1, 0, 0, 0, 0, 0, 0, 0]), "sent");
    check("other page",              lane(),               tx("can0", 673, false, &[2, 0, 0, 0, 0, 0, 0, 0]), "signal-range");
    check("bound signal cut off",    lane(),               tx("can0", 673, false, &[]),                   "signal-range");
    check("other id",                lane(),               tx("can0", 674, false, &[0; 8]),               "not-granted");
    check("same number, 29 bits",    lane(),               tx("can0", 672, true, &[0; 8]),                "not-granted");
    check("29 bits granted",         lane(),               tx("can0", 1, true, &[]),                      "sent");
    check("29 bits granted only",    lane(),               tx("can0", 1, false, &[]),                     "not-granted");
    check("no id at all",            lane(),               tx("can0", 0x8000_02A0, false, &[0; 8]),       "not-granted");
    check("id of another app",       app("oem", "diag"),   tx("can0", 672, false, &[0; 8]),               "not-granted");
    check("other tenant, same name", app("city", "lane"),  tx("can0", 672, false, &[0; 8]),               "not-granted");
    check("granted on other bus",    lane(),               tx("fd0", 672, false, &[0; 8]),                "not-granted");
    check("unknown bus",             lane(),               tx("can9", 672, false, &[0; 8]),               "no-bus");
    check("too short",               lane(),               tx("can0", 672, false, &[0; 7]),               "form");
    check("too long",                lane(),               tx("can0", 672, false, &[0; 9]),               "form");
    check("FD frame",                lane(),               tx("fd0", 2, false, &[0; 64]),                 "sent");
    check("no such FD length",       lane(),               tx("fd0", 2, false, &[0; 9]),                  "form");
    check("more than any frame",     lane(),               tx("fd0", 2, false, &[0; 65]),                 "form");
    check("diagnosis, parked",       app("oem", "diag"),   tx("can0", 2024, false, &[2, 1, 13]),          "sent");
}

#[test]
#[rustfmt::skip]
fn driving_state_table() {
    //       what was heard of the speed              diagnosis
    driving(&[],                                      "driving-state");
    driving(&[speed(0.0, Quality::Ok)],               "sent");
    driving(&[speed(0.5, Quality::Ok)],               "sent");
    driving(&[speed(0.6, Quality::Ok)],               "driving-state");
    driving(&[speed(-3.0, Quality::Ok)],              "driving-state");
    driving(&[speed(f64::NAN, Quality::Ok)],          "driving-state");
    driving(&[speed(0.0, Quality::Ok), speed(0.0, Quality::Stale)], "driving-state");
    driving(&[speed(0.0, Quality::Invalid)],          "driving-state");
    let other = Signal { path: SignalPath::new("Vehicle.Other").unwrap(), ..speed(0.0, Quality::Ok) };
    driving(&[other],                                 "driving-state");
}

#[track_caller]
fn driving(heard: &[Signal], expected: &str) {
    let mut guard = guard();
    heard.iter().for_each(|signal| guard.observe(signal));
    let got = guard.decide(NOW, &app("oem", "diag"), &tx("can0", 2024, false, &[1]));
    assert_eq!(got.as_ref().map_or_else(TxRefusal::rule, |_| "sent"), expected, "{heard:?}");
    let moving = guard.decide(NOW, &app("oem", "lane"), &tx("can0", 672, false, &[0; 8]));
    assert!(moving.is_ok(), "what is granted while moving is not touched");
}

/// Frames of `who` accepted when one is offered every `every_us` for `for_us`.
fn accepted(guard: &mut Guard, who: &AppRef, frame: &TxFrame, every_us: u64, for_us: u64) -> usize {
    let at = |us| Timestamp::from_micros(1_000_000 + us);
    let times = (0..for_us).step_by(usize::try_from(every_us).unwrap());
    times.filter(|us| guard.decide(at(*us), who, frame).is_ok()).count()
}

#[test]
fn rate_holds_under_ten_times_the_offer() {
    let mut guard = guard();
    let sent = accepted(&mut guard, &app("oem", "lane"), &tx("can0", 672, false, &[0; 8]), 10_000, 2_000_000);
    assert!((22..=23).contains(&sent), "10 per second for 2 s, and a burst of 3: {sent}");
    assert_eq!(guard.refused(), [("rate".to_string(), 200 - sent as u64)]);
}

#[test]
fn load_cap_holds_and_costs_the_refused_app_nothing() {
    let mut guard = guard();
    guard.observe(&speed(0.0, Quality::Ok));
    let (diag, frame) = (app("oem", "diag"), tx("can0", 2024, false, &[0; 8]));
    // 135 bits at 500 kbit/s are 270 us; a tenth of the bus is 370 frames/s, and 37 in the window at once.
    let sent = accepted(&mut guard, &diag, &frame, 1_000, 1_000_000);
    assert!((400..=408).contains(&sent), "{sent}");
    assert_eq!(guard.refused(), [("bus-load".to_string(), 1000 - sent as u64)]);
    // Were the refused ones charged, the app's 2000 would be gone by now, and 20 per second give 2.
    let flood = |guard: &mut Guard, at: u64| {
        (0..5000).filter(|_| guard.decide(Timestamp::from_micros(at), &diag, &frame).is_ok()).count()
    };
    flood(&mut guard, 2_100_000);
    assert_eq!(flood(&mut guard, 2_200_000), 37, "the app's own rate was not used up by refusals");
}

#[test]
fn an_id_of_ours_seen_from_outside_is_blocked_and_raises_one_alarm() {
    let mut guard = guard();
    let can0 = BusName::new("can0").unwrap();
    let id = CanId::new(672, false).unwrap();
    assert!(!guard.seen_from_outside(NOW, &can0, CanId::new(671, false).unwrap()));
    assert!(!guard.seen_from_outside(NOW, &can0, CanId::new(672, true).unwrap()));
    assert!(guard.seen_from_outside(NOW, &can0, id));
    assert!(guard.seen_from_outside(NOW + Duration::from_secs(1), &can0, id));
    assert_eq!(guard.poll_alarm().map(|a| a.name), Some("can-id-spoofed".into()));
    assert_eq!(guard.poll_alarm(), None);
    let (lane, frame) = (app("oem", "lane"), tx("can0", 672, false, &[0; 8]));
    let at = |s| NOW + Duration::from_secs(s);
    assert_eq!(guard.decide(at(10), &lane, &frame), Err(TxRefusal::SoleSender { id: 672 }));
    assert!(guard.decide(at(11), &lane, &frame).is_ok());
}

#[test]
#[rustfmt::skip]
fn config_table() {
    let rule = r#""tenant": "a", "app": "b", "bus": "can0""#;
    let rival = r#""tenant": "a", "app": "c", "bus": "can0""#;
    let bus = r#""buses": [{"bus": "can0"}]"#;
    let of = |rules: &str| alloc::format!("{{{bus}, \"rules\": [{rules}]}}");
    //     configuration                                                                          outcome
    config("{}",                                                                                  "accepted");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1}}"#)),                                        "accepted");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 4096}}"#)),                                     "rule for a/b on can0: id 0x1000 does not fit");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1}}, {{{rule}, "id": 1}}"#)),                   "rule for a/b on can0, id 0x1: it occurs twice");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1}}, {{{rival}, "id": 1}}"#)),                  "rule for a/b on can0, id 0x1: app c has this id too");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1, "shared": true}}, {{{rival}, "id": 1, "shared": true}}"#)), "accepted");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1, "len_min": 9}}"#)),                          "rule for a/b on can0, id 0x1: len_min to len_max");
    config(&of(&alloc::format!(r#"{{{rule}, "id": 1, "signals": [{{"signal": "S", "min": 0, "max": 1}}]}}"#)), "rule for a/b on can0, id 0x1: the DBC has no signal S");
    config(&alloc::format!(r#"{{"rules": [{{{rule}, "id": 1}}]}}"#),                              "rule for a/b on can0, id 0x1: its bus is not");
    config(r#"{"buses": [{"bus": "can0"}, {"bus": "can0"}]}"#,                                    "bus can0: it is named twice");
    config(r#"{"buses": [{"bus": "can0", "bitrate": 0}]}"#,                                       "bus can0: its bitrate");
}

#[track_caller]
fn config(json: &str, expected: &str) {
    let claim: GuardClaim = serde_json::from_str(json).unwrap();
    let got = Guard::new(&claim, &BTreeMap::new()).map_or_else(|e| e.to_string(), |_| "accepted".into());
    assert!(got.starts_with(expected), "{json}\n     got {got}\nexpected {expected}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn no_frame_outside_the_list_passes(
        offers in proptest::collection::vec(
            (0u8..4, 0u8..3, prop_oneof![Just(672u32), Just(673), Just(2024), Just(1), Just(2), any::<u32>()],
             any::<bool>(), proptest::collection::vec(any::<u8>(), 0..12), 0u64..5_000_000), 200),
    ) {
        let mut guard = guard();
        let rules: GuardClaim = serde_json::from_str(CONFIG).unwrap();
        for (who, bus, id, extended, data, at) in offers {
            let who = app(["oem", "oem", "city", "x"][who as usize], ["lane", "diag", "lane", "y"][who as usize]);
            let frame = tx(["can0", "fd0", "can9"][bus as usize], id, extended, &data);
            let listed = rules.rules.iter().any(|r| {
                (&r.tenant, &r.app, &r.bus, r.id, r.extended) == (&who.tenant, &who.app, &frame.bus, id, extended)
            });
            let decision = guard.decide(Timestamp::from_micros(at), &who, &frame);
            prop_assert!(listed || decision.is_err());
            if let Ok(sent) = decision {
                prop_assert_eq!((sent.id().value(), sent.id().is_extended(), sent.data()), (id, extended, &data[..]));
            }
        }
    }
}

#[test]
fn worst_case_bits_are_those_of_the_standard() {
    let frame = |id, extended, len: usize| {
        CanFrame::data_frame(CanId::new(id, extended).unwrap(), &alloc::vec![0; len]).unwrap()
    };
    let bits = |frame: &CanFrame| frame_nanos(frame, 1_000_000, 1_000_000) / 1_000;
    assert_eq!(bits(&frame(1, false, 8)), 135);
    assert_eq!(bits(&frame(1, false, 0)), 55);
    assert_eq!(bits(&frame(1, true, 8)), 160);
}
