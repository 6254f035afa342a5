//! The hard part of point 8: tasks that must have their effect once. Faults that would make it happen twice or
//! too late are forced here, and what came of them is judged by the ledger and the recordings.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Booked;
use super::prepare;
use super::recordings;
use super::script::{Halt, Road};
use super::tally::{Counts, Task};
use crate::cli::{Failure, line};
use crate::control::View;

/// Functions whose effect must happen once.
const ONCE: [&str; 2] = ["toll", "weigh"];

/// How long weighings are asked for until one runs. Only the sibling has scales; one that just did not answer
/// in time is left alone for a while.
const WEIGHING_WAIT: Duration = Duration::from_secs(10);

/// Latest that an effect may come after its owner said that it cannot know: the lease that its worker still
/// holds (1 s), and the effect port's patience (2 s). [`policies::limits::LEASE`], [`v2e_core::worker::EFFECT_WAIT`].
const LATE_S: f64 = 3.0;

/// Least time that the sibling stands still, so that an effect after it would be late beyond doubt.
pub(super) const STANDSTILL_S: f64 = 7.0;

/// Weighings that were asked for, and how they ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Weighings(Arc<Mutex<Vec<String>>>);

impl Weighings {
    /// Asks for one on a thread of its own; it ends long after this returns.
    fn ask(&self, road: &Road<'_>) {
        let (socket, ended) = (road.socket("a1"), self.0.clone());
        std::thread::spawn(move || {
            let said = prepare::weigh(&socket).unwrap_or_else(|error| format!("refused: {error}"));
            ended.lock().unwrap_or_else(PoisonError::into_inner).push(said);
        });
    }

    fn ended(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Road<'_> {
    /// Has trucks weighed until one is on the sibling's scales: a `once` task that is under way for 1.5 s.
    pub(super) fn weigh_at_sibling(&self) -> Result<(), Halt> {
        let weighings = Weighings::default();
        let until = Instant::now() + WEIGHING_WAIT * self.plan.time_scale;
        let mut asked = 0;
        while Instant::now() < until {
            self.may_go_on()?;
            if weighings.ended().len() == asked {
                weighings.ask(self);
                asked += 1;
            }
            if self.runs_at_sibling() {
                line("a truck is being weighed at the sibling");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::new(format!("no weighing ran at the sibling; {}", weighings.ended().join("; "))).into())
    }

    fn runs_at_sibling(&self) -> bool {
        let tasks = prepare::view(&self.socket("a1"), View::Tasks);
        let is_it = |t: &serde_json::Value| {
            t["function"] == "weigh" && t["node"] == "a2" && t["outcome"] == "running"
        };
        tasks.as_array().is_some_and(|tasks| tasks.iter().any(is_it))
    }

    /// What became of tasks with an effect: in the ledger, against what their owner was told.
    pub(super) fn judge_once(&mut self, counts: &Counts, booked: &Booked) {
        let tasks: Vec<&Task> = counts.tasks.iter().filter(|t| ONCE.contains(&t.function.as_str())).collect();
        let is_booked = |t: &Task| booked.tasks.contains_key(&t.id);
        let ids = |tasks: &mut dyn Iterator<Item = &&Task>| tasks.map(|t| t.id.clone()).collect::<Vec<_>>();
        let lost = ids(&mut tasks.iter().filter(|t| t.outcome == "done" && !is_booked(t)));
        self.findings.check(
            8,
            "every toll reported as done is in the ledger",
            lost.is_empty() && !booked.tasks.is_empty(),
            format!("{} in the ledger, lost: {lost:?}", booked.tasks.len()),
        );
        let twice: Vec<_> = booked.tasks.iter().filter(|(_, at)| at.len() > 1).map(|(id, _)| id).collect();
        self.findings.check(8, "no effect happened twice", twice.is_empty(), format!("{twice:?}"));
        let denied = |t: &&&Task| !["done", "indeterminate"].contains(&t.outcome.as_str()) && is_booked(t);
        let denied = ids(&mut tasks.iter().filter(denied));
        self.findings.check(
            8,
            "no effect where its owner was told none",
            denied.is_empty(),
            format!("{denied:?}"),
        );
        let patience = LATE_S * f64::from(self.plan.time_scale);
        let late = |t: &&&Task| {
            let last = booked.tasks.get(&t.id).and_then(|at| at.iter().max());
            t.outcome == "indeterminate" && last.is_some_and(|at| self.tally.at_wall(*at) > t.at + patience)
        };
        let undecided = tasks.iter().filter(|t| t.outcome == "indeterminate").count();
        let late = ids(&mut tasks.iter().filter(late));
        let seen = format!("{undecided} undecided, with a late effect: {late:?}");
        self.findings.check(8, "no effect after its lease", late.is_empty(), seen);
        let weighed: Vec<String> = tasks
            .iter()
            .filter(|t| t.function == "weigh")
            .map(|t| format!("{} {}", t.outcome, if is_booked(t) { "and booked" } else { "and not booked" }))
            .collect();
        let caught = tasks.iter().any(|t| t.function == "weigh" && t.outcome == "indeterminate");
        let what = "a weighing was under way when the sibling froze";
        self.findings.check(8, what, caught, weighed.join(", "));
    }

    /// How the repeats that were forced ended, as the nodes recorded it.
    pub(super) fn judge_repeats(&mut self) {
        let read = recordings::once(&self.recordings());
        let seen =
            read.as_ref().map_or_else(ToString::to_string, |once| format!("{} attempts", once.asked.len()));
        self.findings.check(8, "the nodes' recordings are read", read.is_ok(), seen);
        let once = read.unwrap_or_default();
        let twice = once.acted_twice();
        self.findings.check(
            8,
            "a run that came twice was run once",
            once.runs_repeated > 0 && twice.is_empty(),
            format!("{} runs sent twice on purpose; acted upon twice: {twice:?}", once.runs_repeated),
        );
        self.findings.check(
            8,
            "effect ports refuse repeats",
            once.effects_repeated > 0 && once.refused >= once.effects_repeated,
            format!("{} asked for again on purpose, {} refused", once.effects_repeated, once.refused),
        );
    }
}
