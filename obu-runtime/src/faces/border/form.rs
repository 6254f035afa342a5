//! What an app reads and writes on its island, as JSON. Pure; the forms are described in docs/ISLAND.md.

use policies::face::{Ask, TxFrame};
use policies::id::{BusName, FunctionName};
use policies::limits::INLINE_LEN_MAX;
use policies::signal::Signal;
use policies::task::{Class, Effect};
use policies::time::micros;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Deadline of a task that names none.
const DEADLINE_MS: u64 = 1_000;

/// Longest deadline: what a peer accepts as well.
const DEADLINE_MS_MAX: u64 = 600_000;

/// Most bytes of a CAN FD frame.
const FRAME_LEN_MAX: usize = 64;

/// A sample as `vss/...` carries it.
pub(super) fn signal(signal: &Signal, age_us: u64) -> String {
    json!({
        "value": crate::faces::value_json(&signal.value),
        "unit": signal.unit,
        "source_time_us": signal.source_time.as_micros(),
        "age_us": age_us,
        "quality": signal.quality,
        "seq": signal.seq,
    })
    .to_string()
}

/// What stands beside a camera frame.
pub(super) fn frame(seq: u64, captured_us: u64) -> String {
    json!({ "seq": seq, "captured_us": captured_us }).to_string()
}

/// The reply to `task/run`: the outcome, with the result inside: as JSON if it is, else as base64.
pub(super) fn outcome(text: &str, result: Option<&[u8]>) -> String {
    let mut outcome: Json = serde_json::from_str(text).unwrap_or_else(|_| json!({ "outcome": text }));
    crate::faces::add_result(&mut outcome, result);
    outcome.to_string()
}

/// A refusal, as an error reply carries it.
pub(super) fn refused(why: &str) -> String {
    json!({ "refused": why }).to_string()
}

/// Reads a request to run a task from its selector parameters.
pub(super) fn run_task<'a>(
    function: FunctionName,
    parameters: impl Iterator<Item = (&'a str, &'a str)>,
    input: Vec<u8>,
) -> Result<Ask, String> {
    if input.len() > INLINE_LEN_MAX {
        return Err(format!("the input has {} bytes; {INLINE_LEN_MAX} is the maximum", input.len()));
    }
    let (mut deadline_ms, mut class, mut effect) = (DEADLINE_MS, Class::default(), None);
    for (name, value) in parameters {
        match name {
            "deadline_ms" => {
                let number = value.parse().ok().filter(|n| (1..=DEADLINE_MS_MAX).contains(n));
                deadline_ms =
                    number.ok_or_else(|| format!("deadline_ms is a number from 1 to {DEADLINE_MS_MAX}"))?;
            }
            "class" => {
                class = Class::parse(value)
                    .ok_or("class is critical, driving, comfort or background".to_owned())?;
            }
            "effect" => {
                let kind = Effect::parse(value);
                effect = Some(kind.ok_or("effect is pure, idempotent or once".to_owned())?);
            }
            // Zenoh's own parameters begin with an underscore.
            other if other.starts_with('_') => {}
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(format!("unknown parameter {other:?}; there are deadline_ms, class and effect"));
            }
        }
    }
    let deadline_us = micros(std::time::Duration::from_millis(deadline_ms));
    Ok(Ask::RunTask { function, deadline_us, class, effect, input })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tx {
    id: u32,
    #[serde(default)]
    extended: bool,
    data: Data,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Hex(String),
    Bytes(Vec<u8>),
}

/// Reads a request to send a frame: `{"id": 256, "data": "01ff"}`, `data` as hexadecimal or a list.
pub(super) fn transmit(bus: BusName, payload: &[u8]) -> Result<TxFrame, String> {
    const FORM: &str =
        "the payload looks like {\"id\": 256, \"data\": \"01ff\"}, \"extended\": true for 29 bits";
    let tx: Tx = serde_json::from_slice(payload).map_err(|error| format!("{error}; {FORM}"))?;
    let data = match tx.data {
        Data::Bytes(bytes) => bytes,
        Data::Hex(text) => hex::decode(&text).map_err(|error| format!("data: {error}; {FORM}"))?,
    };
    let id_max = if tx.extended { 0x1fff_ffff } else { 0x7ff };
    if tx.id > id_max {
        return Err(format!("id {:#x} is more than {id_max:#x}; {FORM}", tx.id));
    }
    if data.len() > FRAME_LEN_MAX {
        return Err(format!("a frame has at most {FRAME_LEN_MAX} bytes, not {}", data.len()));
    }
    Ok(TxFrame { bus, id: tx.id, extended: tx.extended, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::signal::{Quality, SignalPath, Value};
    use policies::time::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn a_signal_reads_as_documented() {
        let sample = Signal {
            path: SignalPath::new("Vehicle.Speed").unwrap(),
            value: Value::Number(12.5),
            unit: "km/h".into(),
            source_time: Timestamp::from_micros(7),
            seq: 3,
            quality: Quality::Stale,
        };
        let expected =
            r#"{"age_us":40,"quality":"stale","seq":3,"source_time_us":7,"unit":"km/h","value":12.5}"#;
        assert_eq!(signal(&sample, 40), expected);
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_table() {
        let check = |result: Option<&[u8]>, expected| {
            assert_eq!(outcome(r#"{"outcome":"done"}"#, result), expected);
        };
        check(None,                  r#"{"outcome":"done"}"#);
        check(Some(br#"{"lane":1}"#),r#"{"outcome":"done","result":{"lane":1}}"#);
        check(Some(b"\xff\x00"),     r#"{"outcome":"done","result_base64":"/wA="}"#);
    }

    #[test]
    #[rustfmt::skip]
    fn task_parameter_table() {
        let check = |list: &[(&str, &str)], expected: Result<(u64, Class, Option<Effect>), &str>| {
            let got = run_task(FunctionName::new("lane").unwrap(), list.iter().copied(), Vec::new());
            match (got, expected) {
                (Ok(Ask::RunTask { deadline_us, class, effect, .. }), Ok(wanted)) => {
                    assert_eq!((deadline_us, class, effect), wanted, "{list:?}");
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (got, wanted) => panic!("{got:?} instead of {wanted:?}"),
            }
        };
        check(&[],                                          Ok((1_000_000, Class::Comfort, None)));
        check(&[("deadline_ms", "200"), ("class", "driving"), ("effect", "once"), ("_time", "x")],
                                                            Ok((200_000, Class::Driving, Some(Effect::Once))));
        check(&[("deadline_ms", "0")],                      Err("from 1 to"));
        check(&[("deadline_ms", "soon")],                   Err("from 1 to"));
        check(&[("class", "urgent")],                       Err("class is"));
        check(&[("effect", "twice")],                       Err("effect is"));
        check(&[("deadline", "1")],                         Err("unknown parameter \"deadline\""));
    }

    #[test]
    #[rustfmt::skip]
    fn transmit_table() {
        let check = |text: &str, expected: Result<(u32, bool, &[u8]), &str>| {
            match (transmit(BusName::new("can0").unwrap(), text.as_bytes()), expected) {
                (Ok(frame), Ok(wanted)) => assert_eq!((frame.id, frame.extended, &frame.data[..]), wanted),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (got, wanted) => panic!("{text}: {got:?} instead of {wanted:?}"),
            }
        };
        check(r#"{"id":256,"data":"01ff"}"#,                   Ok((256, false, &[1, 255])));
        check(r#"{"id":256,"data":[1,255],"extended":true}"#,  Ok((256, true, &[1, 255])));
        check(r#"{"id":2048,"data":""}"#,                      Err("more than 0x7ff"));
        check(r#"{"id":1,"data":"0"}"#,                        Err("data"));
        check(r#"{"id":1,"date":"00"}"#,                       Err("unknown field"));
        check("",                                              Err("looks like"));
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_refused_not_fatal(bytes: Vec<u8>, text: String) {
            let _ = transmit(BusName::new("can0").unwrap(), &bytes);
            let _ = outcome(&text, Some(&bytes));
            let _ = run_task(FunctionName::new("f").unwrap(), [(text.as_str(), text.as_str())].into_iter(), bytes);
        }
    }
}
