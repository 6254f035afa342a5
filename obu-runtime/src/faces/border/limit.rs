//! How much one island may ask: a token bucket, and a limiter for what is reported of it.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    every: Duration,
    burst: u32,
    tokens: u32,
    counted_to: Instant,
}

impl Bucket {
    /// One token per `every`, at most `burst` saved up; full now.
    pub(super) fn new(every: Duration, burst: u32, now: Instant) -> Self {
        Self { every, burst, tokens: burst, counted_to: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted_to);
        let earned = u32::try_from(passed.as_nanos() / self.every.as_nanos().max(1)).unwrap_or(u32::MAX);
        if earned >= self.burst - self.tokens {
            (self.tokens, self.counted_to) = (self.burst, now);
        } else {
            self.tokens += earned;
            self.counted_to += self.every * earned;
        }
        let had = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        had
    }
}

/// Lets some reports through and counts the rest.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    bucket: Bucket,
    held: u64,
}

impl Reports {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, held: 0 }
    }

    /// The text to report, or `None` now. A report after a pause says how many were held back.
    pub(super) fn pass(&mut self, text: String, now: Instant) -> Option<String> {
        if !self.bucket.take(now) {
            self.held += 1;
            return None;
        }
        match std::mem::take(&mut self.held) {
            0 => Some(text),
            held => Some(format!("{text} (and {held} more)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Duration::from_millis(10), 3, begin);
        assert_eq!((0..5).filter(|_| bucket.take(begin)).count(), 3);
        let later = begin + Duration::from_millis(25);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 2);
        assert!(bucket.take(begin + Duration::from_millis(30)), "the rest of a period is not lost");
        let much_later = begin + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| bucket.take(much_later)).count(), 3, "no more than the burst is saved");
    }

    #[test]
    fn what_is_held_back_is_said_later() {
        let begin = Instant::now();
        let mut reports = Reports::new(Bucket::new(Duration::from_millis(10), 1, begin));
        assert_eq!(reports.pass("a".into(), begin), Some("a".into()));
        assert_eq!(reports.pass("b".into(), begin), None);
        assert_eq!(reports.pass("c".into(), begin), None);
        let later = begin + Duration::from_millis(10);
        assert_eq!(reports.pass("d".into(), later), Some("d (and 2 more)".into()));
    }
}
