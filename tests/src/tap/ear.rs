//! A member of a realm that only listens: every put, and every query, which it never answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use v2e::session::Session;
use v2e_core::report::Realm;
use zenoh::query::Query;
use zenoh::sample::Sample;

use super::clock;
use super::realm::Heard;

/// How long a query is kept unanswered: longer than anybody waits for a reply, so that the asker never takes our end of
/// it for the silence of the one who was asked.
const KEPT: Duration = Duration::from_secs(3);

/// Everything, in every realm.
const ALL: &str = "**";

/// What has been heard so far.
#[derive(Clone, Debug, Default)]
pub struct Ears {
    heard: Arc<Mutex<Vec<Heard>>>,
    kept: Arc<Mutex<VecDeque<(Instant, Query)>>>,
}

impl Ears {
    /// Listens on a session from now on, for as long as it is open.
    ///
    /// # Panics
    /// If Zenoh does not let it.
    pub async fn listen(&self, session: &zenoh::Session, realm: Realm) {
        let ears = self.clone();
        let put = move |sample: Sample| {
            let beside = sample.attachment().map(|bytes| bytes.to_bytes().into_owned());
            ears.note(realm, false, sample.key_expr().as_str(), &sample.payload().to_bytes(), beside);
        };
        session.declare_subscriber(ALL).callback(put).background().await.expect("a subscriber");
        let ears = self.clone();
        let asked = move |query: Query| {
            let frame = query.payload().map(|bytes| bytes.to_bytes().into_owned()).unwrap_or_default();
            let beside = query.attachment().map(|bytes| bytes.to_bytes().into_owned());
            ears.note(realm, true, query.key_expr().as_str(), &frame, beside);
            ears.keep(query);
        };
        session.declare_queryable(ALL).callback(asked).background().await.expect("a queryable");
    }

    fn note(&self, realm: Realm, query: bool, key: &str, frame: &[u8], beside: Option<Vec<u8>>) {
        let heard =
            Heard { at: clock::node_us(), realm, query, key: key.to_owned(), frame: frame.to_vec(), beside };
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    }

    fn keep(&self, query: Query) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((Instant::now() + KEPT, query));
        while kept.front().is_some_and(|(until, _)| *until <= Instant::now()) {
            kept.pop_front();
        }
    }

    /// All that was heard, in the order in which it came.
    pub fn take(&self) -> Vec<Heard> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens a session as soon as there is somebody to open it with.
///
/// # Panics
/// If nobody comes.
pub async fn open(session: &Session) -> zenoh::Session {
    let until = Instant::now() + crate::wait::PATIENCE;
    loop {
        match session.open().await {
            Ok(open) => return open,
            Err(error) => assert!(Instant::now() < until, "the tap cannot enter a realm: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
