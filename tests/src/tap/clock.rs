//! The two clocks: strace and the ledger tell the wall's, nodes record their own, the machine's monotonic one.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// How far the wall clock may drift from the monotonic one during an observation, microseconds. Both are slewed alike;
/// beyond it somebody has set the wall clock, and the order of acts and outputs cannot be told.
const DRIFT_MAX_US: u64 = 5_000;

/// The nodes' clock, microseconds.
pub fn node_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    u64::try_from(micros).expect("a clock that began before now")
}

/// What to take from the wall clock to get the nodes' clock, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct WallToNode(u64);

impl WallToNode {
    /// As it is now.
    ///
    /// # Panics
    /// If the wall clock stands before 1970.
    pub fn now() -> Self {
        let before = node_us();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("a wall clock").as_micros();
        // The later of two readings: an act never seems to come before its output because of the reading between.
        Self(u64::try_from(wall).expect("a wall clock of this age").saturating_sub(node_us().max(before)))
    }

    /// The figure, if the wall clock has not been set since.
    ///
    /// # Panics
    /// If it was.
    pub fn still(self) -> u64 {
        let drift = Self::now().0.abs_diff(self.0);
        assert!(
            drift <= DRIFT_MAX_US,
            "the wall clock was set during the observation, by {drift} us: run it again"
        );
        self.0
    }
}
