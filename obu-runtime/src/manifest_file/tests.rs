use super::*;
use proptest::prelude::*;

const GOOD: &str = "\
apiVersion: verge/v1
apps:
  speedometer:
    kind: process
    bundle: ./
    base: python
    command: [/usr/bin/python3, /app/main.py]
    class: driving
    resources: {cpu: 300m, memory: 96Mi, pids: 32}
    restart: ON_FAILURE
    grants:
      signals: [Vehicle.Speed, Vehicle.CurrentLocation.*]
      cameras:
        - {id: front, fps: 5}
      tasks: [lane]
    env:
      LEVEL: 2
  critical-timer:
    bundle: sha256:0000000000000000000000000000000000000000000000000000000000000000
    command:
      - /app/heartbeat
    class: critical
functions:
  lane:
    bundle: lane.wasm
    service_time: 20ms
    memory: 32Mi
";

/// Resolves three names, and says for any other which key is wrong.
fn resolve(file: ManifestFile) -> Result<Manifest, FileError> {
    let known = |name: &str| {
        ["./", "python", "lane.wasm"].contains(&name).then(|| Digest::of(name.as_bytes())).ok_or_else(|| {
            FileError::whole(Path::new("app.yaml"), WHAT, format!("{name:?} is not beside the manifest"))
        })
    };
    file.resolve(known, known)
}

fn parse(text: &str, path: &Path) -> Result<ManifestFile, FileError> {
    load(text.to_owned(), path)
}

fn read(text: &str) -> Result<Manifest, FileError> {
    resolve(parse(text, Path::new("app.yaml"))?)
}

#[test]
fn the_example_in_the_manual_is_a_manifest_with_every_key() {
    let manual = include_str!("../../../docs/MANIFEST.md");
    let example = manual.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = parse(example, Path::new("MANIFEST.md")).unwrap();
    let keys = |claim: serde_json::Value| -> Vec<String> {
        let keys = claim.as_object().unwrap().keys().filter(|key| *key != "kind");
        keys.map(|key| format!("    {key}:")).collect()
    };
    let app = serde_json::to_value(file.claim.apps.values().next().unwrap()).unwrap();
    let function = serde_json::to_value(file.claim.functions.values().next().unwrap()).unwrap();
    file.check_alone().unwrap();
    for key in keys(app).into_iter().chain(keys(function)) {
        assert!(example.contains(&key), "docs/MANIFEST.md does not name {key}");
    }
}

#[test]
fn a_good_manifest_is_read_and_resolved() {
    let manifest = read(GOOD).unwrap();
    let app = manifest.apps.iter().find(|app| app.name.as_str() == "speedometer").unwrap();
    assert_eq!(app.base, Some(Digest::of(b"python")));
    assert_eq!(app.env, ["LEVEL=2"]);
    let half = read(&GOOD.replace("300m", "0.5")).unwrap();
    assert!(half.apps.iter().any(|app| app.resources.cpu.get() == 500));
    assert_eq!(manifest.functions[0].bundle, Digest::of(b"lane.wasm"));
}

/// One mistake per row: what is replaced, by what, where it is found, what the reason and the help name.
#[test]
#[rustfmt::skip]
fn mistake_table() {
    check("apiVersion: verge/v1\n", "",         "1:",   "`apiVersion` is missing",   "apiVersion: verge/v1");
    check("verge/v1",     "verge/v7",           "1:1",  "this release reads \"verge/v1\"", "write apiVersion: verge/v1");
    check("apps:",        "app:",               "2:1",  "unknown key `app`",         "did you mean `apps`?");
    check("    class: driving", "    clas: driving", "8:5", "unknown key `clas`",    "did you mean `class`?");
    check("driving",      "drivng",             "8:12", "unknown value `drivng`",    "did you mean `driving`?");
    check("ON_FAILURE",   "on_failure",         "10:14", "unknown value `on_failure`", "did you mean `ON_FAILURE`?");
    check("process",      "procss",             "4:11", "unknown value `procss`",    "process");
    check("300m",         "300x",               "9:",   "\"300x\" is not a CPU share", "write 300m");
    check("96Mi",         "96Mb",               "9:",   "\"96Mb\" is not an amount", "write 96Mi");
    check("96Mi",         "[96]",               "9:36", "this is not a quantity",    "write a text such as 300m");
    check("20ms",         "20",                 "26:",  "\"20\" is not a duration",  "write 20ms");
    check("pids: 32",     "pids: many",         "9:48", "this is not a whole number", "");
    check("pids: 32",     "pid: 32",            "9:",   "unknown key `pid`",         "did you mean `pids`?");
    check("pids: 32",     "pids: 0",            "9:42", "is not between 1 and 32768", "");
    check("300m",         "1m",                 "9:17", "below 10m",                 "");
    check("- {id: front, fps: 5}", "- {id: front, fsp: 5}", "14:", "unknown key `fsp`", "did you mean `fps`?");
    check("- {id: front, fps: 5}", "- {id: front}", "14:", "`fps` is missing",       "write fps: 10");
    check("      tasks: [lane]", "      task: [lane]", "15:7", "unknown key `task`", "did you mean `tasks`?");
    check("Vehicle.Speed,", "'**',",            "12:",  "is not a VSS path",         "");
    check("    class: critical", "    class: critical\n    class: critical", "23:5", "the key `class` stands here twice", "");
    check("    class: critical", "   class: critical", "22:", "",                    "in one column");
    check("    class: critical", "    class:critical", "22:5", "",                   "a space after the colon");
    check("bundle: ./\n", "bundle:\n",          "5:",   "there is no value here",    "behind the colon");
    check("signals: [Vehicle.Speed,", "signals: [*,", "12:", "",                     "in quotes");
    check("main.py]",     "main.py",            "8:",   "",                          "close the bracket");
    check("    class: critical", "\tclass: critical", "22:1", "",                    "indent with spaces");
    check("    class: critical", "    class: critical\n      deep: 1", "2", "",      "");
    check("bundle: ./\n", "bundle: ./gone\n",   " ", "\"./gone\" is not beside the manifest", "");
    check("base: python", "base: pyhton",       " ", "\"pyhton\" is not beside",  "");
    check("lane.wasm",    "lane.wsm",           " ", "\"lane.wsm\" is not beside", "");
    check("/usr/bin/python3", "python3",        "7:5",  "not an absolute path",      "write one below /app");
    check("      - /app/heartbeat", "      []", "20:5", "has no program",            "write [/app/program");
    check("speedometer:", "Speedo.meter:",      "3:3",  "Speedo.meter",              "");
    check("LEVEL: 2",     "LEV-EL: 2",          "16:5", "is not a variable name",    "");
    check("    env:\n      LEVEL: 2", "    env:", "16:8", "this is not a map",       "write `key: value`");
    check("apps:",        "---\napps:",         "2:1",  "a second document begins here", "write one manifest per file");
}

#[track_caller]
fn check(old: &str, new: &str, place: &str, why: &str, help: &str) {
    assert!(GOOD.contains(old), "{old}");
    let error = read(&GOOD.replacen(old, new, 1)).expect_err(new);
    let text = error.to_string();
    assert!(text.starts_with(&format!("app.yaml:{place}")), "{new}: {text}, not at {place}");
    assert!(text.contains(why) && !error.why.contains('\n'), "{new}: {text}");
    assert!(error.fix().unwrap_or_default().contains(help), "{new}: {text}: {:?}", error.fix());
}

/// Files that are no manifest, or would cost more than a manifest may.
#[test]
fn foreign_files_are_refused_and_bounded() {
    let bomb = {
        let mut text = String::from("apiVersion: verge/v1\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 9].join(", ");
            text += &format!("a{i}: &a{i} [{list}]\n");
        }
        text.replace("a0: &a0", "apps: &a0")
    };
    for text in [
        "",
        "\n\n# nothing\n",
        "just words",
        "[]",
        "---",
        "\u{0}\u{1}\u{2}",
        "apps: {{{{",
        "%YAML 9.9\n---\napiVersion: verge/v1",
        "apiVersion: verge/v1\n---\napiVersion: verge/v1",
        &"[".repeat(100_000),
        &format!("apiVersion: verge/v1\napps: {}1", "{a: ".repeat(10_000)),
        &"- ".repeat(200_000),
        &"a: &a b\n".repeat(1000),
        &bomb,
        &format!("apiVersion: verge/v1\nx: {}", "y".repeat(10 << 20)),
    ] {
        let shown: String = text.chars().take(40).collect();
        let error = parse(text, Path::new("app.yaml")).expect_err(&shown);
        assert!(!error.why.is_empty() && error.why.len() < 1000, "{shown}: {}", error.why);
    }
}

#[test]
fn files_are_bounded_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.yaml");
    assert!(load_file(&path).is_err());
    for bytes in [vec![b' '; 10 << 20], vec![0xfe; 100]] {
        std::fs::write(&path, bytes).unwrap();
        let error = load_file(&path).unwrap_err();
        assert_eq!(error.line, 0, "{error}");
    }
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(load_file(&path).unwrap().check_alone().unwrap().apps.len(), 2);
}

#[test]
fn an_error_points_at_the_deepest_key_there_is() {
    let file = parse(GOOD, Path::new("app.yaml")).unwrap();
    for (key, place) in [
        (&["apps", "critical-timer", "command"][..], (20, 5)),
        (&["apps", "speedometer", "grants", "tasks"], (15, 7)),
        (&["functions", "lane", "no-such"], (24, 3)),
        (&["nowhere"], (1, 1)),
    ] {
        let error = file.error_at(key, "wrong");
        assert_eq!((error.line, error.column), place, "{key:?}");
    }
}

#[test]
fn anchors_in_reason_are_fine() {
    let text = "\
apiVersion: verge/v1
apps:
  a: &app {bundle: ./, command: [/app/a]}
  b: *app
";
    assert_eq!(read(text).unwrap().apps.len(), 2);
}

#[test]
fn the_examples_of_the_project_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/apps");
    let mut seen = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path().join("app.yaml");
        if path.exists() {
            resolve(load_file(&path).unwrap()).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 0);
}

proptest! {
    #[test]
    fn a_damaged_manifest_is_an_error_or_a_manifest(place: prop::sample::Index, put in "\\PC{0,3}") {
        let mut text = GOOD.to_owned();
        let at = place.index(text.len());
        text.replace_range(at..at + 1, &put);
        let _ = read(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn any_text_is_refused_not_fatal(text in "\\PC{0,200}") {
        prop_assert!(parse(&text, Path::new("app.yaml")).is_err());
    }
}
