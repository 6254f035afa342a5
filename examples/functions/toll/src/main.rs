//! Function `toll`: books one passage at a toll gantry. Its effect must happen exactly once, so it has
//! none of its own: it names the effect, and the node hands it to the effect port.
//!
//! Standard input: `{"gantry": "A10-7", "plate_hash": "9f86d081"}`, and `"weigh_ms"` (up to 2000) where the
//! vehicle is weighed meanwhile, which keeps the function busy that long. Standard output:
//! `{"result": {...}, "effects": [{"port": "ledger", "line": "toll gantry=A10-7 plate=9f86d081"}]}`.
//! Exit codes: 0 done; 65 (`EX_DATAERR`) for bad input, with one line on standard error; 74 (`EX_IOERR`)
//! when the pipes fail.

use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest accepted input in bytes.
const MAX_INPUT_BYTES: u64 = 4 << 10;
/// Longest accepted name in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest weighing, milliseconds.
const MAX_WEIGH_MS: u64 = 2_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Passage {
    /// Which gantry.
    gantry: String,
    /// A hash, so that no plate leaves the car.
    plate_hash: String,
    /// How long the vehicle is weighed, milliseconds.
    #[serde(default)]
    weigh_ms: u64,
}

#[derive(Serialize)]
struct Answer<'a> {
    result: Booked<'a>,
    effects: [Effect; 1],
}

#[derive(Serialize)]
struct Booked<'a> {
    booked: bool,
    gantry: &'a str,
}

/// One line for a port of the node.
#[derive(Serialize)]
struct Effect {
    port: &'static str,
    line: String,
}

fn main() -> ExitCode {
    command::run("toll", MAX_INPUT_BYTES, book)
}

fn book(input: &[u8]) -> Result<String, String> {
    let passage: Passage = serde_json::from_slice(input).map_err(|error| format!("bad passage: {error}"))?;
    let gantry = checked("gantry", &passage.gantry)?;
    let plate = checked("plate_hash", &passage.plate_hash)?;
    if passage.weigh_ms > MAX_WEIGH_MS {
        return Err(format!("weigh_ms must be at most {MAX_WEIGH_MS}"));
    }
    weigh(Duration::from_millis(passage.weigh_ms));
    let effect = Effect { port: "ledger", line: format!("toll gantry={gantry} plate={plate}") };
    let answer = Answer { result: Booked { booked: true, gantry }, effects: [effect] };
    serde_json::to_string(&answer).map_err(|error| error.to_string())
}

/// Keeps busy: a function has no sleep.
fn weigh(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A name becomes part of a line of a ledger, so it can't hold what separates fields or lines.
fn checked<'a>(field: &str, name: &'a str) -> Result<&'a str, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(format!("{field} must be 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::book;

    #[test]
    fn names_one_effect_for_one_passage() {
        assert_eq!(
            book(br#"{"gantry":"A10-7","plate_hash":"9f86d081"}"#).as_deref(),
            Ok(concat!(
                r#"{"result":{"booked":true,"gantry":"A10-7"},"#,
                r#""effects":[{"port":"ledger","line":"toll gantry=A10-7 plate=9f86d081"}]}"#
            ))
        );
    }

    #[test]
    fn refuses_names_that_could_forge_a_ledger_line() {
        for (gantry, plate) in [
            ("", "9f"),
            ("A10", ""),
            ("A10\\ntoll gantry=B", "9f"),
            ("A10 plate=0", "9f"),
            ("A10", "a=b"),
            ("\u{e4}", "9f"),
        ] {
            let passage = format!(r#"{{"gantry":"{gantry}","plate_hash":"{plate}"}}"#);
            assert!(book(passage.as_bytes()).is_err_and(|error| error.contains("must be")), "{passage}");
        }
        let long = "x".repeat(65);
        assert!(book(format!(r#"{{"gantry":"{long}","plate_hash":"9f"}}"#).as_bytes()).is_err());
    }

    #[test]
    fn weighs_as_long_as_asked_and_not_for_ever() {
        assert!(book(br#"{"gantry":"A","plate_hash":"b","weigh_ms":3}"#).is_ok());
        let error = book(br#"{"gantry":"A","plate_hash":"b","weigh_ms":2001}"#).unwrap_err();
        assert!(error.contains("at most 2000"), "{error}");
    }

    #[test]
    fn refuses_what_is_no_passage() {
        for input in ["", "null", "{}", r#"{"gantry":"A10"}"#, r#"{"gantry":"A","plate_hash":"b","price":1}"#]
        {
            assert!(book(input.as_bytes()).is_err_and(|error| error.starts_with("bad passage")), "{input}");
        }
    }
}
