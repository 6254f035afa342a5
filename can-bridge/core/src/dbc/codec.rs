//! Frames to numbers and back. Decoding allocates nothing and looks nothing up but the message's id.

use alloc::string::String;

use super::plan::{DecodePlan, Group, Message, MessageIndex, NumberKind, SignalIndex, sign_extend};
use super::{SWITCHES_MAX, layout::Layout};
use crate::frame::{CanFrame, CanId, DATA_LEN_MAX, FrameError};

/// One signal of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoded {
    /// Which signal of the message.
    pub signal: SignalIndex,
    /// Its bits, right-aligned.
    pub raw: u64,
    /// Its physical value.
    pub value: f64,
}

/// Why values do not make a frame.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The message has no such signal.
    #[error("message {message} has no signal {signal}")]
    Signal {
        /// The message.
        message: String,
        /// The name or number asked for.
        signal: String,
    },
    /// The value needs more bits than the signal has, or is not a number.
    #[error("{got} does not fit into the {bits} bits of {signal}")]
    Range {
        /// The signal.
        signal: String,
        /// The physical value.
        got: f64,
        /// Its bits.
        bits: u8,
    },
    /// The frame cannot be built.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl EncodeError {
    /// What the caller can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Signal { .. } => {
                Some("use a signal name of the DBC that this bus was configured with".into())
            }
            Self::Range { .. } => Some("keep the value within the signal's range".into()),
            Self::Frame(why) => why.fix(),
        }
    }
}

impl DecodePlan {
    /// Decodes one data frame: `sink` gets each signal that is present. `None` if the id is unknown or the
    /// frame carries no data. Signals that reach beyond a short frame are left out.
    #[inline]
    pub fn decode(&self, frame: &CanFrame, sink: impl FnMut(Decoded)) -> Option<MessageIndex> {
        if !frame.is_data() {
            return None;
        }
        let (index, message) = self.find(frame.id())?;
        message.decode(frame, sink);
        Some(index)
    }
}

impl Message {
    /// Decodes a frame that is known to be of this message; see [`DecodePlan::decode`].
    #[inline]
    pub fn decode(&self, frame: &CanFrame, mut sink: impl FnMut(Decoded)) {
        let data = frame.padded();
        let whole = frame.len() >= usize::from(self.size);
        if whole && self.switches.is_empty() {
            for (number, signal) in (0u32..).zip(self.signals.iter()) {
                let raw = signal.layout.get(data);
                sink(Decoded { signal: SignalIndex(number), raw, value: signal.physical(raw) });
            }
        } else {
            self.decode_switched(data, frame.len(), sink);
        }
    }

    fn decode_switched(&self, data: &[u8; DATA_LEN_MAX], len: usize, mut sink: impl FnMut(Decoded)) {
        // What each multiplexor says, once it has been seen; a switch whose own page is off says nothing.
        let mut said = [None; SWITCHES_MAX];
        for group in &self.groups {
            if !is_on(group, &said) {
                continue;
            }
            for number in group.signals.clone() {
                let Some(signal) = self.signals.get(number as usize) else { continue };
                if signal.layout.needs() > len {
                    continue;
                }
                let raw = signal.layout.get(data);
                if let Some(at) = self.switches.iter().position(|switch| *switch == number)
                    && let Some(place) = said.get_mut(at)
                {
                    *place = Some(raw);
                }
                sink(Decoded { signal: SignalIndex(number), raw, value: signal.physical(raw) });
            }
        }
    }

    /// Builds a frame from physical values; bits of signals that are not named are taken from `base`
    /// (zeros if shorter). Multiplexors are not set by themselves: name them.
    ///
    /// # Errors
    /// [`EncodeError`] names the signal that is unknown or whose value does not fit.
    pub fn encode(&self, base: &[u8], values: &[(SignalIndex, f64)]) -> Result<CanFrame, EncodeError> {
        let mut data = [0; DATA_LEN_MAX];
        for (place, byte) in data.iter_mut().zip(base.iter().take(usize::from(self.size))) {
            *place = *byte;
        }
        for (index, value) in values {
            let signal = self.signals.get(index.0 as usize).ok_or_else(|| EncodeError::Signal {
                message: self.name.clone(),
                signal: alloc::format!("number {}", index.0),
            })?;
            let number = (value - signal.offset) / signal.factor;
            let raw = raw_of(number, signal.kind, signal.layout).ok_or_else(|| EncodeError::Range {
                signal: signal.name.clone(),
                got: *value,
                bits: signal.layout.bits(),
            })?;
            signal.layout.set(&mut data, raw);
        }
        let payload = data.get(..usize::from(self.size)).unwrap_or(&data);
        Ok(CanFrame::data_frame(self.id, payload)?)
    }

    /// [`Self::encode`] by signal names, over zeros.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_named(&self, values: &[(&str, f64)]) -> Result<CanFrame, EncodeError> {
        let mut indexed = alloc::vec::Vec::with_capacity(values.len());
        for (name, value) in values {
            let (index, _) = self
                .signal(name)
                .ok_or_else(|| EncodeError::Signal { message: self.name.clone(), signal: (*name).into() })?;
            indexed.push((index, *value));
        }
        self.encode(&[], &indexed)
    }

    /// The id that frames of this message bear.
    pub const fn can_id(&self) -> CanId {
        self.id
    }
}

fn is_on(group: &Group, said: &[Option<u64>; SWITCHES_MAX]) -> bool {
    let Some((switch, values)) = &group.when else { return true };
    let Some(Some(raw)) = said.get(usize::from(*switch)) else { return false };
    values.iter().any(|(low, high)| (*low..=*high).contains(raw))
}

/// Raw bits of a number that is already free of factor and offset; `None` if it does not fit.
fn raw_of(number: f64, kind: NumberKind, layout: Layout) -> Option<u64> {
    let bits = u32::from(layout.bits());
    match kind {
        NumberKind::Float32 => Some(u64::from((number as f32).to_bits())),
        NumberKind::Float64 => Some(number.to_bits()),
        NumberKind::Unsigned => {
            let whole = libm::rint(number);
            // 2^64 is exact as f64; below it the cast is exact as well.
            let limit = libm::ldexp(1.0, bits as i32);
            (0.0 <= whole && whole < limit).then_some(whole as u64)
        }
        NumberKind::Signed => {
            let whole = libm::rint(number);
            let limit = libm::ldexp(1.0, bits as i32 - 1);
            let mask = u64::MAX >> (64 - bits);
            let fits = -limit <= whole && whole < limit;
            let raw = (whole as i64) as u64 & mask;
            debug_assert!(!fits || sign_extend(raw, layout.bits()) == whole as i64, "cast is exact");
            fits.then_some(raw)
        }
    }
}
