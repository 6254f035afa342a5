//! Checks on the repository itself: the arrows between packages, the purity of the cores, sizes, words.

use std::collections::BTreeMap;

use tests::{Source, root, sources};

/// Folder of each package, and which of ours it may depend on. The arrows of ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("policies", &[]),
    ("can-bridge/core", &["policies"]),
    ("can-bridge", &["can-core", "policies"]),
    ("v2e/core", &["policies"]),
    ("v2e", &["v2e-core", "policies"]),
    ("obu-runtime/core", &["v2e-core", "can-core", "policies"]),
    ("obu-runtime/host", &["policies"]),
    ("obu-runtime", &["policies", "can-core", "can-bridge", "v2e-core", "v2e", "obu-core", "obu-host"]),
    ("sim", &["policies", "can-core", "v2e-core", "obu-core"]),
];

const OURS: &[&str] = &[
    "policies",
    "can-core",
    "can-bridge",
    "v2e-core",
    "v2e",
    "obu-core",
    "obu-host",
    "obu-runtime",
    "sim",
    "tests",
];

/// Packages that do no I/O, read no clock and draw no randomness.
const PURE: &[&str] = &["policies/src", "can-bridge/core/src", "v2e/core/src", "obu-runtime/core/src"];

/// What a pure package may not name.
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("std::time", "time is an argument"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::fs", "drivers do I/O"),
    ("std::net", "drivers do I/O"),
    ("std::thread", "machines do not run by themselves"),
    ("std::process", "drivers start processes"),
    ("std::env", "configuration is an argument"),
    ("HashMap", "its order is random; use BTreeMap"),
    ("HashSet", "its order is random; use BTreeSet"),
    ("rand::", "seeds are arguments"),
    ("async fn", "machines do not wait"),
    ("tokio", "machines do not wait"),
    ("println!", "machines do not print"),
];

/// Where `unsafe` may stand.
const UNSAFE_IN: &[&str] = &["obu-runtime/host/", "can-bridge/src/sys"];

/// Production lines of a file at the most.
const FILE_LINES_MAX: usize = 500;

const ROOMS: &[&str] = &["policies", "can-bridge", "v2e", "obu-runtime", "sim", "tests"];

fn rust() -> Vec<Source> {
    ROOMS.iter().flat_map(|room| sources(room, ".rs")).collect()
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} problems:\n{}", found.len(), found.join("\n"));
}

#[test]
fn packages_depend_along_the_arrows_only() {
    let mut found = Vec::new();
    for (folder, allowed) in ARROWS {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a package");
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if OURS.contains(&name) && !allowed.contains(&name) {
                found.push(format!("{folder} depends on {name}"));
            }
        }
    }
    report(&found);
}

#[test]
fn pure_packages_stay_pure() {
    let mut found = Vec::new();
    for source in PURE.iter().flat_map(|dir| sources(dir, ".rs")).filter(|s| !s.is_test()) {
        for (number, line) in source.production().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, instead) in BANNED_IN_PURE.iter().filter(|(word, _)| code.contains(word)) {
                found.push(format!("{}:{}: {word}: {instead}", source.path, number + 1));
            }
        }
    }
    for dir in PURE {
        let lib = std::fs::read_to_string(root().join(dir).join("lib.rs")).expect("a library");
        for attribute in ["#![forbid(unsafe_code)]", "#![deny(missing_docs)]"] {
            if !lib.contains(attribute) {
                found.push(format!("{dir}/lib.rs lacks {attribute}"));
            }
        }
    }
    report(&found);
}

#[test]
fn unsafe_stands_in_its_rooms_only() {
    let mut found = Vec::new();
    for source in rust().iter().filter(|s| !s.is_test()) {
        let has = source.production().lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        if has && !UNSAFE_IN.iter().any(|room| source.path.starts_with(room)) {
            found.push(source.path.clone());
        }
    }
    report(&found);
}

#[test]
fn files_have_one_subject() {
    let mut found = Vec::new();
    for source in rust().iter().filter(|s| !s.is_test()) {
        let lines = source.production().lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines, {FILE_LINES_MAX} at the most", source.path));
        }
    }
    report(&found);
}

#[test]
fn every_module_says_what_it_is_for() {
    let found: Vec<String> =
        rust().into_iter().filter(|s| !s.is_test() && !s.text.starts_with("//!")).map(|s| s.path).collect();
    report(&found);
}

#[test]
fn nothing_is_left_open() {
    let words = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
    ];
    let mut found = Vec::new();
    for source in rust() {
        for word in words.iter().filter(|word| source.text.contains(**word)) {
            found.push(format!("{}: {word}", source.path));
        }
    }
    report(&found);
}

#[test]
fn one_file_spells_zenoh_keys() {
    let spelled = concat!("vg", "/1/");
    let mut found = Vec::new();
    for source in rust().iter().filter(|s| !s.is_test() && !s.path.starts_with("v2e/src/keys")) {
        if source.production().contains(spelled) {
            found.push(source.path.clone());
        }
    }
    report(&found);
}

#[test]
fn machines_answer_without_results() {
    // A machine's `handle` cannot fail: what cannot be done is an output.
    let mut found = Vec::new();
    for source in PURE.iter().flat_map(|dir| sources(dir, ".rs")) {
        for line in source.production().lines().filter(|l| l.contains("pub fn handle(")) {
            if line.contains("Result<") {
                found.push(format!("{}: {line}", source.path));
            }
        }
    }
    report(&found);
}

/// Promises of SPECIFICATION.md: `| P1-01 | text | status |` rows. A kept one has a test that names it.
#[test]
fn every_kept_promise_has_a_test() {
    let text = std::fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let mut tags: BTreeMap<String, usize> = BTreeMap::new();
    let scripts =
        sources("scripts", ".sh").into_iter().chain(sources("tests", ".sh")).chain(sources("tests", ".py"));
    for source in rust().into_iter().chain(scripts) {
        for line in source.text.lines().filter(|l| l.contains("tests: P")) {
            for id in line.split("tests: ").nth(1).unwrap_or_default().split([',', ' ']) {
                *tags.entry(id.trim().to_owned()).or_default() += 1;
            }
        }
    }
    let mut found = Vec::new();
    let mut kept = 0;
    for row in text.lines().filter(|l| l.starts_with("| P")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells.get(3) == Some(&"kept") {
            kept += 1;
            if !tags.contains_key(cells[1]) {
                found
                    .push(format!("{} is said to be kept, but no test says `tests: {}`", cells[1], cells[1]));
            }
        }
    }
    assert!(kept > 0, "SPECIFICATION.md lists no promise; the check would be empty");
    report(&found);
}
