//! `verge get` and `verge logs`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use policies::signal::SignalPattern;
use serde_json::Value as Json;

use super::{Client, Failure, Format, apply::app_ref, block_on, report};
use crate::control::{Exchange, Reply, Request, View};

/// How often `-w` looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// What.
    #[arg(value_enum)]
    what: What,
    /// For signals: VSS paths or patterns such as Vehicle.*; default: all.
    patterns: Vec<String>,
    /// Keep looking.
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Nodes,
    Apps,
    Functions,
    Tasks,
    Signals,
    Stats,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// `app`, or `tenant/app`.
    app: String,
    /// Stay and print new lines.
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines.
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: u32,
}

pub(super) fn get(client: &Client, args: &GetArgs) -> Result<(), Failure> {
    let view = view(args)?;
    loop {
        let json = fetch(client, view.clone())?;
        print(client, args.what, &json);
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

fn view(args: &GetArgs) -> Result<View, Failure> {
    Ok(match args.what {
        What::Nodes => View::Nodes,
        What::Apps => View::Apps,
        What::Functions => View::Functions,
        What::Tasks => View::Tasks,
        What::Stats => View::Stats,
        What::Signals if args.patterns.is_empty() => {
            View::Signals(vec![SignalPattern::new("Vehicle.**").map_err(Failure::new)?])
        }
        What::Signals => View::Signals(
            args.patterns
                .iter()
                .map(|p| SignalPattern::new(p))
                .collect::<Result<_, _>>()
                .map_err(Failure::new)?,
        ),
    })
}

/// Asks for a view and parses it.
pub(crate) fn fetch(client: &Client, view: View) -> Result<Json, Failure> {
    match client.ask(&Request::View(view))? {
        Reply::Json(text) => serde_json::from_str(&text)
            .map_err(|e| Failure::new(format!("the node's answer is not JSON: {e}"))),
        other => Err(Failure::new(format!("the node answered something else: {other:?}"))),
    }
}

fn print(client: &Client, what: What, json: &Json) {
    if client.output == Format::Json {
        return report::line(json);
    }
    let head: &[&str] = match what {
        What::Nodes => &["node", "car", "realm", "role", "state", "cores", "queue_us", "cpu", "why"],
        What::Apps => &["app", "class", "state", "restarts", "cpu_us", "memory", "pids", "degraded", "why"],
        What::Functions => &["function", "effect", "service_us", "state", "bundle"],
        What::Tasks => &["task", "function", "outcome", "node", "took_us", "why"],
        What::Signals => &["path", "value", "unit", "age_us", "quality", "seq"],
        What::Stats => return report::line(format!("{json:#}")),
    };
    let rows = json.as_array().map(Vec::as_slice).unwrap_or_default();
    report::table(head, rows.iter().map(|row| head.iter().map(|key| cell(&row[*key])).collect()).collect());
}

/// A JSON value as a cell: texts without quotes, nothing for null.
pub(super) fn cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn logs(client: &Client, args: &LogsArgs) -> Result<(), Failure> {
    let request = Request::Logs { app: app_ref(&args.app)?, lines: args.lines, follow: args.follow };
    block_on(async {
        let mut exchange = Exchange::begin(&client.socket, &request).await?;
        loop {
            match exchange.next().await? {
                Reply::Line(text) => {
                    report::result(client.output, &text, &serde_json::json!({ "line": text }));
                }
                Reply::End => return Ok(()),
                other => return Err(Failure::new(format!("the node answered something else: {other:?}"))),
            }
        }
    })
}
