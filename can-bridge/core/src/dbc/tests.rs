//! What a DBC may say and what becomes of it: tables of texts, and properties over damaged ones.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::frame::{CanFrame, CanId};

const HEAD: &str = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: A\n\n";

/// A file with these lines after a head of eight lines.
fn file(lines: &str) -> String {
    format!("{HEAD}{lines}\n")
}

#[test]
#[rustfmt::skip]
fn refusal_table() {
    let signal = |s: &str| format!("BO_ 5 M: 8 A\n SG_ {s} \"\" A\n");
    //     situation                  text                                        refused for
    check("29 bits without flag",     "BO_ 103596083 M: 8 A\n",                   "t.dbc:9: message id 103596083 needs 29 bits");
    check("12 bits without flag",     "BO_ 2048 M: 8 A\n",                        "t.dbc:9: message id 2048 needs 29 bits");
    check("all bits",                 "BO_ 4294967295 M: 8 A\n",                  "t.dbc:9: message id 4294967295 is not");
    check("beyond 32 bits",           "BO_ 99999999999999999999 M: 8 A\n",        "t.dbc:9: message id 99999999999999999999 is not");
    check("no message",               "",                                         "t.dbc:0: file describes no message");
    check("syntax",                   "BO_ 5 M 8 A\n",                            "t.dbc:9: syntax");
    check("duplicate id",             "BO_ 5 M: 8 A\nBO_ 5 N: 8 A\n",             "t.dbc:10: message N repeats the id of the message in line 9");
    check("zero bits",                &signal("S : 0|0@1+ (1,0) [0|0]"),          "t.dbc:10: signal M.S: 0 bits");
    check("300 bits",                 &signal("S : 0|300@1+ (1,0) [0|0]"),        "t.dbc:10: signal M.S: 300 bits");
    check("beyond the end",           &signal("S : 60|16@1+ (1,0) [0|0]"),        "t.dbc:10: signal M.S: bits reach byte 9");
    check("Motorola beyond the end",  &signal("S : 56|9@0+ (1,0) [0|0]"),         "t.dbc:10: signal M.S: bits reach byte 8");
    check("factor 0",                 &signal("S : 0|8@1+ (0,0) [0|0]"),          "t.dbc:10: signal M.S: factor 0");
    check("factor beyond numbers",    &signal("S : 0|8@1+ (1e999,0) [0|0]"),      "t.dbc:10: signal M.S: factor inf");
    check("offset beyond numbers",    &signal("S : 0|8@1+ (1,-1e999) [0|0]"),     "t.dbc:10: signal M.S: offset -inf");
    check("two signals, one name",    "BO_ 5 M: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ S : 8|8@1+ (1,0) [0|0] \"\" A\n", "t.dbc:11: message M has two signals named S");
    check("float of 16 bits",         &format!("{}\nSIG_VALTYPE_ 5 S : 1;\n", signal("S : 0|16@1- (1,0) [0|0]")), "t.dbc:10: signal M.S: a float of 16 bits");
    check("page without multiplexor", &signal("S m0 : 0|8@1+ (1,0) [0|0]"),       "t.dbc:9: message M: multiplexed signals need");
    check("circle of multiplexors",   "BO_ 5 M: 8 A\n SG_ P m0M : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ Q m0M : 8|8@1+ (1,0) [0|0] \"\" A\n\nSG_MUL_VAL_ 5 P Q 0-0;\nSG_MUL_VAL_ 5 Q P 0-0;\n", "t.dbc:9: message M: multiplexors switch each other");
    check("a good one",               &signal("S : 7|8@0+ (1,0) [0|0]"),          "accepted");
    check("id in a comment",          "BO_ 5 M: 8 A\n\nCM_ \"two\nBO_ 103596083 X: 8 A\n\";\n", "accepted");
    check("unused signals",           "BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 Vector__XXX\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n\nBO_ 5 M: 8 A\n", "accepted");
}

#[track_caller]
fn check(situation: &str, lines: &str, expected: &str) {
    let got = match compile("t.dbc", file(lines).as_bytes()) {
        Ok(_) => "accepted".to_string(),
        Err(errors) => errors.to_string(),
    };
    assert!(got.starts_with(expected), "{situation}\n     got {got}\nexpected {expected}");
}

#[test]
fn every_problem_is_listed_not_just_the_first() {
    let text = file("BO_ 4096 M: 8 A\n\nBO_ 4097 N: 8 A\n");
    let errors = compile("t.dbc", text.as_bytes()).unwrap_err();
    assert_eq!(errors.problems.len(), 2);
    assert_eq!(errors.fix().as_deref(), Some("write the id as 2147487744 (bit 31 set)"));
}

#[test]
fn byte_order_mark_and_latin_1_are_read() {
    let text = file("BO_ 5 M: 8 A\n SG_ T : 0|8@1+ (1,0) [0|0] \"\u{b0}C\" A\n");
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    for bytes in [marked, latin] {
        let plan = compile("t.dbc", &bytes).unwrap();
        assert_eq!(plan.messages()[0].signals[0].unit, "\u{b0}C");
    }
}

const RICH: &str = "BO_ 5 Plain: 8 A\n SG_ Intel : 4|12@1- (0.5,10) [-50|50] \"m\" A\n SG_ Motorola : 23|16@0+ (1,0) [0|0] \"\" A\n SG_ Real : 32|32@1- (2,1) [0|0] \"\" A\n\n\
BO_ 2147483653 Paged: 8 A\n SG_ Page M : 0|4@1+ (1,0) [0|0] \"\" A\n SG_ A0 m0 : 8|8@1+ (1,0) [0|0] \"\" A\n SG_ A1 m1 : 8|16@1+ (1,0) [0|0] \"\" A\n SG_ Always : 4|4@1+ (1,0) [0|0] \"\" A\n\n\
BO_ 6 Nested: 4 A\n SG_ Top M : 0|8@1+ (1,0) [0|0] \"\" A\n SG_ Sub m1M : 8|8@1+ (1,0) [0|0] \"\" A\n SG_ Leaf m2 : 16|8@1+ (1,0) [0|0] \"\" A\n SG_ Side m3 : 24|8@1+ (1,0) [0|0] \"\" A\n\n\
BO_ 7 Long: 64 A\n SG_ First : 0|64@1+ (1,0) [0|0] \"\" A\n SG_ Last : 500|12@1+ (1,0) [0|0] \"\" A\n SG_ Straddling : 67|64@1- (1,0) [0|0] \"\" A\n\n\
BA_DEF_ BO_ \"GenMsgCycleTime\" INT 0 65535;\nBA_DEF_DEF_ \"GenMsgCycleTime\" 100;\nBA_ \"GenMsgCycleTime\" BO_ 5 20;\nBA_ \"GenMsgCycleTime\" BO_ 6 0;\n\
VAL_ 5 Intel -1 \"minus\" 3 \"three\" ;\nVAL_ 9 Nobody 1 \"x\" ;\nSIG_VALTYPE_ 5 Real : 1;\n\
SG_MUL_VAL_ 6 Sub Top 1-1, 5-7;\nSG_MUL_VAL_ 6 Leaf Sub 2-2;\nSG_MUL_VAL_ 6 Side Top 3-3;\n";

fn decoded(plan: &DecodePlan, id: u32, extended: bool, data: &[u8]) -> String {
    let frame = CanFrame::data_frame(CanId::new(id, extended).unwrap(), data).unwrap();
    let mut values = Vec::new();
    let index = plan.decode(&frame, |d| values.push(d));
    let Some(message) = index.and_then(|index| plan.message(index)) else { return "unknown".into() };
    let one = |d: &Decoded| format!("{}={}", message.signals[d.signal.0 as usize].name, d.value);
    values.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
#[rustfmt::skip]
fn decode_table() {
    let plan = compile("t.dbc", file(RICH).as_bytes()).unwrap();
    let check = |id, extended, data: &[u8], expected: &str| {
        assert_eq!(decoded(&plan, id, extended, data), expected, "{id:#x} {data:02X?}");
    };
    //    id   29 bit  data                              signals
    check(5,   false, &[0xF0, 0xFF, 1, 2, 0, 0, 0x40, 0x40], "Intel=9.5 Motorola=258 Real=7");
    check(5,   false, &[0xF0, 0xFF, 1],                  "Intel=9.5");
    check(5,   false, &[],                               "");
    check(5,   true,  &[0x50, 7, 0, 0, 0, 0, 0, 0],      "Page=0 Always=5 A0=7");
    check(5,   true,  &[0x01, 7, 1, 0, 0, 0, 0, 0],      "Page=1 Always=0 A1=263");
    check(5,   true,  &[0x02, 7, 1, 0, 0, 0, 0, 0],      "Page=2 Always=0");
    check(6,   false, &[1, 2, 9, 9],                     "Top=1 Sub=2 Leaf=9");
    check(6,   false, &[6, 2, 9, 9],                     "Top=6 Sub=2 Leaf=9");
    check(6,   false, &[6, 3, 9, 9],                     "Top=6 Sub=3");
    check(6,   false, &[3, 2, 9, 9],                     "Top=3 Side=9");
    check(6,   false, &[3, 2, 9],                        "Top=3");
    check(8,   false, &[],                               "unknown");
    check(6,   true,  &[],                               "unknown");
    let mut long = [0; 64];
    long[0] = 1; long[8] = 8; long[62] = 0xF0; long[63] = 0xFF; long[16] = 4;
    check(7,   false, &long, "First=1 Last=4095 Straddling=-9223372036854776000");
}

#[test]
fn what_stands_outside_the_blocks_is_attached() {
    let plan = compile("t.dbc", file(RICH).as_bytes()).unwrap();
    let (_, plain) = plan.message_named("Plain").unwrap();
    let (_, intel) = plain.signal("Intel").unwrap();
    assert_eq!((intel.label(0xFFF), intel.label(3), intel.label(4)), (Some("minus"), Some("three"), None));
    assert!(intel.in_range(50.0) && !intel.in_range(50.5));
    let cycle = |name| plan.message_named(name).unwrap().1.cycle.map(|c| c.as_millis());
    assert_eq!((cycle("Plain"), cycle("Paged"), cycle("Nested")), (Some(20), Some(100), None));
    assert_eq!(plan.notes().0[0].text, "VAL_ 9 Nobody: no such signal; ignored");
    assert_eq!(plan.message_named("Paged").unwrap().1.pages, 2);
}

#[test]
fn encoding_checks_ranges_and_keeps_other_bits() {
    let plan = compile("t.dbc", file(RICH).as_bytes()).unwrap();
    let (_, plain) = plan.message_named("Plain").unwrap();
    let (intel, _) = plain.signal("Intel").unwrap();
    let frame = plain.encode(&[0xFF; 8], &[(intel, 9.5)]).unwrap();
    assert_eq!(frame.data(), [0xFF; 8], "-1 is all ones, and so was the rest");
    for wrong in [2000.0, -2000.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(plain.encode(&[], &[(intel, wrong)]), Err(EncodeError::Range { .. })), "{wrong}");
    }
    assert!(matches!(plain.encode_named(&[("Nobody", 0.0)]), Err(EncodeError::Signal { .. })));
}

#[test]
fn many_extended_ids_are_all_found_and_no_other() {
    let line = |n: u32| {
        format!("BO_ {} M{n}: 8 A\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" A\n", (n * 0x1_0000) | (1 << 31))
    };
    let plan = compile("t.dbc", file(&(0..3000).map(line).collect::<String>()).as_bytes()).unwrap();
    for n in 0..3000u32 {
        let id = CanId::new(n * 0x1_0000, true).unwrap();
        assert_eq!(plan.find(id).map(|(_, m)| m.name.clone()), Some(format!("M{n}")));
        assert!(plan.find(CanId::new(n * 0x1_0000 + 1, true).unwrap()).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_are_refused_or_used_never_fatal(at in 0usize..3000, cut: bool, byte: u8) {
        let mut bytes = file(RICH).into_bytes();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(plan) = compile("t.dbc", &bytes) {
            decoded(&plan, 5, false, &[0xA5; 8]);
            decoded(&plan, 6, false, &[1; 8]);
        }
    }

    #[test]
    fn what_is_encoded_decodes(intel in -1024i32..1024, motorola: u16, real: f32) {
        prop_assume!(real.is_finite());
        let plan = compile("t.dbc", file(RICH).as_bytes()).unwrap();
        let (_, plain) = plan.message_named("Plain").unwrap();
        let values = [("Intel", f64::from(intel) * 0.5 + 10.0), ("Motorola", f64::from(motorola))];
        let frame = plain.encode_named(&values).unwrap();
        let mut got = Vec::new();
        plan.decode(&frame, |d| got.push(d.value));
        prop_assert_eq!(&got[..2], &[values[0].1, values[1].1]);
        let wide = f64::from(real) * 2.0 + 1.0;
        let frame = plain.encode_named(&[("Real", wide)]).unwrap();
        let mut got = Vec::new();
        plan.decode(&frame, |d| got.push(d.value));
        prop_assert!((got[2] - wide).abs() <= wide.abs() * 1e-6 + 1e-30);
    }
}
