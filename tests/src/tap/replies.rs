//! The answers on the control API that a node recorded, each the answer to one request. The wire does not say the
//! number of a request: there a connection carries one request and one answer. So an answer that is seen is held
//! against the recorded ones by its content, byte by byte, and a connection may have one.

use std::collections::{BTreeSet, VecDeque};

use obu_core::io::{ControlReply, Input, Output};
use obu_core::record::{Entry, Record};
use obu_runtime::control::Reply;
use policies::wire::{self, HEADER_LEN, Kind};

/// A recorded answer that has not been seen yet.
#[derive(Debug)]
pub(super) struct Owed {
    /// When it was recorded.
    pub(super) at: u64,
    /// The request that it answers.
    pub(super) request: u64,
    /// Whether that request was made, and not answered before.
    pub(super) is_asked: bool,
    /// The message, if no result bytes go with it.
    frame: Vec<u8>,
    /// Whether result bytes may go with it: they are not recorded.
    may_carry: bool,
}

impl Owed {
    fn of(at: u64, request: u64, reply: &ControlReply, is_asked: bool) -> Self {
        let may_carry = matches!(reply, ControlReply::Task(_));
        let message = Reply::Control { reply: reply.clone(), payload: None };
        // What is too long to be sent was answered by an error, which no recorded answer fits.
        let frame = wire::encode(Kind::Control, &message).unwrap_or_default();
        Self { at, request, is_asked, frame, may_carry }
    }

    /// Whether these bytes, the first ones of a message, are this answer. The header's length and checksum speak for
    /// what was not written down.
    fn is(&self, seen: &[u8]) -> bool {
        let same = |ours: &[u8], theirs: &[u8]| {
            let len = ours.len().min(theirs.len());
            len > 0 && ours[..len] == theirs[..len]
        };
        if self.frame.len() < HEADER_LEN || seen.len() <= HEADER_LEN {
            return false;
        }
        if self.frame[..HEADER_LEN] == seen[..HEADER_LEN] {
            return same(&self.frame, seen);
        }
        // All of our body but its last byte, which says that no result bytes follow.
        let body = &self.frame[HEADER_LEN..self.frame.len() - 1];
        let follows = seen.get(HEADER_LEN + body.len()).is_none_or(|some| *some == 1);
        self.may_carry && follows && same(body, &seen[HEADER_LEN..])
    }
}

/// All answers of one node.
#[derive(Debug, Default)]
pub(super) struct Replies {
    owed: VecDeque<Owed>,
    /// Connections that have had their answer.
    served: BTreeSet<String>,
}

impl Replies {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut replies = Self::default();
        let mut asked = BTreeSet::new();
        for record in records {
            match &record.entry {
                // A node process numbers the requests that come to it.
                Entry::Input(Input::Boot(_)) => asked.clear(),
                Entry::Input(Input::Control { request, .. }) => {
                    asked.insert(*request);
                }
                Entry::Output(Output::Reply { request, reply }) => {
                    let is_asked = asked.remove(request);
                    replies.owed.push_back(Owed::of(record.at.as_micros(), *request, reply, is_asked));
                }
                _ => {}
            }
        }
        replies
    }

    /// Takes the oldest recorded answer that this is.
    ///
    /// # Errors
    /// What was looked for in vain.
    pub(super) fn take(&mut self, connection: &str, seen: &[u8], at: u64) -> Result<(), String> {
        let found = self.owed.iter().position(|owed| owed.at <= at && owed.is(seen));
        let owed = found.and_then(|found| self.owed.remove(found));
        let owed = owed.ok_or("the output \"reply\" with these words")?;
        if !owed.is_asked {
            return Err(format!("the request {} that it answers", owed.request));
        }
        match self.served.insert(connection.to_owned()) {
            true => Ok(()),
            false => Err("a connection that has had no answer yet".into()),
        }
    }

    /// What was recorded and never seen.
    pub(super) fn left(&mut self) -> VecDeque<Owed> {
        std::mem::take(&mut self.owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use obu_core::io::ControlCall;
    use policies::time::Timestamp;

    fn record(at: u64, entry: Entry) -> Record {
        Record { node: "a1".parse().expect("a node"), at: Timestamp::from_micros(at), entry }
    }

    fn asked(at: u64, request: u64) -> Record {
        let call = ControlCall::Delete {
            app: policies::host::AppRef {
                tenant: "oem".parse().expect("a tenant"),
                app: "lane".parse().expect("an app"),
            },
        };
        record(at, Entry::Input(Input::Control { request, call }))
    }

    fn ok(line: &str) -> ControlReply {
        ControlReply::Ok { lines: vec![line.into()] }
    }

    fn answered(at: u64, request: u64, line: &str) -> Record {
        record(at, Entry::Output(Output::Reply { request, reply: ok(line) }))
    }

    fn seen(line: &str, payload: Option<Vec<u8>>) -> Vec<u8> {
        wire::encode(Kind::Control, &Reply::Control { reply: ok(line), payload }).expect("a message")
    }

    /// Two requests, answered at 20 and 30.
    fn replies() -> Replies {
        Replies::of(&[asked(10, 1), asked(11, 2), answered(20, 1, "gone"), answered(30, 2, "gone too")])
    }

    #[test]
    fn each_answer_is_taken_once_by_a_connection_of_its_own() {
        let mut replies = replies();
        assert_eq!(replies.take("socket:[1]", &seen("gone too", None), 31), Ok(()));
        assert_eq!(replies.take("socket:[2]", &seen("gone", None), 32), Ok(()));
        assert!(replies.left().is_empty());
    }

    #[test]
    fn forged_answers() {
        let long = "x".repeat(600);
        let mut cut_short = seen(&format!("{long}y"), None);
        cut_short.truncate(512);
        let recorded = |line: &str| Replies::of(&[asked(10, 1), answered(20, 1, line)]);
        for (why, mut replies, bytes, at) in [
            ("other words", replies(), seen("gone and done", None), 40),
            ("before it was recorded", replies(), seen("gone too", None), 25),
            ("with bytes that no task gave", replies(), seen("gone", Some(vec![1])), 40),
            ("other words behind what was written down", recorded(&long), cut_short, 40),
            (
                "of a request that nobody made",
                Replies::of(&[answered(20, 7, "gone")]),
                seen("gone", None),
                40,
            ),
            ("of a request of an earlier process", again(), seen("gone", None), 40),
            ("no answer at all", replies(), b"vg\x01\x08".to_vec(), 40),
        ] {
            assert!(replies.take("socket:[1]", &bytes, at).is_err(), "{why}");
        }
        let mut twice = replies();
        assert_eq!(twice.take("socket:[1]", &seen("gone", None), 40), Ok(()));
        assert!(twice.take("socket:[2]", &seen("gone", None), 41).is_err(), "twice the same");
        assert!(twice.take("socket:[1]", &seen("gone too", None), 42).is_err(), "two on one connection");
    }

    /// A request that is answered, and answered again.
    fn again() -> Replies {
        let mut replies = Replies::of(&[asked(10, 1), answered(20, 1, "gone"), answered(21, 1, "gone")]);
        assert_eq!(replies.take("socket:[9]", &seen("gone", None), 22), Ok(()));
        replies
    }

    #[test]
    fn a_long_answer_is_told_by_its_head() {
        let long = "x".repeat(600);
        let mut replies = Replies::of(&[asked(10, 1), answered(20, 1, &long)]);
        assert_eq!(replies.take("socket:[1]", &seen(&long, None)[..512], 21), Ok(()));
    }
}
