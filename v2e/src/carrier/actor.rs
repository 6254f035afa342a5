//! The carrier's task: one loop over what the node wants sent, what the realm says, and two timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use policies::id::{Attempt, Incarnation, NodeId, TaskId};
use policies::limits::PEERS_MAX;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use v2e_core::message::Message;
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::Query;
use zenoh::sample::{Locality, Sample, SampleKind};

use super::ask::{self, Ask, deliver};
use super::route::{self, Route};
use super::{CarrierError, Command, Counts, FromRealm, Waits};
use crate::keys::{Key, Patterns, RealmName};
use crate::session::Session;

/// What waits from Zenoh's threads. Beyond it, what comes is dropped and counted.
const EVENTS_MAX: usize = 1024;

/// Questions under way at a time: every task owned, with room for what is said about them.
const ASKS_MAX: usize = 2048;

/// Queries that wait for the node's answer: all jobs admitted, each with a few questions.
const PENDING_MAX: usize = 1024;

/// Questions about one attempt that wait at a time; a peer that repeats itself gets receipts.
const PENDING_PER_ATTEMPT_MAX: usize = 4;

/// Largest result that answers a query; bigger ones get a put of their own, whose priority is theirs.
const REPLY_LEN_MAX: usize = 16 << 10;

/// Longest time a session may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Who sits where, and where to put what is heard.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) realm: RealmName,
    pub(super) me: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) inbox: mpsc::Sender<FromRealm>,
    pub(super) counts: Arc<Counts>,
}

enum Event {
    Query(Query),
    Sample(Sample),
    Token { key: String, up: bool },
    Link { id: String, name: Option<String>, up: bool },
}

type PendingKey = (NodeId, TaskId, Attempt);

pub(super) struct Actor {
    seat: Seat,
    session: zenoh::Session,
    waits: Waits,
    mutual: bool,
    events: mpsc::Receiver<Event>,
    asks: Arc<Semaphore>,
    /// Present life of each peer.
    lives: BTreeMap<NodeId, Incarnation>,
    /// Queries that the node has not answered, oldest first, with the time of their receipt.
    pending: BTreeMap<PendingKey, VecDeque<(Instant, Query)>>,
    /// Links whose certificate names no node.
    strangers: BTreeSet<String>,
    advert: Option<Vec<u8>>,
    advert_unsent: bool,
    advert_next: Instant,
    /// Keeps the declarations alive.
    token: Option<zenoh::liveliness::LivelinessToken>,
}

/// Opens a visitor's session in the background, then runs.
pub(super) async fn connect_and_run(session: Session, seat: Seat, mut commands: mpsc::Receiver<Command>) {
    let mut advert = None;
    let (mut pause, longest) = session.redial();
    loop {
        let entering = async {
            let opened = session.open().await?;
            Actor::enter(opened, &session, seat.clone()).await
        };
        tokio::pin!(entering);
        let entered = loop {
            tokio::select! {
                entered = &mut entering => break entered,
                command = commands.recv() => match command {
                    Some(command) => answer_unconnected(&seat, command, &mut advert),
                    None => return,
                },
            }
        };
        match entered {
            Ok(actor) => return actor.run(commands, advert).await,
            Err(error) => tracing::debug!(%error, "cannot enter the realm yet"),
        }
        // What is sent meanwhile is answered after the pause.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

fn answer_unconnected(seat: &Seat, command: Command, advert: &mut Option<Vec<u8>>) {
    match command {
        Command::Advertise(frame) => *advert = Some(frame),
        Command::Call { .. } => Counts::add(&seat.counts.dropped),
        Command::Send { peer, message, .. } => {
            if let Some(about) = route::about(&message) {
                deliver(&seat.inbox, &seat.counts, FromRealm::Silent { peer, about });
            }
        }
    }
}

impl Actor {
    /// Declares everything that the protocol needs on an open session.
    pub(super) async fn enter(
        session: zenoh::Session,
        settings: &Session,
        seat: Seat,
    ) -> Result<Self, CarrierError> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let own = Waits::of(&seat.realm);
        let mut actor = Self {
            waits: Waits {
                answer: settings.scaled(own.answer),
                receipt: settings.scaled(own.receipt),
                advert: settings.scaled(own.advert),
            },
            mutual: settings.is_mutual(),
            seat,
            session,
            events,
            asks: Arc::new(Semaphore::new(ASKS_MAX)),
            lives: BTreeMap::new(),
            pending: BTreeMap::new(),
            strangers: BTreeSet::new(),
            advert: None,
            advert_unsent: false,
            advert_next: Instant::now(),
            token: None,
        };
        actor.declare(&sender).await?;
        Ok(actor)
    }

    async fn declare(&mut self, events: &mpsc::Sender<Event>) -> Result<(), CarrierError> {
        let Seat { realm, me, incarnation, .. } = &self.seat;
        let patterns = Patterns { realm, me, incarnation: *incarnation };
        let ad = Key::Ad { node: me.clone() }.spell(realm);
        let live = Key::Live { node: me.clone(), incarnation: *incarnation }.spell(realm);
        let failed = |key: &str| {
            let key = key.to_owned();
            move |error: zenoh::Error| CarrierError::Declare { key, why: error.to_string() }
        };
        let offer = self.offer(events);
        let links = self.session.info();
        let links =
            links.link_events_listener().history(true).callback(move |event| offer(link_event(&event)));
        links.background().await.map_err(failed("link events"))?;
        for key in [patterns.run_here(), patterns.ctl_here(), ad] {
            let offer = self.offer(events);
            let callback = move |query| offer(Event::Query(query));
            let declared = self.session.declare_queryable(key.as_str());
            let declared = declared.allowed_origin(Locality::Remote).callback(callback).background().await;
            declared.map_err(failed(&key))?;
        }
        for key in [patterns.results_here(), patterns.all_ads(), patterns.all_calls()] {
            let offer = self.offer(events);
            let callback = move |sample| offer(Event::Sample(sample));
            let declared = self.session.declare_subscriber(key.as_str());
            let declared = declared.allowed_origin(Locality::Remote).callback(callback).background().await;
            declared.map_err(failed(&key))?;
        }
        let offer = self.offer(events);
        let all_live = patterns.all_live();
        let tokens = self.session.liveliness();
        let tokens = tokens.declare_subscriber(all_live.as_str()).history(true);
        let callback = move |sample: Sample| {
            let up = sample.kind() == SampleKind::Put;
            offer(Event::Token { key: sample.key_expr().to_string(), up });
        };
        tokens.callback(callback).background().await.map_err(failed(&all_live))?;
        let token = self.session.liveliness().declare_token(live.as_str()).await;
        self.token = Some(token.map_err(failed(&live))?);
        Ok(())
    }

    /// For Zenoh's threads: hands an event over, or drops and counts it.
    fn offer(&self, events: &mpsc::Sender<Event>) -> impl Fn(Event) + Send + Sync + 'static + use<> {
        let (events, counts) = (events.clone(), self.seat.counts.clone());
        move |event| {
            if events.try_send(event).is_err() {
                Counts::add(&counts.dropped);
            }
        }
    }

    /// Runs until the carrier is dropped, then closes the session.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, advert: Option<Vec<u8>>) {
        self.advert_unsent = advert.is_some();
        self.advert = advert;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.perform(command).await,
                    None => break,
                },
                Some(event) = self.events.recv() => self.take(event).await,
                () = tokio::time::sleep_until(wake) => {}
            }
            self.send_advert().await;
            self.send_receipts().await;
        }
        drop(self.token.take());
        if tokio::time::timeout(CLOSE_MAX, self.session.close()).await.is_err() {
            tracing::warn!(realm = %self.seat.realm, "the session does not close in time");
        }
    }

    /// A minute ahead if there is nothing to wait for.
    fn next_wake(&self) -> Instant {
        let receipt = self.pending.values().filter_map(|queue| queue.front()).map(|(due, _)| *due).min();
        let advert = self.advert_unsent.then_some(self.advert_next);
        let far = Instant::now() + Duration::from_secs(60);
        [receipt, advert].into_iter().flatten().min().unwrap_or(far)
    }

    async fn perform(&mut self, command: Command) {
        match command {
            Command::Advertise(frame) => {
                self.advert_unsent = self.advert.as_ref() != Some(&frame) || self.advert_unsent;
                self.advert = Some(frame);
            }
            Command::Call { call, frame } => {
                let key = Key::Call { call }.spell(&self.seat.realm);
                self.put(&key, frame, None, Priority::Data).await;
            }
            Command::Send { peer, message, frame, payload } => {
                let life = self.lives.get(&peer).copied();
                match route::route(&message, &self.seat.me, &peer, life) {
                    Route::Query { key, urgent } => self.ask(peer, &message, key, urgent, (frame, payload)),
                    Route::Result(key) => self.answer(peer, &message, &key, frame, payload).await,
                    Route::Nowhere => self.silent(peer, &message),
                }
            }
        }
    }

    fn silent(&self, peer: NodeId, message: &Message) {
        Counts::add(&self.seat.counts.silent);
        if let Some(about) = route::about(message) {
            deliver(&self.seat.inbox, &self.seat.counts, FromRealm::Silent { peer, about });
        }
    }

    fn ask(
        &self,
        peer: NodeId,
        message: &Message,
        key: Key,
        urgent: bool,
        (frame, payload): (Vec<u8>, Option<Vec<u8>>),
    ) {
        let (Some(about), Ok(place)) = (route::about(message), self.asks.clone().try_acquire_owned()) else {
            return self.silent(peer, message);
        };
        if !self.strangers.is_empty() {
            return self.silent(peer, message);
        }
        let ask = Ask {
            peer,
            about,
            key: key.spell(&self.seat.realm),
            frame,
            payload,
            priority: if urgent { Priority::DataHigh } else { Priority::Data },
            wait: self.waits.answer,
            again: self.waits.answer / 8,
        };
        let asking = ask.run(self.session.clone(), self.seat.inbox.clone(), self.seat.counts.clone());
        tokio::spawn(async move {
            asking.await;
            drop(place);
        });
    }

    /// Answers the oldest open query about the attempt, or puts.
    async fn answer(
        &mut self,
        peer: NodeId,
        message: &Message,
        key: &Key,
        frame: Vec<u8>,
        payload: Option<Vec<u8>>,
    ) {
        let Some((task, attempt)) = route::about(message) else { return };
        let small = payload.as_ref().is_none_or(|bytes| bytes.len() <= REPLY_LEN_MAX);
        match self.take_pending(&(peer, task, attempt)) {
            Some(query) if small => reply(&query, frame, payload).await,
            Some(query) => {
                self.put(&key.spell(&self.seat.realm), frame, payload, Priority::Data).await;
                reply(&query, Vec::new(), None).await;
            }
            None => self.put(&key.spell(&self.seat.realm), frame, payload, Priority::Data).await,
        }
    }

    fn take_pending(&mut self, key: &PendingKey) -> Option<Query> {
        let queue = self.pending.get_mut(key)?;
        let oldest = queue.pop_front();
        if queue.is_empty() {
            self.pending.remove(key);
        }
        oldest.map(|(_, query)| query)
    }

    async fn put(&self, key: &str, frame: Vec<u8>, beside: Option<Vec<u8>>, priority: Priority) {
        if !self.strangers.is_empty() {
            return Counts::add(&self.seat.counts.dropped);
        }
        let put = self.session.put(key, frame).attachment(beside);
        let put = put.congestion_control(CongestionControl::Drop).priority(priority).express(true);
        if let Err(error) = put.allowed_destination(Locality::Remote).await {
            tracing::debug!(key, %error, "cannot put");
            Counts::add(&self.seat.counts.dropped);
        }
    }

    async fn send_advert(&mut self) {
        if !self.advert_unsent || Instant::now() < self.advert_next {
            return;
        }
        let Some(frame) = self.advert.clone() else { return };
        self.advert_unsent = false;
        self.advert_next = Instant::now() + self.waits.advert;
        let key = Key::Ad { node: self.seat.me.clone() }.spell(&self.seat.realm);
        self.put(&key, frame, None, Priority::DataLow).await;
    }

    /// Receipts for queries that the node has not answered in time.
    async fn send_receipts(&mut self) {
        let now = Instant::now();
        let due: Vec<PendingKey> = self
            .pending
            .iter()
            .filter(|(_, queue)| queue.front().is_some_and(|(due, _)| *due <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(query) = self.take_pending(&key) {
                reply(&query, Vec::new(), None).await;
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Token { key, up } => self.take_token(&key, up),
            Event::Link { id, name, up } => self.take_link(id, name.as_deref(), up),
            _ if !self.strangers.is_empty() => Counts::add(&self.seat.counts.foreign),
            Event::Query(query) => self.take_query(query).await,
            Event::Sample(sample) => self.take_sample(&sample),
        }
    }

    fn take_link(&mut self, id: String, name: Option<&str>, up: bool) {
        if !up {
            self.strangers.remove(&id);
        } else if self.mutual && name.is_none_or(|name| NodeId::new(name).is_err()) {
            tracing::warn!(link = id, ?name, "the other side's certificate names no node");
            Counts::add(&self.seat.counts.strangers);
            self.strangers.insert(id);
        }
    }

    fn take_token(&mut self, key: &str, up: bool) {
        let Ok(Key::Live { node, incarnation }) = Key::parse(&self.seat.realm, key) else {
            return Counts::add(&self.seat.counts.foreign);
        };
        if node == self.seat.me {
            return;
        }
        let known = self.lives.get(&node).copied();
        if up && known.is_none_or(|known| known <= incarnation) {
            if known.is_none() && self.lives.len() >= PEERS_MAX {
                return Counts::add(&self.seat.counts.dropped);
            }
            self.lives.insert(node.clone(), incarnation);
            let key = Key::Ad { node: node.clone() }.spell(&self.seat.realm);
            let Seat { inbox, counts, .. } = self.seat.clone();
            tokio::spawn(ask::fetch_advert(
                self.session.clone(),
                (node, key),
                self.waits.answer,
                inbox,
                counts,
            ));
        } else if !up && known == Some(incarnation) {
            self.lives.remove(&node);
            deliver(&self.seat.inbox, &self.seat.counts, FromRealm::Gone { peer: node });
        }
    }

    async fn take_query(&mut self, query: Query) {
        let key = Key::parse(&self.seat.realm, query.key_expr().as_str());
        if let Ok(Key::Ad { .. }) = key {
            if let Some(frame) = self.advert.clone() {
                reply(&query, frame, None).await;
            }
            return;
        }
        let Some((message, frame, payload)) = key.ok().and_then(|key| genuine_query(&key, &query)) else {
            return Counts::add(&self.seat.counts.foreign);
        };
        let (peer, _) = message.sender();
        let peer = peer.clone();
        if let Some(query) = self.hold(&peer, &message, query) {
            reply(&query, Vec::new(), None).await;
        }
        deliver(&self.seat.inbox, &self.seat.counts, FromRealm::Message { peer, frame, payload });
    }

    /// Keeps a query until the node answers it; gives it back if there is no need or no place.
    fn hold(&mut self, peer: &NodeId, message: &Message, query: Query) -> Option<Query> {
        let Some((task, attempt)) = route::about(message).filter(|_| route::expects_answer(message)) else {
            return Some(query);
        };
        let key = (peer.clone(), task, attempt);
        let full = self.pending.len() >= PENDING_MAX && !self.pending.contains_key(&key);
        if full || self.pending.get(&key).is_some_and(|queue| queue.len() >= PENDING_PER_ATTEMPT_MAX) {
            return Some(query);
        }
        let due = Instant::now() + self.waits.receipt;
        self.pending.entry(key).or_default().push_back((due, query));
        None
    }

    fn take_sample(&mut self, sample: &Sample) {
        let Seat { realm, inbox, counts, .. } = &self.seat;
        let frame = sample.payload().to_bytes();
        let beside = sample.attachment().map(|bytes| bytes.to_bytes());
        let read = || route::read(&frame, beside.as_deref());
        match Key::parse(realm, sample.key_expr().as_str()) {
            Ok(Key::Ad { node }) => return ask::take_advert(&node, &frame, inbox, counts),
            Ok(key @ Key::Result { .. }) => {
                if let (Some((message, payload)), Key::Result { from, .. }) = (read(), &key)
                    && route::result_is_genuine(&key, &message)
                {
                    let (peer, frame) = (from.clone(), frame.into_owned());
                    return deliver(inbox, counts, FromRealm::Message { peer, frame, payload });
                }
            }
            Ok(Key::Call { call }) => {
                if let Some((message, _)) = read()
                    && route::is_call(&message)
                    && route::about(&message) == Some((call.clone(), Attempt(0)))
                    && *message.sender().0 == call.owner
                {
                    let what = FromRealm::Call { peer: call.owner, frame: frame.into_owned() };
                    return deliver(inbox, counts, what);
                }
            }
            Ok(_) | Err(_) => {}
        }
        Counts::add(&counts.foreign);
    }
}

fn link_event(event: &zenoh::session::LinkEvent) -> Event {
    let link = event.link();
    Event::Link {
        id: format!("{} {} {}", link.zid(), link.src(), link.dst()),
        name: link.auth_identifier().map(str::to_owned),
        up: event.kind() == SampleKind::Put,
    }
}

fn genuine_query(key: &Key, query: &Query) -> Option<(Message, Vec<u8>, Option<Vec<u8>>)> {
    let frame = query.payload()?.to_bytes();
    let beside = query.attachment().map(|bytes| bytes.to_bytes());
    let (message, payload) = route::read(&frame, beside.as_deref())?;
    route::query_is_genuine(key, &message).then(|| (message, frame.into_owned(), payload))
}

/// An empty frame is a receipt.
async fn reply(query: &Query, frame: Vec<u8>, payload: Option<Vec<u8>>) {
    if let Err(error) = query.reply(query.key_expr().clone(), frame).attachment(payload).await {
        tracing::debug!(%error, "cannot reply");
    }
}
