//! What requester and worker say to each other, and how it looks as bytes.
//!
//! ```text
//!   requester --- Run, Renew, Status, Cancel, Ack, Call ---------------> worker
//!   worker    --- Accepted, Rejected, Busy, Began, Ended,
//!                 Partial ---------------------------------------------> requester
//!   every node --- Advert ---------------------------------------------> its realm
//! ```
//!
//! Times on the wire are durations: each side counts on its own clock. Bytes travel beside a message, named
//! by a [`BlobRef`] inside it. Holding a [`Message`] that [`Message::decode`] returned proves that its
//! texts, lists and durations are within their limits; it proves nothing about who sent it.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use policies::id::{Attempt, CarId, Digest, FunctionName, Incarnation, NodeId, TaskId, TenantId};
use policies::limits::{FUNCTIONS_MAX, INLINE_LEN_MAX, REASON_LEN_MAX};
use policies::task::{BlobRef, Class, Effect};
use policies::time::micros;
use policies::wire::{self, Kind, WireError};
use serde::{Deserialize, Serialize};

/// Longest deadline, lease or eta accepted from a peer: ten minutes. Anything longer is not a task.
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// Longest name of what a call for a task wants, such as `road_temperature`.
pub const WANT_LEN_MAX: usize = 40;

/// Most readings that one partial answer may claim to hold, so that one peer cannot outweigh a zone.
pub const READINGS_MAX: u32 = 1_000;

/// A message with its sender. The sender is a claim: the driver says which channel it really came in on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Who sends.
    pub sender: NodeId,
    /// The sender's life; messages of an earlier life are dropped.
    pub incarnation: Incarnation,
    /// What.
    pub body: T,
}

/// Requester to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Run a task. Its input travels beside the message.
    Run(Run),
    /// The lease goes on; the owner still waits.
    Renew {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// From its arrival, microseconds.
        lease_us: u64,
    },
    /// What became of it? An attempt that the worker never saw is refused from then on.
    Status {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// Nobody waits for it any more.
    Cancel {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// The outcome has arrived: its record may go.
    Ack {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// A roadside element asks the cars of its zone for a sample (reverse offload).
    Call(CallForTask),
}

/// One attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The task.
    pub task: TaskId,
    /// Which attempt, and the fence.
    pub attempt: Attempt,
    /// The worker's life that this is meant for; another life refuses it.
    pub life: Incarnation,
    /// Whose task it is.
    pub tenant: TenantId,
    /// The function.
    pub function: FunctionName,
    /// Its code; a worker that holds other code under this name refuses.
    pub bundle: Digest,
    /// What happens if it runs twice.
    pub effect: Effect,
    /// Service quality.
    pub class: Class,
    /// Until it is too late, from arrival, microseconds.
    pub deadline_us: u64,
    /// Until the worker must assume that nobody waits, from arrival, microseconds.
    pub lease_us: u64,
    /// Input bytes.
    pub input: BlobRef,
}

/// A call for a sample from all cars of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallForTask {
    /// Names the call; its owner is the issuer.
    pub call: TaskId,
    /// The function that makes a reading out of signals.
    pub function: FunctionName,
    /// What is wanted, in the function's words.
    pub want: String,
    /// Cars outside this box stay silent.
    pub area: Option<Area>,
    /// Until answers come too late, microseconds.
    pub deadline_us: u64,
}

/// A box on the earth in millionths of a degree (WGS 84).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Southern edge.
    pub south: i64,
    /// Northern edge.
    pub north: i64,
    /// Western edge.
    pub west: i64,
    /// Eastern edge.
    pub east: i64,
}

impl Area {
    /// Whether a position in millionths of a degree lies inside; edges count.
    pub const fn contains(&self, latitude: i64, longitude: i64) -> bool {
        self.south <= latitude && latitude <= self.north && self.west <= longitude && longitude <= self.east
    }
}

/// A value in fixed point, so that merging gives the same result on every machine and in every order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The mean, in millionths of the unit.
    pub value_micro: i64,
    /// How many samples it holds; 1 to [`READINGS_MAX`].
    pub n: u32,
}

/// Worker to requester.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRequester {
    /// It will run.
    Accepted {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Expected end, from now, microseconds.
        eta_us: u64,
        /// How long the promise holds without renewal, microseconds.
        lease_us: u64,
    },
    /// It did not start and never will under this attempt.
    Rejected {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// The rule.
        why: String,
        /// When it could have ended, from now, microseconds, where that was the reason.
        eta_us: Option<u64>,
    },
    /// Another attempt at the same task is still running here.
    Busy {
        /// The task.
        task: TaskId,
        /// The attempt that was asked for; it did not start.
        attempt: Attempt,
        /// The one that runs.
        running: Attempt,
    },
    /// It left the queue. Also the answer to a renewal or a status request while it runs.
    Began {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
    },
    /// It is over. Result bytes travel beside the message.
    Ended {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// How.
        end: JobEnd,
        /// Time in the worker's queue, microseconds.
        queued_us: u64,
        /// Time of execution, microseconds.
        exec_us: u64,
    },
    /// A reading for a call.
    Partial {
        /// The call.
        call: TaskId,
        /// The value.
        reading: Reading,
    },
}

/// How one attempt ended at its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEnd {
    /// It ran; its effect, if it has one, was applied.
    Done {
        /// Result bytes.
        result: BlobRef,
    },
    /// The function said no, before any effect.
    Failed {
        /// Exit code, or -1 for a trap.
        code: i32,
        /// Its last words.
        why: String,
    },
    /// It was stopped before any effect: cancelled, lease over, or a newer attempt holds the fence.
    Stopped {
        /// Which of these.
        why: String,
    },
    /// It started, and nobody can say whether its effect happened.
    Unknown {
        /// What is known.
        why: String,
    },
}

impl JobEnd {
    /// Whether this end proves that no effect happened, so that another attempt is safe for every kind.
    pub const fn is_effect_free(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Stopped { .. })
    }
}

/// What a node is; sets defaults only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An on-board unit.
    #[default]
    Obu,
    /// A roadside edge element.
    Edge,
    /// A cloud host.
    Cloud,
}

/// What a node says of itself to a realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Counts up within the sender's life; an older one changes nothing.
    pub seq: u64,
    /// The car it belongs to (an alias outside the car).
    pub car: CarId,
    /// What it is.
    pub role: Role,
    /// Calls it runs at a time.
    pub cores: u16,
    /// What it can run.
    pub functions: Vec<Offer>,
    /// How busy it is.
    pub load: Load,
}

/// A function that a node can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: FunctionName,
    /// Its code.
    pub bundle: Digest,
    /// Service time there at the 95th percentile, microseconds.
    pub service_us: u64,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Calls running.
    pub running: u16,
    /// Calls waiting.
    pub queued: u16,
    /// Work admitted and not finished, at the 95th percentile, microseconds over all cores.
    pub backlog_us: u64,
    /// CPU in use, thousandths of the machine.
    pub cpu_used: u16,
}

/// Any message of the offload protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Requester to worker.
    ToWorker(Envelope<ToWorker>),
    /// Worker to requester.
    ToRequester(Envelope<ToRequester>),
    /// To everyone in a realm.
    Advert(Envelope<Advert>),
}

/// Why bytes are not a message of the offload protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The frame or its body is damaged or foreign.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A field is beyond its limit.
    #[error("{field} is {got}; {max} is the maximum")]
    Beyond {
        /// The field.
        field: &'static str,
        /// Its value or length.
        got: u64,
        /// The limit.
        max: u64,
    },
}

impl MessageError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Wire(WireError::Version { .. }) => {
                Some("bring both nodes to releases that differ by one at the most".into())
            }
            Self::Wire(_) | Self::Beyond { .. } => None,
        }
    }
}

impl Message {
    /// Who claims to have sent it.
    pub fn sender(&self) -> (&NodeId, Incarnation) {
        match self {
            Self::ToWorker(e) => (&e.sender, e.incarnation),
            Self::ToRequester(e) => (&e.sender, e.incarnation),
            Self::Advert(e) => (&e.sender, e.incarnation),
        }
    }

    /// The bytes that must travel beside it, if any.
    pub fn payload(&self) -> Option<BlobRef> {
        match self {
            Self::ToWorker(Envelope { body: ToWorker::Run(run), .. }) => Some(run.input),
            Self::ToRequester(Envelope {
                body: ToRequester::Ended { end: JobEnd::Done { result }, .. },
                ..
            }) => Some(*result),
            Self::ToWorker(_) | Self::ToRequester(_) | Self::Advert(_) => None,
        }
    }

    /// One frame of [`policies::wire`].
    ///
    /// # Errors
    /// [`MessageError::Beyond`] if a field is beyond its limit: what a peer would refuse is never sent.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.check()?;
        Ok(match self {
            Self::ToWorker(e) => wire::encode(Kind::ToWorker, e)?,
            Self::ToRequester(e) => wire::encode(Kind::ToRequester, e)?,
            Self::Advert(e) => wire::encode(Kind::Advert, e)?,
        })
    }

    /// Reads one frame; foreign bytes give an error, never a panic.
    ///
    /// # Errors
    /// If the frame is damaged, of another kind, or holds a field beyond its limit.
    pub fn decode(frame: &[u8]) -> Result<Self, MessageError> {
        wire::body_len(frame)?;
        let message = match frame.get(3) {
            Some(kind) if *kind == Kind::ToWorker as u8 => {
                Self::ToWorker(wire::decode(Kind::ToWorker, frame)?)
            }
            Some(kind) if *kind == Kind::ToRequester as u8 => {
                Self::ToRequester(wire::decode(Kind::ToRequester, frame)?)
            }
            Some(_) | None => Self::Advert(wire::decode(Kind::Advert, frame)?),
        };
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::ToWorker(e) => check_to_worker(&e.body),
            Self::ToRequester(e) => check_to_requester(&e.body),
            Self::Advert(e) => check_advert(&e.body),
        }
    }
}

fn at_most(field: &'static str, got: u64, max: u64) -> Result<(), MessageError> {
    if got <= max { Ok(()) } else { Err(MessageError::Beyond { field, got, max }) }
}

fn wait(field: &'static str, got: u64) -> Result<(), MessageError> {
    at_most(field, got, micros(WAIT_MAX))
}

fn text(field: &'static str, text: &str, max: usize) -> Result<(), MessageError> {
    at_most(field, text.len() as u64, max as u64)
}

fn check_to_worker(body: &ToWorker) -> Result<(), MessageError> {
    match body {
        ToWorker::Run(run) => {
            wait("deadline_us", run.deadline_us)?;
            wait("lease_us", run.lease_us)?;
            at_most("input length", u64::from(run.input.len), INLINE_LEN_MAX as u64)
        }
        ToWorker::Renew { lease_us, .. } => wait("lease_us", *lease_us),
        ToWorker::Call(call) => {
            wait("deadline_us", call.deadline_us)?;
            text("want", &call.want, WANT_LEN_MAX)
        }
        ToWorker::Status { .. } | ToWorker::Cancel { .. } | ToWorker::Ack { .. } => Ok(()),
    }
}

fn check_to_requester(body: &ToRequester) -> Result<(), MessageError> {
    match body {
        ToRequester::Accepted { eta_us, lease_us, .. } => {
            wait("eta_us", *eta_us)?;
            wait("lease_us", *lease_us)
        }
        ToRequester::Rejected { why, eta_us, .. } => {
            text("why", why, REASON_LEN_MAX)?;
            wait("eta_us", eta_us.unwrap_or(0))
        }
        ToRequester::Ended { end, queued_us, exec_us, .. } => {
            wait("queued_us", *queued_us)?;
            wait("exec_us", *exec_us)?;
            check_end(end)
        }
        ToRequester::Partial { reading, .. } => at_most("n", u64::from(reading.n), u64::from(READINGS_MAX)),
        ToRequester::Busy { .. } | ToRequester::Began { .. } => Ok(()),
    }
}

fn check_end(end: &JobEnd) -> Result<(), MessageError> {
    match end {
        JobEnd::Done { result } => at_most("result length", u64::from(result.len), INLINE_LEN_MAX as u64),
        JobEnd::Failed { why, .. } | JobEnd::Stopped { why } | JobEnd::Unknown { why } => {
            text("why", why, REASON_LEN_MAX)
        }
    }
}

fn check_advert(advert: &Advert) -> Result<(), MessageError> {
    at_most("functions", advert.functions.len() as u64, FUNCTIONS_MAX as u64)?;
    advert.functions.iter().try_for_each(|offer| wait("service_us", offer.service_us))
}

/// `text` cut to [`REASON_LEN_MAX`] bytes at a character's border, for reasons that go on the wire.
pub fn reason(text: &str) -> String {
    let mut end = text.len().min(REASON_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests;
