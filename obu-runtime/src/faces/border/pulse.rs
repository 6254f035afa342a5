//! Whether the border's loop still goes round. A call into a session may block for as long as the session is busy with
//! what its app has declared; meanwhile no island of the tenant is served, and not even the deletion of that app.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Looks without a beat between them after which the loop counts as stuck. Looks and not seconds: a process that was
/// frozen as a whole misses beats and looks alike.
const LOOKS: u32 = 3;

/// Counts the rounds of a loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop has gone round, or waits for somebody else.
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at the loop every `pause` from a thread of its own, as long as it lives; calls `stuck` once if it stood
    /// still for [`LOOKS`] of them. The loop must beat more often than every second `pause`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn watch(
        &self,
        pause: Duration,
        stuck: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let beats = Arc::downgrade(&self.0);
        let watch = move || {
            let (mut last, mut still) = (0, 0);
            loop {
                std::thread::sleep(pause);
                let Some(beats) = beats.upgrade() else { return };
                let seen = beats.load(Ordering::Relaxed);
                still = if seen == last { still + 1 } else { 0 };
                last = seen;
                if still >= LOOKS {
                    return stuck();
                }
            }
        };
        std::thread::Builder::new().name("pulse".into()).spawn(watch).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(20);

    #[test]
    fn a_loop_that_stands_still_is_told_and_one_that_beats_is_not() {
        let (told, stuck) = mpsc::channel();
        let pulse = Pulse::default();
        pulse.watch(PAUSE, move || told.send(()).unwrap()).unwrap();
        for _ in 0..4 * LOOKS {
            pulse.beat();
            assert_eq!(stuck.recv_timeout(PAUSE / 2), Err(mpsc::RecvTimeoutError::Timeout));
        }
        stuck.recv().expect("a loop that stands still is told");
    }

    #[test]
    fn the_watch_ends_with_the_loop() {
        let (told, stuck) = mpsc::channel::<()>();
        let pulse = Pulse::default();
        pulse.watch(PAUSE, move || told.send(()).unwrap()).unwrap();
        drop(pulse);
        assert_eq!(stuck.recv(), Err(mpsc::RecvError));
    }
}
