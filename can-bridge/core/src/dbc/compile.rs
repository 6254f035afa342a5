//! From the parsed tree to the plan: every message and signal is checked, every problem located.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

use can_dbc::{AttributeValue, Dbc, MessageId, NumericValue, SignalExtendedValueType, ValueDescription};

use super::layout::{ByteOrder, Layout};
use super::plan::{DecodePlan, Message, Note, NumberKind, Signal};
use super::scan::{self, Block};
use super::{DbcErrors, DbcProblem, PROBLEMS_MAX, Problems, SignalFlaw};
use crate::frame::{CanId, DATA_LEN_MAX};

mod multiplex;

/// Attribute that states how often a message is sent, in milliseconds.
const CYCLE_TIME: &str = "GenMsgCycleTime";

/// Compiles a DBC file. `file` is only used in messages; `bytes` may be UTF-8, with or without a byte-order
/// mark, or Latin-1.
///
/// # Errors
/// [`DbcErrors`] lists every problem with its line; the file is then refused whole.
pub fn compile(file: &str, bytes: &[u8]) -> Result<DecodePlan, DbcErrors> {
    let mut problems = Problems::default();
    let text = scan::text(bytes);
    let blocks = scan::blocks(&text, &mut problems);
    let parsed = parse(&text, &blocks);
    let mut compiler = Compiler { problems, ..Compiler::default() };
    let messages = match &parsed {
        // Ids that the scan found wrong would surface again as other messages' ids.
        _ if !compiler.problems.kept.is_empty() => Vec::new(),
        Ok(tree) => compiler.run(tree, &blocks),
        Err((line, problem)) => {
            compiler.problems.add(*line, problem.clone());
            Vec::new()
        }
    };
    let Compiler { mut problems, notes, further_notes, .. } = compiler;
    if problems.kept.is_empty() && messages.is_empty() {
        problems.add(0, DbcProblem::Empty);
    }
    match problems.into_errors(file) {
        Some(errors) => Err(errors),
        None => Ok(DecodePlan { notes, further_notes, ..DecodePlan::new(messages) }),
    }
}

/// Runs the grammar, and checks that it saw the messages that the scan saw.
fn parse(text: &str, blocks: &[Block]) -> Result<Dbc, (u32, DbcProblem)> {
    let tree = Dbc::try_from(text).map_err(|error| {
        let why = error.to_string();
        (line_of(&why), DbcProblem::Syntax { why: why.lines().map(str::trim).collect::<Vec<_>>().join(" ") })
    })?;
    if tree.messages.len() == blocks.len() {
        Ok(tree)
    } else {
        let why = alloc::format!("{} BO_ lines, {} messages understood", blocks.len(), tree.messages.len());
        Err((0, DbcProblem::Syntax { why }))
    }
}

/// The line in a parser's words, which carry it as `--> line:column`; 0 if they do not.
fn line_of(why: &str) -> u32 {
    let after = why.split_once("--> ").map_or("", |(_, rest)| rest);
    after.split(':').next().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// What a DBC says about messages and signals outside their blocks.
#[derive(Debug, Default)]
struct Extras<'t> {
    cycles: BTreeMap<u32, u64>,
    default_cycle: u64,
    labels: BTreeMap<(u32, &'t str), &'t [can_dbc::ValDescription]>,
    floats: BTreeMap<(u32, &'t str), SignalExtendedValueType>,
    switches: BTreeMap<(u32, &'t str), &'t can_dbc::ExtendedMultiplex>,
}

impl<'t> Extras<'t> {
    fn of(tree: &'t Dbc) -> Self {
        let mut extras = Self::default();
        for default in tree.attribute_defaults.iter().filter(|d| d.name == CYCLE_TIME) {
            extras.default_cycle = milliseconds(&default.value);
        }
        for value in tree.attribute_values_message.iter().filter(|v| v.name == CYCLE_TIME) {
            extras.cycles.insert(value.message_id.raw(), milliseconds(&value.value));
        }
        for description in &tree.value_descriptions {
            if let ValueDescription::Signal { message_id, name, value_descriptions } = description {
                extras.labels.insert((message_id.raw(), name), value_descriptions);
            }
        }
        for entry in &tree.signal_extended_value_type_list {
            extras
                .floats
                .insert((entry.message_id.raw(), &entry.signal_name), entry.signal_extended_value_type);
        }
        for entry in &tree.extended_multiplex {
            extras.switches.insert((entry.message_id.raw(), &entry.signal_name), entry);
        }
        extras
    }

    fn cycle(&self, id: MessageId) -> Option<Duration> {
        let milliseconds = self.cycles.get(&id.raw()).copied().unwrap_or(self.default_cycle);
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }
}

/// Zero for anything that is no positive number.
fn milliseconds(value: &AttributeValue) -> u64 {
    match value {
        AttributeValue::Uint(ms) => *ms,
        AttributeValue::Int(ms) => u64::try_from(*ms).unwrap_or(0),
        // `as` saturates, and gives zero for what is not a number.
        AttributeValue::Double(ms) => *ms as u64,
        AttributeValue::String(_) => 0,
    }
}

#[derive(Debug, Default)]
struct Compiler<'t> {
    problems: Problems,
    notes: Vec<Note>,
    further_notes: usize,
    extras: Extras<'t>,
}

impl<'t> Compiler<'t> {
    fn run(&mut self, tree: &'t Dbc, blocks: &[Block]) -> Vec<Message> {
        self.extras = Extras::of(tree);
        let mut messages = Vec::new();
        let mut lines = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (source, block) in tree.messages.iter().zip(blocks) {
            known.extend(source.signals.iter().map(|signal| (source.id.raw(), signal.name.as_str())));
            let Some(message) = self.message(source, block) else { continue };
            if let Some(first) = lines.insert(message.id, block.line) {
                self.problems.add(block.line, DbcProblem::DuplicateId { name: message.name, first });
            } else {
                messages.push(message);
            }
        }
        let orphans: Vec<_> =
            self.extras.labels.keys().filter(|key| !known.contains(*key)).copied().collect();
        for (id, signal) in orphans {
            self.note(0, alloc::format!("VAL_ {id} {signal}: no such signal; ignored"));
        }
        messages
    }

    fn note(&mut self, line: u32, text: String) {
        if self.notes.len() < PROBLEMS_MAX {
            self.notes.push(Note { line, text });
        } else {
            self.further_notes += 1;
        }
    }

    fn message(&mut self, source: &can_dbc::Message, block: &Block) -> Option<Message> {
        let name = &source.name;
        if block.unused {
            return None;
        }
        let size = match u8::try_from(source.size) {
            Ok(size) if usize::from(size) <= DATA_LEN_MAX => size,
            _ => {
                let size = source.size;
                self.note(
                    block.line,
                    alloc::format!("{name}: {size} bytes travel in several frames; not decoded"),
                );
                return None;
            }
        };
        let id = match source.id {
            MessageId::Standard(id) => CanId::new(id.into(), false),
            MessageId::Extended(id) => CanId::new(id, true),
        };
        let Ok(id) = id else {
            self.problems.add(block.line, DbcProblem::Id { got: source.id.raw().to_string() });
            return None;
        };
        let mut signals = Vec::with_capacity(source.signals.len());
        let mut names = BTreeSet::new();
        for (number, signal) in source.signals.iter().enumerate() {
            let line = block.signals.get(number).copied().unwrap_or(block.line);
            if !names.insert(signal.name.as_str()) {
                let (message, signal) = (name.clone(), signal.name.clone());
                self.problems.add(line, DbcProblem::DuplicateSignal { message, signal });
            }
            match self.signal(source, signal) {
                Ok(compiled) => signals.push(compiled),
                Err(why) => {
                    let signal = alloc::format!("{name}.{}", signal.name);
                    self.problems.add(line, DbcProblem::Signal { signal, why });
                }
            }
        }
        if signals.len() < source.signals.len() {
            return None;
        }
        self.assemble(source, block, (id, size), signals)
    }

    /// Puts checked signals into their order by multiplexing.
    fn assemble(
        &mut self,
        source: &can_dbc::Message,
        block: &Block,
        (id, size): (CanId, u8),
        signals: Vec<Signal>,
    ) -> Option<Message> {
        let arranged = match multiplex::arrange(source, signals, &self.extras.switches) {
            Ok(arranged) => arranged,
            Err(why) => {
                let message = source.name.clone();
                self.problems.add(block.line, DbcProblem::Multiplex { message, why });
                return None;
            }
        };
        let multiplex::Arranged { signals, groups, switches, pages } = arranged;
        let cycle = self.extras.cycle(source.id);
        let name = source.name.clone();
        let message = Message { name, id, size, cycle, signals, pages, groups, switches };
        if let Some((one, other)) = multiplex::overlap(&message) {
            let text = alloc::format!("{}: {one} and {other} share bits", message.name);
            self.note(block.line, text);
        }
        Some(message)
    }

    fn signal(&self, message: &can_dbc::Message, source: &can_dbc::Signal) -> Result<Signal, SignalFlaw> {
        let layout = layout(source, message.size)?;
        let key = (message.id.raw(), source.name.as_str());
        let kind = match (self.extras.floats.get(&key), source.value_type) {
            (Some(SignalExtendedValueType::IEEEfloat32Bit), _) => NumberKind::Float32,
            (Some(SignalExtendedValueType::IEEEdouble64bit), _) => NumberKind::Float64,
            (_, can_dbc::ValueType::Signed) => NumberKind::Signed,
            (_, can_dbc::ValueType::Unsigned) => NumberKind::Unsigned,
        };
        let float_bits = match kind {
            NumberKind::Float32 => 32,
            NumberKind::Float64 => 64,
            NumberKind::Unsigned | NumberKind::Signed => source.size,
        };
        if source.size != float_bits {
            return Err(SignalFlaw::Float { got: source.size });
        }
        let (factor, offset) = (source.factor, source.offset);
        if factor == 0.0 || !factor.is_finite() {
            return Err(SignalFlaw::Factor { got: factor.to_string() });
        }
        if !offset.is_finite() {
            return Err(SignalFlaw::Offset { got: offset.to_string() });
        }
        Ok(Signal {
            name: source.name.clone(),
            layout,
            kind,
            factor,
            offset,
            range: range(source.min, source.max),
            unit: source.unit.trim_matches('"').into(),
            labels: self.labels(key),
            multiplexed: false,
        })
    }

    fn labels(&self, key: (u32, &str)) -> Box<[(i64, String)]> {
        let described = self.extras.labels.get(&key).copied().unwrap_or_default();
        let labels: BTreeMap<i64, String> = described.iter().map(|v| (v.id, v.description.clone())).collect();
        labels.into_iter().collect()
    }
}

fn layout(source: &can_dbc::Signal, message_size: u64) -> Result<Layout, SignalFlaw> {
    let order = match source.byte_order {
        can_dbc::ByteOrder::LittleEndian => ByteOrder::Intel,
        can_dbc::ByteOrder::BigEndian => ByteOrder::Motorola,
    };
    if !(1..=64).contains(&source.size) {
        return Err(SignalFlaw::Length { got: source.size });
    }
    let first = match order {
        ByteOrder::Intel => source.start_bit,
        ByteOrder::Motorola => source.start_bit / 8 * 8 + (7 - source.start_bit % 8),
    };
    let fit = SignalFlaw::Fit { last: first.saturating_add(source.size - 1) / 8, size: message_size };
    match Layout::new(order, source.start_bit, source.size) {
        Some(layout) if layout.needs() as u64 <= message_size => Ok(layout),
        _ => Err(fit),
    }
}

/// `[0|0]` and reversed ranges mean "not stated".
fn range(min: NumericValue, max: NumericValue) -> Option<(f64, f64)> {
    let number = |n| match n {
        NumericValue::Uint(n) => n as f64,
        NumericValue::Int(n) => n as f64,
        NumericValue::Double(n) => n,
    };
    let (min, max) = (number(min), number(max));
    (min < max && min.is_finite() && max.is_finite()).then_some((min, max))
}
