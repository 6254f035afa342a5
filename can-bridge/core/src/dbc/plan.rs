//! The compiled form of a DBC: messages by id, signals by number, nothing by name in the hot path.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use super::layout::Layout;
use crate::frame::{CanId, STANDARD_MAX};

/// A message by its place in [`DecodePlan::messages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageIndex(pub u32);

/// A signal by its place in its message's [`Message::signals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignalIndex(pub u32);

/// How a signal's bits become a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    /// Unsigned integer.
    Unsigned,
    /// Two's complement.
    Signed,
    /// IEEE 754, 32 bits.
    Float32,
    /// IEEE 754, 64 bits.
    Float64,
}

/// One signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Name in the DBC.
    pub name: String,
    /// Its bits.
    pub layout: Layout,
    /// Their meaning.
    pub kind: NumberKind,
    /// Physical = raw * factor + offset.
    pub factor: f64,
    /// Physical value of raw 0.
    pub offset: f64,
    /// Physical range, if the DBC states one.
    pub range: Option<(f64, f64)>,
    /// Unit, empty if none.
    pub unit: String,
    /// Labels by raw value, sorted.
    pub labels: Box<[(i64, String)]>,
    /// Whether it is in every frame of its message.
    pub multiplexed: bool,
}

impl Signal {
    /// The label of a raw value (as the signal's own bits; signed ones are extended here).
    pub fn label(&self, raw: u64) -> Option<&str> {
        let raw = match self.kind {
            NumberKind::Signed => sign_extend(raw, self.layout.bits()),
            NumberKind::Unsigned => i64::try_from(raw).ok()?,
            NumberKind::Float32 | NumberKind::Float64 => return None,
        };
        let at = self.labels.binary_search_by_key(&raw, |(value, _)| *value).ok()?;
        self.labels.get(at).map(|(_, label)| label.as_str())
    }

    /// The physical value of raw bits.
    #[inline(always)]
    pub fn physical(&self, raw: u64) -> f64 {
        let number = match self.kind {
            NumberKind::Unsigned => raw as f64,
            NumberKind::Signed => sign_extend(raw, self.layout.bits()) as f64,
            NumberKind::Float32 => f64::from(f32::from_bits(raw as u32)),
            NumberKind::Float64 => f64::from_bits(raw),
        };
        number * self.factor + self.offset
    }

    /// Whether a physical value lies in the stated range.
    pub fn in_range(&self, value: f64) -> bool {
        value.is_finite() && self.range.is_none_or(|(low, high)| low <= value && value <= high)
    }
}

#[inline(always)]
pub(super) const fn sign_extend(raw: u64, bits: u8) -> i64 {
    let unused = (64 - bits as u32) & 63;
    ((raw << unused) as i64) >> unused
}

/// Place of a multiplexor among its message's switches, and its values, inclusive.
pub(super) type PageOf = (u8, Box<[(u64, u64)]>);

/// Signals that are present together: always, or while a multiplexor has certain values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// `None`: always.
    pub(super) when: Option<PageOf>,
    /// The signals.
    pub(super) signals: Range<u32>,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Name in the DBC.
    pub name: String,
    /// Its id.
    pub id: CanId,
    /// Payload bytes.
    pub size: u8,
    /// How often it is sent, if the DBC says so (`GenMsgCycleTime`).
    pub cycle: Option<Duration>,
    /// Signals: those always present first, then by multiplexor.
    pub signals: Box<[Signal]>,
    /// How many different pages its multiplexors select; 1 if none.
    pub pages: u32,
    /// Multiplexors before what they switch.
    pub(super) groups: Box<[Group]>,
    /// Signal number of each switch.
    pub(super) switches: Box<[u32]>,
}

impl Message {
    /// A signal by name.
    pub fn signal(&self, name: &str) -> Option<(SignalIndex, &Signal)> {
        (0u32..).zip(self.signals.iter()).find(|(_, s)| s.name == name).map(|(i, s)| (SignalIndex(i), s))
    }
}

/// Something odd in a DBC that does not stop it from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line, counted from 1; 0 if not known.
    pub line: u32,
    /// What was found and what becomes of it.
    pub text: String,
}

/// A DBC, compiled.
#[derive(Clone)]
pub struct DecodePlan {
    pub(super) messages: Box<[Message]>,
    /// Message number plus one by 11-bit id; 0: unknown.
    pub(super) standard: Box<[u32]>,
    /// Open-addressed table of 29-bit ids: (id, message number plus one). A power of two, at most half full.
    pub(super) extended: Box<[(u32, u32)]>,
    pub(super) notes: Vec<Note>,
    pub(super) further_notes: usize,
}

impl fmt::Debug for DecodePlan {
    /// Without the lookup tables, which are thousands of zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodePlan").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl DecodePlan {
    /// A plan that knows no message: a bus without a DBC.
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    /// Indexes messages whose ids differ.
    pub(super) fn new(messages: Vec<Message>) -> Self {
        let many = messages.iter().filter(|m| m.id.is_extended()).count();
        let mut plan = Self {
            messages: messages.into_boxed_slice(),
            standard: alloc::vec![0; STANDARD_MAX as usize + 1].into_boxed_slice(),
            extended: alloc::vec![(0, 0); (many * 2).next_power_of_two().max(2)].into_boxed_slice(),
            notes: Vec::new(),
            further_notes: 0,
        };
        for (number, message) in (1u32..).zip(plan.messages.iter()) {
            let id = message.id.value();
            if message.id.is_extended() {
                let mut at = hash(id, plan.extended.len());
                while plan.extended.get(at).is_some_and(|slot| slot.1 != 0) {
                    at = (at + 1) & (plan.extended.len() - 1);
                }
                if let Some(slot) = plan.extended.get_mut(at) {
                    *slot = (id, number);
                }
            } else if let Some(slot) = plan.standard.get_mut(id as usize) {
                *slot = number;
            }
        }
        plan
    }

    /// The message with this id.
    #[inline]
    pub fn find(&self, id: CanId) -> Option<(MessageIndex, &Message)> {
        let number = if id.is_extended() {
            self.find_extended(id.value())
        } else {
            self.standard.get(id.value() as usize).copied().unwrap_or(0)
        };
        let index = number.checked_sub(1)?;
        self.messages.get(index as usize).map(|message| (MessageIndex(index), message))
    }

    #[inline]
    fn find_extended(&self, id: u32) -> u32 {
        let mut at = hash(id, self.extended.len());
        // The table is at most half full, so an empty slot ends every search.
        loop {
            match self.extended.get(at) {
                Some((_, 0)) | None => return 0,
                Some((found, number)) if *found == id => return *number,
                Some(_) => at = (at + 1) & (self.extended.len() - 1),
            }
        }
    }

    /// All messages, in the file's order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// A message by its index.
    pub fn message(&self, index: MessageIndex) -> Option<&Message> {
        self.messages.get(index.0 as usize)
    }

    /// A message by name.
    pub fn message_named(&self, name: &str) -> Option<(MessageIndex, &Message)> {
        (0u32..).zip(self.messages.iter()).find(|(_, m)| m.name == name).map(|(i, m)| (MessageIndex(i), m))
    }

    /// Oddities found, at most [`super::PROBLEMS_MAX`], and how many more there were.
    pub fn notes(&self) -> (&[Note], usize) {
        (&self.notes, self.further_notes)
    }
}

/// Place of an id in a table of `len` (a power of two) slots.
#[inline(always)]
fn hash(id: u32, len: usize) -> usize {
    // Fibonacci hashing: the high bits of the product are well mixed.
    (u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize & (len - 1)
}
