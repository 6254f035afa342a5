//! Waiting for what must happen, with a bound; and saying loudly what was not run.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before it counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked.
const EVERY: Duration = Duration::from_millis(40);

/// Looks until there is something, for [`PATIENCE`] at the most.
///
/// # Panics
/// If it does not come. `what` completes "waited in vain until ...".
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Looks until there is something, for `patience` at the most.
///
/// # Panics
/// If it does not come.
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s in vain until {what}", patience.as_secs());
        std::thread::sleep(EVERY);
    }
}

/// Says that a test does not run here, past the harness that swallows the output of passing tests.
pub fn skipped(test: &str, why: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// Ends the test with a loud line if a condition for it is not met.
#[macro_export]
macro_rules! needs {
    ($test:expr, $($condition:expr),+ $(,)?) => {
        $(if let Err(why) = $condition {
            $crate::wait::skipped($test, &why);
            return;
        })+
    };
}
