//! Two kinds of time that cannot be mixed: a monotonic [`Timestamp`] and a [`WallTime`] in UTC.

use core::fmt;
use core::ops::Add;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A point on *this node's* monotonic clock: microseconds since some start that only this life of the node
/// knows. For deadlines and durations; meaningless to any other node.
///
/// Our own type, because `std::time::Instant` can only be made by asking the operating system, and because
/// the simulator needs to make any instant it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of time.
    pub const ZERO: Self = Self(0);
    /// The end of time, about 584 000 years after the start.
    pub const MAX: Self = Self(u64::MAX);

    /// Builds a timestamp from microseconds. Only clock sources, decoders and tests should call this.
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the start of time.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, or zero if `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This point moved back by `by`, stopping at the start of time.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the end of time instead of wrapping into the past.
    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(micros(wait)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A point in UTC: microseconds since 1970. For messages and logs.
///
/// It may jump. There is deliberately no conversion to [`Timestamp`] and no `+ Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallTime(pub i64);

/// `d` in whole microseconds, saturating.
pub fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let cases = [
            (Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX),
            (Timestamp::ZERO + Duration::MAX, Timestamp::MAX),
            (Timestamp::from_micros(5).minus(Duration::from_secs(1)), Timestamp::ZERO),
            (Timestamp::from_micros(5) + Duration::from_micros(7), Timestamp::from_micros(12)),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected);
        }
        assert_eq!(Timestamp::ZERO.since(Timestamp::MAX), Duration::ZERO);
    }
}
