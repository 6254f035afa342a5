//! The live view: one line a second, and every decision worth showing.

use std::path::Path;

use serde_json::Value as Json;

use super::prepare;
use super::tally::{Tally, ms, quantile, sorted};
use crate::cli::line;
use crate::control::View;

/// The node whose apps ask for tasks.
const OWNER: &str = "a1";

/// Shows one second of the road.
pub(super) fn second(tally: &Tally, from: f64, t0: f64, owner: &Path) {
    let to = from + 1.0;
    let example = tally.with(|counts| {
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
        // One that went elsewhere tells more.
        let last = |own| tasks.iter().rev().find(|t| t.outcome == "done" && (t.node == OWNER) == own);
        last(false).or_else(|| last(true)).map(|t| (t.id.clone(), t.function.clone(), t.node.clone()))
    });
    if let Some((id, function, node)) = example
        && let Some(why) = placed(owner, &id)
    {
        line(format!("         {function} went to {node}{}", short(&why)));
    }
}

/// Why a task was placed where it was, as `verge task explain` tells.
fn placed(owner: &Path, task: &str) -> Option<String> {
    let story = prepare::view(owner, View::Task(task.parse().ok()?));
    let steps = story["steps"].as_array()?;
    let placed = steps.iter().rev().find(|step| step["what"] == "placed" || step["what"] == "hedged")?;
    Some(text(&placed["why"]))
}

/// A plan's candidates (one a line: `> e1 (outside): cost 585, done in 44.8 ms (p95 ...), ...`) in one line, those
/// that were in question; another reason as it is.
fn short(plan: &str) -> String {
    let candidates = plan.lines().filter_map(|line| {
        let (name, figures) = line.split_once(": cost ")?;
        let (cost, rest) = figures.split_once(", done in ")?;
        let (time, _) = rest.split_once(" (")?;
        let name = name.trim_start_matches(['>', ' ']).split(' ').next()?;
        Some(format!("{name} {cost}, {time}"))
    });
    let candidates: Vec<String> = candidates.collect();
    if candidates.is_empty() {
        format!(": {}", plan.replace('\n', "; "))
    } else {
        format!(", by cost and expected time: {}", candidates.join("; "))
    }
}

/// A JSON value as text, without quotes.
pub(super) fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What every app must be confined in.
const CONFINED_IN: [&str; 4] = ["memory", "cpu", "pids", "freeze"];

/// What confines an app, in one line, each with its mechanism; weaker ones are marked.
pub(super) fn limits(app: &Json) -> String {
    let list: Vec<String> = enforced(app)
        .iter()
        .filter(|e| CONFINED_IN.contains(&e["what"].as_str().unwrap_or_default()))
        .map(|e| {
            let weaker = if e["degraded"] == true { " (degraded)" } else { "" };
            format!("{} by {}{weaker}", text(&e["what"]), text(&e["by"]))
        })
        .collect();
    list.join(", ")
}

/// Whether each of [`CONFINED_IN`] is enforced, and by a weaker means only if `degrade` says so.
pub(super) fn confined(app: &Json, degrade: bool) -> bool {
    let holds =
        |what: &&str| enforced(app).iter().any(|e| e["what"] == **what && (degrade || e["degraded"] != true));
    CONFINED_IN.iter().all(holds)
}

fn enforced(app: &Json) -> &[Json] {
    app["enforced"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The machine in one line.
pub(super) fn machine(machine: &Json) -> String {
    let lines = machine["machine"].as_array().map(Vec::as_slice).unwrap_or_default();
    let list: Vec<String> =
        lines.iter().take(4).map(|e| format!("{}: {}", text(&e["what"]), text(&e["value"]))).collect();
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fits_on_a_line() {
        let plan = "  a1 (here): cost 822, done in 40.6 ms (p95 62.9 ms), in time with 100.0 %\n\
                    > e1 (outside): cost 585, done in 44.8 ms (p95 73.2 ms), in time with 100.0 %\n  \
                    b1 (outside): no, does not hold the function";
        assert_eq!(short(plan), ", by cost and expected time: a1 822, 40.6 ms; e1 585, 44.8 ms");
        assert_eq!(short("pinned to a2\nby policy"), ": pinned to a2; by policy");
    }
}
