//! Whether what the nodes recorded replays: `verge-sim` feeds the recorded inputs to fresh machines and compares the
//! outputs byte by byte. An account of acts against outputs that no machine gives would prove nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use policies::id::NodeId;

use super::Report;
use crate::road::Programs;

/// What `verge-sim replay -o json` said of one recording.
#[derive(Debug)]
struct Said {
    ok: bool,
    text: String,
}

/// The inputs of a recording that replays to the same bytes; otherwise what is wrong with it. A node that was killed at
/// once has recorded nothing.
fn judge(said: &Said) -> Result<u64, String> {
    let found: serde_json::Value = serde_json::from_str(&said.text).unwrap_or_default();
    let verdict = found["verdict"].as_str().unwrap_or(&said.text);
    let why = found["broken"].as_str().unwrap_or(verdict);
    match found["inputs"].as_u64() {
        Some(0) if said.ok => Ok(0),
        Some(inputs) if said.ok && verdict == "identical" => Ok(inputs),
        _ => Err(why.to_owned()),
    }
}

fn ask(file: &Path) -> Said {
    let program = Programs::find().program("verge-sim");
    match Command::new(program).args(["replay", "-o", "json"]).arg(file).output() {
        Ok(output) => {
            let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Said { ok: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
        }
        Err(error) => Said { ok: false, text: format!("verge-sim cannot be run: {error}") },
    }
}

/// Replays all recordings of a node.
pub(super) fn replayed(node: &NodeId, files: &[PathBuf]) -> Report {
    report(node, files.iter().map(|file| (file.display().to_string(), judge(&ask(file)))))
}

fn report(node: &NodeId, results: impl Iterator<Item = (String, Result<u64, String>)>) -> Report {
    let mut report = Report::default();
    let mut inputs = 0;
    for (file, result) in results {
        match result {
            Ok(count) => {
                inputs += count;
                *report.matched.entry("replay".into()).or_default() += usize::from(count > 0);
            }
            Err(why) => report.findings.push(format!("{node}: {file} does not replay: {why}")),
        }
    }
    if inputs == 0 && report.findings.is_empty() {
        report.findings.push(format!("{node}: there is no recorded input to replay"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn verdict_table() {
        for (ok, text, expected) in [
            (true,  r#"{"inputs": 7, "verdict": "identical", "broken": null}"#,                Ok(7)),
            (true,  r#"{"inputs": 0, "verdict": "nothing to compare with", "broken": null}"#,  Ok(0)),
            (true,  r#"{"inputs": 7, "verdict": "nothing to compare with", "broken": null}"#,  Err("nothing to compare with")),
            (false, r#"{"inputs": 7, "verdict": "DIFFERENT after input 3", "broken": null}"#,  Err("DIFFERENT after input 3")),
            (false, r#"{"inputs": 7, "verdict": "identical", "broken": "a rule"}"#,            Err("a rule")),
            (false, "the file is damaged",                                                     Err("the file is damaged")),
        ] {
            let said = Said { ok, text: text.into() };
            assert_eq!(judge(&said), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_node_without_a_recording_and_one_that_differs_are_found() {
        let node: NodeId = "a1".parse().expect("a node");
        let findings =
            |results: Vec<(String, Result<u64, String>)>| report(&node, results.into_iter()).findings;
        let file = || "record-1.vrec".to_owned();
        assert_eq!(findings(vec![(file(), Ok(5)), (file(), Ok(0))]), Vec::<String>::new());
        assert_eq!(findings(vec![]).len(), 1, "no file");
        assert_eq!(findings(vec![(file(), Ok(0))]).len(), 1, "an empty file");
        assert_eq!(
            findings(vec![(file(), Ok(5)), (file(), Err("differs".into()))]).len(),
            1,
            "one that differs"
        );
    }
}
