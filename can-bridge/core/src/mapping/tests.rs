//! Overlays against a small DBC.

use alloc::format;
use alloc::string::{String, ToString as _};

use super::*;
use crate::dbc::compile;

const DBC: &str = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n\
BO_ 5 Motion: 8 A\n SG_ Speed : 0|16@1+ (0.01,0) [0|655] \"km/h\" A\n SG_ Gear : 16|4@1- (1,0) [0|0] \"\" A\n\n\
BO_ 6 Other: 8 A\n SG_ Gear : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ Page M : 8|8@1+ (1,0) [0|0] \"\" A\n SG_ P0 m0 : 16|8@1+ (1,0) [0|0] \"\" A\n SG_ P1 m1 : 16|8@1+ (1,0) [0|0] \"\" A\n\n\
BA_DEF_ BO_ \"GenMsgCycleTime\" INT 0 65535;\nBA_DEF_DEF_ \"GenMsgCycleTime\" 0;\nBA_ \"GenMsgCycleTime\" BO_ 6 100;\n\
VAL_ 5 Gear -1 \"R\" 0 \"N\" 1 \"D\" ;\n";

fn plan() -> DecodePlan {
    compile("t.dbc", DBC.as_bytes()).unwrap()
}

/// One leaf from the JSON of its `dbc2vss`.
fn leaf(datatype: &str, source: &str) -> Result<Leaf, String> {
    let json = format!(r#"{{"Vehicle.X": {{"type": "sensor"{datatype}, "dbc2vss": {source}}}}}"#);
    let overlay: OverlayClaim = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let mapping = Mapping::new(&overlay, &plan()).map_err(|e| e.to_string())?;
    Ok(mapping.leaves()[0].clone())
}

#[test]
#[rustfmt::skip]
fn refusal_table() {
    //     source                                                                       refused for
    check(r#"{"signal": "Speed"}"#,                                                     "accepted");
    check(r#"{"signal": "speed"}"#,                                                     "Vehicle.X: no message of the DBC has a signal speed");
    check(r#"{"signal": "Gear"}"#,                                                      "Vehicle.X: signal Gear is in Motion and in Other");
    check(r#"{"signal": "Gear", "message": "Motion"}"#,                                 "accepted");
    check(r#"{"signal": "Gear", "message": "No"}"#,                                     "Vehicle.X: no message of the DBC has a signal Gear");
    check(r#"{"signal": "Speed", "transform": {"math": "y"}}"#,                         "Vehicle.X: expression \"y\", character 1: unknown name");
    check(r#"{"signal": "Speed", "transform": {}}"#,                                    "Vehicle.X: a transform is either math or mapping");
    check(r#"{"signal": "Speed", "transform": {"math": "x", "mapping": []}}"#,          "Vehicle.X: a transform is either");
    check(r#"{"signal": "Speed", "multiplexer": [{"signal": "Page", "value": 1}]}"#,    "Vehicle.X: multiplexer signal Page is not in the same message");
    check(r#"{"signal": "P0", "multiplexer": [{"signal": "Page", "value": 0}]}"#,       "accepted");
    check(r#"{"signal": "Speed", "intervall_ms": 1}"#,                                  "unknown field `intervall_ms`");
}

#[track_caller]
fn check(source: &str, expected: &str) {
    let got = leaf("", source).map_or_else(|why| why, |_| "accepted".to_string());
    assert!(got.starts_with(expected), "{source}\n     got {got}\nexpected {expected}");
}

#[test]
#[rustfmt::skip]
fn pace_table() {
    //    source                                                             interval  on change  cycle
    pace(r#"{"signal": "Speed"}"#,                                           1000,     false,     Some(1000));
    pace(r#"{"signal": "Speed", "on_change": true}"#,                        0,        true,      None);
    pace(r#"{"signal": "Speed", "on_change": false}"#,                       1000,     false,     Some(1000));
    pace(r#"{"signal": "Speed", "interval_ms": 20}"#,                        20,       false,     Some(1000));
    pace(r#"{"signal": "Speed", "interval_ms": 5000, "on_change": true}"#,   5000,     true,      None);
    pace(r#"{"signal": "Page", "interval_ms": 0}"#,                          0,        false,     Some(100));
    pace(r#"{"signal": "P1", "on_change": true}"#,                           0,        true,      Some(200));
}

#[track_caller]
fn pace(source: &str, interval: u64, on_change: bool, cycle: Option<u64>) {
    let leaf = leaf("", source).unwrap();
    let got = (leaf.interval, leaf.on_change, leaf.cycle);
    let ms = Duration::from_millis;
    assert_eq!(got, (ms(interval), on_change, cycle.map(ms)), "{source}");
}

#[test]
#[rustfmt::skip]
fn value_table() {
    let (speed, gear) = (r#""signal": "Speed""#, r#""signal": "Gear", "message": "Motion""#);
    let table = r#""transform": {"mapping": [{"from": "R", "to": "REVERSE"}, {"from": 1, "to": true}]}"#;
    //    datatype                      source                                            x    label      value
    value("",                           &format!("{{{speed}}}"),                          5.0, None,      "Number(5.0)");
    value(r#", "datatype": "float""#,   &format!("{{{gear}}}"),                           1.0, Some("D"), "Number(1.0)");
    value("",                           &format!("{{{gear}}}"),                           1.0, Some("D"), "Text(\"D\")");
    value(r#", "datatype": "string""#,  &format!("{{{gear}}}"),                           1.0, Some("D"), "Text(\"D\")");
    value(r#", "datatype": "string""#,  &format!("{{{gear}}}"),                           7.0, None,      "Text(\"7\")");
    value(r#", "datatype": "boolean""#, &format!("{{{gear}}}"),                           1.0, Some("D"), "Bool(true)");
    value(r#", "datatype": "float""#,   &format!(r#"{{{speed}, "transform": {{"math": "x*2"}}}}"#), 5.0, None, "Number(10.0)");
    value(r#", "datatype": "float""#,   &format!(r#"{{{speed}, "transform": {{"math": "1/x"}}}}"#), 0.0, None, "dropped");
    value("",                           &format!("{{{gear}, {table}}}"),                  -1.0, Some("R"), "Text(\"REVERSE\")");
    value("",                           &format!("{{{gear}, {table}}}"),                  1.0, Some("D"), "Bool(true)");
    value("",                           &format!("{{{gear}, {table}}}"),                  0.0, Some("N"), "dropped");
    value(r#", "datatype": "boolean""#, &format!("{{{gear}, {table}}}"),                  -1.0, Some("R"), "dropped");
    value(r#", "datatype": "uint8""#,   &format!("{{{gear}, {table}}}"),                  1.0, Some("D"), "Number(1.0)");
}

#[track_caller]
fn value(datatype: &str, source: &str, x: f64, label: Option<&str>, expected: &str) {
    let got = leaf(datatype, source).unwrap().value(x, label);
    assert_eq!(got.map_or("dropped".into(), |v| format!("{v:?}")), expected, "{datatype} {source} {x}");
}

#[test]
fn trees_and_flat_paths_are_both_read() {
    let tree = r#"{"Vehicle": {"type": "branch", "children": {
        "Speed": {"datatype": "float", "unit": "m/s", "dbc": {"signal": "Speed"}},
        "Name": {"datatype": "string"},
        "Bad Name": {"dbc2vss": {"signal": "Speed"}}}}}"#;
    let mut overlay: OverlayClaim = serde_json::from_str(tree).unwrap();
    let errors = Mapping::new(&overlay, &plan()).unwrap_err();
    assert_eq!(errors.to_string(), "Vehicle.Bad Name: not a VSS path");
    overlay.0.get_mut("Vehicle").unwrap().children.remove("Bad Name");
    let mapping = Mapping::new(&overlay, &plan()).unwrap();
    assert_eq!(mapping.leaves().len(), 1);
    assert_eq!((mapping.leaves()[0].path.as_str(), &*mapping.leaves()[0].unit), ("Vehicle.Speed", "m/s"));
    let flat = serde_json::from_str(r#"{"dbc2vss": {"signal": "Speed"}}"#).unwrap();
    overlay.0.insert("Vehicle.Speed".into(), flat);
    assert_eq!(Mapping::new(&overlay, &plan()).unwrap_err().flaws[0].flaw, LeafFlaw::Twice);
}

#[test]
fn a_dbc_without_an_overlay_is_mapped_into_the_private_branch() {
    let mapping = Mapping::new(&OverlayClaim::private(&plan()), &plan()).unwrap();
    let paths: Vec<_> =
        mapping.leaves().iter().map(|leaf| (leaf.path.as_str(), leaf.unit.as_str())).collect();
    let expected = [
        ("Vehicle.Private.Motion.Gear", ""),
        ("Vehicle.Private.Motion.Speed", "km/h"),
        ("Vehicle.Private.Other.Gear", ""),
        ("Vehicle.Private.Other.P0", ""),
        ("Vehicle.Private.Other.P1", ""),
        ("Vehicle.Private.Other.Page", ""),
    ];
    assert_eq!(paths, expected);
    assert_eq!(mapping.leaves()[0].value(1.0, Some("D")), Some(Value::Text("D".into())));
    let long = "S".repeat(190);
    let twins = format!(
        "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\nBO_ 5 M: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n\n\
         BO_ 6 M: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n\n\
         BO_ 7 N: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ {long} : 8|8@1+ (1,0) [0|0] \"\" A\n"
    );
    let plan = compile("t.dbc", twins.as_bytes()).unwrap();
    let overlay = OverlayClaim::private(&plan);
    assert_eq!(overlay.0.keys().collect::<Vec<_>>(), ["Vehicle.Private.N.S"]);
    assert!(Mapping::new(&overlay, &plan).is_ok());
}
