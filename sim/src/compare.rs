//! How far the model is from the road: a [`Model`] is fitted to one half of the tasks that daemons recorded, the same
//! machines run the same demand between links and processes as fitted, and the latencies of the other half are set
//! beside each other. No distance is too large to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use policies::id::{FunctionName, NodeId};
use policies::task::Outcome;
use policies::time::micros;
use v2e_core::report::TaskReport;

use crate::fit::{fit, halves};
use crate::model::{Model, Samples};
use crate::road::{Road, RoadError};
use crate::world::{Failure, World};

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The recordings make no road.
    #[error(transparent)]
    Road(#[from] RoadError),
    /// Too few tasks to fit to one half and to compare with the other.
    #[error("the recordings hold {tasks} ended tasks, of which {done} can be compared")]
    NoTasks {
        /// Tasks that ended in any way.
        tasks: usize,
        /// Tasks of the half that is compared that were done.
        done: usize,
    },
    /// The model of the road broke a rule.
    #[error("the model of the road does not run: {0}")]
    Model(#[from] Failure),
}

impl CompareError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Road(error) => error.fix(),
            Self::NoTasks { .. } => Some(
                "name the recordings of the nodes whose apps ask for tasks too, and record while they do: two tasks \
                 of one function at least",
            ),
            Self::Model(_) => Some("replay each recording alone: verge-sim replay FILE names a broken rule"),
        }
    }
}

/// A duration at two places of its distribution, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// All but one in a hundred are shorter.
    pub p99: u64,
}

/// Done tasks, on the road or in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many.
    pub tasks: u64,
    /// From submission to the end.
    pub total: Spread,
    /// See [`v2e_core::report::Phases`]; so for the others.
    pub matching: Spread,
    /// Transport and queues.
    pub pipelining: Spread,
    /// Execution.
    pub execution: Spread,
}

/// Road beside model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside<T> {
    /// As recorded.
    pub road: T,
    /// As simulated.
    pub model: T,
}

/// How the model is run.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Decides what the first run draws; each further one has the next.
    pub seed: u64,
    /// How many: what one run draws is luck. At least one is made.
    pub runs: u32,
    /// Where the first run is recorded, if it is.
    pub log: Option<PathBuf>,
}

impl Default for Runs {
    fn default() -> Self {
        Self { seed: 1, runs: 9, log: None }
    }
}

/// One function at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The function.
    pub function: FunctionName,
    /// Where it was done.
    pub node: NodeId,
    /// The figures.
    pub figures: Beside<Figures>,
}

/// What came of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The model.
    pub model: Model,
    /// Tasks that it was fitted to.
    pub fitted: usize,
    /// Latency in each run of the model; all figures of the model are of all runs together.
    pub runs: Vec<Spread>,
    /// By function and place.
    pub rows: Vec<Row>,
    /// All functions and places.
    pub sum: Beside<Figures>,
    /// Tasks by outcome.
    pub outcomes: BTreeMap<&'static str, Beside<u64>>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// How far `model` is from `road`, in percent of `road`; `None` if only one of them is there.
pub const fn distance(road: u64, model: u64) -> Option<u64> {
    match (road, model) {
        (0, 0) => Some(0),
        (0, _) => None,
        (road, model) => Some(road.abs_diff(model).saturating_mul(100).saturating_add(road / 2) / road),
    }
}

fn spread(values: impl Iterator<Item = u64>) -> Spread {
    let sorted = Samples::new(values.collect());
    Spread { p50: sorted.quantile(500), p99: sorted.quantile(990) }
}

fn figures(reports: &[&TaskReport]) -> Figures {
    Figures {
        tasks: reports.len() as u64,
        total: spread(reports.iter().map(|report| micros(report.ended.since(report.submitted)))),
        matching: spread(reports.iter().map(|report| report.phases.matching_us)),
        pipelining: spread(reports.iter().map(|report| report.phases.pipelining_us)),
        execution: spread(reports.iter().map(|report| report.phases.execution_us)),
    }
}

/// Reports of done tasks by function and place.
type Places<'a> = BTreeMap<(&'a FunctionName, &'a NodeId), Vec<&'a TaskReport>>;

fn by_place<'a>(reports: &[&'a TaskReport]) -> Places<'a> {
    let mut found = Places::new();
    for report in reports {
        if let (Outcome::Done { .. }, Some(node)) = (&report.outcome, &report.node) {
            found.entry((&report.function, node)).or_default().push(report);
        }
    }
    found
}

fn at_place(places: &Places<'_>, key: &(&FunctionName, &NodeId)) -> Figures {
    figures(places.get(key).map_or(&[], Vec::as_slice))
}

fn all_places(places: &Places<'_>) -> Figures {
    figures(&places.values().flatten().copied().collect::<Vec<&TaskReport>>())
}

/// Fits a model to recordings of all nodes of one road, and compares.
///
/// # Errors
/// [`CompareError`].
pub fn compare(files: &[PathBuf], runs: &Runs) -> Result<Comparison, CompareError> {
    let road = Road::read(files)?;
    let model = fit(&road);
    compare_with(&road, model, runs)
}

/// Compares a road with any model.
///
/// # Errors
/// [`CompareError`], but not of files.
pub fn compare_with(road: &Road, model: Model, runs: &Runs) -> Result<Comparison, CompareError> {
    let recorded = halves(road.lives.iter().flat_map(|life| &life.reports));
    let on_road = by_place(&recorded.held_out);
    let done = on_road.values().map(Vec::len).sum();
    if done == 0 {
        return Err(CompareError::NoTasks { tasks: road.tasks(), done });
    }
    let mut simulated: Vec<Vec<TaskReport>> = Vec::new();
    for run in 0..runs.runs.max(1) {
        let log = runs.log.as_deref().filter(|_| run == 0);
        let world = World::of_road(road, model.clone(), runs.seed.wrapping_add(run.into()), log);
        let reports = world.map_err(Failure::from)?.run_road()?;
        simulated.push(halves(reports.iter()).held_out.into_iter().cloned().collect());
    }
    let in_run = |reports: &Vec<TaskReport>| all_places(&by_place(&reports.iter().collect::<Vec<_>>())).total;
    let all_runs: Vec<&TaskReport> = simulated.iter().flatten().collect();
    let in_model = by_place(&all_runs);
    let places: BTreeSet<_> = on_road.keys().chain(in_model.keys()).copied().collect();
    let row = |key: &(&FunctionName, &NodeId)| Row {
        function: key.0.clone(),
        node: key.1.clone(),
        figures: Beside { road: at_place(&on_road, key), model: at_place(&in_model, key) },
    };
    Ok(Comparison {
        fitted: recorded.fit.len(),
        runs: simulated.iter().map(in_run).collect(),
        rows: places.iter().map(row).collect(),
        sum: Beside { road: all_places(&on_road), model: all_places(&in_model) },
        outcomes: outcomes(&recorded.held_out, &all_runs),
        notes: road.notes.clone(),
        model,
    })
}

fn outcomes(road: &[&TaskReport], model: &[&TaskReport]) -> BTreeMap<&'static str, Beside<u64>> {
    let mut counts: BTreeMap<&'static str, Beside<u64>> = BTreeMap::new();
    road.iter().for_each(|report| counts.entry(report.outcome.word()).or_default().road += 1);
    model.iter().for_each(|report| counts.entry(report.outcome.word()).or_default().model += 1);
    counts
}

impl Comparison {
    /// So many of all runs are so many in one, rounded.
    pub fn per_run(&self, tasks: u64) -> u64 {
        let runs = self.runs.len().max(1) as u64;
        (tasks + runs / 2) / runs
    }

    /// The share of done tasks at each place, in thousandths.
    pub fn shares(&self) -> BTreeMap<&NodeId, Beside<u64>> {
        let mut shares: BTreeMap<&NodeId, Beside<u64>> = BTreeMap::new();
        for row in &self.rows {
            let share = shares.entry(&row.node).or_default();
            share.road += row.figures.road.tasks;
            share.model += row.figures.model.tasks;
        }
        let of = |tasks: u64, all: u64| (tasks * 1000).checked_div(all).unwrap_or(0);
        for share in shares.values_mut() {
            share.road = of(share.road, self.sum.road.tasks);
            share.model = of(share.model, self.sum.model.tasks);
        }
        shares
    }

    /// The largest difference of a share, in percentage points, rounded up.
    pub fn points(&self) -> u64 {
        let apart = self.shares().into_values().map(|share| share.road.abs_diff(share.model));
        apart.max().unwrap_or(0).div_ceil(10)
    }
}

impl std::fmt::Display for Comparison {
    /// The one line that says it all.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Beside { road, model } = &self.sum;
        let one = |name: &str, road: u64, model: u64| {
            let distance = distance(road, model).map_or_else(|| "no figure".into(), |d| format!("{d} %"));
            format!("{name} {distance} (model {} ms, road {} ms)", ms(model), ms(road))
        };
        write!(
            f,
            "distance in latency: {}, {}; tasks by place within {} points",
            one("p50", road.total.p50, model.total.p50),
            one("p99", road.total.p99, model.total.p99),
            self.points()
        )
    }
}

/// Milliseconds with one digit behind the point, two below one millisecond.
pub fn ms(us: u64) -> String {
    if us < 1_000 { format!("0.{:02}", us / 10) } else { format!("{}.{}", us / 1_000, us % 1_000 / 100) }
}

#[cfg(test)]
mod tests;
