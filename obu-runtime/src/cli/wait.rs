//! `verge apply --wait`: until what a manifest names runs, or cannot.

use std::time::{Duration, Instant};

use policies::unit::Span;
use serde_json::Value as Json;

use super::apply::Applied;
use super::{Client, Failure, get};
use crate::control::View;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How far something is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// It runs, has ended well, or is not for this node.
    Up,
    /// Not yet; the text says what it is doing.
    Coming(String),
    /// It will not without somebody's help.
    Down(String),
}

/// Waits for every app and function that was applied.
///
/// # Errors
/// At once for something that failed, after `span` for something that is not up yet; with its reason.
pub(super) fn until_up(client: &Client, applied: &Applied, span: Span) -> Result<(), Failure> {
    let end = Instant::now() + span.duration();
    loop {
        let (apps, functions) = (get::fetch(client, View::Apps)?, get::fetch(client, View::Functions)?);
        let of_apps = applied.apps.iter().map(|name| (name, app(row(&apps, "app", name))));
        let of_functions =
            applied.functions.iter().map(|name| (name, function(row(&functions, "function", name))));
        let mut coming = Vec::new();
        for (name, progress) in of_apps.chain(of_functions) {
            match progress {
                Progress::Up => {}
                Progress::Coming(why) => coming.push(format!("{name} is {why}")),
                Progress::Down(why) => return Err(Failure::new(format!("{name}: {why}"))),
            }
        }
        if coming.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let what = format!("not up after {span}: {}", coming.join("; "));
            return Err(
                Failure::new(what).fix("it stays applied; look again with: verge get apps".to_owned())
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn row<'a>(rows: &'a Json, column: &str, name: &str) -> Option<&'a Json> {
    rows.as_array()?.iter().find(|row| row[column] == *name)
}

fn app(row: Option<&Json>) -> Progress {
    let Some(row) = row else { return Progress::Up };
    let (state, why) = (get::cell(&row["state"]), get::cell(&row["why"]));
    match state.as_str() {
        "running" | "frozen" => Progress::Up,
        "stopped" if row["last_exit"]["Code"] == 0 => Progress::Up,
        "failed" | "stopped" => Progress::Down(format!("{state}: {why}")),
        _ if why.is_empty() => Progress::Coming(state),
        _ => Progress::Coming(format!("{state}: {why}")),
    }
}

fn function(row: Option<&Json>) -> Progress {
    let Some(row) = row else { return Progress::Up };
    let state = get::cell(&row["state"]);
    if state == "ready" || state.starts_with("elsewhere") {
        Progress::Up
    } else if state.starts_with("failed") {
        Progress::Down(state)
    } else {
        Progress::Coming(state)
    }
}
