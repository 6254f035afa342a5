//! The one clock of a node's processes: `CLOCK_MONOTONIC`, which all of them share.

use nix::time::{ClockId, clock_gettime};
use policies::time::Timestamp;

/// Furthest a kernel timestamp is believed to lie back. A wall clock that was set in between would otherwise
/// make fresh frames look old.
const BACKLOG_MAX_US: u64 = 1_000_000;

/// Both clocks, read together.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// This node's clock.
    pub now: Timestamp,
    /// Nanoseconds since 1970, for comparison with kernel timestamps only.
    realtime_ns: u64,
}

impl Reading {
    /// Reads both clocks.
    pub fn take() -> Self {
        Self { now: now(), realtime_ns: read_ns(ClockId::CLOCK_REALTIME) }
    }

    /// A kernel's receive timestamp on this node's clock.
    pub fn place(&self, kernel_ns: u64) -> Timestamp {
        let back_us = self.realtime_ns.saturating_sub(kernel_ns) / 1_000;
        Timestamp::from_micros(self.now.as_micros().saturating_sub(back_us.min(BACKLOG_MAX_US)))
    }

    /// Wall clock in seconds, as python-can stamps its datagrams.
    pub fn wall_seconds(&self) -> f64 {
        self.realtime_ns as f64 / 1e9
    }
}

/// Now, on the clock that every process of this node shares.
pub fn now() -> Timestamp {
    Timestamp::from_micros(read_ns(ClockId::CLOCK_MONOTONIC) / 1_000)
}

fn read_ns(clock: ClockId) -> u64 {
    // Neither clock can fail on Linux; zero would only make ages too large.
    let time = clock_gettime(clock).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()));
    u64::try_from(time.0).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_timestamps_are_placed_and_jumps_are_bounded() {
        let reading = Reading { now: Timestamp::from_micros(5_000_000), realtime_ns: 100_000_000_000 };
        let cases = [
            ("just now", 100_000_000_000, 5_000_000),
            ("20 ms ago", 99_980_000_000, 4_980_000),
            ("the wall clock was set ahead", 1_000_000_000, 4_000_000),
            ("the wall clock was set back", 200_000_000_000, 5_000_000),
        ];
        for (situation, kernel, expected) in cases {
            assert_eq!(reading.place(kernel), Timestamp::from_micros(expected), "{situation}");
        }
    }
}
