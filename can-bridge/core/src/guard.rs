//! The transmit guard: apps never hold a CAN socket; each frame they ask for passes every rule here or is
//! refused by name.
//!
//! ```text
//!   app's frame --> granted? --> form? --> signal range? --> driving state? --> sole sender? --> rate? --> load? --> bus
//! ```
//! Default deny. The two rules that use something up (rate, load) come last and take only if both agree, so
//! that a refused frame costs the app nothing and other apps no bus time.
//!
//! What the guard cannot see: a foreign node that sends our id while we are silent looks like us to everybody
//! (masquerade); only ids that we send ourselves are watched.

mod config;
#[cfg(test)]
mod tests;

pub use config::{BusClaim, DrivingClaim, GuardClaim, GuardError, RULES_MAX, SignalBoundClaim, TxRuleClaim};

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;
use policies::alarm::Alarm;
use policies::face::TxFrame;
use policies::host::AppRef;
use policies::id::BusName;
use policies::signal::{Quality, Signal, SignalPath, Value};
use policies::time::Timestamp;

use crate::dbc::{DecodePlan, SignalIndex};
use crate::frame::{CLASSIC_LEN_MAX, CanFrame, CanId, FD_LENGTHS};

/// How long one of our ids stays blocked after a foreign node was seen sending it. Ten of the slowest usual
/// cycles: both sending would look like one sender gone mad.
pub const SPOOF_HOLD: Duration = Duration::from_secs(10);

/// Window of the bus-load cap. Short enough that a burst does not starve cyclic messages of 100 ms.
pub const LOAD_WINDOW: Duration = Duration::from_millis(100);

/// Most alarms kept until somebody takes them.
pub const ALARMS_MAX: usize = 64;

/// Whether the car moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driving {
    /// Known to stand still.
    Parked,
    /// Moving, or not known.
    Moving,
}

/// Why a frame may not be sent. Each variant is one rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TxRefusal {
    /// The bus does not exist here.
    #[error("no bus {bus} here")]
    NoBus {
        /// The bus asked for.
        bus: BusName,
    },
    /// Nothing grants this id to this app.
    #[error("id {id:#x} on {bus} is not granted to {app}")]
    NotGranted {
        /// Who asks.
        app: AppRef,
        /// Where.
        bus: BusName,
        /// The id.
        id: u32,
    },
    /// It is no frame, or has another length than granted.
    #[error("{0}")]
    Form(String),
    /// A signal in it is out of the range granted.
    #[error("signal {signal} is {got}; {low} to {high} is granted")]
    SignalRange {
        /// Which.
        signal: String,
        /// The value in the frame.
        got: f64,
        /// Lowest allowed.
        low: f64,
        /// Highest allowed.
        high: f64,
    },
    /// Only allowed while the car stands.
    #[error("only allowed while parked, and the car moves or its state is not known")]
    DrivingState,
    /// Somebody outside sends our id.
    #[error("id {id:#x} was seen from outside; it is blocked for {} s", SPOOF_HOLD.as_secs())]
    SoleSender {
        /// The id.
        id: u32,
    },
    /// The app's rate for this id is used up.
    #[error("more than {per_second} frames per second of this id")]
    Rate {
        /// What is granted.
        per_second: u32,
    },
    /// Sending would load the bus beyond its cap.
    #[error("our share of {bus} ({permille} thousandths of its time) is used up")]
    BusLoad {
        /// The bus.
        bus: BusName,
        /// The cap.
        permille: u16,
    },
}

impl TxRefusal {
    /// The rule's short name, as counters and reports spell it.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NoBus { .. } => "no-bus",
            Self::NotGranted { .. } => "not-granted",
            Self::Form(_) => "form",
            Self::SignalRange { .. } => "signal-range",
            Self::DrivingState => "driving-state",
            Self::SoleSender { .. } => "sole-sender",
            Self::Rate { .. } => "rate",
            Self::BusLoad { .. } => "bus-load",
        }
    }
}

/// Something that fills up with time and is used up by frames.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Units per second.
    rate: u64,
    /// Units it holds, times a million.
    full: u64,
    level: u64,
    at: Timestamp,
}

impl Bucket {
    const fn new(rate: u64, holds: u64) -> Self {
        let full = holds.saturating_mul(1_000_000);
        Self { rate, full, level: full, at: Timestamp::ZERO }
    }

    /// The bucket as it is at `now`: one unit per second is one millionth per microsecond.
    fn filled(mut self, now: Timestamp) -> Self {
        let micros = policies::time::micros(now.since(self.at));
        self.level = self.level.saturating_add(micros.saturating_mul(self.rate)).min(self.full);
        self.at = self.at.max(now);
        self
    }

    fn take(mut self, units: u64) -> Option<Self> {
        self.level = self.level.checked_sub(units.saturating_mul(1_000_000))?;
        Some(self)
    }
}

/// A bound on one signal, compiled.
#[derive(Clone, Debug)]
struct Bound {
    signal: SignalIndex,
    name: String,
    low: f64,
    high: f64,
}

/// One grant: an app may send one id on one bus, like this.
#[derive(Clone, Debug)]
struct Rule {
    len: (usize, usize),
    while_moving: bool,
    per_second: u32,
    bounds: Vec<Bound>,
    bucket: Bucket,
}

/// One bus.
#[derive(Clone, Debug)]
struct BusState {
    bitrate: u32,
    data_bitrate: u32,
    permille: u16,
    /// Nanoseconds of bus time.
    load: Bucket,
    plan: Option<DecodePlan>,
    /// When each of our ids was last seen from outside.
    spoofed: BTreeMap<CanId, Option<Timestamp>>,
}

/// The guard of one node.
#[derive(Debug)]
pub struct Guard {
    rules: BTreeMap<(AppRef, BusName, CanId), Rule>,
    buses: BTreeMap<BusName, BusState>,
    driving_source: Option<(SignalPath, f64)>,
    driving: Driving,
    refused: BTreeMap<&'static str, u64>,
    alarms: VecDeque<Alarm>,
}

impl Guard {
    /// Decides on one frame; `Ok` gives it in the form to send, and its rate and bus time are then used up.
    ///
    /// # Errors
    /// [`TxRefusal`] names the first rule that says no; it is counted.
    pub fn decide(&mut self, now: Timestamp, app: &AppRef, frame: &TxFrame) -> Result<CanFrame, TxRefusal> {
        let decision = self.judge(now, app, frame);
        if let Err(refusal) = &decision {
            *self.refused.entry(refusal.rule()).or_default() += 1;
        }
        decision
    }

    fn judge(&mut self, now: Timestamp, app: &AppRef, asked: &TxFrame) -> Result<CanFrame, TxRefusal> {
        let TxFrame { bus: name, id, extended, data } = asked;
        let bus = self.buses.get_mut(name).ok_or_else(|| TxRefusal::NoBus { bus: name.clone() })?;
        let not_granted = || TxRefusal::NotGranted { app: app.clone(), bus: name.clone(), id: *id };
        let can_id = CanId::new(*id, *extended).map_err(|_| not_granted())?;
        let key = (app.clone(), name.clone(), can_id);
        let rule = self.rules.get_mut(&key).ok_or_else(not_granted)?;
        let frame = rule.form(can_id, data, bus.data_bitrate > 0)?;
        rule.check_bounds(bus.plan.as_ref(), &frame)?;
        if self.driving == Driving::Moving && !rule.while_moving {
            return Err(TxRefusal::DrivingState);
        }
        if let Some(Some(seen)) = bus.spoofed.get(&can_id)
            && now < *seen + SPOOF_HOLD
        {
            return Err(TxRefusal::SoleSender { id: *id });
        }
        let per_second = rule.per_second;
        let rate = rule.bucket.filled(now).take(1).ok_or(TxRefusal::Rate { per_second })?;
        let cost = frame_nanos(&frame, bus.bitrate, bus.data_bitrate);
        let load = bus.load.filled(now).take(cost);
        let permille = bus.permille;
        bus.load = load.ok_or_else(|| TxRefusal::BusLoad { bus: name.clone(), permille })?;
        rule.bucket = rate;
        Ok(frame)
    }

    /// Says that a frame with this id came in that was not an echo of ours. One of our ids raises an alarm
    /// (once per [`SPOOF_HOLD`]) and is blocked for that time. Returns whether it was one of ours.
    pub fn seen_from_outside(&mut self, now: Timestamp, bus: &BusName, id: CanId) -> bool {
        let state = self.buses.get_mut(bus);
        let Some(seen) = state.and_then(|bus| bus.spoofed.get_mut(&id)) else { return false };
        let known = seen.is_some_and(|at| now < at + SPOOF_HOLD);
        *seen = Some(now);
        if !known && self.alarms.len() < ALARMS_MAX {
            let detail = alloc::format!("id {id} of ours was sent by somebody else on {bus}");
            self.alarms.push_back(Alarm { name: "can-id-spoofed".into(), detail });
        }
        true
    }

    /// The next alarm to report.
    pub fn poll_alarm(&mut self) -> Option<Alarm> {
        self.alarms.pop_front()
    }

    /// Whether any id is watched for spoofing on this bus; lets the caller skip the look per frame.
    pub fn watches(&self, bus: &BusName) -> bool {
        self.buses.get(bus).is_some_and(|bus| !bus.spoofed.is_empty())
    }

    /// Takes note of a sample if it is the source of the driving state. Anything but a good number at or below
    /// the threshold means moving.
    pub fn observe(&mut self, signal: &Signal) {
        let Some((path, moving_above)) = &self.driving_source else { return };
        if signal.path != *path {
            return;
        }
        let parked = match (signal.quality, &signal.value) {
            (Quality::Ok, Value::Number(speed)) => libm::fabs(*speed) <= *moving_above,
            (Quality::Ok, Value::Bool(moving)) => !moving,
            _ => false,
        };
        self.driving = if parked { Driving::Parked } else { Driving::Moving };
    }

    /// The driving state as the guard sees it.
    pub const fn driving(&self) -> Driving {
        self.driving
    }

    /// Refusals by rule.
    pub fn refused(&self) -> Vec<(String, u64)> {
        self.refused.iter().map(|(rule, count)| ((*rule).to_string(), *count)).collect()
    }

    /// Counts a frame that passed and that the bus did not take.
    pub fn count_unsent(&mut self, why: &'static str) {
        *self.refused.entry(why).or_default() += 1;
    }
}

impl Rule {
    fn form(&self, id: CanId, data: &[u8], fd: bool) -> Result<CanFrame, TxRefusal> {
        let len = data.len();
        let (low, high) = self.len;
        if !(low..=high).contains(&len) {
            return Err(TxRefusal::Form(alloc::format!("{len} payload bytes; {low} to {high} are granted")));
        }
        if len > CLASSIC_LEN_MAX && !fd {
            return Err(TxRefusal::Form("more than 8 payload bytes on a bus without CAN FD".into()));
        }
        if !FD_LENGTHS.contains(&len) {
            return Err(TxRefusal::Form(alloc::format!("{len} payload bytes; CAN FD has no such length")));
        }
        CanFrame::data_frame(id, data).map_err(|error| TxRefusal::Form(error.to_string()))
    }

    /// Every bounded signal must be in the frame and within its bounds.
    fn check_bounds(&self, plan: Option<&DecodePlan>, frame: &CanFrame) -> Result<(), TxRefusal> {
        if self.bounds.is_empty() {
            return Ok(());
        }
        let mut values: Vec<Option<f64>> = alloc::vec![None; self.bounds.len()];
        if let Some(plan) = plan {
            plan.decode(frame, |decoded| {
                for (bound, value) in self.bounds.iter().zip(&mut values) {
                    if bound.signal == decoded.signal {
                        *value = Some(decoded.value);
                    }
                }
            });
        }
        for (bound, value) in self.bounds.iter().zip(values) {
            let Bound { name, low, high, .. } = bound;
            let got = value.unwrap_or(f64::NAN);
            if !(*low <= got && got <= *high) {
                return Err(TxRefusal::SignalRange { signal: name.clone(), got, low: *low, high: *high });
            }
        }
        Ok(())
    }
}

/// How long a frame occupies the bus at the most (worst stuffing), nanoseconds. Saturates.
///
/// Source: ISO 11898-1 frame formats; 135 bits for a classic 11-bit frame of 8 bytes, 160 with 29 bits. FD:
/// 30 (49) bits at the nominal rate, the rest at the data rate.
pub fn frame_nanos(frame: &CanFrame, bitrate: u32, data_bitrate: u32) -> u64 {
    let bytes = frame.data().len() as u64;
    let extended = frame.id().is_extended();
    let time = |bits: u64, rate: u32| bits * 1_000_000_000 / u64::from(rate.max(1));
    if frame.is_fd() {
        let nominal = if extended { 49 } else { 30 };
        let crc = if bytes > 16 { 21 + 6 } else { 17 + 5 };
        // DLC and two flags, payload with a stuff bit in five, CRC with its fixed stuff bits, stuff count.
        let data = (6 + bytes * 8) * 5 / 4 + crc + 5;
        return time(nominal, bitrate) + time(data, data_bitrate);
    }
    let (fixed, stuffable) = if extended { (67, 54) } else { (47, 34) };
    time(fixed + bytes * 8 + (stuffable + bytes * 8 - 1) / 4, bitrate)
}
