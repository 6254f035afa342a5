//! Tasks: results, failures, stories, effects that happen once, and a recording that replays.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value as Json;
use tests::needs;
use tests::road::{Road, material, programs, superuser};
use tests::wait::until;

// tests: P3-01
#[test]
fn a_task_returns_what_its_function_found() {
    needs!(
        "a_task_returns_what_its_function_found",
        programs(),
        superuser(),
        material(&["wasm/lane.wasm", "clip"])
    );
    let road = Road::new();
    let node = road.node().start();
    node.serve(&[("lane", "pure")]);
    let frame = road.frame().to_string_lossy().into_owned();
    let said = node.verge(&["task", "run", "lane", "-i", &frame]);
    let result: Json = serde_json::from_str(&said.done().out).expect("the result is JSON");
    assert!(result.to_string().contains("lane"), "{result}");
    assert!(said.err.contains(" done on "), "{}", said.err);
    node.stop();
}

// tests: P3-02
#[test]
fn the_json_of_a_task_holds_its_result() {
    needs!(
        "the_json_of_a_task_holds_its_result",
        programs(),
        superuser(),
        material(&["wasm/lane.wasm", "clip"])
    );
    let road = Road::new();
    let node = road.node().start();
    node.serve(&[("lane", "pure")]);
    let frame = road.frame().to_string_lossy().into_owned();
    let outcome = node.json(&["task", "run", "lane", "-i", &frame]);
    assert_eq!(outcome["outcome"], "done");
    assert!(outcome["result"].is_object(), "docs/ISLAND.md promises `result` for `done`: {outcome}");
    node.stop();
}

// tests: P3-03
#[test]
fn a_corrupt_picture_fails_with_the_functions_words() {
    let name = "a_corrupt_picture_fails_with_the_functions_words";
    needs!(name, programs(), superuser(), material(&["wasm/lane.wasm"]));
    let road = Road::new();
    let node = road.node().start();
    node.serve(&[("lane", "pure")]);
    let corrupt = road.file("corrupt.jpg", b"\xff\xd8 no picture at all").to_string_lossy().into_owned();
    let said = node.verge(&["task", "run", "lane", "-i", &corrupt, "-o", "json"]);
    assert_eq!(said.code, 1);
    let outcome: Json = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(outcome["outcome"], "failed");
    assert!(outcome["why"].as_str().is_some_and(|why| why.contains("not a sound JPEG")), "{outcome}");
    let task = outcome["task"].as_str().expect("its id");
    let story = node.verge(&["task", "explain", task]);
    assert!(story.done().out.contains("code 65"), "{}", story.out);
    // The worker has not suffered.
    assert_eq!(node.verge(&["task", "run", "lane", "-i", &corrupt]).code, 1);
    node.stop();
}

// tests: P3-04
#[test]
fn an_unknown_function_is_refused_with_a_fix() {
    needs!("an_unknown_function_is_refused_with_a_fix", programs(), superuser());
    let road = Road::new();
    let node = road.node().start();
    node.verge(&["task", "run", "lain"]).refused(&["lain", "not known", "fix:"]);
    node.stop();
}

// tests: P3-05
#[test]
fn a_story_names_every_candidate() {
    needs!("a_story_names_every_candidate", programs(), superuser(), material(&["wasm/lane.wasm", "clip"]));
    let road = Road::new();
    let node = road.node().start();
    node.serve(&[("lane", "pure")]);
    let frame = road.frame().to_string_lossy().into_owned();
    let outcome = node.json(&["task", "run", "lane", "-i", &frame]);
    let task = outcome["task"].as_str().expect("its id");
    let story = node.json(&["task", "explain", task]);
    let steps = story["steps"].as_array().expect("steps");
    let placed = steps.iter().find(|step| step["what"] == "placed").expect("a step `placed`");
    assert!(placed["why"].as_str().is_some_and(|why| why.contains(&node.id)), "{placed}");
    assert_eq!(story["report"]["outcome"], "done");
    let unknown = format!("{}.1.9999", node.id);
    node.verge(&["task", "explain", &unknown]).refused(&["does not know", "fix:"]);
    node.stop();
}

fn no_line_twice(tasks: &[String]) {
    let distinct: BTreeSet<_> = tasks.iter().collect();
    assert_eq!(distinct.len(), tasks.len(), "an effect happened twice: {tasks:?}");
}

// tests: P3-06
#[test]
fn every_once_task_has_its_effect_once() {
    needs!("every_once_task_has_its_effect_once", programs(), superuser(), material(&["wasm/toll.wasm"]));
    let mut road = Road::new();
    let ledger = road.ledger();
    let node = road.node().start();
    node.serve(&[("toll", "once")]);
    let passage = road.file("passage.json", r#"{"gantry": "A10-7", "plate_hash": "9f86d081"}"#);
    let passage = passage.to_string_lossy().into_owned();
    let mut done = Vec::new();
    for _ in 0..20 {
        let outcome = node.json(&["task", "run", "toll", "-i", &passage]);
        assert_eq!(outcome["outcome"], "done", "{outcome}");
        done.push(outcome["task"].as_str().expect("its id").to_owned());
    }
    let lines = ledger.tasks();
    no_line_twice(&lines);
    assert_eq!(lines, done, "the ledger's lines are the tasks, in their order");
    node.stop();
}

// tests: P3-07
#[test]
fn a_killed_bus_face_neither_doubles_nor_loses_an_effect() {
    let name = "a_killed_bus_face_neither_doubles_nor_loses_an_effect";
    needs!(name, programs(), superuser(), material(&["wasm/toll.wasm"]));
    let mut road = Road::new();
    let ledger = road.ledger();
    let node = road.node().start();
    node.serve(&[("toll", "once")]);
    let passage = road.file("passage.json", r#"{"gantry": "A10-7", "plate_hash": "9f86d081"}"#);
    let passage = passage.to_string_lossy().into_owned();
    let mut done = Vec::new();
    let mut others = Vec::new();
    let mut after = 0;
    for n in 0..30 {
        // The calls go on while the bus process dies and comes back.
        let said = node.verge(&["task", "run", "toll", "-i", &passage, "-d", "2s", "-o", "json"]);
        let outcome: Json = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
        match outcome["outcome"].as_str() {
            Some("done") => done.push(outcome["task"].as_str().expect("its id").to_owned()),
            _ => others.push(outcome),
        }
        if n == 7 || n == 14 {
            let bus = until("the bus process runs", || node.face("bus"));
            nix::sys::signal::kill(bus, nix::sys::signal::Signal::SIGKILL).expect("SIGKILL");
            after = done.len();
        }
    }
    assert!(done.len() > after, "no task was done after the bus process came back: {others:?}");
    let lines = ledger.tasks();
    no_line_twice(&lines);
    let missing: Vec<_> = done.iter().filter(|task| !lines.contains(task)).collect();
    assert!(missing.is_empty(), "reported as done, but not in the ledger: {missing:?}");
    // A line without a `done` belongs to a task of which nobody claims to know that nothing happened.
    for outcome in &others {
        let task = outcome["task"].as_str().unwrap_or_default().to_owned();
        if lines.contains(&task) {
            assert_eq!(outcome["outcome"], "indeterminate", "it took effect: {outcome}");
        }
    }
    node.stop();
}

// tests: P5-01
#[test]
fn a_recording_replays_and_damage_is_named() {
    let name = "a_recording_replays_and_damage_is_named";
    needs!(name, programs(), superuser(), material(&["wasm/lane.wasm", "clip"]));
    let road = Road::new();
    let node = road.node().start();
    node.serve(&[("lane", "pure")]);
    let frame = road.frame().to_string_lossy().into_owned();
    for _ in 0..5 {
        node.verge(&["task", "run", "lane", "-i", &frame]).done();
    }
    let recording = node.recording(1);
    node.stop();
    let replay = |file: &std::path::Path| {
        let sim = road.programs.program("verge-sim");
        let output = Command::new(sim).arg("replay").arg(file).output().expect("verge-sim");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = replay(&recording);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("done 5") && out.contains("identical"), "{out}");
    let whole = fs::read(&recording).expect("the recording");
    // A last record that lacks a byte is what a killed writer leaves, and no damage.
    let (code, cut, err) = replay(&road.file("cut.vrec", &whole[..whole.len() - 1]));
    assert_eq!(code, Some(0), "{err}");
    let left_out = cut.split("its ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let last_record = whole.len() - 1 - left_out.expect("the note on a record that is cut short");
    let mut unseen = Vec::new();
    for place in (0..whole.len()).step_by(29).chain(last_record..whole.len()) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        let (code, out, err) = replay(&road.file("damaged.vrec", bytes));
        // The head of the file is refused as such; behind it the place is named.
        if code == Some(0) || !(place < 16 || err.contains("damaged at byte")) {
            unseen.push(format!("byte {place} of {}: {code:?} {out}{err}", whole.len()));
        }
    }
    assert!(unseen.is_empty(), "damage that is not named:\n{}", unseen.join("\n"));
}
