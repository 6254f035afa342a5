//! Holds what was heard in the realms against what the nodes recorded that they sent. Two kinds of witnesses: the nodes
//! that received a message recorded it as an input; and the tap's own member of each realm hears puts and queries.
//!
//! A message on the air is the act of a `Send` or an `Announce`. An advert is heard by many and told again to those who
//! come late, so each one heard must have been announced; every other message is one act of one output, also when
//! several equal ones were sent.

use std::collections::{BTreeMap, VecDeque};

use obu_core::io::{Input, Output};
use obu_core::record::Record;
use policies::id::{Digest, NodeId};
use v2e::keys::{Key, RealmName};
use v2e_core::message::Message;
use v2e_core::report::Realm;

use super::record::{inputs, outputs};
use super::{Exempt, Report};

/// Something that the tap's member of a realm heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When, microseconds on the nodes' clock.
    pub at: u64,
    /// Where.
    pub realm: Realm,
    /// Whether it was a query; otherwise a put.
    pub query: bool,
    /// The full key.
    pub key: String,
    /// The message.
    pub frame: Vec<u8>,
    /// What came beside it.
    pub beside: Option<Vec<u8>>,
}

/// A message that a node said it sends.
#[derive(Clone, Debug)]
struct Sent {
    at: u64,
    message: String,
    to: NodeId,
}

/// What was sent by whom, through which realm.
type Book = BTreeMap<(Realm, NodeId), VecDeque<Sent>>;

fn book(nodes: &BTreeMap<NodeId, Vec<Record>>) -> Book {
    let mut book = Book::new();
    for (node, records) in nodes {
        for (at, output) in outputs(records) {
            let (realm, message, to) = match output {
                Output::Send { realm, to, message } => (realm, message.clone(), to.clone()),
                Output::Announce { realm, advert } => (realm, Message::Advert(advert.clone()), node.clone()),
                _ => continue,
            };
            let sent = Sent { at, message: format!("{message:?}"), to };
            book.entry((*realm, node.clone())).or_default().push_back(sent);
        }
    }
    book
}

/// Takes the oldest message of this text that was recorded before `at`; an advert stays, to be heard again.
fn take(
    book: &mut Book,
    realm: Realm,
    from: &NodeId,
    to: Option<&NodeId>,
    text: &str,
    at: u64,
    keep: bool,
) -> bool {
    let Some(sent) = book.get_mut(&(realm, from.clone())) else { return false };
    let is_it = |sent: &Sent| sent.at <= at && sent.message == text && to.is_none_or(|to| sent.to == *to);
    let Some(number) = sent.iter().position(is_it) else { return false };
    if !keep {
        sent.remove(number);
    }
    true
}

/// Longest time, microseconds, before a link's end is noticed: Zenoh's lease is 5 s, a question waits for 1 s. What was
/// sent in that time may have been lost.
const UNNOTICED_US: u64 = 6_000_000;

/// How long before and after a break, microseconds, something may come for the second time: the carrier asks again, once,
/// when a link ends under a question.
const ASKED_AGAIN_US: u64 = 1_000_000;

/// Messages, in thousandths of those received, that may be lost though no link broke: on a congested one Zenoh drops what
/// it is told to send, without a word, and the leases of the offload protocol notice.
const LOST_PERMILLE_MAX: usize = 5;

/// When messages between two nodes may be lost: from shortly before one of them noted that the other is silent or gone,
/// until they hear of each other again.
#[derive(Debug)]
struct Break {
    between: [NodeId; 2],
    noticed: u64,
    over: u64,
}

fn breaks(nodes: &BTreeMap<NodeId, Vec<Record>>) -> Vec<Break> {
    let mut breaks = Vec::new();
    for (node, records) in nodes {
        for (at, input) in inputs(records) {
            let (Input::Silent { peer, realm } | Input::PeerGone { peer, realm }) = input else { continue };
            let heard_again = |(t, input): (u64, &Input)| match input {
                Input::Received { from, realm: through, .. }
                    if t > at && from == peer && through == realm =>
                {
                    Some(t)
                }
                _ => None,
            };
            let until = inputs(records).find_map(heard_again).map_or(u64::MAX, |t| t + ASKED_AGAIN_US);
            breaks.push(Break { between: [node.clone(), peer.clone()], noticed: at, over: until });
        }
    }
    breaks
}

/// Whether the link between the two was broken, counted from so long before that was noticed.
fn is_broken(breaks: &[Break], one: &NodeId, other: &NodeId, at: u64, before: u64) -> bool {
    breaks.iter().any(|b| {
        let when = b.noticed.saturating_sub(before)..=b.over;
        b.between.contains(one) && b.between.contains(other) && when.contains(&at)
    })
}

/// Each message that a node received was sent by its peer, once; and each that was sent was received, unless the two
/// noted that their link had broken, or one of them was killed.
pub fn between_nodes(nodes: &BTreeMap<NodeId, Vec<Record>>, absent: &[Absence]) -> Report {
    let mut report = Report::default();
    let mut book = book(nodes);
    let breaks = breaks(nodes);
    for (node, records) in nodes {
        for (at, input) in inputs(records) {
            let Input::Received { realm, from, message, .. } = input else { continue };
            let is_advert = matches!(message, Message::Advert(_));
            let to = (!is_advert).then_some(node);
            if take(&mut book, *realm, from, to, &format!("{message:?}"), at, is_advert) {
                *report.matched.entry(kind(message).into()).or_default() += 1;
            } else if is_absent(absent, from, at) {
                *report.exempt.entry(Exempt::CutOff).or_default() += 1;
            } else if matches!(message, Message::ToWorker(_))
                && is_broken(&breaks, node, from, at, ASKED_AGAIN_US)
            {
                // Nobody replied, so the carrier asked once more.
                *report.entailed.entry("asked again".into()).or_default() += 1;
            } else {
                report
                    .findings
                    .push(format!("{node}: received what {from} never recorded to send: {message:?}"));
            }
        }
    }
    let mut lost = Vec::new();
    for ((_, node), left) in book {
        for sent in left.into_iter().filter(|sent| sent.to != node) {
            if is_absent(absent, &node, sent.at) || is_absent(absent, &sent.to, sent.at) {
                *report.exempt.entry(Exempt::CutOff).or_default() += 1;
            } else if is_broken(&breaks, &node, &sent.to, sent.at, UNNOTICED_US) {
                *report.failed.entry("message".into()).or_default() += 1;
            } else {
                let Sent { at, message, to } = sent;
                lost.push(format!("{node}: sent to {to} and never received: {message} (at {at} us)"));
            }
        }
    }
    let received: usize = report.matched.values().sum();
    if lost.len() * 1000 <= received * LOST_PERMILLE_MAX {
        *report.failed.entry("message lost".into()).or_default() += lost.len();
    } else {
        report.findings.extend(lost);
    }
    report
}

/// A node, and a time in which it was dead, or had recorded what died with it.
pub type Absence = (NodeId, std::ops::RangeInclusive<u64>);

fn is_absent(absent: &[Absence], node: &NodeId, at: u64) -> bool {
    absent.iter().any(|(who, when)| who == node && when.contains(&at))
}

/// Everything that the tap's own member heard in a realm was sent by the node that its key names.
pub fn by_ear(
    heard: &[Heard],
    realms: &BTreeMap<Realm, RealmName>,
    nodes: &BTreeMap<NodeId, Vec<Record>>,
    absent: &[Absence],
) -> Report {
    let mut report = Report::default();
    let mut book = book(nodes);
    let breaks = breaks(nodes);
    for what in heard {
        match judge(what, realms, &mut book) {
            Ok(kind) => *report.matched.entry(format!("{kind} by ear")).or_default() += 1,
            Err((Some(from), _)) if is_absent(absent, &from, what.at) => {
                *report.exempt.entry(Exempt::CutOff).or_default() += 1;
            }
            // Nobody replied, so the carrier asked once more.
            Err((Some(from), _))
                if asked(what, realms)
                    .is_some_and(|to| is_broken(&breaks, &from, &to, what.at, ASKED_AGAIN_US)) =>
            {
                *report.entailed.entry("asked again".into()).or_default() += 1;
            }
            Err((_, why)) => {
                report.findings.push(format!("heard in the {:?} realm on {}: {why}", what.realm, what.key))
            }
        }
    }
    report
}

/// Who is asked by a query.
fn asked(what: &Heard, realms: &BTreeMap<Realm, RealmName>) -> Option<NodeId> {
    match Key::parse(realms.get(&what.realm)?, &what.key).ok()? {
        Key::Run { node, .. } | Key::Ctl { node, .. } if what.query => Some(node),
        _ => None,
    }
}

fn judge(
    what: &Heard,
    realms: &BTreeMap<Realm, RealmName>,
    book: &mut Book,
) -> Result<&'static str, (Option<NodeId>, String)> {
    let nobody = |why: String| (None, why);
    let key = Key::parse(&realms[&what.realm], &what.key).map_err(|e| nobody(e.to_string()))?;
    if let (Key::Ad { .. }, true) = (&key, what.query) {
        return Ok("question for an advert");
    }
    let message = Message::decode(&what.frame).map_err(|e| nobody(e.to_string()))?;
    let (sender, _) = message.sender();
    let (Key::Ad { node: from } | Key::Run { from, .. } | Key::Ctl { from, .. } | Key::Result { from, .. }) =
        &key
    else {
        return Err((Some(sender.clone()), "a key on which nothing is sent".into()));
    };
    if from != sender {
        return Err((Some(sender.clone()), format!("the key names {from}, the message {sender}")));
    }
    if let Some(blob) = message.payload().filter(|blob| blob.len > 0) {
        let digest = what.beside.as_deref().map(Digest::of);
        if digest != Some(blob.digest) {
            return Err((Some(sender.clone()), "the bytes beside it are not those that it names".into()));
        }
    }
    // An advert goes out once when it is new, and again only to those who ask.
    let sent = take(book, what.realm, sender, None, &format!("{message:?}"), what.at, false);
    if sent {
        Ok(kind(&message))
    } else {
        Err((Some(sender.clone()), format!("never recorded: {message:?}")))
    }
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::ToWorker(_) => "to worker",
        Message::ToRequester(_) => "to requester",
        Message::Advert(_) => "advert",
    }
}
