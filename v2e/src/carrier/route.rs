//! Which key a message belongs on, and whether what came on a key may be believed. Pure.

use policies::id::{Attempt, Incarnation, NodeId, TaskId};
use policies::limits::INLINE_LEN_MAX;
use policies::task::Class;
use v2e_core::message::{Message, ToRequester, ToWorker};

use crate::keys::Key;

/// Longest frame looked at. An advert of 256 functions has about 32 KiB; inputs and results travel beside.
pub(crate) const FRAME_LEN_MAX: usize = 64 << 10;

/// Which attempt a message is about; `None` for an advert. A call counts as its attempt 0.
pub(crate) fn about(message: &Message) -> Option<(TaskId, Attempt)> {
    match message {
        Message::ToWorker(envelope) => Some(match &envelope.body {
            ToWorker::Run(run) => (run.task.clone(), run.attempt),
            ToWorker::Call(call) => (call.call.clone(), Attempt(0)),
            ToWorker::Renew { task, attempt, .. }
            | ToWorker::Status { task, attempt }
            | ToWorker::Cancel { task, attempt }
            | ToWorker::Ack { task, attempt } => (task.clone(), *attempt),
        }),
        Message::ToRequester(envelope) => Some(match &envelope.body {
            ToRequester::Accepted { task, attempt, .. }
            | ToRequester::Rejected { task, attempt, .. }
            | ToRequester::Busy { task, attempt, .. }
            | ToRequester::Began { task, attempt }
            | ToRequester::Ended { task, attempt, .. } => (task.clone(), *attempt),
            ToRequester::Partial { call, .. } => (call.clone(), Attempt(0)),
        }),
        Message::Advert(_) => None,
    }
}

pub(crate) fn is_call(message: &Message) -> bool {
    matches!(message, Message::ToWorker(envelope) if matches!(envelope.body, ToWorker::Call(_)))
}

/// Whether the sender waits for words about the attempt; otherwise a receipt is enough.
pub(crate) fn expects_answer(message: &Message) -> bool {
    let Message::ToWorker(envelope) = message else { return false };
    match envelope.body {
        ToWorker::Run(_) | ToWorker::Renew { .. } | ToWorker::Status { .. } | ToWorker::Cancel { .. } => true,
        ToWorker::Ack { .. } | ToWorker::Call(_) => false,
    }
}

/// How an outgoing message travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// As a query to the worker.
    Query {
        /// The key.
        key: Key,
        /// Of the task.
        urgent: bool,
    },
    /// As the answer to an open query, or a put that the owner reads.
    Result(Key),
    /// Nowhere: an advert has its own way, or the worker's life is not known.
    Nowhere,
}

/// The way of `message` from `me` to `peer`, whose present life is `life` if known.
pub(crate) fn route(message: &Message, me: &NodeId, peer: &NodeId, life: Option<Incarnation>) -> Route {
    let Some((task, attempt)) = about(message) else { return Route::Nowhere };
    match message {
        Message::ToWorker(envelope) => match (&envelope.body, life) {
            (ToWorker::Run(run), _) => Route::Query {
                key: Key::Run {
                    node: peer.clone(),
                    incarnation: run.life,
                    class: run.class,
                    from: me.clone(),
                },
                urgent: run.class == Class::Critical,
            },
            (_, Some(incarnation)) => Route::Query {
                key: Key::Ctl { node: peer.clone(), incarnation, task, from: me.clone() },
                urgent: true,
            },
            (_, None) => Route::Nowhere,
        },
        Message::ToRequester(_) => Route::Result(Key::Result { task, attempt, from: me.clone() }),
        Message::Advert(_) => Route::Nowhere,
    }
}

/// Whether a query's message is what its key says: sender, owner, life, class, task.
pub(crate) fn query_is_genuine(key: &Key, message: &Message) -> bool {
    let Message::ToWorker(envelope) = message else { return false };
    let Some((task, _)) = about(message) else { return false };
    let owned = |from: &NodeId| *from == envelope.sender && task.owner == *from;
    match (key, &envelope.body) {
        (Key::Run { incarnation, class, from, .. }, ToWorker::Run(run)) => {
            owned(from) && run.life == *incarnation && run.class == *class
        }
        (Key::Ctl { .. }, ToWorker::Run(_)) => false,
        (Key::Ctl { task: named, from, .. }, _) => owned(from) && *named == task,
        _ => false,
    }
}

/// Whether a result's message is what its key says.
pub(crate) fn result_is_genuine(key: &Key, message: &Message) -> bool {
    let (Key::Result { task, attempt, from }, Message::ToRequester(envelope)) = (key, message) else {
        return false;
    };
    envelope.sender == *from && about(message).as_ref() == Some(&(task.clone(), *attempt))
}

/// Whether a reply is an answer of `peer` about that attempt.
pub(crate) fn answer_is_genuine(peer: &NodeId, asked: &(TaskId, Attempt), message: &Message) -> bool {
    matches!(message, Message::ToRequester(envelope) if envelope.sender == *peer)
        && about(message).as_ref() == Some(asked)
}

/// Reads a frame and the bytes beside it: sizes first, then the frame, then whether the bytes are as long as
/// the message says. `None` if anything is wrong.
pub(crate) fn read(frame: &[u8], beside: Option<&[u8]>) -> Option<(Message, Option<Vec<u8>>)> {
    if frame.len() > FRAME_LEN_MAX || beside.is_some_and(|bytes| bytes.len() > INLINE_LEN_MAX) {
        return None;
    }
    let message = Message::decode(frame).ok()?;
    let payload = match (message.payload(), beside) {
        (Some(blob), Some(bytes)) if blob.len as usize == bytes.len() => Some(bytes.to_vec()),
        (Some(blob), None) if blob.len == 0 => Some(Vec::new()),
        (Some(_), _) => return None,
        // Bytes that nothing refers to are not handed on.
        (None, _) => None,
    };
    Some((message, payload))
}
