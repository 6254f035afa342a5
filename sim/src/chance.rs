//! Seeded chance: one stream per purpose, whole numbers only, so that adding a car or a fault does not reshuffle
//! everything else and old seeds keep their meaning.

/// A stream of pseudo-random numbers. The same seed and purpose give the same stream on every machine, for
/// ever: the generator is written out here and never replaced.
///
/// The generator is `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Chance(u64);

/// A probability as a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// So many ...
    pub of: u64,
    /// ... in so many.
    pub among: u64,
}

impl Ratio {
    /// It never happens.
    pub const NEVER: Self = Self { of: 0, among: 1 };

    /// So many in a thousand.
    pub const fn permille(of: u64) -> Self {
        Self { of, among: 1000 }
    }
}

impl Chance {
    /// The stream of one purpose within one seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        // FNV-1a tells the purposes apart; one step of the generator mixes the result.
        let start = 0xcbf2_9ce4_8422_2325;
        let hash = purpose.bytes().fold(start, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut mixed = Self(seed ^ hash);
        Self(mixed.draw())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end` without it; 0 if `end` is 0. The bias is below 2^-32 for the ends used here.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.draw()) * u128::from(end);
        (wide >> 64) as u64
    }

    /// An index into something of `len` elements; 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number from `range.0` to `range.1`, both included.
    pub fn between(&mut self, range: (u64, u64)) -> u64 {
        range.0 + self.below(range.1.saturating_sub(range.0) + 1)
    }

    /// Whether something of this probability happens now.
    pub fn happens(&mut self, ratio: Ratio) -> bool {
        self.below(ratio.among) < ratio.of
    }

    /// One of them; `None` if there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.index(from.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut chance = Chance(1_234_567);
        let known = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([chance.draw(), chance.draw(), chance.draw()], known);
    }

    #[test]
    fn streams_keep_their_meaning() {
        let mut first = Chance::new(1, "network");
        let golden = [first.draw(), first.draw()];
        assert_eq!(golden, [474_005_568_167_904_095, 1_556_782_110_574_985_058]);
        assert_ne!(Chance::new(1, "faults").draw(), golden[0]);
        assert_ne!(Chance::new(2, "network").draw(), golden[0]);
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut chance = Chance::new(7, "test");
        let drawn: Vec<u64> = (0..1000).map(|_| chance.between((3, 6))).collect();
        assert!(drawn.iter().all(|n| (3..=6).contains(n)));
        assert!((3..=6).all(|n| drawn.contains(&n)));
        let hits = (0..10_000).filter(|_| chance.happens(Ratio::permille(100))).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert!(!chance.happens(Ratio::NEVER));
        assert_eq!(chance.pick::<u8>(&[]), None);
    }
}
