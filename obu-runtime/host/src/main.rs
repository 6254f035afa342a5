//! `verge-host`: reads its arguments, prepares the ground, serves.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use obu_host::config::Config;
use obu_host::fault::Explain;
use obu_host::ground::Ground;
use obu_host::{incarnation, server};

const USAGE: &str = "usage: verge-host --config node.toml [--verge PATH]
       verge-host --set-incarnation STATE_DIR NUMBER
       verge-host --version

  --config           the node's configuration
  --verge            the verge program; beside verge-host if left out
  --set-incarnation  repairs a damaged boot counter; see its error message";

/// Exit code of a usage error, as everywhere.
const USAGE_ERROR: u8 = 2;

/// What was asked for.
enum Wanted {
    Serve { config: PathBuf, verge: Option<PathBuf> },
    SetIncarnation { state_dir: PathBuf, number: u64 },
    Version,
    Help,
}

fn main() -> ExitCode {
    let done = match parse(std::env::args_os().skip(1).collect()) {
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(USAGE_ERROR);
        }
        Some(Wanted::Help) => {
            eprintln!("{USAGE}");
            Ok(())
        }
        Some(Wanted::Version) => {
            let mut out = std::io::stdout();
            writeln!(out, "verge-host {}", env!("CARGO_PKG_VERSION")).map_err(|error| error.to_string())
        }
        Some(Wanted::SetIncarnation { state_dir, number }) => {
            incarnation::write(&state_dir, number).map_err(|error| describe(&error))
        }
        Some(Wanted::Serve { config, verge }) => serve(&config, verge),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("verge-host: {text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: Vec<std::ffi::OsString>) -> Option<Wanted> {
    let mut words = words.into_iter();
    let (mut config, mut verge) = (None, None);
    while let Some(word) = words.next() {
        match word.to_str()? {
            "--config" => config = Some(PathBuf::from(words.next()?)),
            "--verge" => verge = Some(PathBuf::from(words.next()?)),
            "--set-incarnation" => {
                let state_dir = PathBuf::from(words.next()?);
                return Some(Wanted::SetIncarnation {
                    state_dir,
                    number: words.next()?.to_str()?.parse().ok()?,
                });
            }
            "--version" => return Some(Wanted::Version),
            "--help" | "-h" => return Some(Wanted::Help),
            _ => return None,
        }
    }
    Some(Wanted::Serve { config: config?, verge })
}

fn serve(config: &Path, verge: Option<PathBuf>) -> Result<(), String> {
    let config = std::path::absolute(config).map_err(|error| error.to_string())?;
    let config = Config::load(&config).map_err(|error| describe(&error))?;
    let verge = find_verge(verge)?;
    let ground = Ground::prepare(config, verge).map_err(|error| describe(&error))?;
    server::run(ground).map_err(|error| describe(&error))
}

/// The verge program, as an absolute path that exists.
fn find_verge(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("verge"),
    };
    std::fs::canonicalize(&path).map_err(|error| {
        format!("cannot find {}: {error}; fix: name the verge program with --verge", path.display())
    })
}

fn describe(error: &impl Explain) -> String {
    match error.fix() {
        Some(fix) => format!("{error}\n  fix: {fix}"),
        None => error.to_string(),
    }
}
