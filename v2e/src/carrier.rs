//! One realm over one Zenoh session: carries the messages of [`v2e_core`] and knows nothing of their meaning
//! beyond the key that each belongs on.
//!
//! ```text
//!   requester                                   worker
//!   Run        --- query run/{worker}/{inc} --->  Message
//!              <-- reply: first answer ---------  send(Accepted | Rejected | short Ended)
//!              <-- put job/{owner}/... ---------  send(Began, Ended, Partial)
//!   Renew, ... --- query ctl/{worker}/{inc} --->  Message, answered or receipted
//!   Silent     <-- no reply at all
//! ```
//!
//! A query is answered by the worker's first message about its attempt, if that is small and comes soon;
//! otherwise by an empty receipt, and the message goes as a put. So "no reply" always means that nobody is
//! there to hear, and its outcome is unknown. Nothing ever blocks on a congested link: data is dropped and
//! counted, and the leases of the offload protocol notice.
//!
//! **Who a peer is.** Membership in the realm is proven by mutual TLS: without a certificate of the realm's
//! authority there is no link. Zenoh tells the certificate's name per link, not per message, and a router
//! relays; so within a realm a message's sender is what key and envelope both say, and a member could name
//! another member. A link whose certificate names no node is not of our authority (a dialling side of Zenoh
//! also trusts the public web's): while there is one, nothing is sent or believed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use policies::id::{Attempt, Incarnation, NodeId, TaskId};
use tokio::sync::mpsc;
use v2e_core::message::MessageError;

use crate::keys::RealmName;
use crate::session::{Session, SessionError};

mod actor;
mod ask;
mod route;

/// Messages that wait for the carrier. A full queue drops and says [`FromRealm::Silent`] at once.
const COMMANDS_MAX: usize = 512;

/// Messages that wait for the node. 1024 of the largest kind would be a gigabyte; the payloads of a
/// realm's peers are bounded by the jobs that the node admitted.
const INBOX_MAX: usize = 1024;

/// What a realm says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromRealm {
    /// A peer's message.
    Message {
        /// The peer, as key and envelope name it.
        peer: NodeId,
        /// The frame; it has been decoded once, so it is a valid message.
        frame: Vec<u8>,
        /// The bytes that the message refers to; their length has been checked, their digest has not.
        payload: Option<Vec<u8>>,
    },
    /// A peer's advert.
    Advert {
        /// The peer.
        peer: NodeId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// A peer's token is gone: a hint.
    Gone {
        /// The peer.
        peer: NodeId,
    },
    /// Nobody answered: outcome unknown.
    Silent {
        /// The peer that was asked.
        peer: NodeId,
        /// About which attempt.
        about: (TaskId, Attempt),
    },
    /// A call for a sample to everyone in the realm.
    Call {
        /// Its issuer.
        peer: NodeId,
        /// The frame, a `ToWorker::Call`.
        frame: Vec<u8>,
    },
}

/// Waits of a carrier, before scaling.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// How long an answer may take before the peer counts as silent.
    pub answer: Duration,
    /// How long the node may think before a query is answered by a receipt. Below `answer` by more than a
    /// round trip.
    pub receipt: Duration,
    /// Shortest time between two adverts.
    pub advert: Duration,
}

impl Waits {
    /// Inside a car: links of a millisecond.
    pub const CAR: Self = Self {
        answer: Duration::from_millis(400),
        receipt: Duration::from_millis(200),
        advert: Duration::from_millis(200),
    };
    /// Outside: mobile links.
    pub const OUTSIDE: Self = Self {
        answer: Duration::from_millis(1_000),
        receipt: Duration::from_millis(400),
        advert: Duration::from_millis(200),
    };

    /// The waits that fit a realm.
    pub const fn of(realm: &RealmName) -> Self {
        match realm {
            RealmName::Car(_) => Self::CAR,
            RealmName::Outside(_) => Self::OUTSIDE,
        }
    }
}

/// Counters of a carrier.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    foreign: AtomicU64,
    dropped: AtomicU64,
    silent: AtomicU64,
    strangers: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarrierStats {
    /// Samples, queries and replies that were no valid message of the peer they came from.
    pub foreign: u64,
    /// Messages dropped because a queue was full.
    pub dropped: u64,
    /// Queries that nobody answered.
    pub silent: u64,
    /// Links whose certificate names no node.
    pub strangers: u64,
}

/// What a carrier cannot do.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// Its session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What is to be sent is no message.
    #[error("cannot send a message to {peer}: {source}")]
    Message {
        /// To whom.
        peer: NodeId,
        /// What is wrong with it.
        source: MessageError,
    },
    /// A declaration of the protocol's own keys.
    #[error("cannot declare {key}: {why}")]
    Declare {
        /// Which.
        key: String,
        /// Zenoh's words.
        why: String,
    },
    /// It has ended.
    #[error("the carrier has ended")]
    Ended,
}

impl CarrierError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Session(error) => error.fix(),
            Self::Message { source, .. } => source.fix(),
            Self::Declare { .. } | Self::Ended => None,
        }
    }
}

/// What the carrier's task is told.
#[derive(Debug)]
pub(crate) enum Command {
    Send { peer: NodeId, message: Box<v2e_core::message::Message>, frame: Vec<u8>, payload: Option<Vec<u8>> },
    Advertise(Vec<u8>),
    Call { call: TaskId, frame: Vec<u8> },
}

/// The sending half of a realm. Dropping it closes the session.
pub struct Carrier {
    commands: mpsc::Sender<Command>,
    inbox: mpsc::Sender<FromRealm>,
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Carrier {
    /// Enters `realm` as `me` in this life. A router returns when it listens; a visitor at once, and it
    /// connects in the background for as long as it takes. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// [`CarrierError`] if the session cannot be configured or opened.
    pub async fn open(
        session: Session,
        realm: RealmName,
        me: NodeId,
        incarnation: Incarnation,
    ) -> Result<(Self, mpsc::Receiver<FromRealm>), CarrierError> {
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let (inbox, messages) = mpsc::channel(INBOX_MAX);
        let counts = Arc::new(Counts::default());
        let seat = actor::Seat { realm, me, incarnation, inbox: inbox.clone(), counts: counts.clone() };
        let task = if session.waits_for_peer() {
            session.config()?;
            tokio::spawn(actor::connect_and_run(session, seat, waiting))
        } else {
            let actor = actor::Actor::enter(session.open().await?, &session, seat).await?;
            tokio::spawn(actor.run(waiting, None))
        };
        Ok((Self { commands, inbox, counts, task }, messages))
    }

    /// Sends a message, with the bytes that it refers to. Never waits; what becomes of it is told by
    /// [`FromRealm`].
    ///
    /// # Errors
    /// [`CarrierError::Message`] if `frame` is not a message, [`CarrierError::Ended`] after the end.
    pub fn send(&self, peer: &NodeId, frame: Vec<u8>, payload: Option<Vec<u8>>) -> Result<(), CarrierError> {
        let message = self.decode(peer, &frame)?;
        let about = route::about(&message);
        let command = Command::Send { peer: peer.clone(), message, frame, payload };
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CarrierError::Ended),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Counts::add(&self.counts.dropped);
                if let Some(about) = about {
                    // If the node's queue is full too, its own timers tell.
                    let _ = self.inbox.try_send(FromRealm::Silent { peer: peer.clone(), about });
                }
                Ok(())
            }
        }
    }

    /// Tells the realm what this node is; those who come later learn it too. The last one counts.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn advertise(&self, frame: Vec<u8>) -> Result<(), CarrierError> {
        self.command(Command::Advertise(frame))
    }

    /// Sends a call for a sample to everyone.
    ///
    /// # Errors
    /// As [`Self::send`]; also if `frame` is another message.
    pub fn call(&self, me: &NodeId, frame: Vec<u8>) -> Result<(), CarrierError> {
        let message = self.decode(me, &frame)?;
        match route::about(&message) {
            Some((call, _)) if route::is_call(&message) => self.command(Command::Call { call, frame }),
            Some(_) | None => Ok(()),
        }
    }

    fn decode(&self, peer: &NodeId, frame: &[u8]) -> Result<Box<v2e_core::message::Message>, CarrierError> {
        v2e_core::message::Message::decode(frame)
            .map(Box::new)
            .map_err(|source| CarrierError::Message { peer: peer.clone(), source })
    }

    fn command(&self, command: Command) -> Result<(), CarrierError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CarrierError::Ended),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Counts::add(&self.counts.dropped);
                Ok(())
            }
        }
    }

    /// The counters.
    pub fn stats(&self) -> CarrierStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CarrierStats {
            foreign: read(&self.counts.foreign),
            dropped: read(&self.counts.dropped),
            silent: read(&self.counts.silent),
            strangers: read(&self.counts.strangers),
        }
    }

    /// Leaves the realm in order; returns when the session is closed or its bound is over.
    pub async fn close(self) {
        let Self { commands, task, .. } = self;
        drop(commands);
        // The task's end is all that is waited for; it never panics on purpose.
        let _ = task.await;
    }
}

#[cfg(test)]
mod tests;
