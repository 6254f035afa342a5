//! App `critical-timer`: wakes up every 10 ms and measures how late; prints one JSON line per second:
//! `{"n": wake-ups, "p50_us": ..., "p99_us": ..., "max_us": ...}`. What a `critical` app must not feel of
//! its neighbours shows here first.

use std::io::Write;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(10);
const REPORT_EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // One second's worth and room for jitter: no allocation while measuring.
    let mut late_us = Vec::with_capacity(256);
    let mut due = Instant::now() + PERIOD;
    let mut report_due = Instant::now() + REPORT_EVERY;
    loop {
        sleep(due.saturating_duration_since(Instant::now()));
        let woke = Instant::now();
        late_us.push(woke.saturating_duration_since(due).as_micros());
        due = next_due(due, woke);
        if woke >= report_due {
            if writeln!(std::io::stdout(), "{}", report(&mut late_us)).is_err() {
                return ExitCode::FAILURE; // nobody listens any more
            }
            late_us.clear();
            report_due = woke + REPORT_EVERY;
        }
    }
}

/// The next tick of the same grid after `woke`: ticks slept through are not made up for, their lateness
/// has been counted once.
fn next_due(due: Instant, woke: Instant) -> Instant {
    let slept_through = woke.saturating_duration_since(due).as_nanos() / PERIOD.as_nanos();
    due + PERIOD * u32::try_from(slept_through + 1).unwrap_or(u32::MAX)
}

/// Sorts the samples and puts them into one line.
fn report(late_us: &mut [u128]) -> String {
    late_us.sort_unstable();
    let at =
        |percent: usize| late_us.get((late_us.len() * percent / 100).min(late_us.len().saturating_sub(1)));
    let value = |sample: Option<&u128>| sample.copied().unwrap_or(0);
    format!(
        r#"{{"n":{},"p50_us":{},"p99_us":{},"max_us":{}}}"#,
        late_us.len(),
        value(at(50)),
        value(at(99)),
        value(late_us.last())
    )
}

#[cfg(test)]
mod tests {
    use super::{PERIOD, next_due, report};
    use std::time::{Duration, Instant};

    #[test]
    fn reports_percentiles_of_unsorted_samples() {
        let mut samples: Vec<u128> = (0..100).rev().collect();
        assert_eq!(report(&mut samples), r#"{"n":100,"p50_us":50,"p99_us":99,"max_us":99}"#);
        assert_eq!(report(&mut [7]), r#"{"n":1,"p50_us":7,"p99_us":7,"max_us":7}"#);
        assert_eq!(report(&mut []), r#"{"n":0,"p50_us":0,"p99_us":0,"max_us":0}"#);
    }

    #[test]
    fn keeps_to_the_grid_and_skips_what_it_slept_through() {
        let due = Instant::now();
        for (late_ms, ticks) in [(0, 1), (3, 1), (10, 2), (25, 3), (1000, 101)] {
            assert_eq!(
                next_due(due, due + Duration::from_millis(late_ms)),
                due + PERIOD * ticks,
                "{late_ms} ms"
            );
        }
    }
}
