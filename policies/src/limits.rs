//! Every queue, table, retry and wait has a named maximum with its reason; relations between them are
//! checked by the compiler.

use core::time::Duration;

/// Largest message on any realm or channel. More goes as blobs. Bounds what one peer can make us allocate.
pub const MESSAGE_LEN_MAX: usize = 4 << 20;

/// Largest input or result that travels inside a message: a 1080p JPEG of good quality fits.
pub const INLINE_LEN_MAX: usize = 1 << 20;

/// Most apps on one node: one status reply lists them all within [`MESSAGE_LEN_MAX`].
pub const APPS_MAX: usize = 128;

/// Most functions a node knows.
pub const FUNCTIONS_MAX: usize = 256;

/// Most tasks that one node owns and has not finished. Beyond it an app gets an answer at once.
pub const TASKS_OWNED_MAX: usize = 1024;

/// Most tasks admitted and not finished at one worker.
pub const JOBS_MAX: usize = 256;

/// Most records of finished jobs a worker keeps for repeats. At 1000 tasks/s this is eight seconds, four
/// times the longest lease.
pub const RECORDS_MAX: usize = 8192;

/// Most peers a node keeps adverts of.
pub const PEERS_MAX: usize = 256;

/// Longest text of a reason: it goes into replies, logs and the audit log.
pub const REASON_LEN_MAX: usize = 300;

/// Finished tasks whose story `verge task explain` can still tell.
pub const STORIES_MAX: usize = 2048;

/// How long a worker's promise holds without renewal inside the car.
pub const LEASE: Duration = Duration::from_millis(1_000);

/// How often a requester renews the lease of a running job.
pub const RENEW_EVERY: Duration = Duration::from_millis(250);

/// How long a worker keeps the record of a finished job, so that a late repeat finds it.
pub const RECORD_KEPT: Duration = Duration::from_secs(10);

/// How long an advert or a load report counts without a newer one.
pub const ADVERT_FRESH: Duration = Duration::from_millis(3_000);

const _: () = {
    // A lease outlives three lost renewals.
    assert!(LEASE.as_millis() >= 4 * RENEW_EVERY.as_millis());
    // A record outlives every repeat that a living lease may cause.
    assert!(RECORD_KEPT.as_millis() >= 4 * LEASE.as_millis());
    assert!(INLINE_LEN_MAX < MESSAGE_LEN_MAX);
    assert!(RECORDS_MAX >= JOBS_MAX);
};
