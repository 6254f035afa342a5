//! Where a signal's bits lie, worked out once into one shift and one mask over an eight-byte window.
//!
//! ```text
//!   Intel, start 12, length 10: window little-endian, shift 12
//!        byte 1   byte 2
//!     [7654....][..543210]      (the digits are bits of the signal)
//!
//!   Motorola, start 7 (its highest bit), length 12: window big-endian, shift 52
//!        byte 0   byte 1
//!     [ba987654][3210....]
//! ```
//! A signal of up to 64 bits that straddles nine bytes takes the wide path over a 16-byte window.

use crate::frame::DATA_LEN_MAX;

/// How a signal's bits are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Little-endian; the start bit is the lowest.
    Intel,
    /// Big-endian; the start bit is the highest.
    Motorola,
}

/// The place of one signal, with its precomputed access. Holding one proves 1 to 64 bits within 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    order: ByteOrder,
    /// First byte of the window.
    window: u8,
    /// Right shift of the window, 64 bits wide or 128.
    shift: u8,
    wide: bool,
    bits: u8,
    /// One more than the last byte touched: a frame must be that long.
    needs: u8,
}

impl Layout {
    /// Works out a layout; `None` unless 1 to 64 bits lie within [`DATA_LEN_MAX`] bytes.
    pub fn new(order: ByteOrder, start: u64, bits: u64) -> Option<Self> {
        let start = u16::try_from(start).ok().filter(|s| usize::from(*s) < DATA_LEN_MAX * 8)?;
        let bits = u8::try_from(bits).ok().filter(|b| (1..=64).contains(b))?;
        // Position counted along the byte order: upwards for Intel, from the highest bit for Motorola.
        let first = match order {
            ByteOrder::Intel => start,
            ByteOrder::Motorola => start / 8 * 8 + (7 - start % 8),
        };
        let end = first + u16::from(bits);
        let needs = u8::try_from(end.div_ceil(8)).ok().filter(|n| usize::from(*n) <= DATA_LEN_MAX)?;
        let wide = first % 8 + u16::from(bits) > 64;
        let width: u16 = if wide { 16 } else { 8 };
        // Messages of up to eight bytes keep one window at byte 0; the compiler then loads it once.
        let window = if needs <= 8 { 0 } else { (first / 8).min(DATA_LEN_MAX as u16 - width) };
        let shift = match order {
            ByteOrder::Intel => first - window * 8,
            ByteOrder::Motorola => width * 8 - (end - window * 8),
        };
        Some(Self { order, window: window as u8, shift: shift as u8, wide, bits, needs })
    }

    /// Bits of the signal.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Bytes that a frame must have for this signal to be in it.
    pub const fn needs(&self) -> usize {
        self.needs as usize
    }

    /// Byte order.
    pub const fn order(&self) -> ByteOrder {
        self.order
    }

    /// The signal's bits, right-aligned, everything else zero.
    #[inline(always)]
    pub fn get(&self, data: &[u8; DATA_LEN_MAX]) -> u64 {
        if self.wide {
            return self.get_wide(data);
        }
        let word = u64::from_le_bytes(chunk(data, self.window));
        let word = if matches!(self.order, ByteOrder::Motorola) { word.swap_bytes() } else { word };
        (word >> (self.shift & 63)) & self.mask()
    }

    #[cold]
    fn get_wide(&self, data: &[u8; DATA_LEN_MAX]) -> u64 {
        ((self.wide_word(data) >> self.shift) as u64) & self.mask()
    }

    fn wide_word(&self, data: &[u8; DATA_LEN_MAX]) -> u128 {
        let bytes: [u8; 16] = chunk(data, self.window);
        match self.order {
            ByteOrder::Intel => u128::from_le_bytes(bytes),
            ByteOrder::Motorola => u128::from_be_bytes(bytes),
        }
    }

    /// Writes the lowest bits of `raw` into the signal's place; all other bits stay.
    pub fn set(&self, data: &mut [u8; DATA_LEN_MAX], raw: u64) {
        // The 16-byte form serves both widths here: encoding is not the hot path. A narrow layout near the
        // end of the payload is moved to a window that fits.
        let wide = Self { wide: true, ..self.widened() };
        let mask = u128::from(self.mask()) << wide.shift;
        let word = wide.wide_word(data) & !mask | u128::from(raw & self.mask()) << wide.shift;
        let bytes = match self.order {
            ByteOrder::Intel => word.to_le_bytes(),
            ByteOrder::Motorola => word.to_be_bytes(),
        };
        let from = usize::from(wide.window);
        if let Some(place) = data.get_mut(from..from + 16) {
            place.copy_from_slice(&bytes);
        }
    }

    /// The same place seen through a 16-byte window.
    fn widened(&self) -> Self {
        if self.wide {
            return *self;
        }
        let window = self.window.min(DATA_LEN_MAX as u8 - 16);
        let moved = (self.window - window) * 8;
        let shift = match self.order {
            ByteOrder::Intel => self.shift + moved,
            ByteOrder::Motorola => self.shift + 64 - moved,
        };
        Self { window, shift, ..*self }
    }

    #[inline(always)]
    const fn mask(&self) -> u64 {
        u64::MAX >> ((64 - self.bits as u32) & 63)
    }
}

/// `N` bytes from `from` on; zeros if that were out of range, which [`Layout::new`] rules out.
#[inline(always)]
fn chunk<const N: usize>(data: &[u8; DATA_LEN_MAX], from: u8) -> [u8; N] {
    let from = usize::from(from);
    match data.get(from..from + N).and_then(|slice| <[u8; N]>::try_from(slice).ok()) {
        Some(bytes) => bytes,
        None => [0; N],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, bit by bit: what the fast form must equal.
    fn slow_get(order: ByteOrder, start: u16, bits: u16, data: &[u8; DATA_LEN_MAX]) -> u64 {
        let bit = |at: u16| u64::from(data[usize::from(at / 8)] >> (at % 8) & 1);
        (0..bits).fold(0, |raw, n| match order {
            ByteOrder::Intel => raw | bit(start + n) << n,
            ByteOrder::Motorola => {
                let linear = start / 8 * 8 + (7 - start % 8) + n;
                raw << 1 | bit(linear / 8 * 8 + (7 - linear % 8))
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn the_fast_form_equals_the_definition(
            motorola: bool, start in 0u16..512, bits in 1u16..=64, data: [u8; 32], tail: [u8; 32], raw: u64,
        ) {
            let order = if motorola { ByteOrder::Motorola } else { ByteOrder::Intel };
            let mut bytes = [0; DATA_LEN_MAX];
            bytes[..32].copy_from_slice(&data);
            bytes[32..].copy_from_slice(&tail);
            let first = if motorola { start / 8 * 8 + (7 - start % 8) } else { start };
            let Some(layout) = Layout::new(order, start.into(), bits.into()) else {
                prop_assert!(first + bits > 512);
                return Ok(());
            };
            prop_assert!(first + bits <= 512);
            prop_assert_eq!(layout.get(&bytes), slow_get(order, start, bits, &bytes));
            let mut changed = bytes;
            layout.set(&mut changed, raw);
            prop_assert_eq!(layout.get(&changed), raw & (u64::MAX >> (64 - bits)));
            layout.set(&mut changed, layout.get(&bytes));
            prop_assert_eq!(changed, bytes, "set touches its own bits only");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (start, bits) in [(0, 0), (0, 65), (512, 1), (511, 2), (u64::MAX, 1), (0, u64::MAX)] {
            assert_eq!(Layout::new(ByteOrder::Intel, start, bits), None, "{start}|{bits}");
        }
        assert_eq!(Layout::new(ByteOrder::Motorola, 504, 2), None);
    }
}
