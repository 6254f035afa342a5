//! `verge demo`: a car on the road, on this machine. Real processes, real Zenoh, real bus, real faults; what
//! it shows it has counted, and what it claims an independent ledger has counted too.

mod bus;
mod claims;
mod console;
mod drive;
mod leaks;
mod ledger;
mod once;
mod prepare;
mod recordings;
mod road;
mod script;
mod simulator;
mod strangers;
mod summary;
mod tally;
mod verdict;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::cli::{Failure, line};
use drive::Drive;
use script::Halt;

/// Exit code of a demo that was ended early, as of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// The demo.
#[derive(Debug, Default, Args)]
pub struct DemoArgs {
    /// A candump log to drive by; default: the drive that ships.
    #[arg(long)]
    drive: Option<PathBuf>,
    /// The DBC of that log.
    #[arg(long, requires = "drive")]
    dbc: Option<PathBuf>,
    /// The VSS mapping of that DBC; default: one that ships and fits the DBC's name, else one that is made.
    #[arg(long, requires = "dbc")]
    mapping: Option<PathBuf>,
    /// Seed of fault times and victims; default: from the clock, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many times slower than real time the road runs; for emulated machines. 1 to 100.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    time_scale: u32,
    /// Leave everything running afterwards, to explore with the command line, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Leave the files of the run (configuration, logs, recordings) also if all went well.
    #[arg(long)]
    keep_files: bool,
    /// What `make demo` has prepared.
    #[arg(long, default_value = "target/material")]
    material: PathBuf,
    /// The project's directory, for the drive, the DBC and the examples that ship.
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// Also write the checks as JSON into this file.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// If something is missing; what goes wrong on the road is in the summary and the exit code.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    crate::cli::outlive_reader();
    let stop = script::on_signals()?;
    let (root, _lock) = root()?;
    let seed = args.seed.unwrap_or_else(clock_seed);
    line(format!("seed {seed} (repeat with --seed {seed})"));
    let drive = Drive::find(args, &root)?;
    road::end_leftovers(&root);
    let before = leaks::Inventory::take(&root);
    let outcome = script::play(args, &root, &drive, seed, &stop);
    let left = leaks::settled(&root, &before, args.time_scale);
    let mut findings = match outcome {
        Ok(findings) => findings,
        Err(Halt::Interrupted) => {
            line(format!("interrupted; left behind: {}", describe_left(&left)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(Halt::Failed(failure)) => {
            line(format!("left behind: {}", describe_left(&left)));
            return Err(failure);
        }
    };
    findings.check(11, "nothing is left behind", left.is_empty(), describe_left(&left));
    findings.print();
    if let Some(report) = &args.report {
        fs::write(report, findings.json().to_string())
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", report.display())))?;
    }
    let code = if findings.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if findings.all_ok() && !args.keep_files {
        // The next run begins with an empty directory; a failed one keeps its logs to be looked at.
        let _ = fs::remove_dir_all(&root);
    } else {
        line(format!("logs of this run: {}", root.display()));
    }
    Ok(code)
}

fn describe_left(left: &[String]) -> String {
    match left {
        [] => "no process, cgroup, mount, interface or socket".into(),
        some => some.join("; "),
    }
}

fn clock_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.as_secs() % 1_000_000)
}

/// The directory of the run: short, because socket paths are, and the same each time, so that a run clears
/// away what a killed one left. With it comes the lock that keeps a second run out until this process is gone.
fn root() -> Result<(PathBuf, Flock<fs::File>), Failure> {
    let uid = nix::unistd::getuid();
    let root = std::env::temp_dir().join(format!("verge-demo-{uid}"));
    let failed = |what: &str, e: std::io::Error| {
        Failure::new(format!("cannot {what} {}: {e}", root.display())).fix("set TMPDIR".to_owned())
    };
    fs::create_dir_all(&root).map_err(|e| failed("make", e))?;
    // Keys are made there and programs told to trust it: nobody else may have prepared it.
    let found = fs::symlink_metadata(&root).map_err(|e| failed("look at", e))?;
    if !found.is_dir() || found.uid() != uid.as_raw() || found.mode() & 0o022 != 0 {
        let what = format!("{} is not a directory that only you can write", root.display());
        return Err(Failure::new(what).fix("remove it, or set TMPDIR to a directory of your own".to_owned()));
    }
    let lock = fs::File::create(root.join("lock")).map_err(|e| failed("write in", e))?;
    match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((root, lock)),
        Err((_, Errno::EWOULDBLOCK)) => {
            Err(Failure::new(format!("another demo of yours runs in {}", root.display()))
                .fix("wait for its end, or set TMPDIR to have a second one".to_owned()))
        }
        Err((_, errno)) => Err(failed("lock", errno.into())),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| {
        Failure::new(format!("cannot find {}: {e}", path.display()))
            .fix("run `make demo` in the project's directory; it prepares what is missing".to_owned())
    })
}
