//! One question to one peer, on a task of its own.

use std::sync::Arc;
use std::time::Duration;

use policies::id::{Attempt, NodeId, TaskId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zenoh::handlers::FifoChannel;
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::{ConsolidationMode, QueryTarget, Reply};
use zenoh::sample::Locality;

use super::{Counts, FromRealm, route};

/// Replies to one question that are kept; a worker sends one.
const REPLIES_MAX: usize = 4;

/// No reply at all within this time is asked once more after a pause: a freshly joined link may not know
/// the peer's declarations yet. A repeat is harmless, the worker keeps a record of every attempt.
const ASK_AGAIN_WITHIN: Duration = Duration::from_millis(50);

/// A question.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) peer: NodeId,
    pub(super) about: (TaskId, Attempt),
    pub(super) key: String,
    pub(super) frame: Vec<u8>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) priority: Priority,
    pub(super) wait: Duration,
    pub(super) again: Duration,
}

impl Ask {
    /// Asks, hands the answer to the node, and says silent if there is none.
    pub(super) async fn run(
        self,
        session: zenoh::Session,
        inbox: mpsc::Sender<FromRealm>,
        counts: Arc<Counts>,
    ) {
        let began = Instant::now();
        if self.once(&session, &inbox, &counts).await {
            return;
        }
        if began.elapsed() < ASK_AGAIN_WITHIN {
            tokio::time::sleep(self.again).await;
            if self.once(&session, &inbox, &counts).await {
                return;
            }
        }
        Counts::add(&counts.silent);
        deliver(&inbox, &counts, FromRealm::Silent { peer: self.peer, about: self.about });
    }

    /// Whether anybody answered.
    async fn once(&self, session: &zenoh::Session, inbox: &mpsc::Sender<FromRealm>, counts: &Counts) -> bool {
        let asked = session
            .get(self.key.as_str())
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .allowed_destination(Locality::Remote)
            .congestion_control(CongestionControl::Drop)
            .priority(self.priority)
            .express(true)
            .timeout(self.wait)
            .payload(self.frame.clone())
            .attachment(self.payload.clone())
            .with(FifoChannel::new(REPLIES_MAX))
            .await;
        let replies = match asked {
            Ok(replies) => replies,
            Err(error) => {
                tracing::debug!(key = self.key, %error, "cannot ask");
                return false;
            }
        };
        let mut heard = false;
        while let Ok(reply) = replies.recv_async().await {
            heard |= self.take(&reply, inbox, counts);
        }
        heard
    }

    fn take(&self, reply: &Reply, inbox: &mpsc::Sender<FromRealm>, counts: &Counts) -> bool {
        let Ok(sample) = reply.result() else { return false };
        let frame = sample.payload().to_bytes();
        if frame.is_empty() {
            return true;
        }
        let beside = sample.attachment().map(|bytes| bytes.to_bytes());
        match route::read(&frame, beside.as_deref()) {
            Some((message, payload)) if route::answer_is_genuine(&self.peer, &self.about, &message) => {
                let (peer, frame) = (self.peer.clone(), frame.into_owned());
                deliver(inbox, counts, FromRealm::Message { peer, frame, payload });
                true
            }
            Some(_) | None => {
                Counts::add(&counts.foreign);
                false
            }
        }
    }
}

/// Asks `node` for its advert.
pub(super) async fn fetch_advert(
    session: zenoh::Session,
    (node, key): (NodeId, String),
    wait: Duration,
    inbox: mpsc::Sender<FromRealm>,
    counts: Arc<Counts>,
) {
    let asked = session
        .get(key.as_str())
        .target(QueryTarget::All)
        .consolidation(ConsolidationMode::None)
        .allowed_destination(Locality::Remote)
        .congestion_control(CongestionControl::Drop)
        .timeout(wait)
        .with(FifoChannel::new(REPLIES_MAX))
        .await;
    let Ok(replies) = asked else { return };
    while let Ok(reply) = replies.recv_async().await {
        let Ok(sample) = reply.result() else { continue };
        take_advert(&node, &sample.payload().to_bytes(), &inbox, &counts);
    }
}

/// Hands a genuine advert of `node` to the node.
pub(super) fn take_advert(node: &NodeId, frame: &[u8], inbox: &mpsc::Sender<FromRealm>, counts: &Counts) {
    match route::read(frame, None) {
        Some((v2e_core::message::Message::Advert(envelope), _)) if envelope.sender == *node => {
            deliver(inbox, counts, FromRealm::Advert { peer: node.clone(), frame: frame.to_vec() });
        }
        Some(_) | None => Counts::add(&counts.foreign),
    }
}

/// Hands something to the node, or drops and counts it: a slow node must not hold Zenoh's threads.
pub(super) fn deliver(inbox: &mpsc::Sender<FromRealm>, counts: &Counts, what: FromRealm) {
    if inbox.try_send(what).is_err() {
        Counts::add(&counts.dropped);
    }
}
