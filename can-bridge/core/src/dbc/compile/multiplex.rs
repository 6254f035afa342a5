//! Which signals are present when: simple multiplexing (`M`, `m0`) and extended (`m0M`, `SG_MUL_VAL_`).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use can_dbc::MultiplexIndicator;

use crate::dbc::SWITCHES_MAX;
use crate::dbc::plan::{Group, Message, Signal};
use crate::frame::DATA_LEN_MAX;

/// Signals in decoding order with what switches them.
pub(super) struct Arranged {
    pub(super) signals: Box<[Signal]>,
    pub(super) groups: Box<[Group]>,
    pub(super) switches: Box<[u32]>,
    pub(super) pages: u32,
}

/// Under which condition one signal is present: its multiplexor's number in the file, and values.
type Condition = Option<(usize, Vec<(u64, u64)>)>;

/// Orders `signals` (given in the file's order) so that every multiplexor comes before what it switches.
pub(super) fn arrange(
    source: &can_dbc::Message,
    signals: Vec<Signal>,
    extended: &BTreeMap<(u32, &str), &can_dbc::ExtendedMultiplex>,
) -> Result<Arranged, &'static str> {
    let conditions = conditions(source, extended)?;
    let depths = depths(&conditions)?;
    let mut order: Vec<usize> = (0..signals.len()).collect();
    // Stable: signals of one page keep the file's order.
    order.sort_by(|a, b| (depths.get(*a), conditions.get(*a)).cmp(&(depths.get(*b), conditions.get(*b))));
    let place: BTreeMap<usize, u32> = order.iter().copied().zip(0u32..).collect();
    let mut switches: Vec<usize> = conditions.iter().flatten().map(|(switch, _)| *switch).collect();
    switches.sort_unstable();
    switches.dedup();
    if switches.len() > SWITCHES_MAX {
        return Err("more multiplexors than supported");
    }
    let groups = groups(&order, &conditions, &switches)?;
    let pages = groups.iter().filter(|group| group.when.is_some()).count().max(1);
    let mut slots: Vec<Option<Signal>> = signals.into_iter().map(Some).collect();
    let signals = order.iter().filter_map(|number| {
        let multiplexed = conditions.get(*number).is_some_and(Option::is_some);
        slots.get_mut(*number).and_then(Option::take).map(|signal| Signal { multiplexed, ..signal })
    });
    Ok(Arranged {
        signals: signals.collect(),
        groups: groups.into_boxed_slice(),
        switches: switches.iter().filter_map(|switch| place.get(switch).copied()).collect(),
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
    })
}

fn conditions(
    source: &can_dbc::Message,
    extended: &BTreeMap<(u32, &str), &can_dbc::ExtendedMultiplex>,
) -> Result<Vec<Condition>, &'static str> {
    let number = |name: &str| source.signals.iter().position(|signal| signal.name == name);
    let is_switch = |s: &&can_dbc::Signal| s.multiplexer_indicator == MultiplexIndicator::Multiplexor;
    let mut switches = source.signals.iter().filter(is_switch);
    let only = match (switches.next(), switches.next()) {
        (Some(switch), None) => number(&switch.name),
        _ => None,
    };
    let condition = |signal: &can_dbc::Signal| {
        if let Some(entry) = extended.get(&(source.id.raw(), signal.name.as_str())) {
            let switch = number(&entry.multiplexor_signal_name).ok_or("SG_MUL_VAL_ names no signal of it")?;
            return Ok(Some((switch, entry.mappings.iter().map(|m| (m.min_value, m.max_value)).collect())));
        }
        match signal.multiplexer_indicator {
            MultiplexIndicator::Plain | MultiplexIndicator::Multiplexor => Ok(None),
            MultiplexIndicator::MultiplexedSignal(value)
            | MultiplexIndicator::MultiplexorAndMultiplexedSignal(value) => match only {
                Some(switch) => Ok(Some((switch, Vec::from([(value, value)])))),
                None => Err("multiplexed signals need exactly one multiplexor, or SG_MUL_VAL_ lines"),
            },
        }
    };
    source.signals.iter().map(condition).collect()
}

/// How many multiplexors stand above each signal.
fn depths(conditions: &[Condition]) -> Result<Vec<usize>, &'static str> {
    let above = |number: usize| conditions.get(number).and_then(Option::as_ref).map(|(switch, _)| *switch);
    (0..conditions.len())
        .map(|number| {
            let mut depth = 0;
            let mut at = number;
            while let Some(switch) = above(at) {
                depth += 1;
                at = switch;
                if depth > SWITCHES_MAX {
                    return Err("multiplexors switch each other in a circle");
                }
            }
            Ok(depth)
        })
        .collect()
}

fn groups(order: &[usize], conditions: &[Condition], switches: &[usize]) -> Result<Vec<Group>, &'static str> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last: Option<&Condition> = None;
    for (place, number) in (0u32..).zip(order) {
        let condition = conditions.get(*number).ok_or("signals and conditions differ in number")?;
        match groups.last_mut() {
            Some(group) if last == Some(condition) => group.signals.end = place + 1,
            _ => {
                let when = condition.as_ref().map(|(switch, values)| {
                    let slot = switches.iter().position(|s| s == switch).unwrap_or(usize::MAX);
                    (u8::try_from(slot).unwrap_or(u8::MAX), values.clone().into_boxed_slice())
                });
                groups.push(Group { when, signals: place..place + 1 });
            }
        }
        last = Some(condition);
    }
    Ok(groups)
}

/// The names of two signals that can be present together and share bits.
pub(super) fn overlap(message: &Message) -> Option<(&str, &str)> {
    let mut always = Vec::new();
    for group in &message.groups {
        let mut here: Vec<&Signal> = Vec::new();
        for number in group.signals.clone() {
            let Some(signal) = message.signals.get(number as usize) else { continue };
            let shares = |other: &&&Signal| share_bits(signal, other);
            if let Some(other) = here.iter().chain(&always).find(shares) {
                return Some((&other.name, &signal.name));
            }
            here.push(signal);
        }
        if group.when.is_none() {
            always = here;
        }
    }
    None
}

fn share_bits(one: &Signal, other: &Signal) -> bool {
    let bits = |signal: &Signal| {
        let mut data = [0; DATA_LEN_MAX];
        signal.layout.set(&mut data, u64::MAX);
        data
    };
    bits(one).iter().zip(bits(other)).any(|(a, b)| a & b != 0)
}
