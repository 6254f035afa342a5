//! The owner's side of outsourcing: one machine for all tasks that this node owns. Decides; never sends.
//!
//! ```text
//!   caller --> Submit, Cancel       +-----------+   Place    --> the one who knows the candidates
//!   places --> Placed               | Requester |   Send     --> the worker there (or here)
//!   worker --> Received             |           |   Report   --> the caller
//!   realm  --> Silent, PeerGone ... +-----------+   Measured, Suspect --> what is known of peers
//! ```
//!
//! Invariants
//! - Exactly one [`Output::Report`] per submitted task, no later than its deadline.
//! - A task of kind `once` has one unsettled attempt at the most: the next is made only after the worker
//!   said that the last one never took effect. If nobody can say, the outcome is indeterminate.
//! - Zero replies mean *unknown*, never *not executed*.
//! - Unknown, late and repeated messages change nothing but [`Requester::ignored`].

mod flow;
mod task;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::alarm::Alarm;
use policies::id::{Attempt, Digest, FunctionName, Incarnation, NodeId, TaskId, TenantId};
use policies::limits::{LEASE, RENEW_EVERY, STORIES_MAX, TASKS_OWNED_MAX};
use policies::placement::Realm;
use policies::task::{BlobRef, Class, Effect, Outcome};
use policies::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::{ToRequester, ToWorker};
use crate::report::{Story, TaskReport};
use task::Task;

/// Most attempts at one task, hedges included: more would only add load to places that already failed.
pub const ATTEMPTS_MAX: usize = 8;

/// How often a worker is asked what became of an attempt that must be settled.
pub const STATUS_EVERY: Duration = Duration::from_millis(100);

/// Added to a lease before it counts as over: flight time and the clocks' difference in speed.
pub const LEASE_MARGIN: Duration = Duration::from_millis(200);

/// Silence of a worker that holds a lease before it is suspected: one renewal without an answer, and the
/// next one due.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(500);

/// Pause before places are looked for again after all have refused.
pub const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What one hedge costs, in thousandths of a token.
const HEDGE_COST: u32 = 1_000;

/// What one submitted task earns: one hedge for twenty tasks, a budget of 5 %.
const HEDGE_EARNED: u32 = 50;

/// Most that is saved up: a burst of five hedges.
const HEDGE_SAVED_MAX: u32 = 5 * HEDGE_COST;

const _: () = {
    assert!(SUSPECT_AFTER.as_millis() >= 2 * RENEW_EVERY.as_millis());
    assert!(SUSPECT_AFTER.as_millis() < LEASE.as_millis());
};

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The function.
    pub function: FunctionName,
    /// Its code.
    pub bundle: Digest,
    /// On whose behalf.
    pub tenant: TenantId,
    /// What happens if it runs twice.
    pub effect: Effect,
    /// Service quality.
    pub class: Class,
    /// From submission, microseconds.
    pub deadline_us: u64,
    /// Input bytes.
    pub input: BlobRef,
}

/// Places for one attempt, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where it may run.
    pub places: Vec<Place>,
    /// Every candidate with its figures or the reason against it.
    pub why: String,
}

/// A place where a task may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub life: Incarnation,
    /// How it is reached.
    pub realm: Realm,
    /// How long to wait for its receipt, microseconds.
    pub accept_us: u64,
    /// When it should have ended, at the 95th percentile, microseconds from now.
    pub p95_us: u64,
}

/// Why a place is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The first attempt.
    First,
    /// The last one failed.
    Again,
    /// A second copy, because the first takes longer than usual.
    Hedge,
}

/// What the world can tell a requester.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Run this.
    Submit {
        /// Its number within this life of the node; never used twice.
        number: u64,
        /// What.
        spec: TaskSpec,
        /// When the caller asked; the deadline counts from here.
        arrived: Timestamp,
    },
    /// The answer to [`Output::Place`].
    Placed {
        /// Which task.
        number: u64,
        /// Where.
        plan: Plan,
    },
    /// A worker's message.
    Received {
        /// Who, by the identity of the channel.
        from: NodeId,
        /// Its life.
        life: Incarnation,
        /// What.
        body: ToRequester,
    },
    /// A peer's session is gone: a hint.
    PeerGone {
        /// Which.
        peer: NodeId,
    },
    /// Nobody answered a message to this peer: unknown.
    Silent {
        /// Which.
        peer: NodeId,
    },
    /// A peer lives a newer life: whatever ran there in an earlier one does not run any more.
    PeerLife {
        /// Which.
        peer: NodeId,
        /// Its life now.
        life: Incarnation,
    },
    /// The caller does not want it any more.
    Cancel {
        /// Which task.
        number: u64,
    },
    /// Time passed.
    Tick,
}

/// What a requester wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Find places and answer with [`Input::Placed`].
    Place {
        /// Which task.
        number: u64,
        /// What it is.
        spec: TaskSpec,
        /// Time left, microseconds.
        left_us: u64,
        /// Nodes that have just failed or already run it.
        avoid: Vec<NodeId>,
        /// What for.
        purpose: Purpose,
    },
    /// Send a message to a worker.
    Send {
        /// To whom; this node itself for a local run.
        to: NodeId,
        /// How it is reached.
        realm: Realm,
        /// What.
        body: ToWorker,
    },
    /// A second copy was sent.
    Hedged {
        /// The task.
        task: TaskId,
        /// Where it runs since when, and where the copy goes.
        why: String,
    },
    /// The task has ended.
    Report(TaskReport),
    /// A figure for placement.
    Measured {
        /// Where.
        peer: NodeId,
        /// Which function.
        function: FunctionName,
        /// What was measured.
        measure: Measure,
    },
    /// A peer did not answer.
    Suspect {
        /// Which.
        peer: NodeId,
        /// What it did not answer.
        why: String,
    },
    /// A broken invariant.
    Alarm(Alarm),
}

/// A measured duration, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// From sending a task to its receipt.
    Receipt(u64),
    /// Execution.
    Execution(u64),
}

/// Why a requester wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WakeReason {
    /// No receipt.
    AcceptTimeout,
    /// Renew a lease, or suspect its holder.
    Lease,
    /// Ask again what became of an attempt.
    Status,
    /// Send a second copy.
    Hedge,
    /// Look for places again.
    Again,
    /// The task's deadline.
    Deadline,
}

/// A task in one line, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// The task.
    pub task: TaskId,
    /// The function.
    pub function: FunctionName,
    /// Whose.
    pub tenant: TenantId,
    /// Service quality.
    pub class: Class,
    /// `placing`, `asked`, `running`, `settling`, or the outcome's word.
    pub state: String,
    /// Where it runs or ran.
    pub node: Option<NodeId>,
    /// Attempts so far.
    pub attempts: u32,
    /// The report, once it has ended.
    pub report: Option<TaskReport>,
}

/// The machine.
#[derive(Debug)]
pub struct Requester {
    owner: NodeId,
    life: Incarnation,
    tasks: BTreeMap<u64, Task>,
    /// When each open task wants to be looked at; one entry per task.
    wakes: BTreeSet<(Timestamp, u64)>,
    finished: VecDeque<Story>,
    hedge_saved: u32,
    ignored: u64,
    outputs: VecDeque<Output>,
}

impl Requester {
    /// A requester for one life of a node.
    pub const fn new(owner: NodeId, life: Incarnation) -> Self {
        Self {
            owner,
            life,
            tasks: BTreeMap::new(),
            wakes: BTreeSet::new(),
            finished: VecDeque::new(),
            hedge_saved: HEDGE_COST,
            ignored: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Feeds one input. `now` must not run backwards. Drain [`Self::poll`] afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Submit { number, spec, arrived } => self.submit(now, number, spec, arrived),
            Input::Placed { number, plan } => self.with(number, |this, task| this.placed(now, task, plan)),
            Input::Received { from, life, body } => self.received(now, &from, life, body),
            Input::PeerGone { peer } => self.each_at(&peer, |this, task| {
                this.doubt(now, task, &peer, "its session is gone");
            }),
            Input::Silent { peer } => self.each_at(&peer, |this, task| {
                this.doubt(now, task, &peer, "nobody answered");
            }),
            Input::PeerLife { peer, life } => self.each_at(&peer, |this, task| {
                this.reborn(now, task, &peer, life);
            }),
            Input::Cancel { number } => self.with(number, |this, task| this.cancel(now, task)),
            Input::Tick => self.tick(now),
        }
    }

    /// Takes the next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Tick`] next, and why.
    pub fn next_wake(&self) -> Option<(Timestamp, WakeReason)> {
        let (_, number) = self.wakes.first()?;
        self.tasks.get(number).map(Task::wake)
    }

    /// Messages that meant nothing here: late, repeated, or from the wrong peer.
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    /// How many tasks are open.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Open tasks, then finished ones, newest first.
    pub fn views(&self) -> Vec<TaskView> {
        let open = self.tasks.values().rev().map(Task::view);
        open.chain(self.finished.iter().rev().filter_map(finished_view)).collect()
    }

    /// The story of a task, if it is still kept.
    pub fn story(&self, task: &TaskId) -> Option<&Story> {
        let open = self.tasks.get(&task.number).map(|open| &open.story).filter(|story| story.task == *task);
        open.or_else(|| self.finished.iter().rev().find(|story| story.task == *task))
    }

    fn submit(&mut self, now: Timestamp, number: u64, spec: TaskSpec, arrived: Timestamp) {
        let id = TaskId { owner: self.owner.clone(), incarnation: self.life, number };
        if self.tasks.contains_key(&number) {
            let detail = alloc::format!("{id}");
            self.outputs.push_back(Output::Alarm(Alarm { name: "task-number-used-twice".into(), detail }));
            return;
        }
        let mut task = Task::new(id, spec, arrived.min(now));
        if self.tasks.len() >= TASKS_OWNED_MAX {
            let why = alloc::format!("{TASKS_OWNED_MAX} tasks are open, which is the maximum");
            self.finish(now, &mut task, Outcome::Refused { why }, None);
            return self.keep(number, task);
        }
        if task.spec.effect == Effect::Pure {
            self.hedge_saved = (self.hedge_saved + HEDGE_EARNED).min(HEDGE_SAVED_MAX);
        }
        self.look_for_place(now, &mut task, Purpose::First);
        self.keep(number, task);
    }

    /// Lends a task to `work` and files it again, unless it has ended.
    fn with(&mut self, number: u64, work: impl FnOnce(&mut Self, &mut Task)) {
        let Some(mut task) = self.tasks.remove(&number) else {
            self.ignored += 1;
            return;
        };
        if let Some(at) = task.armed.take() {
            self.wakes.remove(&(at, number));
        }
        work(self, &mut task);
        self.keep(number, task);
    }

    fn keep(&mut self, number: u64, mut task: Task) {
        if task.story.report.is_some() {
            self.finished.push_back(task.story);
            if self.finished.len() > STORIES_MAX {
                self.finished.pop_front();
            }
            return;
        }
        let (at, _) = task.wake();
        task.armed = Some(at);
        self.wakes.insert((at, number));
        self.tasks.insert(number, task);
    }

    fn each_at(&mut self, peer: &NodeId, mut work: impl FnMut(&mut Self, &mut Task)) {
        let there = |task: &Task| task.tries.iter().any(|t| t.place.node == *peer && t.is_open());
        let numbers: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| there(task)).map(|(number, _)| *number).collect();
        for number in numbers {
            self.with(number, &mut work);
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let due: Vec<u64> = self.wakes.iter().take_while(|(at, _)| *at <= now).map(|(_, n)| *n).collect();
        for number in due {
            self.with(number, |this, task| this.due(now, task));
        }
    }

    fn received(&mut self, now: Timestamp, from: &NodeId, life: Incarnation, body: ToRequester) {
        let Some((task, attempt)) = subject(&body) else {
            self.ignored += 1;
            return;
        };
        if task.owner != self.owner || task.incarnation != self.life {
            self.ignored += 1;
            return;
        }
        self.with(task.number, |this, task| this.heard(now, task, from, life, attempt, body));
    }
}

/// Which attempt a worker's message is about.
fn subject(body: &ToRequester) -> Option<(TaskId, Attempt)> {
    match body {
        ToRequester::Accepted { task, attempt, .. }
        | ToRequester::Rejected { task, attempt, .. }
        | ToRequester::Busy { task, attempt, .. }
        | ToRequester::Began { task, attempt }
        | ToRequester::Ended { task, attempt, .. } => Some((task.clone(), *attempt)),
        ToRequester::Partial { .. } => None,
    }
}

fn finished_view(story: &Story) -> Option<TaskView> {
    let report = story.report.clone()?;
    Some(TaskView {
        task: story.task.clone(),
        function: story.function.clone(),
        tenant: report.tenant.clone(),
        class: report.class,
        state: report.outcome.word().into(),
        node: report.node.clone(),
        attempts: report.attempts,
        report: Some(report),
    })
}
