//! How results look: text for people, JSON for programs.

pub(crate) mod compare;

use std::fmt::Write as _;
use std::time::Duration;

use obu_core::io::Output;
use obu_core::record::Entry;
use serde_json::{Value, json};
use sim::find::SearchReport;
use sim::replay::{Replay, Step, Verdict};
use sim::world::{Options, Report};

fn names<K: std::fmt::Debug, V: std::fmt::Display>(map: &std::collections::BTreeMap<K, V>) -> String {
    let parts: Vec<String> =
        map.iter().map(|(key, n)| format!("{} {n}", format!("{key:?}").to_lowercase())).collect();
    parts.join(", ").replace('"', "")
}

fn names_json<K: std::fmt::Debug>(map: &std::collections::BTreeMap<K, u64>) -> Value {
    let key = |key: &K| format!("{key:?}").to_lowercase().replace('"', "");
    Value::Object(map.iter().map(|(k, n)| (key(k), json!(n))).collect())
}

/// One run, for people.
pub(crate) fn run_text(options: &Options, result: &Result<Report, String>, took: Duration) -> String {
    let mut text = format!("{options}\n");
    match result {
        Ok(report) => {
            let Report { trail, events, counts, network, strikes, decisions } = report;
            let speed = (options.seconds as u128 * 1000).checked_div(took.as_millis()).unwrap_or(0);
            let _ = write!(
                text,
                "  events     {events} in {:.2} s wall time ({speed}x real time)\n\
                 \x20 tasks      {}\n\
                 \x20 outsourced {}, hedged {}, exports {}, effects {}\n\
                 \x20 messages   {} sent, {} lost, {} receipts lost, {} twice, {} into partitions\n\
                 \x20 faults     {}\n\
                 \x20 decisions  {}\n\
                 \x20 outputs    {} {}\n\
                 no rule broken\n",
                took.as_secs_f64(),
                names(&counts.outcomes),
                counts.outsourced,
                counts.hedged,
                counts.exports,
                counts.effects,
                network.sent,
                network.lost,
                network.receipts_lost,
                network.duplicated,
                network.cut,
                names(strikes),
                names(decisions),
                trail.outputs,
                trail.digest,
            );
        }
        Err(why) => {
            let _ = writeln!(text, "BROKEN: {why}");
            let _ = match &options.log {
                Some(log) => writeln!(text, "  replay: verge-sim replay {}", log.display()),
                None => writeln!(text, "  log:    {options} --log FILE"),
            };
        }
    }
    text
}

/// One run, for programs.
pub(crate) fn run_json(options: &Options, result: &Result<Report, String>, took: Duration) -> Value {
    let mut value = json!({
        "command": options.to_string(),
        "seed": options.seed,
        "nodes": options.nodes,
        "seconds": options.seconds,
        "faults": options.faults.to_string(),
        "wall_s": took.as_secs_f64(),
    });
    match result {
        Ok(report) => {
            value["events"] = json!(report.events);
            value["outcomes"] = names_json(&report.counts.outcomes);
            value["strikes"] = names_json(&report.strikes);
            value["outsourced"] = json!(report.counts.outsourced);
            value["outputs"] = json!(report.trail.outputs);
            value["digest"] = json!(report.trail.digest.to_string());
        }
        Err(why) => value["broken"] = json!(why),
    }
    value
}

/// A search, for people.
pub(crate) fn find_text(report: &SearchReport, took: Duration) -> String {
    let rate = report.seeds as f64 / took.as_secs_f64().max(0.001);
    let mut text = format!(
        "{} seeds in {:.1} s ({rate:.1} seeds/s), {} events, {} node-seconds\n  tasks  {}\n  faults {}\n",
        report.seeds,
        took.as_secs_f64(),
        report.events,
        report.node_seconds,
        names(&report.outcomes),
        names(&report.strikes),
    );
    for found in report.found.values() {
        let (why, options, log) = (&found.why, &found.options, found.log.display());
        let _ = writeln!(
            text,
            "BROKEN by {} seeds: {why}\n  again:  {options}\n  replay: verge-sim replay {log}",
            found.times
        );
    }
    if report.found.is_empty() {
        text.push_str("no rule broken\n");
    }
    text
}

/// A search, for programs.
pub(crate) fn find_json(report: &SearchReport, took: Duration) -> Value {
    json!({
        "seeds": report.seeds,
        "wall_s": took.as_secs_f64(),
        "events": report.events,
        "node_seconds": report.node_seconds,
        "outcomes": names_json(&report.outcomes),
        "strikes": names_json(&report.strikes),
        "found": report.found.iter().map(|(rule, found)| json!({
            "rule": rule,
            "seeds": found.times,
            "seed": found.options.seed,
            "broken": found.why,
            "again": found.options.to_string(),
            "log": found.log,
        })).collect::<Vec<_>>(),
    })
}

/// One step, for people: everything with `all`, else the decisions if they are wanted.
pub(crate) fn step_text(step: &Step<'_>, all: bool, decisions: bool) -> String {
    let mut text = String::new();
    let (record, number) = (step.record, step.number);
    if all {
        let _ = match &record.entry {
            Entry::Input(input) => writeln!(text, "{number:>7} {} {} <- {input:?}", record.at, record.node),
            Entry::Output(_) => Ok(()),
            entry => writeln!(text, "        {} {}    {entry:?}", record.at, record.node),
        };
    }
    for output in step.outputs {
        let _ = match output {
            Output::Decision(d) if all || decisions => {
                let facts: Vec<String> =
                    d.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let place = format!("{} {}", record.at, record.node);
                writeln!(text, "        {place} == {:?} {}: {} {}", d.kind, d.about, d.why, facts.join(" "))
            }
            output if all => writeln!(text, "        {} {} -> {output:?}", record.at, record.node),
            _ => Ok(()),
        };
    }
    text
}

/// One step, for programs: a line with the record and one per output.
pub(crate) fn step_json(step: &Step<'_>) -> String {
    if matches!(step.record.entry, Entry::Output(_)) {
        return String::new();
    }
    let mut text = format!("{}\n", json!({ "number": step.number, "record": step.record }));
    for output in step.outputs {
        let _ = writeln!(
            text,
            "{}",
            json!({ "number": step.number, "node": step.record.node, "output": output })
        );
    }
    text
}

fn verdict(replay: &Replay) -> String {
    match &replay.verdict {
        Verdict::Identical => "identical".into(),
        Verdict::NothingToCompare => "nothing to compare with".into(),
        Verdict::Differs(d) => format!(
            "DIFFERENT after input {} ({} at {})\n  recorded: {}\n  replayed: {}",
            d.input, d.node, d.at, d.recorded, d.replayed
        ),
    }
}

/// A replay, for people.
pub(crate) fn replay_text(replay: &Replay) -> String {
    let mut text: String = replay.notes.iter().map(|note| format!("note: {note}\n")).collect();
    let _ = writeln!(text, "tasks: {}", names(&replay.counts.outcomes));
    if let Some(violation) = &replay.violation {
        let _ = writeln!(text, "BROKEN: {violation}");
    }
    let Replay { inputs, trail, .. } = replay;
    let _ =
        writeln!(text, "{inputs} inputs, {} outputs, {} ({})", trail.outputs, verdict(replay), trail.digest);
    text
}

/// A replay, for programs.
pub(crate) fn replay_json(replay: &Replay) -> Value {
    json!({
        "inputs": replay.inputs,
        "outputs": replay.trail.outputs,
        "digest": replay.trail.digest.to_string(),
        "compared": replay.compared,
        "verdict": verdict(replay),
        "broken": replay.violation.as_ref().map(ToString::to_string),
        "outcomes": names_json(&replay.counts.outcomes),
        "notes": replay.notes,
    })
}
