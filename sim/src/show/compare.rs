//! How a comparison of model and road looks.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sim::compare::{Beside, Comparison, Figures, Spread, distance, ms};
use sim::model::{FaceTimes, Model, Samples};

fn sample(name: &str, samples: &Samples) -> String {
    let (p50, p99) = (ms(samples.quantile(500)), ms(samples.quantile(990)));
    format!("{name} p50 {p50} p99 {p99} ({} measured)", samples.len())
}

fn measured(times: &FaceTimes) -> [(&'static str, &Samples); 8] {
    [
        ("request", &times.inbox),
        ("begin", &times.began),
        ("call", &times.call),
        ("save", &times.save),
        ("effect", &times.effect),
        ("load", &times.load),
        ("import", &times.import),
        ("face", &times.face),
    ]
}

fn model_text(text: &mut String, model: &Model) {
    for (realm, link) in &model.links {
        let rate = match link.rate_kb_s {
            u32::MAX => "no rate to be told".into(),
            rate => format!("{}.{} MB/s", rate / 1000, rate % 1000 / 100),
        };
        let _ = writeln!(text, "  link {:<12} {}, {rate}", realm.as_str(), sample("one way", &link.one_way));
        let _ = writeln!(text, "  {:<17} {}", "  with an input", sample("one way", &link.bulky));
    }
    for (name, service) in &model.services {
        for (node, samples) in &service.by_node {
            let place = format!("{name} at {node}");
            let _ = writeln!(text, "  {place:<17} {}", sample("service", samples));
        }
    }
    for (node, times) in &model.faces {
        let some = measured(times).into_iter().filter(|(_, samples)| !samples.is_empty());
        let parts: Vec<String> = some.map(|(name, s)| format!("{name} {}", ms(s.quantile(500)))).collect();
        let node = format!("processes of {node}");
        let _ = writeln!(text, "  {node:<17} p50 {}", parts.join(", "));
    }
}

fn percent(road: u64, model: u64) -> String {
    distance(road, model).map_or_else(|| "-".into(), |percent| format!("{percent} %"))
}

fn line(text: &mut String, name: &str, figures: &Beside<Figures>, comparison: &Comparison) {
    let Beside { road, model } = figures;
    let both = |which: fn(&Figures) -> Spread| {
        let (road, model) = (which(road), which(model));
        format!("{}/{} {}/{}", ms(road.p50), ms(model.p50), ms(road.p99), ms(model.p99))
    };
    let tasks = format!("{}/{}", road.tasks, comparison.per_run(model.tasks));
    let _ = writeln!(
        text,
        "{name:<18} {tasks:>11}  {:<27} {:>6} {:>6}  {:<23} {:<25} {}",
        both(|f| f.total),
        percent(road.total.p50, model.total.p50),
        percent(road.total.p99, model.total.p99),
        both(|f| f.matching),
        both(|f| f.pipelining),
        both(|f| f.execution),
    );
}

/// A comparison, for people; the last line sums it up.
pub(crate) fn text(comparison: &Comparison) -> String {
    let mut text: String = comparison.notes.iter().map(|note| format!("note: {note}\n")).collect();
    let _ = writeln!(text, "fitted to {} tasks, every second one, in ms:", comparison.fitted);
    model_text(&mut text, &comparison.model);
    let _ = writeln!(
        text,
        "compared with the others, each as road/model, in ms:\n\
         {:<18} {:>11}  {:<27} {:>6} {:>6}  {:<23} {:<25} execution p50 p99",
        "", "tasks", "total p50 p99", "p50", "p99", "matching p50 p99", "pipelining p50 p99",
    );
    for row in &comparison.rows {
        line(&mut text, &format!("{} at {}", row.function, row.node), &row.figures, comparison);
    }
    line(&mut text, "all", &comparison.sum, comparison);
    let outcomes = comparison
        .outcomes
        .iter()
        .map(|(word, n)| format!("{word} {}/{}", n.road, comparison.per_run(n.model)));
    let _ = writeln!(text, "outcomes: {}", outcomes.collect::<Vec<_>>().join(", "));
    let thousandths = |n: u64| format!("{}.{}", n / 10, n % 10);
    let shares = comparison
        .shares()
        .into_iter()
        .map(|(node, share)| format!("{node} {}/{} %", thousandths(share.road), thousandths(share.model)));
    let _ = writeln!(text, "places: {}", shares.collect::<Vec<_>>().join(", "));
    let range = |which: fn(&Spread) -> u64| {
        let runs = comparison.runs.iter().map(which);
        format!("{} to {}", ms(runs.clone().min().unwrap_or(0)), ms(runs.max().unwrap_or(0)))
    };
    let (p50, p99) = (range(|run| run.p50), range(|run| run.p99));
    let _ = writeln!(text, "{} runs of the model: p50 {p50}, p99 {p99}", comparison.runs.len());
    let _ = writeln!(text, "{comparison}");
    text
}

fn spread_json(road: Spread, model: Spread) -> Value {
    let one = |road, model| {
        json!({
            "road_us": road,
            "model_us": model,
            "distance_percent": distance(road, model),
        })
    };
    json!({ "p50": one(road.p50, model.p50), "p99": one(road.p99, model.p99) })
}

fn figures_json(figures: &Beside<Figures>) -> Value {
    let Beside { road, model } = figures;
    json!({
        "tasks": { "road": road.tasks, "model": model.tasks },
        "total": spread_json(road.total, model.total),
        "matching": spread_json(road.matching, model.matching),
        "pipelining": spread_json(road.pipelining, model.pipelining),
        "execution": spread_json(road.execution, model.execution),
    })
}

fn samples_json(samples: &Samples) -> Value {
    json!({
        "n": samples.len(),
        "p50_us": samples.quantile(500),
        "p95_us": samples.quantile(950),
        "p99_us": samples.quantile(990),
    })
}

fn model_json(model: &Model) -> Value {
    let links = model.links.iter().map(|(realm, link)| {
        json!({
            "realm": realm,
            "one_way": samples_json(&link.one_way),
            "one_way_with_input": samples_json(&link.bulky),
            "rate_kb_s": (link.rate_kb_s != u32::MAX).then_some(link.rate_kb_s),
        })
    });
    let services = model.services.iter().flat_map(|(name, service)| {
        let of = move |(node, samples): (_, &Samples)| {
            json!({ "function": name, "node": node, "service": samples_json(samples) })
        };
        service.by_node.iter().map(of)
    });
    let faces = model.faces.iter().map(|(node, times)| {
        let times: serde_json::Map<String, Value> =
            measured(times).into_iter().map(|(name, s)| (name.into(), samples_json(s))).collect();
        json!({ "node": node, "times": times })
    });
    json!({
        "links": links.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "processes": faces.collect::<Vec<_>>(),
    })
}

/// A comparison, for programs.
pub(crate) fn json(comparison: &Comparison) -> Value {
    let both = |beside: &Beside<u64>| json!({ "road": beside.road, "model": beside.model });
    let outcomes: serde_json::Map<String, Value> =
        comparison.outcomes.iter().map(|(word, n)| ((*word).to_owned(), both(n))).collect();
    let shares: serde_json::Map<String, Value> =
        comparison.shares().into_iter().map(|(node, n)| (node.to_string(), both(&n))).collect();
    let rows = comparison.rows.iter().map(|row| {
        let mut value = figures_json(&row.figures);
        value["function"] = json!(row.function);
        value["node"] = json!(row.node);
        value
    });
    json!({
        "summary": comparison.to_string(),
        "fitted_tasks": comparison.fitted,
        "runs": comparison.runs.iter().map(|run| json!({ "p50_us": run.p50, "p99_us": run.p99 })).collect::<Vec<_>>(),
        "model": model_json(&comparison.model),
        "rows": rows.collect::<Vec<_>>(),
        "all": figures_json(&comparison.sum),
        "outcomes": outcomes,
        "shares_permille": shares,
        "places_within_points": comparison.points(),
        "notes": comparison.notes,
    })
}
