//! The end of the demo: what was seen, point by point, and whether it is what was promised.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::tally::{Counts, Task, ms, quantile, sorted};
use crate::cli::{line, table};

/// How the figures of a check begin that could not be made, because what it is about was held up before.
pub(super) const NOT_REACHED: &str = "not reached";

/// One thing that must hold, with what was seen.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// Which of the eleven points it belongs to.
    pub(super) point: u8,
    /// What must hold.
    pub(super) what: String,
    /// Whether it does.
    pub(super) ok: bool,
    /// The figures.
    pub(super) seen: String,
}

/// The words of the table's second column.
const OK: &str = "ok";
const HELD_UP: &str = "-";
const FAILED: &str = "FAILED";

impl Check {
    fn verdict(&self) -> &'static str {
        match self.ok {
            true if self.seen.starts_with(NOT_REACHED) => HELD_UP,
            true => OK,
            false => FAILED,
        }
    }
}

/// Everything found out so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    checks: Vec<Check>,
}

impl Findings {
    /// Notes a check.
    pub(super) fn check(&mut self, point: u8, what: &str, ok: bool, seen: impl Into<String>) {
        self.checks.push(Check { point, what: what.into(), ok, seen: seen.into() });
    }

    /// Whether everything held.
    pub(super) fn all_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    /// Prints the table, by point.
    pub(super) fn print(&mut self) {
        self.checks.sort_by_key(|check| check.point);
        let rows = self
            .checks
            .iter()
            .map(|c| vec![c.point.to_string(), c.verdict().into(), c.what.clone(), c.seen.clone()])
            .collect();
        table(&["point", "", "what", "seen"], rows);
        let count = |verdict| self.checks.iter().filter(|check| check.verdict() == verdict).count();
        let not_reached = match count(HELD_UP) {
            0 => String::new(),
            held_up => format!(", {held_up} not reached"),
        };
        line(format!("{} checks passed, {} failed{not_reached}", count(OK), count(FAILED)));
    }

    /// All checks as JSON, for programs.
    pub(super) fn json(&self) -> Json {
        self.checks
            .iter()
            .map(|c| serde_json::json!({ "point": c.point, "what": c.what, "ok": c.ok, "seen": c.seen }))
            .collect()
    }
}

/// Tasks by place and outcome.
pub(super) fn print_tasks(counts: &Counts) {
    let mut by: BTreeMap<(String, String, String), Vec<&Task>> = BTreeMap::new();
    for task in &counts.tasks {
        let key = (task.function.clone(), task.outcome.clone(), task.node.clone());
        by.entry(key).or_default().push(task);
    }
    let rows = by
        .into_iter()
        .map(|((function, outcome, node), tasks)| {
            let took = sorted(tasks.iter().map(|t| t.took_us));
            let phase = |n: usize| {
                let values = sorted(tasks.iter().map(|t| t.phases[n]));
                format!("{} / {}", ms(quantile(&values, 500)), ms(quantile(&values, 990)))
            };
            vec![
                function,
                outcome,
                if node.is_empty() { "-".into() } else { node },
                tasks.len().to_string(),
                format!("{} / {}", ms(quantile(&took, 500)), ms(quantile(&took, 990))),
                phase(0),
                phase(1),
                phase(2),
            ]
        })
        .collect();
    line("tasks by function, outcome and place; times are p50 / p99 in ms");
    table(&["function", "outcome", "place", "tasks", "took", "matching", "pipelining", "execution"], rows);
}

/// Most kinds of refusals that are shown.
const REFUSALS_SHOWN: usize = 8;

/// What was refused, and how often.
pub(super) fn print_refusals(counts: &Counts) {
    let mut all: Vec<_> = counts.refusals.iter().map(|(what, n)| (*n, what)).collect();
    all.sort_by(|a, b| b.cmp(a));
    for (n, what) in all.into_iter().take(REFUSALS_SHOWN) {
        line(format!("refused {n} times: {what}"));
    }
}

/// What a fault cost: tasks within the window after it, missed ones, the longest time in which none was done.
pub(super) fn cost(counts: &Counts, from: f64, to: f64) -> (usize, usize, f64) {
    let window: Vec<&Task> = counts.tasks.iter().filter(|t| t.at >= from && t.at < to).collect();
    let done: Vec<f64> = window.iter().filter(|t| t.outcome == "done").map(|t| t.at).collect();
    let begins = std::iter::once(from).chain(done.iter().copied());
    let ends = done.iter().copied().chain(std::iter::once(to));
    let gap = begins.zip(ends).map(|(a, b)| b - a).fold(0.0, f64::max);
    (done.len(), window.len() - done.len(), gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn cost_table() {
        //    tasks                                      window       done, other, longest gap
        check(&[(1.0, "done"), (2.0, "done")],           (0.0, 2.5),  (2, 0, 1.0));
        check(&[(0.5, "done"), (1.0, "missed")],         (0.0, 8.0),  (1, 1, 7.5));
        check(&[(9.0, "done")],                          (0.0, 8.0),  (0, 0, 8.0));
    }

    #[track_caller]
    fn check(tasks: &[(f64, &str)], window: (f64, f64), expected: (usize, usize, f64)) {
        let task =
            |(at, outcome): &(f64, &str)| Task { at: *at, outcome: (*outcome).into(), ..Task::default() };
        let counts = Counts { tasks: tasks.iter().map(task).collect(), ..Counts::default() };
        assert_eq!(cost(&counts, window.0, window.1), expected, "{tasks:?}");
    }
}
