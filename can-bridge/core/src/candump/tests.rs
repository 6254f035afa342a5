//! Lines good and bad, and the two properties: nothing panics, what is written reads back.

use alloc::string::ToString as _;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;

#[test]
#[rustfmt::skip]
fn line_table() {
    //     line                                                  canonical form or flaw
    check("(1.5) can0 123#",                                     "(1.500000) can0 123#");
    check("(1.000001) can0 123#00FF",                            "(1.000001) can0 123#00FF");
    check("(1.000001999) can0 123#00ff\r\n",                     "(1.000001) can0 123#00FF");
    check("(1.0)  can0\t00000123#",                              "(1.000000) can0 00000123#");
    check("(1.0) can0 123#R",                                    "(1.000000) can0 123#R");
    check("(1.0) can0 123#R8 T",                                 "(1.000000) can0 123#R8 T");
    check("(1.0) can0 123##3001122 R",                           "(1.000000) can0 123##3001122 R");
    check("(1.0) can0 123##7AA",                                 "(1.000000) can0 123##3AA");
    check("(1.0) can0 20000040#0000000000000000",                "(1.000000) can0 20000040#0000000000000000");
    check("(1.0) can0 123#1122334455667788_E",                   "(1.000000) can0 123#1122334455667788");
    check("",                                                    "timestamp");
    check("1.0 can0 123#",                                       "timestamp");
    check("(x.0) can0 123#",                                     "timestamp");
    check("(99999999999999999999.0) can0 123#",                  "timestamp");
    check("(1.0)",                                               "interface name");
    check("(1.0) can0",                                          "frame is missing");
    check("(1.0) can0 123",                                      "frame is missing");
    check("(1.0) can0 FFF#",                                     "id is not");
    check("(1.0) can0 1234#",                                    "id is not");
    check("(1.0) can0 +23#",                                     "id is not");
    check("(1.0) can0 40000000#",                                "id is not");
    check("(1.0) can0 123#1",                                    "data is not");
    check("(1.0) can0 123#1G",                                   "data is not");
    check("(1.0) can0 123#112233445566778899",                   "9 payload bytes");
    check("(1.0) can0 123#R9",                                   "9 payload bytes");
    check("(1.0) can0 123#11_E",                                 "data is not");
    check("(1.0) can0 123##",                                    "data is not");
    check("(1.0) can0 20000040##000",                            "a frame cannot be an error report and an FD");
    check("(1.0) can0 123# X",                                   "text after");
    check("(1.0) can0 123# R R",                                 "text after");
    check("(1.0) can0 12\u{e9}#",                                "line is not text");
}

#[track_caller]
fn check(line: &str, expected: &str) {
    let got = match parse_line(line.as_bytes()) {
        Ok(record) => record.to_string(),
        Err(flaw) => flaw.to_string(),
    };
    assert!(got.starts_with(expected), "line {line:?}\n     got {got}\nexpected {expected}");
}

#[test]
fn a_bad_line_names_its_place_and_the_rest_is_read() {
    let log = b"(1.0) can0 001#\n\n(1.0) ca\n(1.0) can0 002#\n(1.0) can0 00";
    let got: Vec<_> = Reader::new(log).collect();
    assert_eq!(got.len(), 4);
    assert!(got[0].is_ok() && got[2].is_ok());
    assert_eq!(got[1].as_ref().unwrap_err().to_string(), "line 3, byte 17: frame is missing or has no '#'");
    assert_eq!(got[3].as_ref().map_err(|e| (e.line, e.offset)), Err((5, 42)));
}

fn any_frame() -> impl Strategy<Value = CanFrame> {
    let data = proptest::collection::vec(any::<u8>(), 0..=64);
    (any::<u32>(), any::<bool>(), 0u8..4, any::<(bool, bool)>(), data).prop_map(
        |(id, extended, kind, (bit_rate_switch, error_state), mut data)| {
            let extended = extended || kind == 3;
            let id = CanId::new(id & if extended { EXTENDED_MAX } else { 0x7FF }, extended).unwrap();
            if kind != 1 {
                data.truncate(8);
            }
            match kind {
                0 => CanFrame::classic(id, &data),
                1 => CanFrame::new(id, FrameKind::Fd { bit_rate_switch, error_state }, &data),
                2 => CanFrame::remote(id, data.len()),
                _ => CanFrame::new(id, FrameKind::Error, &data),
            }
            .unwrap()
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back(frame in any_frame(), us in 0i64..1 << 52, sent: Option<bool>) {
        let direction = sent.map(|s| if s { Direction::Sent } else { Direction::Received });
        let record = Record { at: WallTime(us), interface: "vcan0", frame, direction };
        let mut line = String::new();
        write_line(&mut line, &record);
        prop_assert_eq!(parse_line(line.as_bytes()), Ok(record));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.iter().all(u8::is_ascii_whitespace)).count();
        prop_assert_eq!(Reader::new(&bytes).count(), lines);
    }

    #[test]
    fn a_damaged_line_never_panics(at in 0usize..40, byte: u8) {
        let mut line = *b"(1627305599.790450) can1 123##395A44F410";
        line[at] = byte;
        let _ = parse_line(&line);
    }
}
