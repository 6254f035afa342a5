//! One bus's frames to VSS samples, with pace, sequence and quality.
//!
//! ```text
//!   frames (batch) --> plan --> leaves: changed? due? --> sink: the samples to send
//!   BusDown, BusUp, Tick --> handle --> poll: samples whose quality changed
//! ```
//! Invariants
//! - I1: `seq` of a path counts up by one per sample handed out, whatever its quality.
//! - I2: a sample is [`Quality::Stale`] or [`Quality::Lost`] once, not again and again.
//! - I3: a fresh frame is handed out at once if the sample before it was not [`Quality::Ok`].
//! - I4: after [`Input::BusDown`] every leaf that had a value is [`Quality::Lost`].

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::signal::{Quality, Signal, Value};
use policies::time::{Timestamp, micros};
use serde::{Deserialize, Serialize};

use crate::dbc::{DecodePlan, Decoded, Message};
use crate::frame::{CanFrame, FrameKind, TimedFrame};
use crate::mapping::{Leaf, Mapping};

/// A value older than this many cycles is stale.
pub const STALE_CYCLES: u32 = 3;

/// A value older than this many cycles is lost.
pub const LOST_CYCLES: u32 = 10;

/// Staleness is looked at on this grid, so that many signals share one wake-up.
pub const GRID: Duration = Duration::from_millis(50);

/// Error class of a controller that has left the bus (`CAN_ERR_BUSOFF` in `linux/can/error.h`).
const ERROR_BUS_OFF: u32 = 0x40;

/// Signals of one message that the scratch table holds at once without growing: 64 bytes of single bits.
const SCRATCH: usize = 512;

/// What happens to a bus besides frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The bus is gone: interface down, bus-off.
    BusDown,
    /// The bus is back; values follow with the frames.
    BusUp,
    /// Time passed.
    Tick,
}

/// Why a decoder wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WakeReason {
    /// A signal may have become stale or lost.
    Freshness,
}

/// Counters of one bus since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderStats {
    /// Frames that the DBC describes.
    pub known: u64,
    /// Data frames that it does not.
    pub unknown: u64,
    /// Frames shorter than their message.
    pub short: u64,
    /// Remote frames and error reports.
    pub no_data: u64,
    /// DBC signals decoded.
    pub signals: u64,
    /// Values that a transform dropped.
    pub dropped: u64,
    /// Samples handed out.
    pub samples: u64,
}

/// What is known of one leaf.
#[derive(Clone, Debug)]
struct State {
    /// The newest sample; its `seq` is that of the last one handed out.
    latest: Option<Signal>,
    raw: u64,
    /// The value last handed out, kept for `on_change` only.
    sent: Option<Value>,
    /// From when on the next periodic sample may be handed out.
    due: Timestamp,
    /// Whether a timer watches it.
    watched: bool,
}

/// The decoder of one bus.
#[derive(Debug)]
pub struct Decoder {
    plan: DecodePlan,
    mapping: Mapping,
    states: Vec<State>,
    /// When to look at which leaf again: at most one entry per leaf.
    timers: BTreeSet<(Timestamp, u32)>,
    outputs: VecDeque<u32>,
    scratch: Scratch,
    stats: DecoderStats,
}

impl Decoder {
    /// A decoder for a plan and a mapping proven against that plan.
    pub fn new(plan: DecodePlan, mapping: Mapping) -> Self {
        let blank = State { latest: None, raw: 0, sent: None, due: Timestamp::ZERO, watched: false };
        let states = alloc::vec![blank; mapping.leaves().len()];
        let (timers, outputs, stats) = (BTreeSet::new(), VecDeque::new(), DecoderStats::default());
        Self { plan, mapping, states, timers, outputs, scratch: Scratch::new(), stats }
    }

    /// The plan that frames are decoded by.
    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    /// The leaves, by number.
    pub fn leaves(&self) -> &[Leaf] {
        self.mapping.leaves()
    }

    /// Counters.
    pub fn stats(&self) -> DecoderStats {
        self.stats
    }

    /// Decodes frames in order; `sink` gets each sample to send with its leaf's number. Frames of other
    /// buses must not be among them. Drain [`Self::poll`] afterwards: a report of bus-off changes qualities.
    pub fn frames(&mut self, frames: &[TimedFrame], mut sink: impl FnMut(u32, &Signal)) {
        for timed in frames {
            self.frame(timed, &mut sink);
        }
    }

    fn frame(&mut self, timed: &TimedFrame, sink: &mut impl FnMut(u32, &Signal)) {
        let TimedFrame { at, frame, .. } = timed;
        if !frame.is_data() {
            self.stats.no_data += 1;
            self.error_report(*at, frame);
            return;
        }
        let Some((index, message)) = self.plan.find(frame.id()) else {
            self.stats.unknown += 1;
            return;
        };
        self.stats.known += 1;
        self.stats.short += u64::from(frame.len() < usize::from(message.size));
        self.scratch.begin();
        let scratch = &mut self.scratch;
        let mut signals = 0;
        message.decode(frame, |decoded| {
            signals += 1;
            scratch.put(decoded);
        });
        self.stats.signals += signals;
        for number in self.mapping.of_message(index) {
            let place = *number as usize;
            let (Some(leaf), Some(state)) = (self.mapping.leaves().get(place), self.states.get_mut(place))
            else {
                continue;
            };
            let Some(decoded) = self.scratch.get(leaf.signal.0) else { continue };
            let holds = |(other, wanted): &(_, f64)| {
                let crate::dbc::SignalIndex(other) = other;
                self.scratch.get(*other).is_some_and(|d| d.value == *wanted)
            };
            if !leaf.only_if.iter().all(holds) {
                continue;
            }
            match state.take(*at, leaf, message, decoded) {
                Taken::Dropped => self.stats.dropped += 1,
                Taken::Kept => {}
                Taken::Send => {
                    self.stats.samples += 1;
                    if let Some(signal) = &state.latest {
                        sink(*number, signal);
                    }
                }
            }
            if let (false, true, Some(cycle)) = (state.watched, state.latest.is_some(), leaf.cycle) {
                state.watched = true;
                self.timers.insert((grid(*at + cycle * STALE_CYCLES), *number));
            }
        }
    }

    /// A controller that went bus-off says so once; what it says when it restarts needs no answer, because
    /// values come back with the frames.
    fn error_report(&mut self, at: Timestamp, frame: &CanFrame) {
        if frame.kind() == FrameKind::Error && frame.id().value() & ERROR_BUS_OFF != 0 {
            self.handle(at, Input::BusDown);
        }
    }

    /// Feeds a control input. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Tick => self.tick(now),
            Input::BusDown => {
                self.timers.clear();
                self.states.iter_mut().for_each(|state| state.watched = false);
                for number in 0..self.states.len() as u32 {
                    self.downgrade(number, Quality::Lost);
                }
            }
            Input::BusUp => {}
        }
    }

    /// The next sample whose quality changed, with its leaf's number.
    pub fn poll(&mut self) -> Option<(u32, &Signal)> {
        let number = self.outputs.pop_front()?;
        let state = self.states.get(number as usize)?;
        state.latest.as_ref().map(|signal| (number, signal))
    }

    /// When to feed [`Input::Tick`] next, and why. An early tick is harmless.
    pub fn next_wake(&self) -> Option<(Timestamp, WakeReason)> {
        self.timers.first().map(|(at, _)| (*at, WakeReason::Freshness))
    }

    /// The newest sample of each leaf that has one, with the leaf's number.
    pub fn latest(&self) -> impl Iterator<Item = (u32, &Signal)> {
        (0u32..).zip(&self.states).filter_map(|(number, state)| Some((number, state.latest.as_ref()?)))
    }

    /// Looks at every leaf whose timer is due. Timers are not moved by frames: a leaf that was heard in the
    /// meantime just gets a new one.
    fn tick(&mut self, now: Timestamp) {
        while let Some((at, number)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, number));
            let leaf = self.mapping.leaves().get(number as usize);
            let Some(cycle) = leaf.and_then(|leaf| leaf.cycle) else { continue };
            let latest = self.states.get(number as usize).and_then(|state| state.latest.as_ref());
            let Some(heard) = latest.map(|signal| signal.source_time) else { continue };
            let (stale_at, lost_at) = (heard + cycle * STALE_CYCLES, heard + cycle * LOST_CYCLES);
            if lost_at <= now {
                self.downgrade(number, Quality::Lost);
                if let Some(state) = self.states.get_mut(number as usize) {
                    state.watched = false;
                }
            } else if stale_at <= now {
                self.downgrade(number, Quality::Stale);
                self.timers.insert((grid(lost_at), number));
            } else {
                self.timers.insert((grid(stale_at), number));
            }
        }
    }

    fn downgrade(&mut self, number: u32, quality: Quality) {
        let Some(state) = self.states.get_mut(number as usize) else { return };
        let Some(signal) = state.latest.as_mut().filter(|signal| signal.quality < quality) else { return };
        signal.quality = quality;
        signal.seq += 1;
        self.stats.samples += 1;
        self.outputs.push_back(number);
    }
}

/// Rounds up to the next point of [`GRID`].
fn grid(at: Timestamp) -> Timestamp {
    let step = micros(GRID);
    Timestamp::from_micros(at.as_micros().div_ceil(step).saturating_mul(step))
}

/// What became of one decoded value.
enum Taken {
    Dropped,
    Kept,
    Send,
}

impl State {
    fn take(&mut self, at: Timestamp, leaf: &Leaf, message: &Message, decoded: Decoded) -> Taken {
        let Some(signal) = message.signals.get(leaf.signal.0 as usize) else { return Taken::Dropped };
        let in_range = signal.in_range(decoded.value);
        let quality = if in_range { Quality::Ok } else { Quality::Invalid };
        let same_raw = self.latest.is_some() && self.raw == decoded.raw;
        let fresh_value = if same_raw {
            None
        } else {
            match leaf.value(decoded.value, signal.label(decoded.raw)) {
                Some(value) => Some(value),
                None => return Taken::Dropped,
            }
        };
        let was = self.latest.as_ref().map(|latest| latest.quality);
        self.raw = decoded.raw;
        match (&mut self.latest, fresh_value) {
            (Some(latest), value) => {
                latest.source_time = at;
                latest.quality = quality;
                if let Some(value) = value {
                    latest.value = value;
                }
            }
            (slot @ None, Some(value)) => *slot = Some(first_sample(leaf, value, at, quality)),
            (None, None) => return Taken::Dropped,
        }
        if self.is_to_send(at, leaf, was == Some(quality)) {
            self.mark_sent(leaf);
            Taken::Send
        } else {
            Taken::Kept
        }
    }

    fn is_to_send(&mut self, at: Timestamp, leaf: &Leaf, same_quality: bool) -> bool {
        let value = self.latest.as_ref().map(|latest| &latest.value);
        if same_quality && leaf.on_change && value == self.sent.as_ref() {
            return false;
        }
        // A quarter of slack: a 100 ms message with 1 ms of jitter must not be sent every 200 ms.
        if same_quality && at + leaf.interval / 4 < self.due {
            return false;
        }
        // Counting on from the due time, not from now, keeps the average at the asked pace.
        let next = self.due + leaf.interval;
        self.due = if next <= at { at + leaf.interval } else { next };
        true
    }

    fn mark_sent(&mut self, leaf: &Leaf) {
        if let Some(latest) = &mut self.latest {
            latest.seq += 1;
            if leaf.on_change {
                self.sent = Some(latest.value.clone());
            }
        }
    }
}

fn first_sample(leaf: &Leaf, value: Value, source_time: Timestamp, quality: Quality) -> Signal {
    let unit: String = leaf.unit.clone();
    Signal { path: leaf.path.clone(), value, unit, source_time, seq: 0, quality }
}

/// The signals of the frame at hand, by number. Stamps tell this frame's values from older ones, so that
/// nothing is cleared between frames.
#[derive(Debug)]
struct Scratch {
    stamp: u64,
    values: Vec<(u64, Option<Decoded>)>,
}

impl Scratch {
    fn new() -> Self {
        Self { stamp: 0, values: alloc::vec![(0, None); SCRATCH] }
    }

    fn begin(&mut self) {
        self.stamp += 1;
    }

    #[inline]
    fn put(&mut self, decoded: Decoded) {
        let at = decoded.signal.0 as usize;
        if at >= self.values.len() {
            self.values.resize(at + 1, (0, None));
        }
        if let Some(slot) = self.values.get_mut(at) {
            *slot = (self.stamp, Some(decoded));
        }
    }

    #[inline]
    fn get(&self, signal: u32) -> Option<Decoded> {
        self.values.get(signal as usize).filter(|slot| slot.0 == self.stamp).and_then(|slot| slot.1)
    }
}
