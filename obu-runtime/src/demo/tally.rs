//! Counting what the road did: tasks by place and outcome, phases, decisions; filled by the event streams of
//! the nodes, read by the console and the summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value as Json;

use crate::control::{Exchange, Reply, Request};

/// One finished task, as its owner's event says.
#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    /// Seconds since the demo began.
    pub(super) at: f64,
    pub(super) function: String,
    pub(super) outcome: String,
    pub(super) node: String,
    pub(super) took_us: u64,
    /// Matching, pipelining, execution.
    pub(super) phases: [u64; 3],
    pub(super) id: String,
}

/// One decision worth showing.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) at: f64,
    pub(super) node: String,
    pub(super) kind: String,
    pub(super) about: String,
    pub(super) why: String,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) tasks: Vec<Task>,
    pub(super) notices: Vec<Notice>,
    pub(super) refusals: BTreeMap<String, u64>,
    pub(super) alarms: Vec<String>,
    /// Event streams that are open, by node.
    pub(super) following: BTreeMap<&'static str, u32>,
    /// Lines of app logs, by app.
    pub(super) lines: BTreeMap<String, Vec<(f64, String)>>,
}

/// Shared by all listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    counts: Arc<Mutex<Counts>>,
    began: std::time::Instant,
    began_wall_us: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            counts: Arc::default(),
            began: std::time::Instant::now(),
            began_wall_us: u64::try_from(wall.as_micros()).unwrap_or(0),
        }
    }

    /// Seconds since the demo began.
    pub(super) fn at(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Seconds since the demo began, of a moment that another program of this machine noted.
    pub(super) fn at_wall(&self, wall_us: u64) -> f64 {
        wall_us.saturating_sub(self.began_wall_us) as f64 / 1e6
    }

    /// Reads or changes the counts.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows a node's events on a thread of its own, until the node is gone.
    pub(super) fn follow(&self, node: &'static str, socket: PathBuf) {
        let tally = self.clone();
        std::thread::spawn(move || {
            crate::cli::block_on(async {
                let Ok(mut exchange) = Exchange::begin(&socket, &Request::Events).await else { return };
                tally.with(|counts| *counts.following.entry(node).or_default() += 1);
                while let Ok(Reply::Json(line)) = exchange.next().await {
                    if let Ok(json) = serde_json::from_str(&line) {
                        tally.event(node, &json);
                    }
                }
                tally.with(|counts| *counts.following.entry(node).or_default() -= 1);
            });
        });
    }

    /// Whether a node's events are being followed.
    pub(super) fn follows(&self, node: &str) -> bool {
        self.with(|counts| counts.following.get(node).is_some_and(|open| *open > 0))
    }

    /// Follows an app's log on a thread of its own.
    pub(super) fn follow_log(&self, socket: PathBuf, app: policies::host::AppRef) {
        let tally = self.clone();
        std::thread::spawn(move || {
            crate::cli::block_on(async {
                let name = app.app.to_string();
                let request = Request::Logs { app, lines: 1000, follow: true };
                let Ok(mut exchange) = Exchange::begin(&socket, &request).await else { return };
                while let Ok(Reply::Line(line)) = exchange.next().await {
                    let at = tally.at();
                    tally.with(|counts| counts.lines.entry(name.clone()).or_default().push((at, line)));
                }
            });
        });
    }

    fn event(&self, node: &str, json: &Json) {
        let at = self.at();
        match json["event"].as_str() {
            Some("task") => self.with(|counts| counts.tasks.push(task(at, json))),
            Some("alarm" | "lost") => self.with(|counts| counts.alarms.push(format!("{node}: {json}"))),
            Some("decision") => self.decision(at, node, json),
            _ => {}
        }
    }

    fn decision(&self, at: f64, node: &str, json: &Json) {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let kind = text("kind");
        self.with(|counts| {
            if kind == "refuse" {
                *counts.refusals.entry(format!("{}: {}", text("about"), text("why"))).or_default() += 1;
            }
            let shown = ["squeeze", "freeze", "thaw", "give-up", "back-off", "peer", "answer"];
            if shown.contains(&kind.as_str()) {
                let notice = Notice {
                    at,
                    node: node.into(),
                    kind: kind.clone(),
                    about: text("about"),
                    why: text("why"),
                };
                counts.notices.push(notice);
            }
        });
    }
}

fn task(at: f64, json: &Json) -> Task {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let phase = |key: &str| json["phases"][key].as_u64().unwrap_or(0);
    Task {
        at,
        function: text("function"),
        outcome: text("outcome"),
        node: text("node"),
        took_us: json["took_us"].as_u64().unwrap_or(0),
        phases: [phase("matching_us"), phase("pipelining_us"), phase("execution_us")],
        id: text("task"),
    }
}

/// The value at `permille` of a sorted list; 0 for an empty one.
pub(super) fn quantile(sorted: &[u64], permille: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * permille / 1000).copied().unwrap_or(0)
}

/// Sorted values.
pub(super) fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

/// Milliseconds with one digit behind the point.
pub(super) fn ms(us: u64) -> String {
    format!("{}.{}", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_small_lists() {
        assert_eq!(quantile(&[], 500), 0);
        assert_eq!(quantile(&[7], 990), 7);
        let list: Vec<u64> = (1..=101).collect();
        assert_eq!((quantile(&list, 0), quantile(&list, 500), quantile(&list, 1000)), (1, 51, 101));
        assert_eq!(ms(12_345), "12.3");
    }
}
