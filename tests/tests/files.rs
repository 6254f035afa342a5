//! What is wrong in a file is said with line, column and what was meant.

use std::process::Command;

use serde_json::Value as Json;
use tests::needs;
use tests::road::{Programs, programs};

/// File name, what the right text has, what stands there instead, line, column, words of the message, words of the
/// suggestion.
type Typo = (&'static str, &'static str, &'static str, u32, u32, &'static str, &'static str);

#[rustfmt::skip]
const TYPOS: &[Typo] = &[
    ("app.yaml", "bundle:", "bundel:", 4, 5, "bundel", "did you mean `bundle`"),
    ("app.yaml", "resources:", "resource:", 6, 5, "resource", "did you mean `resources`"),
    ("app.yaml", "memory:", "memry:", 6, 28, "memry", "did you mean `memory`"),
    ("app.yaml", "cpu: 300m", "cpu: 300q", 6, 22, "300q", "write 300m"),
    ("app.yaml", "96Mi", "96Mb", 6, 36, "96Mb", "write 96Mi"),
    ("app.yaml", "ON_FAILURE", "ON_FAILUR", 8, 14, "ON_FAILUR", "did you mean `ON_FAILURE`"),
    ("app.yaml", "driving", "drivng", 7, 12, "drivng", "did you mean `driving`"),
    ("app.yaml", "signals:", "signal:", 9, 14, "signal", "did you mean `signals`"),
    ("app.yaml", "verge/v1", "verge/v2", 1, 1, "\"verge/v2\"; this release reads \"verge/v1\"", "write apiVersion: verge/v1"),
    ("app.yaml", "[/app/x]", "[app/x]", 5, 5, "app/x", "below /app"),
    ("node.toml", "verge/v1", "verge/v2", 1, 1, "\"verge/v2\"; this release reads \"verge/v1\"", "write apiVersion = \"verge/v1\""),
    ("node.toml", "run_dir", "rundir", 6, 1, "rundir", "did you mean `run_dir`"),
    ("node.toml", "trusted_keys", "trusted_key", 10, 1, "trusted_key", "did you mean `trusted_keys`"),
    ("node.toml", "\"refuse\"", "\"refuze\"", 11, 17, "refuze", "did you mean `refuse`"),
    ("node.toml", "uid_base = 200000", "uid_base = 20", 12, 1, "uids below 1000", "such as 200000"),
    ("node.toml", "uid_count = 65536", "uid_count = 65", 13, 1, "at least 512", "such as 65536"),
    ("node.toml", "\"verge\"", "\"../verge\"", 14, 1, "`..`", "without `..`"),
    ("node.toml", "\"0660\"", "\"0880\"", 17, 1, "\"0880\", which is no octal mode", "write mode = \"0660\""),
    ("node.toml", "role = \"obu\"", "role = \"obo\"", 5, 8, "obo", "did you mean `obu`"),
    ("node.toml", "239.74.163.2", "10.74.163.2", 19, 1, "10.74.163.2 is not a multicast address", "write 224.0.0.0"),
    ("node.toml", "43113", "143113", 23, 8, "143113 is not a port", "write 1 to 65535"),
];

const APP: &str = "apiVersion: verge/v1
apps:
  x:
    bundle: ./
    command: [/app/x]
    resources: {cpu: 300m, memory: 96Mi}
    class: driving
    restart: ON_FAILURE
    grants: {signals: [Vehicle.Speed]}
";

const NODE: &str = "apiVersion = \"verge/v1\"
[node]
id = \"a1\"
car = \"car-a\"
role = \"obu\"
run_dir = \"run\"
state_dir = \"state\"

[host]
trusted_keys = []
unenforceable = \"refuse\"
uid_base = 200000
uid_count = 65536
cgroup = \"verge\"

[control]
mode = \"0660\"

[[bus]]
name = \"can0\"
kind = \"multicast\"
group = \"239.74.163.2\"
port = 43113
";

fn right(file: &str) -> &'static str {
    if file.ends_with("yaml") { APP } else { NODE }
}

fn validate(dir: &std::path::Path, file: &str, json: bool) -> (i32, String, String) {
    let mut command = Command::new(Programs::find().program("verge"));
    command.arg("validate").arg(file).args(json.then_some(["-o", "json"]).into_iter().flatten());
    let output = command.current_dir(dir).output().expect("verge");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The words without the frame and the line breaks of a diagnostic for people.
fn flat(text: &str) -> String {
    text.replace(['│', '×'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

// tests: P4-01
#[test]
fn what_is_right_is_found_right() {
    needs!("what_is_right_is_found_right", programs());
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["app.yaml", "node.toml"] {
        std::fs::write(dir.path().join(file), right(file)).expect("a file");
        let (code, out, err) = validate(dir.path(), file, false);
        assert_eq!((code, out.trim()), (0, format!("{file}: ok").as_str()), "{err}");
        let (code, out, _) = validate(dir.path(), file, true);
        let json: Json = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, &json["ok"]), (0, &Json::Bool(true)));
    }
}

// tests: P4-01
#[test]
fn typos_are_named_with_place_and_suggestion() {
    needs!("typos_are_named_with_place_and_suggestion", programs());
    let dir = tempfile::tempdir().expect("a directory");
    let mut wrong = Vec::new();
    for (file, good, bad, line, column, words, fix) in TYPOS {
        assert!(right(file).contains(good), "{good} is not in the right {file}");
        std::fs::write(dir.path().join(file), right(file).replacen(good, bad, 1)).expect("a file");
        let (code, _, err) = validate(dir.path(), file, false);
        let text = flat(&err);
        let place = format!("{file}:{line}:{column}");
        let expected = [words, fix, place.as_str()];
        let lacks = expected.iter().filter(|words| !text.contains(**words));
        let mut missing: Vec<String> = lacks.map(|words| format!("{words:?}")).collect();
        let (json_code, out, _) = validate(dir.path(), file, true);
        let json: Json = serde_json::from_str(&out).unwrap_or_default();
        if json["ok"] != Json::Bool(false) || json["line"] != *line || json["column"] != *column {
            missing.push(format!("-o json says {json}"));
        }
        if !json["fix"].as_str().is_some_and(|said| said.contains(fix)) {
            missing.push(format!("a fix {fix:?} in {json}"));
        }
        if (code, json_code) != (1, 1) {
            missing.push(format!("exit codes are {code} and {json_code}"));
        }
        if !missing.is_empty() {
            wrong.push(format!("{good} -> {bad}: missing {}\n    in {text}", missing.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), TYPOS.len(), wrong.join("\n"));
}
