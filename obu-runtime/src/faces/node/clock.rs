//! The machine's clock: this computer's monotonic clock, slowed down by the node's `time_scale`.
//!
//! The machine never learns of the scale. On an emulated machine that is ten times slower, all its waits,
//! leases and deadlines last ten times as long, and what it is told to have taken a while took a tenth.

use std::time::Duration;

use policies::time::Timestamp;

/// The clock of one node process. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    scale: u32,
}

impl Clock {
    /// A clock that runs `scale` times slower than real time; 0 counts as 1.
    pub(super) const fn new(scale: u32) -> Self {
        Self { scale: if scale == 0 { 1 } else { scale } }
    }

    /// Now, in the machine's time.
    pub(super) fn now(self) -> Timestamp {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let secs = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Timestamp::from_micros(self.machine_us(secs * 1_000_000 + nanos / 1000))
    }

    /// Microseconds that really passed, in the machine's time.
    pub(super) const fn machine_us(self, real_us: u64) -> u64 {
        real_us / self.scale as u64
    }

    /// How long a wait of the machine really is.
    pub(super) fn real(self, wait: Duration) -> Duration {
        wait * self.scale
    }

    /// Sleeps until the machine's clock shows `wake`; at once if there is none.
    pub(super) async fn sleep_until(self, wake: Option<Timestamp>) {
        let Some(wake) = wake else { return };
        tokio::time::sleep(self.real(wake.since(self.now()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_is_that_much_slower_and_its_waits_that_much_longer() {
        for (scale, real_us, machine_us, wait_ms, real_ms) in
            [(0, 5_000, 5_000, 7, 7), (1, 5_000, 5_000, 7, 7), (10, 5_000, 500, 7, 70)]
        {
            let clock = Clock::new(scale);
            assert_eq!(clock.machine_us(real_us), machine_us, "scale {scale}");
            let wait = Duration::from_millis(wait_ms);
            assert_eq!(clock.real(wait), Duration::from_millis(real_ms), "scale {scale}");
        }
        let (one, ten) = (Clock::new(1).now(), Clock::new(10).now());
        assert!(one.as_micros() / 10 <= ten.as_micros() + 1);
    }
}
