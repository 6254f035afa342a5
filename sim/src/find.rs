//! Looks for a seed that breaks a rule. Each seed is a small world of its own shape: nodes, length and kinds of
//! faults are drawn from it. A failing seed is run again with its log on, up to the failure.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::chance::Chance;
use crate::fault::{Fault, Faults};
use crate::log::LogError;
use crate::world::{Failure, Options, Report, World};

/// What to look through.
#[derive(Clone, Debug)]
pub struct Search {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Where logs of failing seeds go; made if need be.
    pub dir: PathBuf,
    /// Go on after the first failure, so that every broken rule shows.
    pub all: bool,
}

/// A seed that failed: of all that broke the same rule, the lowest.
#[derive(Clone, Debug)]
pub struct Found {
    /// The run.
    pub options: Options,
    /// How many seeds broke this rule.
    pub times: u64,
    /// The broken rule with its details.
    pub why: String,
    /// Its log.
    pub log: PathBuf,
}

/// What came of a search.
#[derive(Clone, Debug, Default)]
pub struct SearchReport {
    /// Seeds run.
    pub seeds: u64,
    /// Events in all of them.
    pub events: u64,
    /// Simulated seconds times nodes.
    pub node_seconds: u64,
    /// Tasks by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub strikes: BTreeMap<Fault, u64>,
    /// Failing seeds by the name of the broken rule.
    pub found: BTreeMap<String, Found>,
}

/// The world of a seed, small and of its own shape.
pub fn shape(seed: u64) -> Options {
    let mut chance = Chance::new(seed, "shape");
    let nodes = 2 + chance.index(14);
    Options { seed, nodes, seconds: chance.between((4, 16)), faults: Faults::swarm(seed), log: None }
}

/// Runs one world; a panic of a machine counts as a failure like a broken rule.
///
/// # Errors
/// What failed, as text; [`LogError`] if the log cannot be written.
pub fn run(options: Options) -> Result<Result<Report, String>, LogError> {
    let world = World::new(options)?;
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(report)) => Ok(Ok(report)),
        Ok(Err(Failure::Broken(violation))) => Ok(Err(violation.to_string())),
        Ok(Err(Failure::Log(error))) => Err(error),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Ok(Err(format!("Panic: {}", text.unwrap_or_default())))
        }
    }
}

/// Looks through the seeds until one fails, or through all. `progress` is told after every seed how many are done.
///
/// # Errors
/// If the directory for logs cannot be made, or the log of the failing seed cannot be written.
pub fn find(search: &Search, progress: impl Fn(u64) + Sync) -> Result<SearchReport, LogError> {
    // Before the first seed: a search of hours must not lose what it finds at its end.
    std::fs::create_dir_all(&search.dir)
        .map_err(|source| LogError::Create { path: search.dir.clone(), source })?;
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(SearchReport::default());
    let work = || -> Result<(), LogError> {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= search.seeds {
                break;
            }
            let options = shape(search.from + index);
            let result = run(options.clone())?;
            failed.fetch_or(result.is_err() && !search.all, Ordering::Relaxed);
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            total.add(&options, result, search);
            progress(total.seeds);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..search.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    let report = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for found in report.found.values() {
        // The same run once more, now with its log.
        let _same = run(Options { log: Some(found.log.clone()), ..found.options.clone() })?;
    }
    Ok(report)
}

impl SearchReport {
    fn add(&mut self, options: &Options, result: Result<Report, String>, search: &Search) {
        self.seeds += 1;
        self.node_seconds += options.seconds * options.nodes as u64;
        match result {
            Ok(report) => {
                self.events += report.events;
                report
                    .counts
                    .outcomes
                    .iter()
                    .for_each(|(word, n)| *self.outcomes.entry(word).or_default() += n);
                report.strikes.iter().for_each(|(fault, n)| *self.strikes.entry(*fault).or_default() += n);
            }
            Err(why) => {
                let rule = why.split([' ', ':']).next().unwrap_or_default().to_owned();
                let log = search.dir.join(format!("verge-sim-{}.log", options.seed));
                let new = Found { options: options.clone(), times: 0, why, log };
                let found = self.found.entry(rule).or_insert_with(|| new.clone());
                let times = found.times + 1;
                if new.options.seed < found.options.seed {
                    *found = new;
                }
                found.times = times;
            }
        }
    }
}
