//! `verge task run|explain|list` and `verge call`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use obu_core::io::{ControlCall, ControlReply};
use policies::id::{FunctionName, TaskId};
use policies::limits::INLINE_LEN_MAX;
use policies::task::{BlobRef, Class, Outcome};
use policies::unit::Span;
use serde_json::Value as Json;

use super::{Client, Failure, Format, apply::refusals, get, report};
use crate::control::{Reply, Request, View};

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// Run a function once and print its result; the exit code is 0 if it was done.
    Run(RunArgs),
    /// Tell a task's story: candidates, figures, phases.
    Explain {
        /// NODE.INCARNATION.NUMBER, as `verge get tasks` prints it.
        task: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The function.
    function: String,
    /// Input: a file, or `-` for standard input; default: nothing.
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Until when the outcome counts.
    #[arg(short, long, default_value = "1s")]
    deadline: String,
    /// critical, driving, comfort or background.
    #[arg(short, long, default_value = "comfort")]
    class: String,
}

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// What, in the function's words, such as `road_temperature`.
    want: String,
    /// The function that cars run on their signals.
    #[arg(long, default_value = "road-sample")]
    function: String,
    /// How long to collect.
    #[arg(long, default_value = "1s")]
    wait: String,
}

pub(super) fn run(client: &Client, command: TaskCommand) -> Result<ExitCode, Failure> {
    match command {
        TaskCommand::Run(args) => run_task(client, &args),
        TaskCommand::Explain { task } => explain(client, &task).map(|()| ExitCode::SUCCESS),
    }
}

fn read_input(path: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let failed = |e| Failure::new(format!("cannot read {}: {e}", path.display()));
    let mut input = Vec::new();
    let limit = INLINE_LEN_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut input).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut input).map_err(failed)?;
    }
    if input.len() > INLINE_LEN_MAX {
        return Err(Failure::new(format!("the input is longer than {INLINE_LEN_MAX} bytes")));
    }
    Ok(input)
}

fn run_task(client: &Client, args: &RunArgs) -> Result<ExitCode, Failure> {
    let input = read_input(args.input.as_ref())?;
    let class = Class::parse(&args.class).ok_or_else(|| {
        Failure::new(format!(
            "{:?} is not a class; there are critical, driving, comfort, background",
            args.class
        ))
    })?;
    let deadline: Span = args.deadline.parse().map_err(Failure::new)?;
    let call = ControlCall::RunTask {
        function: FunctionName::new(&args.function).map_err(Failure::new)?,
        deadline_us: deadline.as_micros(),
        class,
        effect: None,
        input: BlobRef::of(&input).ok_or_else(|| Failure::new("the input is too long"))?,
    };
    match client.ask(&Request::Call { call, payload: Some(input) })? {
        Reply::Control { reply: ControlReply::Task(task), payload } => {
            let done = matches!(task.outcome, Outcome::Done { .. });
            if client.output == Format::Json {
                let mut json = crate::faces::report_json(&task);
                crate::faces::add_result(&mut json, payload.as_deref());
                report::line(json);
            } else {
                if let Some(result) = payload {
                    report::bytes(&result).map_err(Failure::new)?;
                }
                summary(&task);
            }
            Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Reply::Control { reply: ControlReply::Refused { refusals: list }, .. } => Err(refusals(&list)),
        other => Err(Failure::new(format!("the node answered something else: {other:?}"))),
    }
}

/// One line on standard error, so that the result alone is on standard output.
#[expect(clippy::print_stderr, reason = "the result owns standard output")]
fn summary(task: &v2e_core::report::TaskReport) {
    let json = crate::faces::report_json(task);
    eprintln!(
        "{} {} on {} in {} us (matching {}, pipelining {}, execution {}) {}",
        get::cell(&json["task"]),
        get::cell(&json["outcome"]),
        get::cell(&json["node"]),
        json["took_us"],
        json["phases"]["matching_us"],
        json["phases"]["pipelining_us"],
        json["phases"]["execution_us"],
        get::cell(&json["why"]),
    );
}

fn explain(client: &Client, task: &str) -> Result<(), Failure> {
    let id: TaskId = task.parse().map_err(Failure::new)?;
    let story = get::fetch(client, View::Task(id))?;
    if story.is_null() {
        return Err(Failure::new(format!("this node does not know task {task}")).fix(
            "ask the node that owns it (the first part of its id); stories of old tasks are dropped"
                .to_owned(),
        ));
    }
    if client.output == Format::Json {
        report::line(&story);
        return Ok(());
    }
    report::line(format!("{} {}", get::cell(&story["task"]), get::cell(&story["function"])));
    for step in story["steps"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let us = step["at_us"].as_i64().unwrap_or(0);
        report::line(format!("{:>9} us  {:<12} {}", us, get::cell(&step["what"]), get::cell(&step["why"])));
    }
    if let Json::Object(_) = &story["report"] {
        report::line(format!("outcome: {}", story["report"]));
    }
    Ok(())
}

pub(super) fn call(client: &Client, args: &CallArgs) -> Result<ExitCode, Failure> {
    let wait: Span = args.wait.parse().map_err(Failure::new)?;
    let call = ControlCall::Call {
        want: args.want.clone(),
        area: None,
        function: FunctionName::new(&args.function).map_err(Failure::new)?,
        wait_us: wait.as_micros(),
    };
    match client.ask(&Request::Call { call, payload: None })? {
        Reply::Control { reply: ControlReply::Called(called), .. } => {
            report::line(serde_json::json!({
                "want": called.want,
                "value": called.reading.map(|r| micro(r.value_micro)),
                "readings": called.reading.map_or(0, |r| r.n),
                "asked": called.asked,
                "answered": called.parts.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(),
            }));
            Ok(if called.reading.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Reply::Control { reply: ControlReply::Refused { refusals: list }, .. } => Err(refusals(&list)),
        other => Err(Failure::new(format!("the node answered something else: {other:?}"))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "readings are bounded far below 2^52 millionths")]
fn micro(value: i64) -> f64 {
    value as f64 / 1e6
}
