//! Acts that were made up: each kind of data and of answers is found if the recording does not bear it out.

use obu_core::io::{ControlCall, ControlReply, Input, Output};
use obu_core::record::{Entry, Record};
use obu_runtime::control::Reply;
use policies::face::{ToBus, ToCamera};
use policies::grant::CameraGrant;
use policies::host::AppRef;
use policies::signal::SignalPattern;
use policies::time::Timestamp;
use policies::wire::{self, Kind};

use super::*;

const S: u64 = 1_000_000;

fn lane() -> AppRef {
    AppRef { tenant: "oem".parse().expect("a tenant"), app: "lane".parse().expect("an app") }
}

fn record(at: u64, entry: Entry) -> Record {
    Record { node: "a1".parse().expect("a node"), at: Timestamp::from_micros(at), entry }
}

fn signals(at: u64, patterns: &[&str]) -> Record {
    let signals = patterns.iter().map(|p| SignalPattern::new(p).expect("a pattern")).collect();
    record(at, Entry::Output(Output::Bus(ToBus::Route { app: lane(), signals })))
}

fn front(at: u64, fps: Option<u32>) -> Record {
    let cameras =
        fps.map(|fps| CameraGrant { id: "front".parse().expect("a camera"), fps }).into_iter().collect();
    record(at, Entry::Output(Output::Camera(ToCamera::Route { app: lane(), cameras })))
}

fn gone() -> ControlReply {
    ControlReply::Ok { lines: vec!["oem/lane deleted".into()] }
}

/// The app is routed from 10 s to 50 s; a call that deletes it comes at 50 s and is answered at 51 s.
fn records() -> Vec<Record> {
    vec![
        signals(10 * S, &["Vehicle.Speed"]),
        front(10 * S, Some(10)),
        record(
            50 * S,
            Entry::Input(Input::Control { request: 1, call: ControlCall::Delete { app: lane() } }),
        ),
        signals(50 * S, &[]),
        front(50 * S, None),
        record(51 * S, Entry::Output(Output::Reply { request: 1, reply: gone() })),
    ]
}

fn act(at: u64, deed: Deed) -> Act {
    Act { at, seen: format!("{deed:?}"), deed }
}

fn began(at: u64, face: &str) -> Act {
    let command = ["/verge", "face", face].map(str::to_owned).to_vec();
    act(at, Deed::Started { who: Who::Face(face.into()), command })
}

fn data(at: u64, by: &str, app: &str, what: &str) -> Act {
    act(at, Deed::Data { by: by.into(), app: app.into(), what: what.into() })
}

fn answer(at: u64, connection: &str, reply: ControlReply) -> Act {
    let bytes = wire::encode(Kind::Control, &Reply::Control { reply, payload: None }).expect("a message");
    act(at, Deed::Reply { connection: connection.into(), bytes })
}

/// What was really done.
fn honest() -> Vec<Act> {
    vec![
        act(0, Deed::HostBegan),
        began(S / 2, "bus"),
        began(S / 2, "camera"),
        data(11 * S, "bus", "oem/lane", "Vehicle.Speed"),
        data(11 * S, "camera", "oem/lane", "camera front"),
        data(50 * S + S / 10, "bus", "oem/lane", "Vehicle.Speed"),
        answer(51 * S + 1, "socket:[1]", gone()),
    ]
}

/// The findings of what was done and one act more, at its place in time.
fn findings(forged: Act) -> Vec<String> {
    let mut acts = honest();
    let place = acts.iter().position(|act| act.at > forged.at).unwrap_or(acts.len());
    acts.insert(place, forged);
    account("a1", &acts, &records()).findings
}

#[test]
fn what_was_done_and_recorded_leaves_no_finding() {
    let report = account("a1", &honest(), &records());
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.entailed.get("route"), report.matched.get("reply")), (Some(&3), Some(&1)));
}

#[test]
#[rustfmt::skip]
fn forged_acts_are_found() {
    let other = ControlReply::Ok { lines: vec!["oem/lane frozen".into()] };
    for (why, forged, part) in [
        ("after the grant was revoked",     data(55 * S, "bus", "oem/lane", "Vehicle.Speed"),       "a route of the bus"),
        ("frames after it was revoked",     data(55 * S, "camera", "oem/lane", "camera front"),     "a route of the camera"),
        ("before the grant",                data(9 * S, "bus", "oem/lane", "Vehicle.Speed"),        "a route of the bus"),
        ("another tenant's app",            data(12 * S, "bus", "guest/lane", "Vehicle.Speed"),     "to guest/lane"),
        ("by a channel nobody made",        data(12 * S, "bus", "?/lane", "Vehicle.Speed"),         "to ?/lane"),
        ("a signal that was not granted",   data(12 * S, "bus", "oem/lane", "Vehicle.Position"),    "Vehicle.Position"),
        ("frames by the bus",               data(12 * S, "bus", "oem/lane", "camera front"),        "a route of the bus"),
        ("by a face that never began",      data(12 * S, "link", "oem/lane", "Vehicle.Speed"),      "a route of the link"),
        ("an answer that nobody recorded",  answer(52 * S, "socket:[2]", other),                    "the output \"reply\""),
        ("an answer for the second time",   answer(52 * S, "socket:[2]", gone()),                   "the output \"reply\""),
    ] {
        let found = findings(forged);
        assert!(found.len() == 1 && found[0].contains(part), "{why}: {found:?}");
    }
}

#[test]
fn an_answer_before_its_time_or_never_given_is_found() {
    let early = findings(answer(50 * S, "socket:[2]", gone()));
    assert!(early.len() == 1 && early[0].contains("act without its output"), "{early:?}");
    let silent: Vec<Act> =
        honest().into_iter().filter(|act| !matches!(act.deed, Deed::Reply { .. })).collect();
    let found = account("a1", &silent, &records()).findings;
    assert!(found.len() == 1 && found[0].contains("reply to request 1"), "{found:?}");
}

#[test]
fn a_bus_that_began_anew_has_no_routes_until_it_is_told() {
    let mut acts = honest();
    let ends = act(20 * S, Deed::Ended { who: Who::Face("bus".into()) });
    acts.splice(5..5, [ends, began(21 * S, "bus"), data(22 * S, "bus", "oem/lane", "Vehicle.Speed")]);
    let found = account("a1", &acts, &records()).findings;
    // The last signal of the honest ones came by the old route too.
    assert_eq!(found.len(), 2, "{found:?}");
    let mut told = records();
    told.insert(2, signals(21 * S + 1000, &["Vehicle.Speed"]));
    assert_eq!(account("a1", &acts, &told).findings, Vec::<String>::new());
}
