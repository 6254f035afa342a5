//! What the apps themselves counted, against what the nodes reported: an app is nobody's part, so a task that was lost
//! on the way shows here.

use std::collections::BTreeMap;

use super::script::Road;
use super::tally::Counts;

/// Apps that ask for a function.
const ASKERS: [(&str, &[&str]); 2] = [("lane", &["dashcam", "surround"]), ("toll", &["tollgate"])];

/// What an app says of a question to which no answer came.
const UNANSWERED: &str = "unanswered";

type ByOutcome = BTreeMap<String, u64>;

/// The counts in the last line of an app that holds some: the first JSON object in it.
fn last_counts(lines: &[(f64, String)]) -> ByOutcome {
    let of_line = |line: &str| {
        let text = line.get(line.find('{')?..)?;
        serde_json::Deserializer::from_str(text).into_iter::<ByOutcome>().next()?.ok()
    };
    lines.iter().rev().find_map(|(_, line)| of_line(line)).unwrap_or_default()
}

/// What speaks against the nodes' reports of one function, if anything, and the apps' own figures.
fn against(counts: &Counts, function: &str, apps: &[&str]) -> (Vec<String>, ByOutcome) {
    let mut told = ByOutcome::new();
    let mut wrong = Vec::new();
    for app in apps {
        let lines = counts.lines.get(*app).map(Vec::as_slice).unwrap_or_default();
        let last = last_counts(lines);
        if last.get("done").is_none_or(|done| *done == 0) {
            wrong.push(format!("{app} had no {function} done"));
        }
        for (outcome, n) in last {
            *told.entry(outcome).or_default() += n;
        }
    }
    let mut reported = ByOutcome::new();
    for task in counts.tasks.iter().filter(|task| task.function == function) {
        *reported.entry(task.outcome.clone()).or_default() += 1;
    }
    for (outcome, n) in &told {
        let known = reported.get(outcome).copied().unwrap_or(0);
        match outcome.as_str() {
            UNANSWERED => wrong.push(format!("{n} {function} unanswered")),
            // Refused before it was a task.
            "refused" => {}
            _ if *n > known => {
                wrong.push(format!("{n} {function} {outcome} at the apps, {known} at the node"))
            }
            _ => {}
        }
    }
    (wrong, told)
}

impl Road<'_> {
    /// Whether each question of an app had one answer, and the nodes reported no fewer of each kind.
    pub(super) fn judge_claims(&mut self, counts: &Counts) {
        let (mut wrong, mut seen) = (Vec::new(), Vec::new());
        for (function, apps) in ASKERS {
            let (mut found, told) = against(counts, function, apps);
            // An app's patience is real time, of which an emulated machine takes any amount.
            found.retain(|text| self.plan.time_scale == 1 || !text.contains(UNANSWERED));
            wrong.extend(found);
            let told: Vec<String> = told.iter().map(|(outcome, n)| format!("{n} {outcome}")).collect();
            seen.push(format!("{function}: {}", told.join(", ")));
        }
        let seen = format!("counted by the apps: {}", seen.join("; "));
        let seen = if wrong.is_empty() { seen } else { format!("{}; {seen}", wrong.join("; ")) };
        self.findings.check(8, "every task asked for has an outcome", wrong.is_empty(), seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tally::Task;

    fn counts(lines: &[&str], outcomes: &[&str]) -> Counts {
        let task =
            |outcome: &&str| Task { function: "toll".into(), outcome: (*outcome).into(), ..Task::default() };
        Counts {
            tasks: outcomes.iter().map(task).collect(),
            lines: [("tollgate".into(), lines.iter().map(|l| (0.0, (*l).into())).collect())].into(),
            ..Counts::default()
        }
    }

    #[test]
    #[rustfmt::skip]
    fn claims_table() {
        let line = "tollgate: A10-3 done, so far {\"done\": 2, \"missed\": 1}";
        //    what the app printed                                    what the node reported         what is wrong
        check(&["tollgate: plate x", line],                           &["done", "done", "missed"],   "");
        check(&[line, "tollgate: no counts"],                         &["done", "done", "missed", "done"], "");
        check(&[line],                                                &["done", "done"],             "1 toll missed at the apps, 0 at the node");
        check(&["x {\"done\": 1, \"unanswered\": 2} y {\"done\": 9}"], &["done"],                    "2 toll unanswered");
        check(&["x {\"done\": 1, \"refused\": 2}"],                   &["done"],                     "");
        check(&[],                                                    &["done"],                     "tollgate had no toll done");
    }

    #[track_caller]
    fn check(lines: &[&str], outcomes: &[&str], expected: &str) {
        let (wrong, _) = against(&counts(lines, outcomes), "toll", &["tollgate"]);
        assert_eq!(wrong.join("; "), expected, "{lines:?} {outcomes:?}");
    }
}
