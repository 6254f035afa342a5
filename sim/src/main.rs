//! The `verge-sim` command: run one world, look for a seed that breaks a rule, replay a recording, set a
//! model beside a road.
#![forbid(unsafe_code)]

mod show;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use policies::id::NodeId;
use sim::compare::{CompareError, Runs, compare};
use sim::fault::Choice;
use sim::find::{self, Search};
use sim::log::LogError;
use sim::replay::{Selection, Step, Verdict, replay};
use sim::world::Options;

/// Fleets of the car's own machines in simulated time.
#[derive(Debug, Parser)]
#[command(name = "verge-sim", version)]
struct Cli {
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Text)]
    output: Form,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one world from a seed.
    Run {
        /// Decides everything that is drawn.
        #[arg(long)]
        seed: u64,
        /// Nodes: one roadside edge for every 20, the rest in cars of one to three.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        /// Simulated seconds with load and faults; ten more to settle follow.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// `all`, `none`, `swarm` (a subset drawn from the seed), or a list such as `loss,crash`.
        #[arg(long, default_value = "all")]
        faults: Choice,
        /// Record every input in this file.
        #[arg(long)]
        log: Option<PathBuf>,
    },
    /// Run many small worlds until one breaks a rule; write its log.
    Find {
        /// How many seeds.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Where the log of a failing seed goes; made if need be.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Go on after the first failure, so that every broken rule shows.
        #[arg(long)]
        all: bool,
    },
    /// Feed a recording, of the simulator or of a daemon, to fresh machines and compare.
    Replay {
        /// The recording.
        file: PathBuf,
        /// Stop after so many inputs.
        #[arg(long)]
        until: Option<u64>,
        /// Only this node.
        #[arg(long)]
        node: Option<NodeId>,
        /// Show every input and its outputs; on a terminal, wait for Enter after each.
        #[arg(long)]
        step: bool,
        /// Show every decision.
        #[arg(long)]
        decisions: bool,
    },
    /// Fit a model to the recordings of one road, run it, and tell how far its latencies are from the road's.
    Compare {
        /// The recordings of all nodes of the road, every life of each.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Decides what the model draws.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs of the model, each with the next seed.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// Record the first run of the model in this file, to be replayed.
        #[arg(long)]
        log: Option<PathBuf>,
    },
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Compare(#[from] CompareError),
}

impl Failed {
    fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Log(error) => error.fix(),
            Self::Compare(error) => error.fix(),
        }
    }
}

fn main() -> ExitCode {
    let Cli { output, command } = Cli::parse();
    let result: Result<ExitCode, Failed> = match command {
        Command::Run { seed, nodes, seconds, faults, log } => {
            let faults = faults.faults(seed);
            run(output, Options { seed, nodes, seconds, faults, log }).map_err(Into::into)
        }
        Command::Find { seeds, from, jobs, dir, all } => {
            find(output, &Search { from, seeds, jobs, dir, all }).map_err(Into::into)
        }
        Command::Replay { file, until, node, step, decisions } => {
            play(output, &file, Selection { until, node }, step, decisions).map_err(Into::into)
        }
        Command::Compare { files, seed, runs, log } => {
            contrast(output, &files, &Runs { seed, runs, log }).map_err(Into::into)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        if let Some(fix) = error.fix() {
            eprintln!("  fix: {fix}");
        }
        ExitCode::from(2)
    })
}

fn run(form: Form, options: Options) -> Result<ExitCode, LogError> {
    let begun = Instant::now();
    let result = find::run(options.clone())?;
    let took = begun.elapsed();
    match form {
        Form::Json => print(&format!("{}\n", show::run_json(&options, &result, took))),
        Form::Text => print(&show::run_text(&options, &result, took)),
    }
    Ok(ExitCode::from(u8::from(result.is_err())))
}

fn find(form: Form, search: &Search) -> Result<ExitCode, LogError> {
    let begun = Instant::now();
    let on_terminal = std::io::stderr().is_terminal();
    let report = find::find(search, |done| {
        if on_terminal {
            eprint!("\r{done} of {} seeds", search.seeds);
        }
    })?;
    if on_terminal {
        eprintln!();
    }
    let took = begun.elapsed();
    match form {
        Form::Json => print(&format!("{}\n", show::find_json(&report, took))),
        Form::Text => print(&show::find_text(&report, took)),
    }
    Ok(ExitCode::from(u8::from(!report.found.is_empty())))
}

fn play(
    form: Form,
    file: &Path,
    selection: Selection,
    step: bool,
    decisions: bool,
) -> Result<ExitCode, LogError> {
    let waits = step && form == Form::Text && std::io::stdin().is_terminal();
    let each = |one: &Step<'_>| {
        let text = match form {
            Form::Text => show::step_text(one, step, decisions),
            Form::Json if step => show::step_json(one),
            Form::Json => String::new(),
        };
        print(&text);
        if waits && !text.is_empty() {
            wait_for_enter();
        }
    };
    let result = replay(file, selection, each)?;
    match form {
        Form::Json => print(&format!("{}\n", show::replay_json(&result))),
        Form::Text => print(&show::replay_text(&result)),
    }
    let bad = matches!(result.verdict, Verdict::Differs(_)) || result.violation.is_some();
    Ok(ExitCode::from(u8::from(bad)))
}

fn contrast(form: Form, files: &[PathBuf], runs: &Runs) -> Result<ExitCode, CompareError> {
    let comparison = compare(files, runs)?;
    match form {
        Form::Json => print(&format!("{}\n", show::compare::json(&comparison))),
        Form::Text => print(&show::compare::text(&comparison)),
    }
    Ok(ExitCode::SUCCESS)
}

fn wait_for_enter() {
    let mut line = String::new();
    print("-- Enter for the next --");
    // A terminal that is gone ends the waiting, not the replay.
    let _ = std::io::stdin().read_line(&mut line);
}

/// Prints. A reader that has gone away (`| head`) is no error of ours.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
