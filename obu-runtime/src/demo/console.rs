//! The live view: one line a second, and every decision worth showing.

use serde_json::Value as Json;

use super::tally::{Tally, ms, quantile, sorted};
use crate::cli::line;

/// Shows one second of the road.
pub(super) fn second(tally: &Tally, from: f64, t0: f64) {
    let to = from + 1.0;
    tally.with(|counts| {
        for notice in counts.notices.iter().filter(|n| n.at >= from && n.at < to) {
            line(format!(
                "  {:>5.1} s  {} {}: {} ({})",
                notice.at - t0,
                notice.node,
                notice.kind,
                notice.about,
                notice.why
            ));
        }
        let tasks: Vec<_> = counts.tasks.iter().filter(|t| t.at >= from && t.at < to).collect();
        let mut places = std::collections::BTreeMap::new();
        for task in &tasks {
            let place = if task.outcome == "done" { task.node.as_str() } else { task.outcome.as_str() };
            *places.entry(place).or_insert(0u32) += 1;
        }
        let places: Vec<String> = places.iter().map(|(place, n)| format!("{place} {n}")).collect();
        let took = sorted(tasks.iter().map(|t| t.took_us));
        let phase = |n: usize| ms(quantile(&sorted(tasks.iter().map(|t| t.phases[n])), 500));
        line(format!(
            "{:>5.0} s  tasks: {:<28} p50 {} ms  p99 {} ms  (matching {}, pipelining {}, execution {})",
            to - t0,
            places.join(", "),
            ms(quantile(&took, 500)),
            ms(quantile(&took, 990)),
            phase(0),
            phase(1),
            phase(2),
        ));
    });
}

/// A JSON value as text, without quotes.
pub(super) fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What confines an app, in one line, each with its mechanism; weaker ones are marked.
pub(super) fn limits(app: &Json) -> String {
    let enforced = app["enforced"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = ["memory", "cpu", "pids", "freeze"];
    let list: Vec<String> = enforced
        .iter()
        .filter(|e| wanted.contains(&e["what"].as_str().unwrap_or_default()))
        .map(|e| {
            let weaker = if e["degraded"] == true { " (degraded)" } else { "" };
            format!("{} by {}{weaker}", text(&e["what"]), text(&e["by"]))
        })
        .collect();
    list.join(", ")
}

/// The machine in one line.
pub(super) fn machine(machine: &Json) -> String {
    let lines = machine["machine"].as_array().map(Vec::as_slice).unwrap_or_default();
    let list: Vec<String> =
        lines.iter().take(4).map(|e| format!("{}: {}", text(&e["what"]), text(&e["value"]))).collect();
    list.join(", ")
}
