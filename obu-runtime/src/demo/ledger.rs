//! The independent ledger: a Python program that shares no code with Verge, listens to the bus by python-can,
//! and takes effects in as lines.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::cli::Failure;

/// CAN id that the hostile app asks for (`ADAS_Request` of the demo's DBC).
const ASKED_ID: &str = "2A0";

/// The running ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    child: Child,
    /// Port of the effect server.
    pub(super) port: u16,
    summary: PathBuf,
    effects: PathBuf,
}

/// What it counted.
#[derive(Debug, Default)]
pub(super) struct Booked {
    /// When effects arrived, microseconds since 1970, by task.
    pub(super) tasks: BTreeMap<String, Vec<u64>>,
    /// Frames heard on the bus.
    pub(super) frames: u64,
    /// Effects that named no task.
    pub(super) without_task: u64,
    /// Frames with the id that only the hostile app asked for.
    pub(super) foreign: u64,
}

impl Ledger {
    /// Starts the program and waits for its port.
    pub(super) fn start(
        root: &Path,
        project: &Path,
        material: &Path,
        bus: &[String],
    ) -> Result<Self, Failure> {
        let (effects, summary) = (root.join("effects.log"), root.join("ledger.json"));
        let _ = std::fs::remove_file(&effects);
        let failed = |e| {
            Failure::new(format!("cannot start the ledger: {e}"))
                .fix("run `make demo`; it prepares Python's python-can in the build directory".to_owned())
        };
        let mut child = Command::new(super::prepare::interpreter(material))
            .arg(project.join("scripts/ledger.py"))
            .arg("--effects")
            .arg(&effects)
            .arg("--summary")
            .arg(&summary)
            .args(bus)
            .args(["--watch", ASKED_ID, "--frames"])
            .arg(root.join("asked-frames.log"))
            .env("PYTHONPATH", material.join("pylib"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut first = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut first).map_err(|e| failed(e.to_string()))?;
        }
        let port =
            first.trim().parse().map_err(|_| failed(format!("it said {first:?} instead of its port")))?;
        Ok(Self { child, port, summary, effects })
    }

    /// Ends the program and reads what it counted.
    pub(super) fn end(&mut self) -> Result<Booked, Failure> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let status =
            self.child.wait().map_err(|e| Failure::new(format!("cannot wait for the ledger: {e}")))?;
        if !status.success() {
            return Err(Failure::new(format!(
                "the ledger did not end in order: {status}; what it counted is not whole"
            )));
        }
        let text = std::fs::read_to_string(&self.summary)
            .map_err(|e| Failure::new(format!("the ledger left no summary: {e}")))?;
        let summary: Json = serde_json::from_str(&text)
            .map_err(|e| Failure::new(format!("the ledger's summary is not JSON: {e}")))?;
        let frames = &summary["frames"];
        let mut booked = Booked {
            frames: frames["total"].as_u64().unwrap_or(0),
            foreign: frames["by_id"][ASKED_ID].as_u64().unwrap_or(0),
            without_task: summary["effects"]["without_task"].as_u64().unwrap_or(u64::MAX),
            ..Booked::default()
        };
        let effects = std::fs::read_to_string(&self.effects).unwrap_or_default();
        for line in effects.lines() {
            let mut words = line.split(' ');
            let at = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            if let Some(task) = words.find_map(|word| word.strip_prefix("task=")) {
                booked.tasks.entry(task.to_owned()).or_default().push(at);
            }
        }
        Ok(booked)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Ended in order before; this is for the ways out through an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
