//! Stories over the whole bus process, without sockets.

use alloc::format;
use policies::id::{AppName, Incarnation, NodeId};
use policies::signal::Quality;

use super::*;
use crate::dbc::compile;
use crate::frame::CanId;
use crate::mapping::{Mapping, OverlayClaim};

const HEAD: &str = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n";

fn bus(name: &str, dbc: &str, overlay: &str) -> HubBus {
    let plan = compile("t.dbc", format!("{HEAD}{dbc}\n").as_bytes()).unwrap();
    let overlay: OverlayClaim = serde_json::from_str(overlay).unwrap();
    let mapping = Mapping::new(&overlay, &plan).unwrap();
    HubBus { name: BusName::new(name).unwrap(), decoder: Decoder::new(plan, mapping) }
}

fn can0() -> HubBus {
    bus(
        "can0",
        "BO_ 5 M: 2 A\n SG_ Speed : 0|8@1+ (1,0) [0|0] \"km/h\" A\n SG_ Temp : 8|8@1+ (1,0) [0|0] \"\" A",
        r#"{"Vehicle.Speed": {"datatype": "float", "dbc2vss": {"signal": "Speed", "interval_ms": 0}},
            "Vehicle.Cabin.Temperature": {"datatype": "float", "dbc2vss": {"signal": "Temp", "interval_ms": 0}}}"#,
    )
}

fn can1() -> HubBus {
    bus(
        "can1",
        "BO_ 9 M: 1 A\n SG_ Fuel : 0|8@1+ (1,0) [0|0] \"%\" A",
        r#"{"Vehicle.Fuel": {"datatype": "float", "dbc2vss": {"signal": "Fuel", "interval_ms": 0}}}"#,
    )
}

fn hub() -> Hub {
    let guard = r#"{"buses": [{"bus": "can0"}], "driving": {"signal": "Vehicle.Speed"}, "rules": [
        {"tenant": "oem", "app": "lane", "bus": "can0", "id": 672, "while_moving": true, "burst": 2},
        {"tenant": "oem", "app": "lane", "bus": "can0", "id": 2024}]}"#;
    let mut hub = Hub::new([can0(), can1()].into(), &serde_json::from_str(guard).unwrap()).unwrap();
    hub.handle(Timestamp::ZERO, Input::Effect(effect::Input::Server { reachable: true }));
    hub
}

fn app(tenant: &str, app: &str) -> AppRef {
    AppRef { tenant: TenantId::new(tenant).unwrap(), app: AppName::new(app).unwrap() }
}

fn ms(ms: u64) -> Timestamp {
    Timestamp::from_micros(ms * 1_000)
}

fn route(who: AppRef, patterns: &[&str]) -> Input {
    let signals = patterns.iter().map(|p| SignalPattern::new(p).unwrap()).collect();
    Input::FromNode(ToBus::Route { app: who, signals })
}

fn feed(hub: &mut Hub, at: u64, bus: u16, id: u32, data: &[u8]) -> String {
    let frame = CanFrame::classic(CanId::new(id, false).unwrap(), data).unwrap();
    let bus = BusIndex(bus);
    hub.frames(ms(at + 1), bus, &[TimedFrame { bus, at: ms(at), frame }]);
    drain(hub)
}

fn tell(hub: &mut Hub, at: u64, input: Input) -> String {
    hub.handle(ms(at), input);
    drain(hub)
}

fn drain(hub: &mut Hub) -> String {
    let mut got = Vec::new();
    while let Some(output) = hub.poll() {
        got.push(match output {
            Output::ToBorder { tenant, message: ToBorder::Signals { app, samples } } => {
                let one = |(s, age): &(Signal, u64)| {
                    let quality = if s.quality == Quality::Ok { "" } else { "!" };
                    format!("{}{quality}@{age}", s.path.as_str().rsplit('.').next().unwrap())
                };
                format!("{tenant}/{app}: {}", samples.iter().map(one).collect::<Vec<_>>().join(","))
            }
            Output::ToNode(FromBus::Transmitted { request, result }) => format!("tx {request} {result:?}"),
            Output::ToNode(FromBus::EffectDone { attempt, result, .. }) => {
                format!("effect {} {result:?}", attempt.0)
            }
            Output::ToNode(FromBus::Snapshot { request, samples }) => {
                format!("snapshot {request} {}", samples.len())
            }
            Output::ToNode(FromBus::Unmapped { app, signals }) => {
                format!(
                    "unmapped for {app}: {}",
                    signals.iter().map(SignalPattern::as_str).collect::<Vec<_>>().join(",")
                )
            }
            Output::Send { request, bus, frame } => format!("send {request} bus{} {}", bus.0, frame.id()),
            Output::Append { line, .. } => format!("append {line}"),
            Output::Alarm(alarm) => alarm.name,
            other => format!("{other:?}"),
        });
    }
    got.join("; ")
}

#[test]
fn samples_reach_exactly_the_apps_that_may_see_them() {
    let mut hub = hub();
    assert_eq!(feed(&mut hub, 10, 0, 5, &[50, 20]), "", "nobody listens");
    assert_eq!(tell(&mut hub, 20, route(app("oem", "lane"), &["Vehicle.Speed"])), "oem/lane: Speed@10000");
    assert_eq!(tell(&mut hub, 20, route(app("city", "toll"), &["Vehicle.*"])), "city/toll: Speed@10000");
    assert_eq!(feed(&mut hub, 30, 0, 5, &[51, 20]), "city/toll: Speed@1000; oem/lane: Speed@1000");
    assert_eq!(feed(&mut hub, 40, 1, 9, &[7]), "city/toll: Fuel@1000");
    assert_eq!(
        tell(&mut hub, 50, route(app("oem", "lane"), &["Vehicle.**"])),
        "oem/lane: Temperature@20000,Fuel@10000"
    );
    assert_eq!(tell(&mut hub, 60, route(app("city", "toll"), &[])), "");
    assert_eq!(feed(&mut hub, 70, 0, 5, &[52, 20]), "oem/lane: Temperature@1000,Speed@1000");
    let stats = hub.stats();
    assert_eq!((stats.frames_in, stats.signals, stats.published), (4, 7, 9));
}

// tests: P2-12
#[test]
fn a_signal_that_no_bus_maps_is_told_when_it_is_asked_for() {
    let mut hub = hub();
    let asked = ["Vehicle.Sped", "Vehicle.Speed", "Vehicle.Chassis.*"];
    assert_eq!(
        tell(&mut hub, 0, route(app("oem", "lane"), &asked)),
        "unmapped for oem/lane: Vehicle.Sped,Vehicle.Chassis.*"
    );
    assert_eq!(tell(&mut hub, 0, route(app("oem", "lane"), &[])), "", "closing is no request");
}

#[test]
fn a_bus_going_down_is_told_to_its_listeners_only() {
    let mut hub = hub();
    tell(&mut hub, 0, route(app("oem", "lane"), &["Vehicle.**"]));
    feed(&mut hub, 10, 0, 5, &[50, 20]);
    feed(&mut hub, 10, 1, 9, &[7]);
    let down = Input::Bus { bus: BusIndex(1), up: false };
    assert_eq!(tell(&mut hub, 20, down), "oem/lane: Fuel!@10000");
    assert_eq!(hub.next_wake().map(|(at, _)| at), Some(ms(3050)));
    assert_eq!(tell(&mut hub, 3050, Input::Tick), "oem/lane: Temperature!@3040000,Speed!@3040000");
}

#[test]
fn transmit_goes_through_the_guard_and_reports_what_the_bus_said() {
    let mut hub = hub();
    let tx = |request, id| {
        let frame = TxFrame { bus: BusName::new("can0").unwrap(), id, extended: false, data: [0].into() };
        Input::FromNode(ToBus::Transmit { request, app: app("oem", "lane"), frame })
    };
    assert_eq!(tell(&mut hub, 1000, tx(1, 672)), "send 1 bus0 2A0");
    assert_eq!(tell(&mut hub, 1000, Input::Sent { request: 1, result: Ok(()) }), "tx 1 Ok(())");
    assert_eq!(tell(&mut hub, 1000, tx(2, 672)), "send 2 bus0 2A0");
    let full = Input::Sent { request: 2, result: Err(SendFailure::Full) };
    assert_eq!(tell(&mut hub, 1000, full), "tx 2 Err(\"bus-full\")");
    assert_eq!(
        tell(&mut hub, 1000, tx(3, 1)),
        "tx 3 Err(\"not-granted: id 0x1 on can0 is not granted to oem/lane\")"
    );
    assert!(tell(&mut hub, 1000, tx(4, 2024)).contains("driving-state"));
    feed(&mut hub, 1010, 0, 5, &[0, 0]);
    assert_eq!(tell(&mut hub, 1020, tx(5, 2024)), "send 5 bus0 7E8", "the car was seen standing");
    assert!(tell(&mut hub, 5000, Input::Tick).is_empty());
    assert!(tell(&mut hub, 5000, tx(6, 2024)).contains("driving-state"), "and is not seen any more");
    assert_eq!(feed(&mut hub, 5010, 0, 672, &[0]), "can-id-spoofed");
    assert!(tell(&mut hub, 5020, tx(7, 672)).contains("sole-sender"));
    assert_eq!(hub.stats().frames_out, 1);
}

#[test]
fn effects_and_snapshots_are_answered() {
    let mut hub = hub();
    let task = TaskId { owner: NodeId::new("a1").unwrap(), incarnation: Incarnation(1), number: 1 };
    let apply = |attempt| {
        Input::FromNode(ToBus::Effect { task: task.clone(), attempt: Attempt(attempt), line: "toll".into() })
    };
    assert_eq!(tell(&mut hub, 0, apply(1)), "append toll");
    let appended = effect::Input::Appended { task: task.clone(), attempt: Attempt(1) };
    assert_eq!(tell(&mut hub, 0, Input::Effect(appended)), "effect 1 Ok(())");
    if !cfg!(feature = "testing-no-fence") {
        assert_eq!(tell(&mut hub, 0, apply(2)), "effect 2 Err(\"already done\")");
        assert_eq!(hub.stats().effects, (1, 1));
    }
    feed(&mut hub, 0, 0, 5, &[1, 2]);
    let signals = [SignalPattern::new("Vehicle.**").unwrap()].into();
    assert_eq!(tell(&mut hub, 1, Input::FromNode(ToBus::Snapshot { request: 8, signals })), "snapshot 8 2");
}

#[test]
fn a_path_has_one_owner_and_a_bus_one_entry() {
    let none = GuardClaim::default();
    let twice = Hub::new([can0(), can0()].into(), &none).map(|_| ()).unwrap_err();
    assert_eq!(twice, HubError::BusTwice { bus: BusName::new("can0").unwrap() });
    let renamed = HubBus { name: BusName::new("can2").unwrap(), ..can0() };
    let both = Hub::new([can0(), renamed].into(), &none).map(|_| ()).unwrap_err();
    assert!(matches!(both, HubError::PathTwice { .. }), "{both}");
}
