//! Everything that a [`crate::Node`] can be told and can want: its whole surface.
//!
//! ```text
//!   Boot, Tick ------+         +--> Host (start, freeze, squeeze ...)
//!   Control ---------+         +--> Border, Bus, Camera (islands, routes)
//!   Host ------------+         +--> RunJob, LoadModule, CancelJob (worker faces)
//!   Ask, GiveUp -----+-> Node -+--> Effect (effect port)
//!   Island ----------+         +--> Send, Announce (realms)
//!   Bus, Job --------+         +--> Answer, Reply (apps, control API)
//!   Received, Gone --+         +--> Persist (state that must survive)
//!   Persisted -------+         +--> Decision, Alarm (log, console)
//! ```
//!
//! Bytes never pass through: a [`BlobRef`] names them and the driver holds them. Both enums are
//! serialisable; a recorded list of inputs replays to byte-identical outputs.

mod config;
mod control;
mod decision;

pub use config::{Boot, Desired, Link, NodeConfig};
pub use control::{CallReport, ControlCall, ControlRefusal, ControlReply};
pub use decision::{Decision, DecisionKind};

use alloc::string::String;
use alloc::vec::Vec;
use policies::alarm::Alarm;
use policies::face::{FromBus, ToBorder, ToBus, ToCamera, TxFrame};
use policies::host::AppRef;
use policies::host::{HostCommand, HostEvent};
use policies::id::{AppName, Attempt, Digest, FunctionName, NodeId, TaskId, TenantId};
use policies::signal::{SignalPath, Value};
use policies::task::{BlobRef, Class, Effect};
use policies::time::Timestamp;
use policies::unit::Bytes;
use serde::{Deserialize, Serialize};
use v2e_core::message::{Advert, Envelope, Message, Reading};
use v2e_core::record::JobRecord;
use v2e_core::report::{Realm, TaskReport};

/// What the world can tell a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// First of all, once, after host's `Hello` has told who we are.
    Boot(Boot),
    /// Time passed.
    Tick,
    /// A request on the control API that changes something. Answered by exactly one [`Output::Reply`].
    Control {
        /// Number for the answer, unique while it is open.
        request: u64,
        /// What.
        call: ControlCall,
    },
    /// Host says something. `Hello` comes right after [`Self::Boot`] and after each restart of host.
    Host(HostEvent),
    /// An app asks, through its tenant's border. Answered by exactly one [`Output::Answer`].
    Ask {
        /// The border's tenant: the identity of the channel.
        tenant: TenantId,
        /// The app that the border names.
        app: AppName,
        /// Number chosen by the border.
        request: u64,
        /// When it reached this process: waiting from then on counts as matching.
        arrived: Timestamp,
        /// What.
        ask: AppAsk,
    },
    /// The app does not wait any longer; there will be no answer.
    GiveUp {
        /// The border's tenant.
        tenant: TenantId,
        /// The request.
        request: u64,
    },
    /// A border opened an island, or could not.
    Island {
        /// The app.
        app: AppRef,
        /// `Err` says why not.
        result: Result<(), String>,
    },
    /// The bus process says something.
    Bus(FromBus),
    /// A worker face says something.
    Job(JobEvent),
    /// A peer's message.
    Received {
        /// The realm it came through.
        realm: Realm,
        /// The peer by the identity of its channel (its certificate), not by what the message claims.
        from: NodeId,
        /// The message, decoded.
        message: Message,
        /// The bytes that came beside it; the driver has computed this reference from them.
        payload: Option<BlobRef>,
    },
    /// A peer's session or liveliness token is gone: a hint, not a proof.
    PeerGone {
        /// The realm.
        realm: Realm,
        /// The peer.
        peer: NodeId,
    },
    /// Nobody answered what was sent to this peer: outcome unknown.
    Silent {
        /// The realm.
        realm: Realm,
        /// The peer.
        peer: NodeId,
    },
    /// How a peer can be reached now. Repeated when it changes.
    Link {
        /// The realm.
        realm: Realm,
        /// The peer.
        peer: NodeId,
        /// The link.
        link: Link,
    },
    /// An [`Output::Persist`] is durable, or cannot be.
    Persisted {
        /// Its ticket.
        ticket: u64,
        /// `Err` says why not.
        result: Result<(), String>,
    },
}

/// What an app asks for; its bytes are with the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppAsk {
    /// `task/run/{function}`.
    RunTask {
        /// The function.
        function: FunctionName,
        /// From now, microseconds.
        deadline_us: u64,
        /// Class wanted; never better than the app's own.
        class: Class,
        /// Effect kind as the app believes; must be the function's.
        effect: Option<Effect>,
        /// Input bytes.
        input: BlobRef,
    },
    /// `can/{bus}/tx`.
    SendFrame(TxFrame),
    /// Something that no grant allows.
    Denied {
        /// The key.
        key: String,
    },
}

/// What a worker face says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEvent {
    /// A module is ready.
    Loaded {
        /// The worker's tenant.
        tenant: TenantId,
        /// Which.
        module: Digest,
    },
    /// A module cannot be used.
    LoadFailed {
        /// The worker's tenant.
        tenant: TenantId,
        /// Which.
        module: Digest,
        /// Why.
        why: String,
    },
    /// A call began.
    Began {
        /// Which.
        job: u64,
    },
    /// A call ended.
    Ended {
        /// Which.
        job: u64,
        /// How.
        end: CallEnd,
        /// Execution time, microseconds.
        took_us: u64,
    },
}

/// How a call of a function ended, as read from its standard output by the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallEnd {
    /// It returned.
    Returned {
        /// Result bytes.
        result: BlobRef,
        /// The effect that it names, one line for the effect port.
        effect: Option<String>,
        /// The reading that it holds, if it answers a call for a sample.
        reading: Option<Reading>,
    },
    /// It said no.
    Failed {
        /// Exit code, or -1 for a trap.
        code: i32,
        /// Its last words.
        why: String,
    },
}

/// What a node wants done. The driver performs outputs in the order it polls them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// A command for host.
    Host(HostCommand),
    /// `Open` or `Close` of an island, to this tenant's border.
    Border {
        /// Whose border.
        tenant: TenantId,
        /// What.
        message: ToBorder,
    },
    /// To the bus process: `Route`, `Transmit`, `Snapshot`.
    Bus(ToBus),
    /// To the camera process.
    Camera(ToCamera),
    /// Make a module ready in a tenant's worker. The driver fetches the code by its digest.
    LoadModule {
        /// Whose worker.
        tenant: TenantId,
        /// The bundle.
        module: Digest,
        /// Memory of one call.
        memory: Bytes,
    },
    /// Call a function once. The module has been loaded.
    RunJob {
        /// Number for the answers.
        job: u64,
        /// Whose worker.
        tenant: TenantId,
        /// The bundle.
        module: Digest,
        /// Standard input.
        input: JobInput,
        /// CPU time, microseconds; the call is stopped beyond it.
        budget_us: u64,
    },
    /// Stop a call. It is still answered by [`JobEvent::Ended`].
    CancelJob {
        /// Whose worker.
        tenant: TenantId,
        /// Which.
        job: u64,
    },
    /// Apply an effect, fenced. Answered by `FromBus::EffectDone`.
    Effect {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line for the effect port.
        line: String,
    },
    /// Send a message to one peer, with the bytes that [`Message::payload`] names.
    Send {
        /// Through which realm.
        realm: Realm,
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell a whole realm what this node is.
    Announce {
        /// Which realm.
        realm: Realm,
        /// What.
        advert: Envelope<Advert>,
    },
    /// The answer to an app.
    Answer {
        /// Whose border.
        tenant: TenantId,
        /// The request.
        request: u64,
        /// The answer.
        answer: AppAnswer,
    },
    /// The answer on the control API.
    Reply {
        /// The request.
        request: u64,
        /// The answer.
        reply: ControlReply,
    },
    /// Make this durable, then say [`Input::Persisted`].
    Persist {
        /// Number for the answer.
        ticket: u64,
        /// What.
        what: Durable,
    },
    /// A decision with its reasons, for log, console and `explain`.
    Decision(Decision),
    /// A broken invariant.
    Alarm(Alarm),
}

/// Standard input of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobInput {
    /// These bytes.
    Blob(BlobRef),
    /// The driver writes `{"signals": {path: value, ...}, "want": want}`.
    Signals {
        /// What is wanted.
        want: String,
        /// Values by path.
        signals: Vec<(SignalPath, Value)>,
    },
}

/// Something that must survive a power cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durable {
    /// Replaces the desired state.
    Desired(Desired),
    /// Adds or replaces the record of this task.
    Job(JobRecord),
    /// The record of this task may go. Answered as well.
    ForgetJob {
        /// The task.
        task: TaskId,
    },
}

/// Answer to an app. The driver adds JSON and result bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppAnswer {
    /// A task has ended.
    Task(TaskReport),
    /// It was done.
    Ok,
    /// It was not.
    Refused {
        /// Which rule.
        why: String,
    },
}

/// Why a node wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WakeReason {
    /// A message that expects a receipt has none.
    AcceptTimeout,
    /// A task's deadline.
    Deadline,
    /// A lease must be renewed, or ends.
    Lease,
    /// It is time to hedge.
    Hedge,
    /// Ask again what became of a task.
    Status,
    /// A job's budget or record ends.
    Job,
    /// An app's back-off ends.
    BackOff,
    /// An app did not stop in time, or a command had no answer.
    HostTimeout,
    /// Sample usage and pressure.
    Sample,
    /// Say who we are.
    Advert,
    /// An advert grows stale.
    PeerFresh,
    /// A call for a sample ends.
    Call,
}
