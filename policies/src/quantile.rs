//! Quantiles of durations in bounded memory: what placement knows of a peer's round trips and of a function's
//! service times. Never means: a deadline is missed by the tail.
//!
//! Values below 16 µs have a bucket each; above, every power of two is cut into 16 buckets. So a bucket's upper
//! bound is at most 1/16 (6.25 %) above any value in it. Values from 2^32 µs (71 minutes) on share the last
//! bucket, whose upper bound is [`u64::MAX`].
//!
//! Ageing: a sample counts 64 at first; whenever the sum reaches [`SUM_MAX`] all counts are halved. A sample's
//! weight thus halves every 256 further samples, and an old outlier fades instead of staying for ever.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Buckets per power of two; its inverse is the relative error.
const PER_OCTAVE: u64 = 16;

/// Exponent of [`PER_OCTAVE`].
const PER_OCTAVE_BITS: u32 = 4;

/// Values of this many bits and more share the last bucket.
const BITS_MAX: u32 = 32;

/// All buckets: 16 exact ones, 16 for each of the 28 octaves up to 2^32, and the last one. At two bytes each a
/// sketch takes at most about 1 kB.
pub const BUCKETS: usize = 16 + 28 * 16 + 1;

/// Weight of a fresh sample.
const WEIGHT: u16 = 64;

/// Sum of counts at which all are halved: 512 fresh samples. A count therefore always fits 16 bits.
const SUM_MAX: u32 = 512 * WEIGHT as u32;

/// Samples below which an [`Estimate`] trusts its hint more than the sketch.
pub const SAMPLES_MIN: u32 = 8;

/// A histogram of durations in microseconds, in logarithmic buckets, that forgets slowly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u16>", into = "Vec<u16>")]
pub struct Sketch {
    /// Counts up to the highest bucket ever used.
    counts: Vec<u16>,
    sum: u32,
}

/// Bytes that are not a sketch: too many buckets, or counts that no sketch can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sketch: {buckets} buckets with a sum of {sum}; at most {BUCKETS} with less than {SUM_MAX}")]
pub struct SketchError {
    /// Buckets found.
    pub buckets: usize,
    /// Their sum.
    pub sum: u64,
}

impl TryFrom<Vec<u16>> for Sketch {
    type Error = SketchError;

    fn try_from(counts: Vec<u16>) -> Result<Self, SketchError> {
        let sum: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        match u32::try_from(sum) {
            Ok(small) if small < SUM_MAX && counts.len() <= BUCKETS => Ok(Self { counts, sum: small }),
            _ => Err(SketchError { buckets: counts.len(), sum }),
        }
    }
}

impl From<Sketch> for Vec<u16> {
    fn from(sketch: Sketch) -> Self {
        sketch.counts
    }
}

impl Sketch {
    /// An empty sketch.
    pub const fn new() -> Self {
        Self { counts: Vec::new(), sum: 0 }
    }

    /// Adds one duration in microseconds.
    pub fn add(&mut self, us: u64) {
        let index = bucket_of(us);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += WEIGHT;
        self.sum += u32::from(WEIGHT);
        if self.sum >= SUM_MAX {
            self.age();
        }
    }

    /// How many fresh samples the present weight amounts to; at most 511.
    pub fn count(&self) -> u32 {
        self.sum / u32::from(WEIGHT)
    }

    /// The smallest bucket bound that at least `permille` of the samples do not exceed: at most 1/16 above the
    /// true quantile (plus one microsecond). `None` if there are no samples.
    pub fn quantile(&self, permille: u16) -> Option<u64> {
        let rank = (u64::from(self.sum) * u64::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0;
        self.steps().find_map(|(bound, count)| {
            seen += u64::from(count);
            (seen >= rank).then_some(bound)
        })
    }

    /// The share of samples, in thousandths, that are surely not above `us` (whole buckets only, rounded
    /// down). 0 if there are no samples: nothing known is nothing promised.
    pub fn prob_within(&self, us: u64) -> u16 {
        let within: u64 =
            self.steps().take_while(|(bound, _)| *bound <= us).map(|(_, count)| u64::from(count)).sum();
        permille_of(within, u64::from(self.sum))
    }

    /// Used buckets: upper bound and weight, rising.
    fn steps(&self) -> impl DoubleEndedIterator<Item = (u64, u32)> {
        let used = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(index, count)| (bound_of(index), u32::from(*count)))
    }

    fn age(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.sum = self.counts.iter().map(|count| u32::from(*count)).sum();
    }
}

fn bucket_of(us: u64) -> usize {
    let bits = u64::BITS - us.leading_zeros();
    if bits > BITS_MAX {
        return BUCKETS - 1;
    }
    if us < PER_OCTAVE {
        return us as usize;
    }
    // `bits` is at least 5 here: the top five bits are 1 and the place within the octave.
    let shift = bits - PER_OCTAVE_BITS - 1;
    let within = (us >> shift) - PER_OCTAVE;
    (PER_OCTAVE + u64::from(shift) * PER_OCTAVE + within) as usize
}

/// The largest value of a bucket.
fn bound_of(index: usize) -> u64 {
    let index = index as u64;
    if index < PER_OCTAVE {
        return index;
    }
    if index >= BUCKETS as u64 - 1 {
        return u64::MAX;
    }
    let (shift, within) = ((index - PER_OCTAVE) / PER_OCTAVE, (index - PER_OCTAVE) % PER_OCTAVE);
    ((PER_OCTAVE + within + 1) << shift) - 1
}

fn permille_of(part: u64, whole: u64) -> u16 {
    // At most 1000, so the conversion cannot fail.
    part.saturating_mul(1000).checked_div(whole).and_then(|p| u16::try_from(p.min(1000)).ok()).unwrap_or(0)
}

/// What is assumed of a duration before it has been measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Median, microseconds.
    pub p50_us: u64,
    /// 95th percentile.
    pub p95_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
}

impl Hint {
    /// No time at all: the round trip to oneself.
    pub const ZERO: Self = Self { p50_us: 0, p95_us: 0, p99_us: 0 };

    /// From a 95th percentile alone, as manifests give it: half of it at the median, half more at the 99th.
    pub const fn from_p95(us: u64) -> Self {
        Self { p50_us: us / 2, p95_us: us, p99_us: us.saturating_add(us / 2) }
    }

    /// As steps that promise no more than the hint says: the last hundredth may take for ever. Only no time at
    /// all is certain.
    fn steps(self) -> Vec<(u64, u32)> {
        if self == Self::ZERO {
            return alloc::vec![(0, 1000)];
        }
        alloc::vec![(self.p50_us, 500), (self.p95_us, 450), (self.p99_us, 40), (u64::MAX, 10)]
    }
}

/// A duration as placement sees it: measured, or else assumed.
#[derive(Clone, Copy, Debug)]
pub struct Estimate<'a> {
    /// What was measured; counts from [`SAMPLES_MIN`] samples on.
    pub sketch: Option<&'a Sketch>,
    /// What is assumed until then.
    pub hint: Hint,
}

impl<'a> Estimate<'a> {
    /// An assumption without measurements.
    pub const fn assumed(hint: Hint) -> Self {
        Self { sketch: None, hint }
    }

    /// The sketch if it holds enough samples.
    fn measured(&self) -> Option<&'a Sketch> {
        self.sketch.filter(|sketch| sketch.count() >= SAMPLES_MIN)
    }

    /// Whether measurements decide.
    pub fn is_measured(&self) -> bool {
        self.measured().is_some()
    }

    /// A quantile in microseconds. From a hint, the next one above that it states; above the 99th percentile
    /// a hint says nothing and the answer is [`u64::MAX`] (but [`Hint::ZERO`] is certain).
    pub fn quantile(&self, permille: u16) -> u64 {
        match self.measured().and_then(|sketch| sketch.quantile(permille)) {
            Some(us) => us,
            None => match permille {
                0..=500 => self.hint.p50_us,
                501..=950 => self.hint.p95_us,
                951..=990 => self.hint.p99_us,
                _ if self.hint == Hint::ZERO => 0,
                _ => u64::MAX,
            },
        }
    }

    fn steps(&self) -> Vec<(u64, u32)> {
        match self.measured() {
            Some(sketch) => sketch.steps().collect(),
            None => self.hint.steps(),
        }
    }
}

/// The chance, in thousandths rounded down, that two independent durations together stay within `limit_us`.
pub fn chance_of_sum(first: &Estimate<'_>, second: &Estimate<'_>, limit_us: u64) -> u16 {
    let (rising, falling) = (first.steps(), second.steps());
    let whole = |steps: &[(u64, u32)]| steps.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
    let mut within_second = whole(&falling);
    let total = within_second * whole(&rising);
    let mut longest = falling.len();
    let mut good = 0u64;
    // As the first duration rises, the part of the second that still fits can only shrink.
    for (us, count) in rising {
        let Some(rest) = limit_us.checked_sub(us) else { break };
        while longest > 0 && falling[longest - 1].0 > rest {
            longest -= 1;
            within_second -= u64::from(falling[longest].1);
        }
        good += u64::from(count) * within_second;
    }
    permille_of(good, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_and_buckets_agree() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(bound_of(index)), index);
            assert_eq!(bucket_of(bound_of(index) + 1), index + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_sixteenth_above_the_truth(
            mut values in prop::collection::vec(0u64..1 << 32, 1..400),
            permille in 0u16..=1000,
        ) {
            let mut sketch = Sketch::new();
            values.iter().for_each(|us| sketch.add(*us));
            values.sort_unstable();
            let rank = (values.len() * usize::from(permille)).div_ceil(1000).max(1);
            let (truth, got) = (values[rank - 1], sketch.quantile(permille).unwrap());
            prop_assert!(got >= truth && got <= truth + truth / 16 + 1, "{got} for {truth}");
        }

        #[test]
        fn a_chance_never_promises_more_than_happened(
            values in prop::collection::vec(0u64..1 << 20, 1..400),
            limit in 0u64..1 << 20,
        ) {
            let mut sketch = Sketch::new();
            values.iter().for_each(|us| sketch.add(*us));
            let truth = values.iter().filter(|us| **us <= limit).count() * 1000 / values.len();
            prop_assert!(usize::from(sketch.prob_within(limit)) <= truth);
        }

        #[test]
        fn it_stays_small_and_comes_back_from_its_text(values in prop::collection::vec(any::<u64>(), 0..2000)) {
            let mut sketch = Sketch::new();
            values.iter().for_each(|us| sketch.add(*us));
            prop_assert!(sketch.counts.len() <= BUCKETS && sketch.sum < SUM_MAX);
            let text = serde_json::to_string(&sketch).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        }

        #[test]
        fn a_sum_is_never_likelier_than_its_parts(
            a in prop::collection::vec(0u64..10_000, 8..50),
            b in prop::collection::vec(0u64..10_000, 8..50),
            limit in 0u64..20_000,
        ) {
            let (mut x, mut y) = (Sketch::new(), Sketch::new());
            a.iter().for_each(|us| x.add(*us));
            b.iter().for_each(|us| y.add(*us));
            let [ex, ey] = [&x, &y].map(|s| Estimate { sketch: Some(s), hint: Hint::ZERO });
            let chance = chance_of_sum(&ex, &ey, limit);
            prop_assert!(chance <= x.prob_within(limit) && chance <= y.prob_within(limit));
            prop_assert_eq!(chance, chance_of_sum(&ey, &ex, limit));
            let pairs = a.iter().flat_map(|p| b.iter().map(move |q| p + q));
            let truth = pairs.filter(|s| *s <= limit).count() * 1000 / (a.len() * b.len());
            prop_assert!(usize::from(chance) <= truth);
        }
    }

    #[test]
    fn old_samples_fade() {
        let mut sketch = Sketch::new();
        (0..500).for_each(|_| sketch.add(1_000_000));
        (0..2000).for_each(|_| sketch.add(100));
        assert!(sketch.quantile(950).unwrap() < 110, "{:?}", sketch.quantile(950));
        assert_eq!(Sketch::new().quantile(500), None);
        assert_eq!(Sketch::new().prob_within(u64::MAX), 0);
    }

    #[test]
    fn foreign_counts_are_refused() {
        assert!(serde_json::from_str::<Sketch>("[65535]").is_err());
        assert!(Sketch::try_from(alloc::vec![0; BUCKETS + 1]).is_err());
    }

    #[test]
    fn hints_count_until_there_are_samples() {
        let hint = Hint::from_p95(20_000);
        let mut sketch = Sketch::new();
        (0..SAMPLES_MIN - 1).for_each(|_| sketch.add(10));
        assert_eq!(Estimate { sketch: Some(&sketch), hint }.quantile(950), 20_000);
        sketch.add(10);
        assert_eq!(Estimate { sketch: Some(&sketch), hint }.quantile(950), 10);
        let zero = Estimate::assumed(Hint::ZERO);
        let work = Estimate::assumed(hint);
        for (limit, chance) in [(9_999, 0), (10_000, 500), (20_000, 950), (30_000, 990), (u64::MAX, 1000)] {
            assert_eq!(chance_of_sum(&zero, &work, limit), chance, "{limit}");
        }
    }
}
