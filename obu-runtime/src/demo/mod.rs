//! `verge demo`: a car on the road, on this machine. Real processes, real Zenoh, real bus, real faults; what
//! it shows it has counted, and what it claims an independent ledger has counted too.

mod bus;
mod console;
mod leaks;
mod ledger;
mod once;
mod prepare;
mod recordings;
mod road;
mod script;
mod simulator;
mod summary;
mod tally;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::{Failure, line};

/// The demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// A candump log to drive by; default: the drive that ships.
    #[arg(long)]
    drive: Option<PathBuf>,
    /// The DBC of that log.
    #[arg(long, requires = "drive")]
    dbc: Option<PathBuf>,
    /// The VSS mapping of that DBC; default: one that ships and fits the DBC's name.
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

/// The drive: a log and what explains it.
#[derive(Debug)]
struct Drive {
    log: PathBuf,
    dbc: PathBuf,
    mapping: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// If something is missing; what goes wrong on the road is in the summary and the exit code.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    crate::cli::outlive_reader();
    let stop = script::on_signals()?;
    let root = root()?;
    let drive = drive(args, &root)?;
    let seed = args.seed.unwrap_or_else(clock_seed);
    line(format!("seed {seed} (repeat with --seed {seed})"));
    road::end_leftovers(&root);
    let before = leaks::Inventory::take(&root);
    let outcome = script::play(args, &root, &drive, seed, &stop);
    let left = leaks::settled(&root, &before, args.time_scale);
    let (mut findings, interrupted) = outcome?;
    findings.check(11, "nothing is left behind", left.is_empty(), describe_left(&left));
    if interrupted {
        line(format!("interrupted; {}", describe_left(&left)));
        return Ok(ExitCode::from(130));
    }
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
/// away what a killed one left.
fn root() -> Result<PathBuf, Failure> {
    let uid = nix::unistd::getuid();
    let root = std::env::temp_dir().join(format!("verge-demo-{uid}"));
    fs::create_dir_all(&root).map_err(|e| {
        Failure::new(format!("cannot make {}: {e}", root.display())).fix("set TMPDIR".to_owned())
    })?;
    Ok(root)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|e| {
        Failure::new(format!("cannot find {}: {e}", path.display()))
            .fix("run `make demo` in the project's directory; it prepares what is missing".to_owned())
    })
}

/// Finds the drive. The one that ships is unpacked into the run's directory.
fn drive(args: &DemoArgs, root: &Path) -> Result<Drive, Failure> {
    let dbc_dir = args.project.join("can-bridge/dbc");
    let Some(log) = &args.drive else {
        let log = root.join("drive.log");
        unpack(&absolute(&args.project.join("sim/drives/a10kw.log.xz"))?, &log)?;
        return Ok(Drive {
            log,
            dbc: absolute(&dbc_dir.join("verge-demo.dbc"))?,
            mapping: absolute(&dbc_dir.join("verge-demo.vss.json"))?,
        });
    };
    let dbc = args.dbc.as_ref().ok_or_else(|| {
        Failure::new("a log alone says nothing")
            .fix("name its DBC: --dbc FILE (make demo DRIVE=log DBC=file)".to_owned())
    })?;
    let mapping = match &args.mapping {
        Some(mapping) => mapping.clone(),
        None => dbc_dir.join(format!("{}.vss.json", dbc.file_stem().unwrap_or_default().to_string_lossy())),
    };
    Ok(Drive { log: absolute(log)?, dbc: absolute(dbc)?, mapping: absolute(&mapping)? })
}

fn unpack(packed: &Path, to: &Path) -> Result<(), Failure> {
    let out =
        fs::File::create(to).map_err(|e| Failure::new(format!("cannot write {}: {e}", to.display())))?;
    let status = std::process::Command::new("xz").arg("-dc").arg(packed).stdout(out).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("xz could not unpack {}: {status}", packed.display()))),
        Err(e) => {
            Err(Failure::new(format!("cannot run xz: {e}")).fix("install Debian's xz-utils".to_owned()))
        }
    }
}
