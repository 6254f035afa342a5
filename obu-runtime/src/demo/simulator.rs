//! What `verge-sim` says of the recordings: whether they replay to the same decisions, and how far its model of the
//! road is from the road.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use super::script::Road;
use crate::cli::line;

/// What one call of `verge-sim` said.
struct Said {
    ok: bool,
    /// Standard output; standard error if there is none.
    text: String,
}

fn ask<A: AsRef<OsStr>>(sim: &Path, arguments: impl IntoIterator<Item = A>) -> Said {
    match Command::new(sim).args(arguments).output() {
        Ok(output) => {
            let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Said { ok: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
        }
        Err(e) => Said { ok: false, text: format!("cannot run {}: {e}", sim.display()) },
    }
}

/// The replay of one recording: its inputs, or what is wrong with it. A node that was killed may have left
/// nothing.
fn replayed(sim: &Path, file: &Path) -> Result<u64, String> {
    let said = ask(sim, [OsStr::new("replay"), OsStr::new("-o"), OsStr::new("json"), file.as_os_str()]);
    let found: Json = serde_json::from_str(&said.text).unwrap_or_default();
    let verdict = found["verdict"].as_str().unwrap_or(&said.text);
    let why = found["broken"].as_str().unwrap_or(verdict);
    match found["inputs"].as_u64() {
        Some(0) if said.ok => Ok(0),
        Some(inputs) if said.ok && verdict == "identical" => Ok(inputs),
        _ => Err(format!("{}: {}", file.display(), why.lines().next().unwrap_or("it says nothing"))),
    }
}

impl Road<'_> {
    /// The recordings of all nodes, stepped by the simulator, and a model of the road beside the road.
    pub(super) fn replay(&mut self) {
        let sim = self.verge.with_file_name("verge-sim");
        let record = self.plan.dir("a1").join("state/node/record-1.vrec");
        let Said { ok, text } = ask(&sim, [OsStr::new("replay"), record.as_os_str()]);
        let seen = text.lines().rev().take(4).collect::<Vec<_>>().join("; ");
        self.findings.check(10, "verge-sim replays the drive to the same decisions", ok, seen);
        let files = self.recordings();
        self.replay_all(&sim, &files);
        self.compare(&sim, &files);
    }

    fn replay_all(&mut self, sim: &Path, files: &[PathBuf]) {
        let replays: Vec<Result<u64, String>> = files.iter().map(|file| replayed(sim, file)).collect();
        let inputs: u64 = replays.iter().flatten().sum();
        let bad: Vec<String> = replays.into_iter().filter_map(Result::err).collect();
        let seen = match bad.as_slice() {
            [] => format!("{} recordings, {inputs} inputs, identical", files.len()),
            bad => bad.join("; "),
        };
        let what = "so do the recordings of all nodes";
        self.findings.check(10, what, inputs > 0 && bad.is_empty(), seen);
    }

    /// How far is no matter of right and wrong: that it can be told is.
    fn compare(&mut self, sim: &Path, files: &[PathBuf]) {
        let arguments =
            std::iter::once(OsStr::new("compare")).chain(files.iter().map(|file| file.as_os_str()));
        let Said { ok, text } = ask(sim, arguments);
        if ok {
            line("the model of verge-sim beside the road");
            line(text.trim_end());
        }
        // The last line sums it up; an error stands first.
        let seen = if ok { text.lines().last() } else { text.lines().next() };
        let seen = seen.unwrap_or_default().to_owned();
        self.findings.check(10, "distance in latency between model and road", ok, seen);
    }
}
