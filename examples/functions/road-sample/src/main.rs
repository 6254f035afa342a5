//! Function `road-sample`: answers a roadside call for one sample, from the signals of this car.
//!
//! Standard input: `{"signals": {"Vehicle.Speed": 92.5, ...}, "want": "road_temperature"}`. Standard
//! output: `{"want": "road_temperature", "value": 21.5, "n": 1}`; `n` counts the samples in the value, so
//! that the roadside can merge partial results. Exit codes: 0 done; 65 (`EX_DATAERR`) for bad input, with
//! one line on standard error; 74 (`EX_IOERR`) when the pipes fail.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Longest accepted input in bytes.
const MAX_INPUT_BYTES: u64 = 1 << 20;

/// What the roadside asks for.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Want {
    /// Temperature of the road in degrees Celsius.
    RoadTemperature,
    /// Fine dust (PM2.5) outside the car in ug/m^3.
    AirQuality,
    /// How fast the traffic moves, in km/h.
    TrafficSpeed,
}

impl Want {
    /// The signal it is taken from, and the range in which a reading can be true.
    fn source(self) -> (&'static str, std::ops::RangeInclusive<f64>) {
        match self {
            // Cars carry no road sensor; the air a hand above the road is the usual stand-in.
            Self::RoadTemperature => ("Vehicle.Exterior.AirTemperature", -60.0..=70.0),
            Self::AirQuality => ("Vehicle.Exterior.AirQuality.PM25", 0.0..=1000.0),
            Self::TrafficSpeed => ("Vehicle.Speed", -250.0..=400.0),
        }
    }
}

#[derive(Deserialize)]
struct Call {
    signals: BTreeMap<String, serde_json::Value>,
    want: Want,
}

#[derive(Serialize)]
struct Sample {
    want: Want,
    value: f64,
    n: u32,
}

fn main() -> ExitCode {
    command::run("road-sample", MAX_INPUT_BYTES, answer)
}

fn answer(input: &[u8]) -> Result<String, String> {
    let call: Call = serde_json::from_slice(input).map_err(|error| format!("bad call: {error}"))?;
    let (path, range) = call.want.source();
    let value = call.signals.get(path).ok_or_else(|| format!("the call lacks the signal {path}"))?;
    let value = value.as_f64().ok_or_else(|| format!("{path} is no number"))?;
    if !range.contains(&value) {
        return Err(format!("{path} is {value}, outside {} to {}", range.start(), range.end()));
    }
    serde_json::to_string(&Sample { want: call.want, value, n: 1 }).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::answer;

    const SIGNALS: &str = r#""signals":{"Vehicle.Speed":92.5,"Vehicle.Exterior.AirTemperature":21.5,
        "Vehicle.Exterior.AirQuality.PM25":7}"#;

    #[test]
    fn answers_from_the_signal_that_fits() {
        for (want, value) in [("road_temperature", "21.5"), ("air_quality", "7.0")] {
            let call = format!(r#"{{{SIGNALS},"want":"{want}"}}"#);
            let expected = format!(r#"{{"want":"{want}","value":{value},"n":1}}"#);
            assert_eq!(answer(call.as_bytes()).as_deref(), Ok(expected.as_str()));
        }
    }

    #[test]
    fn names_what_is_wrong_with_a_call() {
        for (call, complaint) in [
            ("", "bad call"),
            ("[]", "bad call"),
            (r#"{"want":"road_temperature"}"#, "missing field `signals`"),
            (r#"{"signals":{},"want":"gold"}"#, "unknown variant"),
            (r#"{"signals":{},"want":"air_quality"}"#, "lacks the signal Vehicle.Exterior.AirQuality.PM25"),
            (
                r#"{"signals":{"Vehicle.Exterior.AirTemperature":"warm"},"want":"road_temperature"}"#,
                "is no number",
            ),
            (
                r#"{"signals":{"Vehicle.Exterior.AirTemperature":-273.5},"want":"road_temperature"}"#,
                "is -273.5, outside -60 to 70",
            ),
        ] {
            let error = answer(call.as_bytes()).expect_err(call);
            assert!(error.contains(complaint), "{call}: {error}");
        }
    }
}
