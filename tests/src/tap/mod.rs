//! The tap: what nodes do to the world is observed from outside, and each act is held against the outputs that the
//! nodes recorded. One act, one output; an act without an output, or an output without an act and without a recorded
//! failure, is a finding.
//!
//! ```text
//!   strace of each host and all below it --> trace --> acts --+
//!   effect server, python-can on the bus, a member of each realm --> heard --+--> account --> findings
//!   recordings of the nodes --> record ----------------------+
//! ```
//! What is exempt is listed in [`Exempt`], with the reason. Bulk data (signals, frames of the camera) is by design no
//! output of a node; of it is asked that the way that it took, to the border of the app's tenant, is open at that time by
//! a recorded output. And what the nodes recorded must replay to the same outputs, or it would prove nothing.

pub mod account;
pub mod acts;
pub mod book;
pub mod clock;
pub mod ear;
pub mod realm;
pub mod record;
mod replay;
mod replies;
pub mod stand;
pub mod trace;
mod ways;

use std::collections::BTreeMap;
use std::fmt;

/// Something that a node did, as it was seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// When it began, microseconds on the node's clock.
    pub at: u64,
    /// What.
    pub deed: Deed,
    /// The line of the trace, for people.
    pub seen: String,
}

/// Whom an act concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// `tenant/app`.
    App(String),
    /// `bus`, `border-oem`.
    Face(String),
    /// A group that is neither.
    Place(String),
}

impl Who {
    /// Whose group this is: `faces/bus`, `driving/oem/lane`.
    pub fn at(place: &str) -> Self {
        match place.split('/').collect::<Vec<_>>().as_slice() {
            ["faces", face] => Self::Face((*face).to_owned()),
            [_, tenant, app] => Self::App(format!("{tenant}/{app}")),
            _ => Self::Place(place.to_owned()),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(name) => write!(f, "app {name}"),
            Self::Face(name) => write!(f, "face {name}"),
            Self::Place(place) => write!(f, "group {place:?}"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A host began: a new life of the node.
    HostBegan,
    /// Somebody outside told host to end, by a signal.
    ToldToEnd,
    /// Host is gone.
    HostEnded {
        /// By SIGKILL.
        killed: bool,
    },
    /// A sandbox's program began.
    Started {
        /// Which.
        who: Who,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A sandbox's init is gone, and with it all in its namespace.
    Ended {
        /// Which.
        who: Who,
    },
    /// A signal.
    Signal {
        /// To whom.
        to: Who,
        /// `SIGTERM`.
        name: String,
        /// Passed on by the sandbox's init; otherwise sent by host to that init.
        by_init: bool,
    },
    /// A group is frozen or thawed.
    Freeze {
        /// Whose.
        who: Who,
        /// Which of the two.
        frozen: bool,
    },
    /// Everything in a group is killed.
    KillGroup {
        /// The group; empty for the node's own.
        place: String,
    },
    /// A group's share of the processor is set.
    Share {
        /// The group.
        place: String,
        /// `cpu.shares`, `cpu.weight`.
        file: String,
        /// The value.
        value: String,
    },
    /// A group's limit is set.
    Limit {
        /// The group.
        place: String,
        /// The file.
        file: String,
    },
    /// A bundle is taken into the store.
    Imported {
        /// Its digest, in hex.
        bundle: String,
    },
    /// A file is made durable.
    Durable {
        /// Which, and what for.
        what: Durably,
    },
    /// A frame is put on a bus: `2A0#0011`.
    Frame {
        /// The frame.
        frame: String,
    },
    /// A line goes to the effect server.
    Effect {
        /// The line.
        line: String,
    },
    /// A call on the control API is answered.
    Reply {
        /// The connection's socket, as the kernel numbers it.
        connection: String,
        /// The message, as far as it was written down.
        bytes: Vec<u8>,
    },
    /// An app's island opens.
    Island {
        /// `tenant/app`.
        app: String,
    },
    /// Data for an app leaves bus or camera.
    Data {
        /// The face that sends it.
        by: String,
        /// `tenant/app`: the tenant is the one whose border the channel leads to, `?` if host was not seen to make it.
        app: String,
        /// A VSS path, or `camera ID`.
        what: String,
    },
    /// Something that no rule knows.
    Other {
        /// Why it is strange.
        why: &'static str,
    },
}

/// What is made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durably {
    /// The boot counter, by host.
    Incarnation,
    /// A bundle in the store, by an import.
    Import,
    /// A bundle's file in the spool, as the control API hands it in.
    Upload {
        /// The bundle, in hex.
        bundle: String,
    },
    /// Node's store is brought to the disk.
    Store {
        /// By the thread that opened it, not by the one that writes what the machine wants kept.
        opener: bool,
    },
    /// A change of node's store becomes the valid one.
    Commit {
        /// As in [`Self::Store`].
        opener: bool,
    },
}

/// Acts that need no output of their own, each for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exempt {
    /// Host starts node, bus, link and camera from its own file: there is no node yet that could want it.
    OwnFile,
    /// Host starts a face again that has died; which faces there are has been said before.
    FaceAgain,
    /// Host ends what is left of a face that has closed its channel, and clears its group.
    FaceLeft,
    /// The operator ends the node by a signal to host; node is not asked.
    ToldToEnd,
    /// Host builds its own groups, and issues the incarnation, before there is a node; a new host clears what a
    /// killed one left.
    HostBegins,
    /// Node opens its own store before its machine boots.
    OpensStore,
    /// Bytes handed in at the control API lie in the spool, inert, until an output names their digest.
    Upload,
    /// A node that was killed took the last moments of its recording with it.
    CutOff,
}

/// What the accounting found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Acts that have their output, by kind of output.
    pub matched: BTreeMap<String, usize>,
    /// Acts that follow from an output that another act has taken already, by kind: what a stop entails.
    pub entailed: BTreeMap<String, usize>,
    /// Acts that are exempt.
    pub exempt: BTreeMap<Exempt, usize>,
    /// Outputs without an act, whose failure is recorded, by kind.
    pub failed: BTreeMap<String, usize>,
    /// Everything that has no explanation.
    pub findings: Vec<String>,
}

impl Report {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        let sum = |into: &mut BTreeMap<String, usize>, from: BTreeMap<String, usize>| {
            from.into_iter().for_each(|(kind, n)| *into.entry(kind).or_default() += n);
        };
        sum(&mut self.matched, other.matched);
        sum(&mut self.entailed, other.entailed);
        sum(&mut self.failed, other.failed);
        for (why, n) in other.exempt {
            *self.exempt.entry(why).or_default() += n;
        }
        self.findings.extend(other.findings);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, counts) in [
            ("acts with their output", &self.matched),
            ("acts that such an output entails", &self.entailed),
            ("outputs whose failure is recorded", &self.failed),
        ] {
            let counts: Vec<String> = counts.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            writeln!(f, "{title}: {}", counts.join(", "))?;
        }
        writeln!(f, "exempt: {:?}", self.exempt)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "FINDING {finding}"))
    }
}

/// A frame as candump writes it.
pub fn frame_text(frame: &can_core::frame::CanFrame) -> String {
    let id = frame.id();
    let data: String = frame.data().iter().map(|byte| format!("{byte:02X}")).collect();
    if id.is_extended() { format!("{:08X}#{data}", id.value()) } else { format!("{:03X}#{data}", id.value()) }
}
