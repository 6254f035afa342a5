//! The ways that signals and frames of the camera may take: the routes that a node recorded, each in force until the
//! next one for the same app replaces or closes it.

use std::collections::BTreeMap;

use obu_core::io::Output;
use obu_core::record::Record;
use policies::face::{ToBus, ToCamera};
use policies::host::AppRef;
use policies::id::CameraId;
use policies::signal::{SignalPath, SignalPattern};

use super::record::outputs;

/// How long after a route was replaced or closed something may still come by it, microseconds. The recording tells when
/// the node wanted that; bus and camera do it when they come to the message, and send first what lies in their queues.
/// When that was is to be seen nowhere from outside, and below strace on a busy machine it takes a while.
const IN_FLIGHT_US: u64 = 1_000_000;

/// What goes by a route.
#[derive(Debug)]
enum Cargo {
    Signals(Vec<SignalPattern>),
    Frames(Vec<CameraId>),
}

impl Cargo {
    /// Whether this goes by it: a VSS path, or `camera ID`.
    fn covers(&self, what: &str) -> bool {
        match self {
            Self::Signals(patterns) => {
                SignalPath::new(what).is_ok_and(|path| patterns.iter().any(|pattern| pattern.matches(&path)))
            }
            Self::Frames(cameras) => {
                what.strip_prefix("camera ").is_some_and(|id| cameras.iter().any(|c| c.as_str() == id))
            }
        }
    }
}

/// All routes of one node, by the face that they were set in and the app that they lead to, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Ways(BTreeMap<(&'static str, String), Vec<(u64, Cargo)>>);

impl Ways {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut ways = Self::default();
        for (at, output) in outputs(records) {
            match output {
                Output::Bus(ToBus::Route { app, signals }) => {
                    ways.set("bus", app, at, Cargo::Signals(signals.clone()));
                }
                Output::Camera(ToCamera::Route { app, cameras }) => {
                    let cameras = cameras.iter().map(|grant| grant.id.clone()).collect();
                    ways.set("camera", app, at, Cargo::Frames(cameras));
                }
                _ => {}
            }
        }
        ways
    }

    fn set(&mut self, face: &'static str, app: &AppRef, at: u64, cargo: Cargo) {
        self.0.entry((face, app.to_string())).or_default().push((at, cargo));
    }

    /// Whether a face that began at `since` may send this to `tenant/app` at that time. A process that began anew has
    /// no routes until it is told them again; one may have been told to it while it was on its way.
    pub(super) fn open(&self, face: &str, since: u64, app: &str, what: &str, at: u64) -> bool {
        let routes = self.0.iter().find(|((of, to), _)| *of == face && to == app).map(|(_, routes)| routes);
        let routes = routes.map(Vec::as_slice).unwrap_or_default();
        let ends = routes.iter().skip(1).map(|(next, _)| next.saturating_add(IN_FLIGHT_US));
        let known_from = since.saturating_sub(IN_FLIGHT_US);
        routes.iter().zip(ends.chain([u64::MAX])).any(|((begin, cargo), end)| {
            *begin >= known_from && (*begin..=end).contains(&at) && cargo.covers(what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use obu_core::record::Entry;
    use policies::grant::CameraGrant;
    use policies::time::Timestamp;

    fn output(at: u64, output: Output) -> Record {
        Record {
            node: "a1".parse().expect("a node"),
            at: Timestamp::from_micros(at),
            entry: Entry::Output(output),
        }
    }

    fn lane() -> AppRef {
        AppRef { tenant: "oem".parse().expect("a tenant"), app: "lane".parse().expect("an app") }
    }

    fn signals(at: u64, patterns: &[&str]) -> Record {
        let signals = patterns.iter().map(|p| SignalPattern::new(p).expect("a pattern")).collect();
        output(at, Output::Bus(ToBus::Route { app: lane(), signals }))
    }

    fn cameras(at: u64, ids: &[&str]) -> Record {
        let grant = |id: &&str| CameraGrant { id: id.parse().expect("a camera"), fps: 10 };
        output(at, Output::Camera(ToCamera::Route { app: lane(), cameras: ids.iter().map(grant).collect() }))
    }

    const S: u64 = 1_000_000;

    /// Routes from 10 s on, the first replaced at 20 s, all closed at 30 s; the bus begins anew at 40 s and is told
    /// again at 42 s.
    fn ways() -> Ways {
        Ways::of(&[
            signals(10 * S, &["Vehicle.Speed", "Vehicle.Body.**"]),
            cameras(10 * S, &["front"]),
            signals(20 * S, &["Vehicle.Speed"]),
            signals(30 * S, &[]),
            cameras(30 * S, &[]),
            signals(42 * S, &["Vehicle.Speed"]),
        ])
    }

    #[test]
    #[rustfmt::skip]
    fn way_table() {
        let ways = ways();
        for (why, face, since, app, what, at, open) in [
            ("granted",                        "bus",    0,      "oem/lane",   "Vehicle.Speed",      15 * S, true),
            ("below a pattern",                "bus",    0,      "oem/lane",   "Vehicle.Body.Door",  15 * S, true),
            ("a frame",                        "camera", 0,      "oem/lane",   "camera front",       15 * S, true),
            ("not granted",                    "bus",    0,      "oem/lane",   "Vehicle.Position",   15 * S, false),
            ("another camera",                 "camera", 0,      "oem/lane",   "camera rear",        15 * S, false),
            ("before it was routed",           "bus",    0,      "oem/lane",   "Vehicle.Speed",       9 * S, false),
            ("another tenant's app",           "bus",    0,      "guest/lane", "Vehicle.Speed",      15 * S, false),
            ("a tenant that nobody knows",     "bus",    0,      "?/lane",     "Vehicle.Speed",      15 * S, false),
            ("another app",                    "bus",    0,      "oem/line",   "Vehicle.Speed",      15 * S, false),
            ("a frame by the bus",             "bus",    0,      "oem/lane",   "camera front",       15 * S, false),
            ("a signal by the camera",         "camera", 0,      "oem/lane",   "Vehicle.Speed",      15 * S, false),
            ("kept by the next route",         "bus",    0,      "oem/lane",   "Vehicle.Speed",      29 * S, true),
            ("on its way when it was revoked", "bus",    0,      "oem/lane",   "Vehicle.Body.Door",  21 * S, true),
            ("revoked a while ago",            "bus",    0,      "oem/lane",   "Vehicle.Body.Door",  22 * S, false),
            ("closed a while ago",             "bus",    0,      "oem/lane",   "Vehicle.Speed",      32 * S, false),
            ("frames closed a while ago",      "camera", 0,      "oem/lane",   "camera front",       32 * S, false),
            ("a new bus, not told yet",        "bus",    22 * S, "oem/lane",   "Vehicle.Speed",      23 * S, false),
            ("a new bus, told again",          "bus",    40 * S, "oem/lane",   "Vehicle.Speed",      43 * S, true),
        ] {
            assert_eq!(ways.open(face, since, app, what, at), open, "{why}");
        }
    }
}
