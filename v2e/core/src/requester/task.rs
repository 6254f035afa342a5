//! What a requester knows of one open task and of each attempt at it.

use alloc::vec::Vec;
use core::time::Duration;
use policies::id::{Attempt, Incarnation, TaskId};
use policies::time::{Timestamp, micros};

use super::{Place, Purpose, TaskSpec, TaskView, WakeReason};
use crate::report::Story;

/// How far one attempt is known to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Sent; no receipt yet.
    Asked {
        /// When to stop waiting for one.
        give_up_at: Timestamp,
    },
    /// The worker promised to run it.
    Held {
        /// When it was last heard of.
        heard_at: Timestamp,
        /// When to renew the lease.
        renew_at: Timestamp,
        /// Whether a renewal has been sent since it was heard of: a node that was itself asleep must not
        /// blame others for its silence.
        asked: bool,
    },
    /// `once` only: nobody knows; the worker is being asked.
    Settling {
        /// When to ask again.
        ask_at: Timestamp,
        /// When to give up.
        until: Timestamp,
    },
    /// Not `once`: nobody knows, and it does not matter; a late result is welcome.
    Lost,
    /// The worker said that it never took effect and never will.
    Settled,
}

/// One attempt.
#[derive(Clone, Debug)]
pub(super) struct Try {
    pub(super) attempt: Attempt,
    pub(super) place: Place,
    pub(super) sent: Timestamp,
    pub(super) progress: Progress,
}

impl Try {
    /// Whether it may still deliver.
    pub(super) fn is_open(&self) -> bool {
        self.progress != Progress::Settled
    }

    /// Whether somebody is believed to work on it.
    pub(super) const fn is_active(&self) -> bool {
        matches!(self.progress, Progress::Asked { .. } | Progress::Held { .. })
    }

    fn wake(&self) -> Option<(Timestamp, WakeReason)> {
        match self.progress {
            Progress::Asked { give_up_at } => Some((give_up_at, WakeReason::AcceptTimeout)),
            Progress::Held { renew_at, .. } => Some((renew_at, WakeReason::Lease)),
            Progress::Settling { ask_at, until } => Some((ask_at.min(until), WakeReason::Status)),
            Progress::Lost | Progress::Settled => None,
        }
    }
}

/// One open task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) spec: TaskSpec,
    pub(super) submitted: Timestamp,
    pub(super) deadline: Timestamp,
    pub(super) story: Story,
    pub(super) tries: Vec<Try>,
    /// What the place is for that has been asked for.
    pub(super) placing: Option<Purpose>,
    /// When the first place was found.
    pub(super) matched: Option<Timestamp>,
    /// When to look for places again after all have refused.
    pub(super) again_at: Option<Timestamp>,
    /// Attempts up to this one no longer keep their nodes from being asked again.
    pub(super) forgiven: usize,
    /// When to send a second copy.
    pub(super) hedge_at: Option<Timestamp>,
    pub(super) hedged: bool,
    pub(super) cancelled: bool,
    /// The entry in the table of wakes.
    pub(super) armed: Option<Timestamp>,
}

impl Task {
    pub(super) fn new(id: TaskId, spec: TaskSpec, submitted: Timestamp) -> Self {
        let deadline = submitted + Duration::from_micros(spec.deadline_us);
        let function = spec.function.clone();
        let mut story = Story { task: id, function, steps: Vec::new(), dropped: 0, report: None };
        let why = alloc::format!(
            "{} for {}, class {}, effect {}, {} bytes, deadline {} us",
            spec.function,
            spec.tenant,
            spec.class,
            spec.effect.as_str(),
            spec.input.len,
            spec.deadline_us
        );
        story.note(submitted, None, "submitted", why);
        Self {
            spec,
            submitted,
            deadline,
            story,
            tries: Vec::new(),
            placing: None,
            matched: None,
            again_at: None,
            forgiven: 0,
            hedge_at: None,
            hedged: false,
            cancelled: false,
            armed: None,
        }
    }

    pub(super) fn left_us(&self, now: Timestamp) -> u64 {
        micros(self.deadline.since(now))
    }

    /// The attempt that a message is about, if it comes from the node that it was given to, in a life no
    /// older than the one that it was given to.
    pub(super) fn position(
        &self,
        attempt: Attempt,
        from: &policies::id::NodeId,
        life: Incarnation,
    ) -> Option<usize> {
        self.tries.iter().position(|t| t.attempt == attempt && t.place.node == *from && t.place.life <= life)
    }

    /// When it wants to be looked at, and why: at its deadline at the latest.
    pub(super) fn wake(&self) -> (Timestamp, WakeReason) {
        let own = [
            Some((self.deadline, WakeReason::Deadline)),
            self.again_at.map(|at| (at, WakeReason::Again)),
            self.hedge_at.map(|at| (at, WakeReason::Hedge)),
        ];
        let all = own.into_iter().flatten().chain(self.tries.iter().filter_map(Try::wake));
        all.min().unwrap_or((self.deadline, WakeReason::Deadline))
    }

    pub(super) fn view(&self) -> TaskView {
        let last = self.tries.iter().rev().find(|t| t.is_open());
        let state = match last.map(|t| t.progress) {
            Some(Progress::Asked { .. }) => "asked",
            Some(Progress::Held { .. }) => "running",
            Some(Progress::Settling { .. }) => "settling",
            Some(Progress::Lost | Progress::Settled) | None => "placing",
        };
        TaskView {
            task: self.story.task.clone(),
            function: self.spec.function.clone(),
            tenant: self.spec.tenant.clone(),
            class: self.spec.class,
            state: state.into(),
            node: last.map(|t| t.place.node.clone()),
            attempts: u32::try_from(self.tries.len()).unwrap_or(u32::MAX),
            report: None,
        }
    }
}
