//! A first look at the raw text: line numbers, and the ids as they are written, before the grammar cuts them.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

use super::{DBC_LEN_MAX, DbcProblem, Problems};
use crate::frame::{EXTENDED_MAX, STANDARD_MAX};

/// The flag that marks a 29-bit id in a DBC.
const EXTENDED_FLAG: u64 = 1 << 31;

/// Id of the pseudo message that tools put unused signals into; it never was on a bus.
const UNUSED_SIGNALS_ID: u64 = 0xC000_0000;

/// One `BO_` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Line of the `BO_`, counted from 1.
    pub(super) line: u32,
    /// Whether it is the pseudo message for unused signals.
    pub(super) unused: bool,
    /// Lines of its `SG_`s.
    pub(super) signals: Vec<u32>,
}

/// The text without a byte-order mark. DBC files are UTF-8 or, older ones, Latin-1.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match core::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}

/// Finds every message block and reports ids that are not what they seem.
pub(super) fn blocks(text: &str, problems: &mut Problems) -> Vec<Block> {
    if text.len() > DBC_LEN_MAX {
        problems.add(0, DbcProblem::Long { got: text.len() });
        return Vec::new();
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut in_string = false;
    for (number, line) in (1u32..).zip(text.split('\n')) {
        let head = line.trim_start();
        if !in_string {
            if let Some(digits) = head.strip_prefix("BO_").and_then(leading_digits) {
                let unused = check_id(digits, number, problems);
                blocks.push(Block { line: number, unused, signals: Vec::new() });
            } else if (head.starts_with("SG_ ") || head.starts_with("SG_\t"))
                && let Some(block) = blocks.last_mut()
            {
                block.signals.push(number);
            }
        }
        in_string = ends_in_string(line, in_string);
    }
    blocks
}

fn leading_digits(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end).filter(|digits| !digits.is_empty())
}

/// Whether a string is open at the end of `line`. Follows the grammar: `\"` does not close, `//` outside a
/// string begins a remark.
fn ends_in_string(line: &str, mut open: bool) -> bool {
    let mut bytes = line.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if open && bytes.peek() == Some(&b'"') => {
                bytes.next();
            }
            b'/' if !open && bytes.peek() == Some(&b'/') => return false,
            b'"' => open = !open,
            _ => {}
        }
    }
    open
}

/// Reports an id that the grammar would turn into another one. Says whether it is the pseudo message's.
fn check_id(digits: &str, line: u32, problems: &mut Problems) -> bool {
    let Some(id) = digits.parse::<u64>().ok().filter(|id| *id <= u64::from(u32::MAX)) else {
        problems.add(line, DbcProblem::Id { got: digits.chars().take(40).collect() });
        return false;
    };
    if id == UNUSED_SIGNALS_ID {
        return true;
    }
    let value = id & !EXTENDED_FLAG;
    if value > u64::from(EXTENDED_MAX) {
        problems.add(line, DbcProblem::Id { got: digits.into() });
    } else if id == value && id > u64::from(STANDARD_MAX) {
        problems.add(line, DbcProblem::ExtendedFlag { got: id });
    }
    false
}
