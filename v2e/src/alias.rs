//! A node under another name. Outside its car a node may appear under an alias: the alias stands in its
//! certificate, as sender of its messages, as owner of its tasks and as the car in its advert, so that two
//! aliases of one car cannot be joined by a name.

use policies::id::{CarId, NodeId, TaskId};
use v2e_core::message::{Message, MessageError, ToRequester, ToWorker};

/// Puts `to` wherever `from` stands as sender or owner in a frame of the offload protocol; an advert of
/// `from` names the alias as its car too.
///
/// # Errors
/// [`MessageError`] if the frame is not a message.
pub fn rename(frame: &[u8], from: &NodeId, to: &NodeId) -> Result<Vec<u8>, MessageError> {
    let mut message = Message::decode(frame)?;
    match &mut message {
        Message::ToWorker(envelope) => {
            swap(&mut envelope.sender, from, to);
            swap(&mut task_to_worker_mut(&mut envelope.body).owner, from, to);
        }
        Message::ToRequester(envelope) => {
            swap(&mut envelope.sender, from, to);
            swap(&mut task_to_requester_mut(&mut envelope.body).owner, from, to);
        }
        Message::Advert(envelope) => {
            if envelope.sender == *from
                && let Ok(car) = CarId::new(to.as_str())
            {
                envelope.body.car = car;
            }
            swap(&mut envelope.sender, from, to);
        }
    }
    message.encode()
}

fn swap(name: &mut NodeId, from: &NodeId, to: &NodeId) {
    if name == from {
        *name = to.clone();
    }
}

fn task_to_worker_mut(body: &mut ToWorker) -> &mut TaskId {
    match body {
        ToWorker::Run(run) => &mut run.task,
        ToWorker::Call(call) => &mut call.call,
        ToWorker::Renew { task, .. }
        | ToWorker::Status { task, .. }
        | ToWorker::Cancel { task, .. }
        | ToWorker::Ack { task, .. } => task,
    }
}

fn task_to_requester_mut(body: &mut ToRequester) -> &mut TaskId {
    match body {
        ToRequester::Accepted { task, .. }
        | ToRequester::Rejected { task, .. }
        | ToRequester::Busy { task, .. }
        | ToRequester::Began { task, .. }
        | ToRequester::Ended { task, .. } => task,
        ToRequester::Partial { call, .. } => call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::id::{Attempt, Incarnation};
    use v2e_core::message::{Advert, Envelope, Load, Role};

    fn node(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn cancel(sender: &str, owner: &str) -> Vec<u8> {
        let task = TaskId { owner: node(owner), incarnation: Incarnation(1), number: 7 };
        let body = ToWorker::Cancel { task, attempt: Attempt(1) };
        Message::ToWorker(Envelope { sender: node(sender), incarnation: Incarnation(1), body })
            .encode()
            .unwrap()
    }

    fn began(sender: &str, owner: &str) -> Vec<u8> {
        let task = TaskId { owner: node(owner), incarnation: Incarnation(1), number: 7 };
        let body = ToRequester::Began { task, attempt: Attempt(1) };
        Message::ToRequester(Envelope { sender: node(sender), incarnation: Incarnation(1), body })
            .encode()
            .unwrap()
    }

    #[test]
    #[rustfmt::skip]
    fn rename_table() {
        check(cancel("a1", "a1"), cancel("x9", "x9"));
        check(cancel("e1", "e1"), cancel("e1", "e1"));
        check(began("a1", "e1"),  began("x9", "e1"));
        check(began("e1", "a1"),  began("e1", "x9"));
    }

    #[track_caller]
    fn check(inside: Vec<u8>, outside: Vec<u8>) {
        assert_eq!(rename(&inside, &node("a1"), &node("x9")).unwrap(), outside);
        assert_eq!(rename(&outside, &node("x9"), &node("a1")).unwrap(), inside, "and back");
    }

    #[test]
    fn an_advert_names_the_alias_as_its_car() {
        let advert = Advert {
            seq: 1,
            car: CarId::new("car-a").unwrap(),
            role: Role::Obu,
            cores: 2,
            functions: Vec::new(),
            load: Load::default(),
        };
        let envelope = Envelope { sender: node("a1"), incarnation: Incarnation(1), body: advert };
        let frame = Message::Advert(envelope).encode().unwrap();
        let Message::Advert(out) =
            Message::decode(&rename(&frame, &node("a1"), &node("x9")).unwrap()).unwrap()
        else {
            panic!("not an advert");
        };
        assert_eq!((out.sender.as_str(), out.body.car.as_str()), ("x9", "x9"));
        assert!(rename(b"garbage", &node("a1"), &node("x9")).is_err());
    }
}
