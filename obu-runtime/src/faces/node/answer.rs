//! What apps and the console read of a task: JSON from a [`TaskReport`], and back from a function's output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use obu_core::io::CallEnd;
use policies::limits::REASON_LEN_MAX;
use policies::signal::{SignalPath, Value};
use policies::task::Outcome;
use policies::time::Timestamp;
use serde_json::{Value as Json, json};
use v2e_core::message::{READINGS_MAX, Reading};
use v2e_core::report::TaskReport;

use super::blobs::Blobs;

/// A report as apps and the console read it.
pub(crate) fn report_json(report: &TaskReport) -> Json {
    let why = match &report.outcome {
        Outcome::Done { .. } | Outcome::Cancelled => String::new(),
        Outcome::Failed { why, .. }
        | Outcome::Missed { why }
        | Outcome::Indeterminate { why }
        | Outcome::Refused { why } => why.clone(),
    };
    json!({
        "task": report.task.to_string(),
        "function": report.function.as_str(),
        "class": report.class.as_str(),
        "effect": report.effect.as_str(),
        "outcome": report.outcome.word(),
        "node": report.node.as_ref().map(|n| n.as_str()),
        "why": why,
        "attempts": report.attempts,
        "hedged": report.hedged,
        "phases": {
            "matching_us": report.phases.matching_us,
            "pipelining_us": report.phases.pipelining_us,
            "execution_us": report.phases.execution_us,
        },
        "took_us": policies::time::micros(report.ended.since(report.submitted)),
        "deadline_us": policies::time::micros(report.deadline.since(report.submitted)),
    })
}

/// A signal's value as apps and the console read it. A fraction has the 15 decimal digits that a double keeps
/// ([`f64::DIGITS`]), so 74.82 is not 74.82000000000001.
pub(crate) fn value_json(value: &Value) -> Json {
    match value {
        Value::Number(number) if number.is_finite() && number.fract() != 0.0 => {
            let digits = format!("{number:.*e}", f64::DIGITS as usize - 1);
            json!(digits.parse().unwrap_or(*number))
        }
        Value::Number(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::Text(text) => json!(text),
    }
}

/// Puts a result's bytes into the JSON of its report: as `result` if they are JSON, else as `result_base64`.
pub(crate) fn add_result(report: &mut Json, result: Option<&[u8]>) {
    if let (Some(result), Some(fields)) = (result, report.as_object_mut()) {
        match serde_json::from_slice::<Json>(result) {
            Ok(value) => fields.insert("result".into(), value),
            Err(_) => fields.insert("result_base64".into(), json!(STANDARD.encode(result))),
        };
    }
}

/// Standard input of a function that works on signals.
pub(super) fn signals_input(want: &str, signals: &[(SignalPath, Value)]) -> Vec<u8> {
    let values: serde_json::Map<String, Json> =
        signals.iter().map(|(path, value)| (path.as_str().to_owned(), value_json(value))).collect();
    json!({ "signals": values, "want": want }).to_string().into_bytes()
}

/// Reads a function's standard output: the plain result, or a result with an effect, or a reading.
pub(super) fn call_end(blobs: &mut Blobs, now: Timestamp, result: Result<Vec<u8>, (i32, String)>) -> CallEnd {
    let output = match result {
        Ok(output) => output,
        Err((code, why)) => return CallEnd::Failed { code, why: short(why) },
    };
    let parsed: Option<Json> = serde_json::from_slice(&output).ok();
    let effect =
        parsed.as_ref().and_then(|json| json["effects"][0]["line"].as_str()).map(|l| short(l.into()));
    let reading = parsed.as_ref().and_then(reading);
    let bytes = match (&effect, &parsed) {
        (Some(_), Some(json)) => json["result"].to_string().into_bytes(),
        _ => output,
    };
    match blobs.put(now, bytes) {
        Some(result) => CallEnd::Returned { result, effect, reading },
        None => CallEnd::Failed { code: -1, why: "the result is longer than a message may be".into() },
    }
}

fn reading(json: &Json) -> Option<Reading> {
    let value = json["value"].as_f64().filter(|v| v.is_finite() && v.abs() < 1e12)?;
    let n = u32::try_from(json["n"].as_u64()?).ok().filter(|n| (1..=READINGS_MAX).contains(n))?;
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the filter above: 1e18 fits an i64")]
    let value_micro = (value * 1e6).round() as i64;
    Some(Reading { value_micro, n })
}

fn short(text: String) -> String {
    match text.char_indices().nth(REASON_LEN_MAX / 4) {
        Some((end, _)) if text.len() > REASON_LEN_MAX => text[..end].to_owned(),
        _ => text,
    }
}

/// The bytes of a result, if the task is done and they are at hand.
pub(super) fn result_bytes(blobs: &Blobs, report: &TaskReport) -> Option<Vec<u8>> {
    match &report.outcome {
        Outcome::Done { result } => blobs.get(result).map(|bytes| bytes.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(output: &[u8]) -> (CallEnd, Vec<u8>) {
        let mut blobs = Blobs::default();
        let end = call_end(&mut blobs, Timestamp::ZERO, Ok(output.to_vec()));
        let bytes = match &end {
            CallEnd::Returned { result, .. } => blobs.get(result).unwrap().to_vec(),
            CallEnd::Failed { .. } => Vec::new(),
        };
        (end, bytes)
    }

    #[test]
    fn values_show_the_digits_that_were_sent() {
        for (number, text) in [
            (7482.0 * 0.01, "74.82"),
            (0.1 + 0.2, "0.3"),
            (-3.0 * 1.1, "-3.3"),
            (50.0, "50.0"),
            (1.0 / 3.0, "0.333333333333333"),
            (481_372_516.0 * 1e-7, "48.1372516"),
            (9_007_199_254_740_991.0, "9007199254740991.0"),
            (5e-324, "5e-324"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(value_json(&Value::Number(number)).to_string(), text, "{number:?}");
        }
        assert_eq!(value_json(&Value::Bool(true)), json!(true));
        assert_eq!(value_json(&Value::Text("D".into())), json!("D"));
    }

    #[test]
    fn plain_output_is_the_result() {
        let (end, bytes) = end(b"{\"lanes\":[]}");
        assert_eq!(bytes, b"{\"lanes\":[]}");
        assert!(matches!(end, CallEnd::Returned { effect: None, reading: None, .. }));
    }

    #[test]
    fn an_effect_is_taken_out_of_the_result() {
        let (end, bytes) =
            end(br#"{"result":{"ok":true},"effects":[{"port":"ledger","line":"toll gantry=7"}]}"#);
        assert_eq!(bytes, br#"{"ok":true}"#);
        assert!(matches!(end, CallEnd::Returned { effect: Some(line), .. } if line == "toll gantry=7"));
    }

    #[test]
    fn a_reading_is_fixed_point_and_bounded() {
        let reading_of = |text: &[u8]| match end(text).0 {
            CallEnd::Returned { reading, .. } => reading,
            CallEnd::Failed { .. } => None,
        };
        assert_eq!(reading_of(br#"{"value":21.5,"n":1}"#), Some(Reading { value_micro: 21_500_000, n: 1 }));
        assert_eq!(reading_of(br#"{"value":21.5,"n":0}"#), None);
        assert_eq!(reading_of(br#"{"value":1e300,"n":1}"#), None);
        assert_eq!(reading_of(br#"{"value":1,"n":99999999}"#), None);
    }
}
