//! One admitted job and where it stands.

use policies::task::{BlobRef, Effect};
use policies::time::{Timestamp, micros};

use super::{EFFECT_WAIT, STOP_WAIT, Terms, WakeReason};
use crate::message::Run;

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting for a slot.
    Queued,
    /// `once`: its record is being made durable.
    Saving,
    /// In the sandbox.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// The effect port has its effect.
    Acting {
        /// Since when.
        since: Timestamp,
        /// What the call returned.
        result: BlobRef,
        /// How long it ran, microseconds.
        exec_us: u64,
    },
}

/// One admitted job.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) run: Run,
    pub(super) terms: Terms,
    pub(super) arrived: Timestamp,
    pub(super) deadline: Timestamp,
    pub(super) lease_until: Timestamp,
    /// Time spent in the queue, once it has left it, microseconds.
    pub(super) queued_us: u64,
    /// Why it must not have an effect any more.
    pub(super) stopped: Option<&'static str>,
    /// When the sandbox was told to stop it.
    pub(super) stop_sent: Option<Timestamp>,
    pub(super) stage: Stage,
}

impl Job {
    /// Whether a repeat would do harm.
    pub(super) fn is_once(&self) -> bool {
        self.run.effect == Effect::Once
    }

    pub(super) const fn takes_slot(&self) -> bool {
        matches!(self.stage, Stage::Saving | Stage::Running { .. })
    }

    /// What it still needs, at the 95th percentile. A running job that takes longer than that is taken to
    /// need a tenth more: nothing would make the queue behind it look free.
    pub(super) fn cost_left_us(&self, now: Timestamp) -> u64 {
        match self.stage {
            Stage::Queued | Stage::Saving => self.terms.cost_us,
            Stage::Running { since } => {
                let left = self.terms.cost_us.saturating_sub(micros(now.since(since)));
                left.max(self.terms.cost_us / 10)
            }
            Stage::Acting { .. } => 0,
        }
    }

    /// When time changes something about it: what is past already does not count.
    pub(super) fn wake(&self) -> Option<(Timestamp, WakeReason)> {
        match self.stage {
            Stage::Acting { since, .. } => Some((since + EFFECT_WAIT, WakeReason::Effect)),
            Stage::Queued | Stage::Saving => Some((self.deadline.min(self.lease_end()), WakeReason::Lease)),
            Stage::Running { .. } => Some((self.running_until(), WakeReason::Lease)),
        }
    }

    /// How long it may stay in the sandbox. A pure job may finish without a lease: its result may be wanted.
    fn running_until(&self) -> Timestamp {
        match self.stop_sent {
            Some(at) => at + STOP_WAIT,
            None if self.is_once() => self.deadline.min(self.lease_end()),
            None => self.deadline,
        }
    }

    /// When the lease ends: never, in the build that shows what the check is for.
    pub(super) fn lease_end(&self) -> Timestamp {
        if cfg!(feature = "testing-no-lease") { Timestamp::MAX } else { self.lease_until }
    }
}
