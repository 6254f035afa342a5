//! Frames and time against the samples that come out.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::dbc::compile;
use crate::frame::{BusIndex, CanFrame, CanId};
use crate::mapping::OverlayClaim;

const DBC: &str = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n\
BO_ 5 Fast: 2 A\n SG_ Speed : 0|8@1+ (1,0) [0|200] \"km/h\" A\n SG_ Gear : 8|8@1+ (1,0) [0|0] \"\" A\n\n\
BO_ 6 Event: 1 A\n SG_ Door : 0|8@1+ (1,0) [0|0] \"\" A\n\n\
BA_DEF_ BO_ \"GenMsgCycleTime\" INT 0 65535;\nBA_DEF_DEF_ \"GenMsgCycleTime\" 0;\nBA_ \"GenMsgCycleTime\" BO_ 5 100;\n";

const OVERLAY: &str = r#"{
  "V.All": {"datatype": "float", "dbc2vss": {"signal": "Speed", "interval_ms": 0}},
  "V.Door": {"datatype": "float", "dbc2vss": {"signal": "Door", "on_change": true}},
  "V.Gear": {"datatype": "float", "dbc2vss": {"signal": "Gear", "on_change": true}},
  "V.InGear": {"datatype": "float", "dbc2vss": {"signal": "Speed", "interval_ms": 0,
               "multiplexer": [{"signal": "Gear", "value": 3}], "transform": {"math": "10/x"}}},
  "V.Slow": {"datatype": "float", "dbc2vss": {"signal": "Speed", "interval_ms": 300}}}"#;

fn decoder() -> Decoder {
    let plan = compile("t.dbc", DBC.as_bytes()).unwrap();
    let overlay: OverlayClaim = serde_json::from_str(OVERLAY).unwrap();
    let mapping = Mapping::new(&overlay, &plan).unwrap();
    Decoder::new(plan, mapping)
}

fn ms(ms: u64) -> Timestamp {
    Timestamp::from_micros(ms * 1000)
}

fn show(signal: &Signal) -> String {
    let Value::Number(value) = signal.value else { return format!("{:?}", signal.value) };
    let quality = if signal.quality == Quality::Ok { String::new() } else { format!("{:?}", signal.quality) };
    format!("{}#{}={value}{quality}", &signal.path.as_str()[2..], signal.seq)
}

fn feed(decoder: &mut Decoder, at_ms: u64, id: u32, data: &[u8]) -> String {
    let frame = CanFrame::classic(CanId::new(id, false).unwrap(), data).unwrap();
    let mut got = Vec::new();
    decoder.frames(&[TimedFrame { bus: BusIndex(0), at: ms(at_ms), frame }], |_, s| got.push(show(s)));
    got.join(" ")
}

fn drain(decoder: &mut Decoder, now: u64, input: Input) -> String {
    decoder.handle(ms(now), input);
    let mut got = Vec::new();
    while let Some((_, signal)) = decoder.poll() {
        got.push(show(signal));
    }
    got.join(" ")
}

#[test]
fn pace_and_change_decide_what_is_sent() {
    let mut d = decoder();
    assert_eq!(feed(&mut d, 0, 5, &[50, 1]), "All#1=50 Gear#1=1 Slow#1=50");
    assert_eq!(feed(&mut d, 100, 5, &[51, 1]), "All#2=51");
    assert_eq!(feed(&mut d, 200, 5, &[50, 3]), "All#3=50 Gear#2=3 InGear#1=0.2");
    assert_eq!(feed(&mut d, 299, 5, &[50, 3]), "All#4=50 InGear#2=0.2 Slow#2=50", "jitter is forgiven");
    assert_eq!(feed(&mut d, 301, 5, &[0, 3]), "All#5=0", "10/0 is dropped, and Slow is not due");
    assert_eq!(feed(&mut d, 400, 5, &[201, 1]), "All#6=201Invalid Gear#3=1 Slow#3=201Invalid");
    assert_eq!(feed(&mut d, 410, 5, &[200, 1]), "All#7=200 Slow#4=200", "a quality change is sent at once");
    assert_eq!(feed(&mut d, 420, 5, &[9]), "All#8=9", "a short frame gives what it has");
    assert_eq!(feed(&mut d, 430, 9, &[9]), "");
    let stats = d.stats();
    assert_eq!((stats.known, stats.unknown, stats.short, stats.dropped), (8, 1, 1, 1));
}

#[test]
fn the_average_pace_is_the_asked_one() {
    let mut d = decoder();
    let jitter = [0, 3, 1, 4, 2];
    let slow = (0..300u64)
        .map(|n| feed(&mut d, n * 100 + jitter[n as usize % 5], 5, &[1, 1]))
        .filter(|got| got.contains("Slow"))
        .count();
    assert!((99..=101).contains(&slow), "{slow} samples in 30 s at 300 ms");
}

#[test]
fn silence_makes_stale_then_lost_and_a_frame_makes_good() {
    let mut d = decoder();
    feed(&mut d, 10, 5, &[50, 1]);
    feed(&mut d, 10, 6, &[1]);
    assert_eq!(d.next_wake(), Some((ms(350), WakeReason::Freshness)));
    feed(&mut d, 100, 5, &[50, 1]);
    assert_eq!(drain(&mut d, 350, Input::Tick), "", "it was heard in the meantime");
    assert_eq!(drain(&mut d, 400, Input::Tick), "All#3=50Stale Gear#2=1Stale Slow#2=50Stale");
    assert_eq!(drain(&mut d, 900, Input::Tick), "");
    assert_eq!(drain(&mut d, 1100, Input::Tick), "All#4=50Lost Gear#3=1Lost Slow#3=50Lost");
    assert_eq!(d.next_wake(), None, "nothing left to wait for; the door is an event and never stale");
}

#[test]
fn a_leaf_that_recovers_is_watched_again() {
    let mut d = decoder();
    feed(&mut d, 0, 5, &[50, 1]);
    drain(&mut d, 5000, Input::Tick);
    assert_eq!(feed(&mut d, 5000, 5, &[50, 1]), "All#3=50 Gear#3=1 Slow#3=50");
    assert_eq!(drain(&mut d, 5300, Input::Tick), "All#4=50Stale Gear#4=1Stale Slow#4=50Stale");
}

#[test]
fn a_bus_that_goes_down_loses_everything_at_once() {
    let mut d = decoder();
    feed(&mut d, 0, 6, &[1]);
    assert_eq!(drain(&mut d, 1, Input::BusDown), "Door#2=1Lost");
    assert_eq!(drain(&mut d, 2, Input::BusDown), "");
    assert_eq!(drain(&mut d, 3, Input::BusUp), "");
    assert_eq!(feed(&mut d, 4, 6, &[1]), "Door#3=1");
    assert_eq!(d.latest().map(|(_, s)| show(s)).collect::<Vec<_>>(), ["Door#3=1"]);
}

#[test]
fn a_report_of_bus_off_loses_everything_at_once() {
    let mut d = decoder();
    feed(&mut d, 0, 6, &[1]);
    let class = CanId::new(0x40, true).unwrap();
    let frame = CanFrame::new(class, FrameKind::Error, &[0; 8]).unwrap();
    d.frames(&[TimedFrame { bus: BusIndex(0), at: ms(1), frame }], |_, _| {});
    assert_eq!(d.poll().map(|(_, s)| show(s)), Some("Door#2=1Lost".into()));
}

proptest! {
    #[test]
    fn sequences_have_no_gaps(steps in proptest::collection::vec((0u64..400, 0u8..4, 0u8..255, 0u8..5), 1..60)) {
        let mut d = decoder();
        let mut now = 0;
        let mut last = alloc::vec![0u64; d.leaves().len()];
        for (wait, what, one, two) in steps {
            now += wait;
            let mut seen = Vec::new();
            match what {
                0 => d.handle(ms(now), Input::Tick),
                1 => d.handle(ms(now), Input::BusDown),
                _ => {
                    let id = CanId::new(3 + u32::from(what), false).unwrap();
                    let frame = CanFrame::classic(id, &[one, two]).unwrap();
                    d.frames(&[TimedFrame { bus: BusIndex(0), at: ms(now), frame }], |n, s| seen.push((n, s.seq)));
                }
            }
            while let Some((n, s)) = d.poll() {
                seen.push((n, s.seq));
            }
            for (number, seq) in seen {
                prop_assert_eq!(seq, last[number as usize] + 1);
                last[number as usize] = seq;
            }
            prop_assert!(d.timers.len() <= d.leaves().len());
        }
    }
}
