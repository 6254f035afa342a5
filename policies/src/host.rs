//! What `verge node` may ask of `verge-host`, and what it hears back.
//!
//! A command names digests, apps, tenants and profiles: never a path, uid, flag, mount option or filter. What
//! those names mean is host's own, root-owned policy; host checks every command against it and trusts nobody.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::id::{AppName, Digest, Incarnation, NodeId, TenantId};
use crate::manifest::Resources;
use crate::task::Class;
use crate::unit::Span;

/// An app on one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AppRef {
    /// Its owner.
    pub tenant: TenantId,
    /// Its name.
    pub app: AppName,
}

impl core::fmt::Display for AppRef {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.tenant, self.app)
    }
}

/// A process of the node itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Face {
    /// Decides and enforces; car realm; control API.
    Node,
    /// CAN descriptors, transmit guard, effect port, bus recorder.
    Bus,
    /// The outside realm's sessions.
    Link,
    /// Camera sources.
    Camera,
    /// One per tenant: hosts the islands of its apps.
    Border(TenantId),
    /// One per tenant: runs its Wasm tasks.
    Worker(TenantId),
}

impl core::fmt::Display for Face {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Bus => f.write_str("bus"),
            Self::Link => f.write_str("link"),
            Self::Camera => f.write_str("camera"),
            Self::Border(tenant) => write!(f, "border-{tenant}"),
            Self::Worker(tenant) => write!(f, "worker-{tenant}"),
        }
    }
}

/// Everything `verge node` may ask for. `request` numbers come back in the event that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostCommand {
    /// Verify the bundle that the node put into the spool under this digest, and take it into the store.
    Import {
        /// Digest of the bundle's manifest.
        bundle: Digest,
    },
    /// Start an app. Its bundle and base must be in the store.
    Start(StartApp),
    /// SIGTERM to the app's first process; SIGKILL to the whole group after `grace`.
    Stop {
        /// Which.
        app: AppRef,
        /// Time between the two.
        grace: Span,
    },
    /// Stop every process of the app from running; memory stays.
    Freeze {
        /// Which.
        app: AppRef,
    },
    /// Undo [`Self::Freeze`].
    Thaw {
        /// Which.
        app: AppRef,
    },
    /// Change limits of a running app.
    Resize {
        /// Which.
        app: AppRef,
        /// All limits, changed and unchanged.
        resources: Resources,
    },
    /// Set how much of the machine a class gets, in thousandths of its normal share.
    SqueezeClass {
        /// Which.
        class: Class,
        /// 1000: not squeezed; 10: a hundredth.
        share: u16,
    },
    /// Start a border or a worker for a tenant; attaches its channels to node, bus and camera.
    StartFace {
        /// `Border` or `Worker`; any other is refused.
        face: Face,
    },
    /// Report usage of every app and the machine's pressure, once.
    Sample,
    /// Stop every app, then every face, and end.
    Shutdown {
        /// Time the apps get.
        grace: Span,
    },
}

/// What a start needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartApp {
    /// Which.
    pub app: AppRef,
    /// Counts the starts of this app; the exit event names it, so that a late one is told apart.
    pub instance: u64,
    /// Code, mounted at `/app`.
    pub bundle: Digest,
    /// Root file system layer; none for a static binary.
    pub base: Option<Digest>,
    /// Program and arguments, inside the app's root.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Service quality: which branch of the cgroup tree.
    pub class: Class,
    /// Limits.
    pub resources: Resources,
    /// Whether it gets an island (its tenant's border must be running).
    pub island: bool,
}

/// One means of confinement and how it is really enforced here, read back from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The manifest field or isolation item: `memory`, `cpu`, `pids`, `freeze`, `netns`, `seccomp`, ...
    pub what: String,
    /// The mechanism: `cgroup2 memory.max`, `cgroup1 cpu.cfs_quota_us`, `rlimit AS`, `SIGSTOP`, ...
    pub by: String,
    /// The value read back.
    pub value: String,
    /// Whether this is weaker than what the manifest asked for.
    pub degraded: bool,
}

/// Why an app's first process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It ended with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel killed it for memory.
    OutOfMemory,
    /// Gone without a trace (its init was killed with it, or it ended while host was away).
    Unknown,
}

impl Exit {
    /// Whether it counts as success.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

/// What went wrong with a command: what, why, how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {why}")]
pub struct HostRefusal {
    /// The operation with its object.
    pub what: String,
    /// The cause.
    pub why: String,
    /// What the operator can do, if known.
    pub fix: Option<String>,
}

/// Usage of one app since its start, read from the kernel. `None` where the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time used, microseconds.
    pub cpu_us: Option<u64>,
    /// Time throttled, microseconds.
    pub throttled_us: Option<u64>,
    /// Memory now, bytes.
    pub memory: Option<u64>,
    /// Memory high-water mark, bytes.
    pub memory_peak: Option<u64>,
    /// Times the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Forks refused by the pids limit.
    pub pids_refused: Option<u64>,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// How hard the machine is pressed, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// Share of the last ten seconds (or less) in which some task waited for CPU; `None` where the kernel has no PSI.
    pub cpu: Option<u16>,
    /// The same for memory.
    pub memory: Option<u16>,
    /// Memory in use, of all.
    pub memory_used: u16,
    /// Share of CPU time in use since the last sample.
    pub cpu_used: u16,
}

/// What host reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostEvent {
    /// The first event: who we are. Sent again to every new node process.
    Hello {
        /// This node.
        node: NodeId,
        /// This life, issued durably.
        incarnation: Incarnation,
        /// Kernel, cgroup version, rootless or not: lines for `verge doctor`.
        machine: Vec<Enforced>,
        /// Apps that were found running and adopted, with their instance.
        adopted: Vec<(AppRef, u64)>,
    },
    /// The bundle is verified and in the store.
    Imported {
        /// Which.
        bundle: Digest,
        /// Key id of the signature that counted.
        signed_by: String,
    },
    /// The bundle is not taken.
    ImportRefused {
        /// Which.
        bundle: Digest,
        /// Why.
        refusal: HostRefusal,
    },
    /// The app's first instruction is about to run. Carries the log pipe's read end as a descriptor.
    Started {
        /// Which.
        app: AppRef,
        /// Which start.
        instance: u64,
        /// From the command's arrival to exec, microseconds.
        took_us: u64,
        /// What confines it.
        enforced: Vec<Enforced>,
    },
    /// The app did not start; nothing of it is left.
    StartFailed {
        /// Which.
        app: AppRef,
        /// Which start.
        instance: u64,
        /// Why.
        refusal: HostRefusal,
    },
    /// Its first process is gone and the rest of the group has been killed.
    Exited {
        /// Which.
        app: AppRef,
        /// Which start.
        instance: u64,
        /// How.
        exit: Exit,
    },
    /// Freeze or thaw has really happened (or cannot).
    FreezeChanged {
        /// Which.
        app: AppRef,
        /// The state now, as the kernel reports it.
        frozen: bool,
        /// By what: `cgroup2 cgroup.freeze`, `SIGSTOP`.
        by: String,
    },
    /// What confines a running app, read back: after a change of its limits, and for a node process that did not
    /// see its start.
    Confined {
        /// Which.
        app: AppRef,
        /// Every limit and means of isolation.
        enforced: Vec<Enforced>,
    },
    /// A class's share has been set.
    Squeezed {
        /// Which.
        class: Class,
        /// Thousandths.
        share: u16,
        /// By what.
        by: String,
    },
    /// A command about an app or a class could not be carried out.
    Refused {
        /// What was asked, as text.
        command: String,
        /// Why.
        refusal: HostRefusal,
    },
    /// A face is up; its channel arrives as an attachment.
    FaceStarted {
        /// Which.
        face: Face,
    },
    /// A face is gone, or could not be started; host starts it again by itself, with back-off. Told again to every new
    /// node process while the face is away.
    FaceExited {
        /// Which.
        face: Face,
        /// How.
        exit: Exit,
        /// Why, if the face or its start said so; with the fix, where one is known.
        why: Option<String>,
    },
    /// Answer to [`HostCommand::Sample`].
    Sampled {
        /// Usage by app.
        apps: Vec<(AppRef, Usage)>,
        /// The machine.
        pressure: Pressure,
    },
    /// Host was told to end: every app is being stopped, faces follow. Nothing is started any more.
    Ending {
        /// Time the apps get.
        grace: Span,
    },
}
