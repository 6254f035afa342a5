//! What the processes of one node say to each other, over socket pairs that host made. The identity of a
//! channel is what grants are checked by: a border speaks for its own tenant and for nobody else.
//!
//! ```text
//!              verge-host
//!    (host channel to every face: Attach, Go)
//!
//!    bus ----- signals, frames -----> border (per tenant) ---- island per app
//!     ^                                 |  ^
//!     | routes, tx                      |  | routes, replies
//!     +------------- node <-------------+--+
//!                     |  ^------- link (outside realm), camera, worker (per tenant)
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::grant::{CameraGrant, CanTxGrant};
use crate::host::{AppRef, Face};
use crate::id::{AppName, Attempt, BusName, CameraId, Digest, FunctionName, Incarnation, NodeId, TaskId};
use crate::signal::{Signal, SignalPattern};
use crate::unit::Bytes;

/// Host to any face, on the host channel (a sequenced-packet socket, descriptor 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHost {
    /// Who you are. First of all.
    Start {
        /// This process.
        face: Face,
        /// This node.
        node: NodeId,
        /// This life of the node.
        incarnation: Incarnation,
        /// Your section of the node's configuration, as TOML.
        config: String,
        /// How many times slower than real time limits and waits count (emulation); 1 normally.
        time_scale: u32,
    },
    /// A descriptor comes with this message.
    Attach(Attachment),
    /// All attachments of the start have been sent: begin.
    Go,
    /// End yourself in order.
    Stop,
}

/// What an attached descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A stream socket to another face of this node. Replaces an earlier one to the same face.
    Channel(Face),
    /// A file that the configuration names, opened read-only: `dbc:can0`, `mapping:can0`, `clip:front`,
    /// `tls-ca`, `tls-cert`, `tls-key`, ...
    File(String),
    /// A socket on a bus, opened and configured: raw CAN, or the multicast socket.
    Bus(BusName),
    /// A stream to the append-only effect server.
    EffectServer,
    /// Read end of an app's standard output and error.
    Log(AppRef),
    /// A listening stream socket for the control API.
    Control,
    /// A directory that is the face's own durable state.
    StateDir,
    /// `cgroup.freeze` of an app, opened for writing; and so on by name.
    CgroupFile {
        /// Whose.
        app: AppRef,
        /// The file's name.
        name: String,
    },
}

/// What the environment of a process must say that opens Zenoh links over TLS: all of Zenoh's work in one thread.
/// Zenoh 1.10 reads and writes a TLS link from different threads at the same time, which rustls does not allow: links
/// break with `handshake not complete`, and memory with it (eclipse-zenoh/zenoh#2557). Zenoh reads this once, when
/// it is first used.
pub const ZENOH_THREADS: (&str, &str) = (
    "ZENOH_RUNTIME",
    "(app: (worker_threads: 1), tx: (handover: app), rx: (handover: app), acc: (handover: app), net: (handover: app))",
);

/// Any face to host, on the host channel (node's own commands travel as [`crate::host::HostCommand`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// Up and serving.
    Ready,
    /// Cannot serve; the face ends after this.
    Failed {
        /// The operation.
        what: String,
        /// The cause.
        why: String,
        /// What the operator can do.
        fix: Option<String>,
    },
    /// From node only.
    Command(crate::host::HostCommand),
}

/// Host to node, on the host channel, besides [`FromHost`].
pub type FromHostToNode = crate::host::HostEvent;

/// Bus, camera and node to a border.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToBorder {
    /// Node: open an island for this app with these grants (or change them).
    Open {
        /// The app.
        app: AppName,
        /// Functions that it may ask for (others are answered by the border at once).
        tasks: Vec<FunctionName>,
        /// Cameras it will see.
        cameras: Vec<CameraGrant>,
        /// Frames it may ask for.
        can_tx: Vec<CanTxGrant>,
    },
    /// Node: close the app's island.
    Close {
        /// The app.
        app: AppName,
    },
    /// Bus: signals for one app, already filtered.
    Signals {
        /// The app.
        app: AppName,
        /// Samples with their age when they left the bus process, microseconds.
        samples: Vec<(Signal, u64)>,
    },
    /// Camera: one frame for one app.
    Frame {
        /// The app.
        app: AppName,
        /// The frame.
        frame: CameraFrame,
    },
    /// Node: the answer to a request.
    Reply {
        /// The request's number.
        request: u64,
        /// The answer.
        answer: Answer,
    },
}

/// A camera frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameraFrame {
    /// Which camera.
    pub camera: CameraId,
    /// Counts up by one per captured frame; a gap is a loss.
    pub seq: u64,
    /// Capture time, microseconds on this node's clock.
    pub captured_us: u64,
    /// One JPEG.
    pub jpeg: Vec<u8>,
}

/// A border to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBorder {
    /// An app asks for something. Node answers with [`ToBorder::Reply`].
    Ask {
        /// Which app's island it came in on. A hostile border can name any app of its own tenant, no other.
        app: AppName,
        /// Number chosen by the border.
        request: u64,
        /// What.
        ask: Ask,
    },
    /// The app will not wait any longer.
    GiveUp {
        /// The request.
        request: u64,
    },
    /// An island is open: the app can connect.
    Opened {
        /// The app.
        app: AppName,
    },
    /// An island could not be opened.
    OpenFailed {
        /// The app.
        app: AppName,
        /// Why.
        why: String,
    },
}

/// What an app asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// `task/run/{function}`.
    RunTask {
        /// The function.
        function: FunctionName,
        /// Selector parameters: deadline, class, effect as the app wrote them.
        deadline_us: u64,
        /// Class wanted; never better than the app's own.
        class: crate::task::Class,
        /// Effect kind as the app believes; must be the function's.
        effect: Option<crate::task::Effect>,
        /// Input bytes.
        input: Vec<u8>,
    },
    /// `can/{bus}/tx`.
    SendFrame(TxFrame),
    /// Something that has no grant, counted and named.
    Denied {
        /// The key.
        key: String,
    },
}

/// A frame that an app wants on a bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxFrame {
    /// The bus.
    pub bus: BusName,
    /// CAN id.
    pub id: u32,
    /// Whether it is a 29-bit id.
    pub extended: bool,
    /// At most 8 bytes, 64 with FD.
    pub data: Vec<u8>,
}

/// Node's answer to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The outcome as JSON, and the result bytes.
    Task {
        /// `{"outcome": "done", "node": ..., "why": ..., "phases": {...}}`.
        json: String,
        /// Result bytes if done.
        result: Option<Vec<u8>>,
    },
    /// It was done.
    Ok,
    /// It was not.
    Refused {
        /// Which rule.
        why: String,
    },
}

/// Node to bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToBus {
    /// These signals go to this app through its tenant's border; an empty list closes the route.
    Route {
        /// The app.
        app: AppRef,
        /// What it may see.
        signals: Vec<SignalPattern>,
    },
    /// An app of ours asks to send; the guard decides.
    Transmit {
        /// Number for the answer.
        request: u64,
        /// Who asks.
        app: AppRef,
        /// What.
        frame: TxFrame,
    },
    /// Apply an effect of a `once` task, fenced by its attempt.
    Effect {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// The line for the effect server.
        line: String,
    },
    /// Send the latest value of these signals (reverse offload, export).
    Snapshot {
        /// Number for the answer.
        request: u64,
        /// Which.
        signals: Vec<SignalPattern>,
    },
    /// Report counters.
    Stats,
}

/// Bus to node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromBus {
    /// What the guard said.
    Transmitted {
        /// The request.
        request: u64,
        /// `Err` names the rule.
        result: Result<(), String>,
    },
    /// What became of an effect.
    EffectDone {
        /// The task.
        task: TaskId,
        /// The fence.
        attempt: Attempt,
        /// `Err` names the rule (`already done`, `older attempt`, `server unreachable`).
        result: Result<(), String>,
    },
    /// Latest values.
    Snapshot {
        /// The request.
        request: u64,
        /// Samples with their age, microseconds.
        samples: Vec<(Signal, u64)>,
    },
    /// Counters since start.
    Stats(BusStats),
    /// No bus of this node maps these of a route's signals: nothing will ever come for them.
    Unmapped {
        /// The app.
        app: AppRef,
        /// As its grants name them.
        signals: Vec<SignalPattern>,
    },
}

/// Counters of the bus process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusStats {
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Frames that no message of the DBC describes.
    pub frames_unknown: u64,
    /// Frames or datagrams that were damaged.
    pub frames_bad: u64,
    /// Frames lost before we read them, where the kernel tells.
    pub frames_lost: u64,
    /// Signals decoded.
    pub signals: u64,
    /// Samples sent to borders.
    pub published: u64,
    /// Messages to borders dropped because a border lagged.
    pub dropped: u64,
    /// Transmit requests refused, by rule.
    pub refused: Vec<(String, u64)>,
    /// Effects applied, and repeats refused.
    pub effects: (u64, u64),
}

/// Node to camera.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCamera {
    /// Frames of these cameras go to this app; an empty list closes the route.
    Route {
        /// The app.
        app: AppRef,
        /// Which, how fast.
        cameras: Vec<CameraGrant>,
    },
    /// Report counters.
    Stats,
}

/// Camera to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCamera {
    /// Counters since start.
    Stats {
        /// Frames captured.
        captured: u64,
        /// Frames handed to borders.
        delivered: u64,
        /// Frames dropped because a consumer lagged.
        dropped: u64,
        /// Frames that were damaged.
        bad: u64,
    },
}

/// Node to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorkerFace {
    /// Make this module ready (compile if need be).
    Load {
        /// Its bundle.
        module: Digest,
        /// The Wasm bytes.
        wasm: Vec<u8>,
        /// Memory of one call.
        memory: Bytes,
    },
    /// Run a module once.
    Run {
        /// Number for the answer.
        job: u64,
        /// Which module.
        module: Digest,
        /// Standard input.
        input: Vec<u8>,
        /// CPU time budget, microseconds; the call is stopped beyond it.
        budget_us: u64,
    },
    /// Stop a call.
    Cancel {
        /// Which.
        job: u64,
    },
}

/// Worker to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorkerFace {
    /// The module is ready.
    Loaded {
        /// Which.
        module: Digest,
        /// Microseconds.
        took_us: u64,
    },
    /// The module cannot be used.
    LoadFailed {
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
        /// Standard output, or exit code and last words.
        result: Result<Vec<u8>, (i32, String)>,
        /// Execution time, microseconds.
        took_us: u64,
    },
}

/// Node to link and back: realm traffic of the outside realm, bodies already encoded by `v2e`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Realm {
    /// To link: send this message to that peer. From link: that peer sent this message.
    Message {
        /// The peer, by the name it has in this realm.
        peer: NodeId,
        /// A frame of [`crate::wire`].
        frame: Vec<u8>,
        /// The bytes that the message refers to.
        payload: Option<Vec<u8>>,
    },
    /// To link: this is our advert. From link: that is a peer's.
    Advert {
        /// The peer (ours when sent to link).
        peer: NodeId,
        /// A frame of [`crate::wire`].
        frame: Vec<u8>,
    },
    /// From link: a peer's session is gone.
    Gone {
        /// The peer.
        peer: NodeId,
    },
    /// From link: nobody answered a message (zero replies): outcome unknown.
    Silent {
        /// The peer.
        peer: NodeId,
    },
}
