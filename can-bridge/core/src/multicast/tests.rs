//! Golden bytes, a table of odd datagrams, and properties over foreign ones.

use alloc::string::{String, ToString as _};
use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// id 0x123, data DE AD, at 1.5 s, as python-can 4.6.1 packs it.
const GOLDEN: &str = "8ba974696d657374616d70cb3ff8000000000000ae6172626974726174696f6e5f6964cd0123\
ae69735f657874656e6465645f6964c2af69735f72656d6f74655f6672616d65c2ae69735f6572726f725f6672616d65c2\
a76368616e6e656cc0a3646c6302a464617461c402deada569735f6664c2ae626974726174655f737769746368c2\
b56572726f725f73746174655f696e64696361746f72c2";

fn golden() -> Datagram {
    let frame = CanFrame::classic(CanId::new(0x123, false).unwrap(), &[0xDE, 0xAD]).unwrap();
    Datagram { timestamp: 1.5, frame }
}

#[test]
fn golden_bytes_both_ways() {
    let mut out = Vec::new();
    encode(&golden(), &mut out);
    assert_eq!(out, bytes(GOLDEN));
    assert_eq!(decode(&out), Ok(golden()));
}

#[test]
#[rustfmt::skip]
fn odd_datagram_table() {
    let id = "ae6172626974726174696f6e5f6964";
    let (dlc, data) = ("a3646c63", "a464617461");
    let of = |items: &[&str]| alloc::format!("{:02x}{}", 0x80 | (items.len() / 2), items.concat());
    //     datagram                                                        outcome
    check("",                                                              "datagram is cut short");
    check("c0",                                                            "datagram is not a map");
    check("80",                                                            "datagram lacks arbitration_id");
    check(&of(&[id, "01"]),                                                "datagram lacks dlc");
    check(&of(&[id, "01", dlc, "00"]),                                     "frame");
    check(&of(&[id, "d001", dlc, "00"]),                                   "frame");
    check(&of(&[id, "ff", dlc, "00"]),                                     "datagram is not a map");
    check(&of(&[id, "cd0800", dlc, "00"]),                                 "id 0x800 does not fit into 11 bits");
    check(&of(&[id, "cfffffffffffffffff", dlc, "00"]),                     "id 0xffffffff does not fit");
    check(&of(&[id, "01", dlc, "02", data, "c40101"]),                     "a frame cannot be of another length");
    check(&of(&[id, "01", dlc, "09", data, "c409000102030405060708"]),     "9 payload bytes");
    check(&of(&[id, "01", dlc, "00", data, "c6ffffffff"]),                 "datagram is cut short");
    check(&of(&[id, "01", dlc, "00", "a178", "93c0818201c0"]),             "datagram is cut short");
    check(&of(&[id, "01", dlc, "00", "a178", "9392c0c3c081a17901"]),       "frame");
    check(&of(&[id, "01", dlc, "00", "a178", "d40000"]),                   "frame");
    check(&of(&[id, "01", dlc, "00", "a178", "ddffffffff"]),               "datagram is cut short");
    check(&of(&[id, "01", dlc, "00", "a178", &"91".repeat(70)]),           "datagram is not a map");
    check(&of(&[id, "01", dlc, "00", "af69735f72656d6f74655f6672616d65", "c3", "a569735f6664", "c3"]), "a frame cannot be two");
    check("81 01 01",                                                      "datagram is not a map");
    check("dfffffffff",                                                    "datagram is cut short");
}

#[track_caller]
fn check(hex: &str, expected: &str) {
    let got: String = decode(&bytes(hex)).map_or_else(|e| e.to_string(), |_| "frame".into());
    assert!(got.starts_with(expected), "{hex}\n     got {got}\nexpected {expected}");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        id in 0u32..0x2000_0000, extended: bool, kind in 0u8..4, brs: bool, esi: bool,
        mut data in proptest::collection::vec(any::<u8>(), 0..=64), timestamp in 0.0f64..4e9,
    ) {
        let extended = extended || kind == 3;
        let id = CanId::new(if extended { id } else { id & 0x7FF }, extended).unwrap();
        if kind != 1 { data.truncate(8) }
        let fd = FrameKind::Fd { bit_rate_switch: brs, error_state: esi };
        let frame = match kind {
            0 => CanFrame::classic(id, &data),
            1 => CanFrame::new(id, fd, &data),
            2 => CanFrame::remote(id, data.len()),
            _ => CanFrame::new(id, FrameKind::Error, &data),
        }.unwrap();
        let datagram = Datagram { timestamp, frame };
        let mut out = Vec::new();
        encode(&datagram, &mut out);
        prop_assert_eq!(decode(&out), Ok(datagram));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_datagram_never_panics(at in 0usize..170, byte: u8, cut: bool) {
        let mut datagram = bytes(GOLDEN);
        let at = at % datagram.len();
        if cut { datagram.truncate(at) } else { datagram[at] = byte }
        let _ = decode(&datagram);
    }
}
