//! The one file that spells Zenoh keys.
//!
//! ```text
//!   in the car   vg/1/c/{car}    outside  vg/1/x/{zone}          = R
//!
//!   R/live/{node}/{inc}                               liveliness token
//!   R/ad/{node}                                       advert: put, and queryable for those who come late
//!   R/load/{node}                                     load alone (today it travels inside the advert)
//!   R/run/{node}/{inc}/{class}/{from}                 query: run a task
//!   R/ctl/{node}/{inc}/{task}/{from}                  query: renew, status, cancel, ack, call
//!   R/job/{owner}/{inc}/{number}/{attempt}/res/{from} put: what became of it
//!   R/cft/{issuer}/{task}                             put: a call for a sample, to everyone
//!   R/vss/{node}/{path}   R/obs/{node}/{what}         signals; metrics
//!
//!   on an island: vss/{path}  cam/{id}/frame  can/{bus}/tx  task/run/{function}
//! ```
//!
//! Every key that carries a claim of who sent it ends in that sender (`from`), so that a router which knows
//! its neighbour's certificate can hold the two against each other by access control on keys alone.

use std::fmt;

use policies::id::{Attempt, BusName, CameraId, CarId, FunctionName, Incarnation, NodeId, TaskId, ZoneId};
use policies::signal::SignalPath;
use policies::task::Class;

/// Version of the key layout; part of every realm's prefix, so that two layouts never meet.
const LAYOUT: &str = "vg/1";

/// Longest key that is looked at; the longest that we spell has about 300 bytes.
pub const KEY_LEN_MAX: usize = 512;

/// One Zenoh network under one authority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RealmName {
    /// Inside a car.
    Car(CarId),
    /// Outside, around the roadside elements of a zone.
    Outside(ZoneId),
}

impl fmt::Display for RealmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Car(car) => write!(f, "{LAYOUT}/c/{car}"),
            Self::Outside(zone) => write!(f, "{LAYOUT}/x/{zone}"),
        }
    }
}

/// A text that is not a key of the realm or island at hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not a key that Verge uses here")]
pub struct KeyError {
    /// The text, cut to [`KEY_LEN_MAX`] characters.
    pub got: String,
}

fn foreign(text: &str) -> KeyError {
    KeyError { got: text.chars().take(KEY_LEN_MAX).collect() }
}

/// A key within a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A node lives.
    Live {
        /// Which.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// What a node is.
    Ad {
        /// Which.
        node: NodeId,
    },
    /// How busy a node is.
    Load {
        /// Which.
        node: NodeId,
    },
    /// Run a task.
    Run {
        /// The worker.
        node: NodeId,
        /// The worker's life that is meant.
        incarnation: Incarnation,
        /// The task's class.
        class: Class,
        /// Who asks.
        from: NodeId,
    },
    /// Something about a task.
    Ctl {
        /// The worker.
        node: NodeId,
        /// The worker's life that is meant.
        incarnation: Incarnation,
        /// The task or call.
        task: TaskId,
        /// Who asks.
        from: NodeId,
    },
    /// What became of an attempt. Read by the task's owner.
    Result {
        /// The task.
        task: TaskId,
        /// The attempt; 0 for a reading that answers a call.
        attempt: Attempt,
        /// The worker.
        from: NodeId,
    },
    /// A call for a sample.
    Call {
        /// The call; its owner is the issuer.
        call: TaskId,
    },
    /// A signal.
    Signal {
        /// Its source.
        node: NodeId,
        /// Which.
        path: SignalPath,
    },
    /// A figure about a node.
    Observed {
        /// Which node.
        node: NodeId,
        /// The figure, one chunk.
        what: FunctionName,
    },
}

impl Key {
    /// The key as text within `realm`.
    pub fn spell(&self, realm: &RealmName) -> String {
        match self {
            Self::Live { node, incarnation } => format!("{realm}/live/{node}/{incarnation}"),
            Self::Ad { node } => format!("{realm}/ad/{node}"),
            Self::Load { node } => format!("{realm}/load/{node}"),
            Self::Run { node, incarnation, class, from } => {
                format!("{realm}/run/{node}/{incarnation}/{class}/{from}")
            }
            Self::Ctl { node, incarnation, task, from } => {
                format!("{realm}/ctl/{node}/{incarnation}/{task}/{from}")
            }
            Self::Result { task: TaskId { owner, incarnation, number }, attempt: Attempt(attempt), from } => {
                format!("{realm}/job/{owner}/{incarnation}/{number}/{attempt}/res/{from}")
            }
            Self::Call { call } => format!("{realm}/cft/{}/{call}", call.owner),
            Self::Signal { node, path } => format!("{realm}/vss/{node}/{}", path.as_key()),
            Self::Observed { node, what } => format!("{realm}/obs/{node}/{what}"),
        }
    }

    /// Reads a full key (no wildcards) within `realm`.
    ///
    /// # Errors
    /// [`KeyError`] if it is of another realm or not spelled exactly as [`Self::spell`] does.
    pub fn parse(realm: &RealmName, text: &str) -> Result<Self, KeyError> {
        let key = Self::read(realm, text).ok_or_else(|| foreign(text))?;
        // One spelling each: `007` is not 7.
        if key.spell(realm) == text { Ok(key) } else { Err(foreign(text)) }
    }

    fn read(realm: &RealmName, text: &str) -> Option<Self> {
        if text.len() > KEY_LEN_MAX {
            return None;
        }
        let rest = text.strip_prefix(&realm.to_string())?.strip_prefix('/')?;
        let (kind, rest) = rest.split_once('/')?;
        if kind == "vss" {
            let (node, path) = rest.split_once('/')?;
            return Some(Self::Signal { node: NodeId::new(node).ok()?, path: path_of(path)? });
        }
        let chunks: Vec<&str> = rest.split('/').collect();
        match (kind, chunks.as_slice()) {
            ("live", [node, inc]) => {
                Some(Self::Live { node: NodeId::new(node).ok()?, incarnation: Incarnation(number(inc)?) })
            }
            ("ad", [node]) => Some(Self::Ad { node: NodeId::new(node).ok()? }),
            ("load", [node]) => Some(Self::Load { node: NodeId::new(node).ok()? }),
            ("run", [node, inc, class, from]) => Some(Self::Run {
                node: NodeId::new(node).ok()?,
                incarnation: Incarnation(number(inc)?),
                class: Class::parse(class)?,
                from: NodeId::new(from).ok()?,
            }),
            ("ctl", [node, inc, task, from]) => Some(Self::Ctl {
                node: NodeId::new(node).ok()?,
                incarnation: Incarnation(number(inc)?),
                task: task.parse().ok()?,
                from: NodeId::new(from).ok()?,
            }),
            ("job", [owner, inc, num, attempt, "res", from]) => Some(Self::Result {
                task: TaskId {
                    owner: NodeId::new(owner).ok()?,
                    incarnation: Incarnation(number(inc)?),
                    number: number(num)?,
                },
                attempt: Attempt(attempt.parse().ok()?),
                from: NodeId::new(from).ok()?,
            }),
            ("cft", [_, call]) => Some(Self::Call { call: call.parse().ok()? }),
            ("obs", [node, what]) => {
                Some(Self::Observed { node: NodeId::new(node).ok()?, what: FunctionName::new(what).ok()? })
            }
            _ => None,
        }
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn path_of(text: &str) -> Option<SignalPath> {
    // A dot inside a chunk would become a level of its own.
    if text.contains('.') { None } else { SignalPath::new(&text.replace('/', ".")).ok() }
}

/// What a node subscribes to or serves: patterns over [`Key`].
#[derive(Clone, Copy, Debug)]
pub struct Patterns<'a> {
    /// The realm.
    pub realm: &'a RealmName,
    /// This node.
    pub me: &'a NodeId,
    /// This life.
    pub incarnation: Incarnation,
}

impl Patterns<'_> {
    /// Liveliness of every node and life.
    pub fn all_live(&self) -> String {
        format!("{}/live/*/*", self.realm)
    }

    /// Everybody's advert.
    pub fn all_ads(&self) -> String {
        format!("{}/ad/*", self.realm)
    }

    /// Tasks for this life of this node.
    pub fn run_here(&self) -> String {
        format!("{}/run/{}/{}/*/*", self.realm, self.me, self.incarnation)
    }

    /// Messages about tasks for this life of this node.
    pub fn ctl_here(&self) -> String {
        format!("{}/ctl/{}/{}/*/*", self.realm, self.me, self.incarnation)
    }

    /// Results of tasks that this life of this node owns.
    pub fn results_here(&self) -> String {
        format!("{}/job/{}/{}/**", self.realm, self.me, self.incarnation)
    }

    /// Calls of anyone.
    pub fn all_calls(&self) -> String {
        format!("{}/cft/*/*", self.realm)
    }
}

/// A key on an app's island.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IslandKey {
    /// `vss/Vehicle/Speed`.
    Signal(SignalPath),
    /// `cam/front/frame`.
    Frame(CameraId),
    /// `can/can0/tx`.
    CanTx(BusName),
    /// `task/run/lane`.
    RunTask(FunctionName),
}

/// Everything that the border serves on an island: one queryable over all keys, so that a request for
/// anything else gets an answer too.
pub const ISLAND_ALL: &str = "**";

impl IslandKey {
    /// The key as text.
    pub fn spell(&self) -> String {
        match self {
            Self::Signal(path) => format!("vss/{}", path.as_key()),
            Self::Frame(camera) => format!("cam/{camera}/frame"),
            Self::CanTx(bus) => format!("can/{bus}/tx"),
            Self::RunTask(function) => format!("task/run/{function}"),
        }
    }

    /// Reads a full key (no wildcards).
    ///
    /// # Errors
    /// [`KeyError`] if an island has no such key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::read(text).ok_or_else(|| foreign(text))
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > KEY_LEN_MAX {
            return None;
        }
        if let Some(path) = text.strip_prefix("vss/") {
            return path_of(path).map(Self::Signal);
        }
        let chunks: Vec<&str> = text.split('/').collect();
        match chunks.as_slice() {
            ["cam", id, "frame"] => CameraId::new(id).ok().map(Self::Frame),
            ["can", bus, "tx"] => BusName::new(bus).ok().map(Self::CanTx),
            ["task", "run", function] => FunctionName::new(function).ok().map(Self::RunTask),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
