//! What the control API shows, as JSON, with the column names that `verge get` prints.

use policies::face::{BusStats, FromCamera};
use policies::host::{AppRef, HostEvent};
use policies::signal::Signal;
use serde_json::{Value as Json, json};

use super::Driver;
use crate::control::View;

/// Counters of the driver and the last ones that other processes told.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) bus: Option<BusStats>,
    pub(super) camera: Option<FromCamera>,
    pub(super) alarms: u64,
    pub(super) refused: u64,
    pub(super) denied: u64,
    pub(super) garbage: u64,
    pub(super) faces_ended: u64,
}

impl Stats {
    /// Takes note of what host says about faces.
    pub(super) fn host(&mut self, event: &HostEvent) {
        if let HostEvent::FaceExited { face, exit, why } = event {
            tracing::warn!(%face, ?exit, why, "a process of this node ended");
            self.faces_ended += 1;
        }
    }
}

/// One view.
pub(super) fn view(driver: &Driver, view: &View) -> Json {
    match view {
        View::Nodes => nodes(driver),
        View::Apps => Json::Array(driver.node.apps().iter().map(app).collect()),
        View::Functions => Json::Array(driver.node.functions().iter().map(function).collect()),
        View::Tasks => Json::Array(driver.node.tasks().iter().map(task).collect()),
        View::Task(id) => driver.node.story(id).map_or(Json::Null, story),
        View::Stats => stats(driver),
        View::Machine => json!({
            "machine": driver.machine["machine"],
            "bases": driver.bases,
            "insecure": driver.insecure,
        }),
        // Answered by the bus, see `serve`.
        View::Signals(_) => Json::Null,
    }
}

fn nodes(driver: &Driver) -> Json {
    let mut rows = Vec::new();
    if let Some(me) = driver.node.status(driver.clock.now()) {
        let mut row = json!(me);
        row["realm"] = "here".into();
        row["state"] = if driver.insecure { "INSECURE" } else { "up" }.into();
        row["queue_us"] = me.load.backlog_us.into();
        row["cpu"] = me.load.cpu_used.into();
        let lost: Vec<String> = me.faces_lost.iter().map(|(face, why)| format!("{face}: {why}")).collect();
        row["why"] = lost.join("; ").into();
        rows.push(row);
    }
    for peer in driver.node.peers(driver.clock.now()) {
        let state = match (peer.fresh, peer.suspect) {
            (false, _) => "silent",
            (true, true) => "suspect",
            (true, false) => "up",
        };
        let mut row = json!(peer);
        row["state"] = state.into();
        row["queue_us"] = peer.load.backlog_us.into();
        row["cpu"] = peer.load.cpu_used.into();
        rows.push(row);
    }
    Json::Array(rows)
}

fn name(app: &AppRef) -> String {
    app.to_string()
}

fn app(app: &obu_core::supervisor::AppView) -> Json {
    let degraded: Vec<&str> = app.enforced.iter().filter(|e| e.degraded).map(|e| e.what.as_str()).collect();
    let mut row = json!(app);
    row["app"] = name(&app.app).into();
    row["cpu_us"] = json!(app.usage.cpu_us);
    row["memory"] = json!(app.usage.memory);
    row["pids"] = json!(app.usage.pids);
    row["degraded"] = degraded.join(" ").into();
    row
}

fn function(function: &obu_core::node::FunctionView) -> Json {
    let mut row = json!(function);
    row["service_us"] = json!(function.service_p50_us);
    row
}

fn task(task: &v2e_core::requester::TaskView) -> Json {
    let mut row = match &task.report {
        Some(report) => super::answer::report_json(report),
        None => json!({ "function": task.function.as_str(), "outcome": task.state, "node": task.node }),
    };
    row["task"] = task.task.to_string().into();
    row
}

fn story(story: &v2e_core::report::Story) -> Json {
    let start = story.steps.first().map(|step| step.at).unwrap_or_default();
    let steps: Vec<Json> = story
        .steps
        .iter()
        .map(|step| {
            json!({
                "at_us": policies::time::micros(step.at.since(start)),
                "attempt": step.attempt.map(|a| a.0),
                "what": step.what,
                "why": step.why,
            })
        })
        .collect();
    json!({
        "task": story.task.to_string(),
        "function": story.function.as_str(),
        "steps": steps,
        "dropped": story.dropped,
        "report": story.report.as_ref().map(super::answer::report_json),
    })
}

fn stats(driver: &Driver) -> Json {
    let camera = match &driver.stats.camera {
        Some(FromCamera::Stats { captured, delivered, dropped, bad }) => {
            json!({ "captured": captured, "delivered": delivered, "dropped": dropped, "bad": bad })
        }
        None => Json::Null,
    };
    json!({
        "node": driver.node.status(driver.clock.now()),
        "bus": driver.stats.bus,
        "camera": camera,
        "alarms": driver.stats.alarms,
        "refused": driver.stats.refused,
        "denied": driver.stats.denied,
        "garbage": driver.stats.garbage,
        "faces_ended": driver.stats.faces_ended,
    })
}

/// Latest values of signals, one row each.
pub(super) fn signals(samples: &[(Signal, u64)]) -> Json {
    samples
        .iter()
        .map(|(signal, age_us)| {
            json!({
                "path": signal.path.as_str(),
                "value": super::value_json(&signal.value),
                "unit": signal.unit,
                "age_us": age_us,
                "quality": signal.quality,
                "seq": signal.seq,
            })
        })
        .collect()
}
