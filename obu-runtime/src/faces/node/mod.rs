//! The `verge node` process: drives [`obu_core::Node`]. It decides nothing.
//!
//! ```text
//!   host, bus, camera, link, borders, workers, car realm, control API, clock
//!        |  (one inbox, one closed enum `Event`)
//!        v
//!   Event -> Input -> Node -> Output -> the same channels
//! ```
//! Every input and every output is recorded, if the configuration says so, before it is acted upon.

mod answer;
mod blobs;
mod clock;
mod durable;
mod feeds;
mod logs;
mod perform;
mod realms;
mod recorder;
mod serve;
mod spool;
mod views;

use std::collections::{BTreeMap, VecDeque};

use obu_core::Node;
use obu_core::io::{Boot, Input};
use policies::face::{
    Attachment, FromBorder, FromBus, FromCamera, FromWorkerFace, ToBorder, ToBus, ToCamera,
};
use policies::face::{FromHost, ToHost, ToWorkerFace};
use policies::host::{Face, HostEvent};
use policies::id::TenantId;
use tokio::sync::{broadcast, mpsc};

pub(crate) use answer::{add_result, report_json, value_json};

use crate::channel::{ChannelError, FaceStart, HostChannel, HostSays, Sender};
use crate::config::{FaultsSection, FileError};
use blobs::Blobs;
use clock::Clock;
use durable::{DurableError, DurableStore};
use logs::Logs;
use realms::{RealmEvent, Realms};
use recorder::Recorder;
use serve::Waiting;

/// Events that may wait for the machine. At 10 000 events/s this is 0.1 s.
const INBOX_LEN_MAX: usize = 1024;

/// Events that are fed before a timer is looked at: a flood delays timers by that much, no more.
const EVENTS_BEFORE_TICK_MAX: usize = 64;

/// Lines that a slow follower of events may lag behind before it loses some.
const EVENTS_LAG_MAX: usize = 1024;

/// Why the node process ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A channel that the node cannot do without.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] FileError),
    /// Its durable state.
    #[error("{0}")]
    Durable(String, Option<String>),
    /// Host attached less than it must.
    #[error("host attached no {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// The car realm.
    #[error("cannot open the car realm: {why}")]
    Realm {
        /// Zenoh's word.
        why: String,
        /// What the operator can do.
        fix: Option<String>,
    },
}

impl NodeError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Durable(_, fix) => fix.clone(),
            Self::Missing { .. } => Some("use the verge-host of the same release".into()),
            Self::Realm { fix, .. } => fix.clone().or_else(|| {
                Some("look at [car] in the configuration: addresses in use, certificates, authority".into())
            }),
            Self::Config(error) => error.fix(),
            Self::Channel(_) => None,
        }
    }
}

impl From<DurableError> for NodeError {
    fn from(error: DurableError) -> Self {
        let fix = error.fix();
        Self::Durable(error.to_string(), fix)
    }
}

/// Everything that can happen to the node process.
#[derive(Debug)]
enum Event {
    /// A border says something.
    Border(TenantId, FromBorder),
    /// The bus says something.
    Bus(FromBus),
    /// The camera says something.
    Camera(FromCamera),
    /// A worker says something.
    Worker(TenantId, FromWorkerFace),
    /// A realm says something.
    Realm(RealmEvent),
    /// Somebody asks on the control socket.
    Control(Waiting),
    /// Something is durable, or cannot be.
    Persisted { ticket: u64, result: Result<(), String> },
    /// A channel has ended; host will attach a new one.
    Ended(Face),
}

/// The channels of the moment.
#[derive(Debug, Default)]
struct Channels {
    bus: Option<Sender<ToBus>>,
    camera: Option<Sender<ToCamera>>,
    borders: BTreeMap<TenantId, Sender<ToBorder>>,
    workers: BTreeMap<TenantId, Sender<ToWorkerFace>>,
}

/// The driver.
#[derive(Debug)]
struct Driver {
    node: Node,
    clock: Clock,
    faults: FaultsSection,
    /// The effect to ask for again, if that fault is wanted.
    repeat: Option<ToBus>,
    host: HostChannel,
    inbox: mpsc::Sender<Event>,
    channels: Channels,
    realms: Realms,
    blobs: Blobs,
    durable: durable_thread::Handle,
    spool: spool::Spool,
    recorder: Recorder,
    logs: Logs,
    events: broadcast::Sender<String>,
    waiting: serve::Desk,
    machine: serde_json::Value,
    bases: std::collections::BTreeMap<String, policies::id::Digest>,
    insecure: bool,
    stats: views::Stats,
    /// Inputs that performing an output gave rise to.
    next: VecDeque<Input>,
}

/// Runs the node process until host says stop or is gone.
///
/// # Errors
/// [`NodeError`] says what is missing or broken, with a fix where there is one.
pub async fn run(mut start: FaceStart, early: Vec<HostEvent>, host: HostChannel) -> Result<(), NodeError> {
    let file = crate::config::load(&start.config, std::path::Path::new("node.toml"))?;
    let state_dir = start
        .take(|what| matches!(what, Attachment::StateDir))
        .ok_or(NodeError::Missing { what: "state directory" })?;
    let store = DurableStore::open(&state_dir)?;
    let (desired, records) = store.load()?;
    let config = feeds::node_config(&file);
    let boot = Boot { config, incarnation: start.incarnation, desired, records };
    let (inbox, events) = mpsc::channel(INBOX_LEN_MAX);
    let mut driver = Driver {
        node: Node::new(),
        clock: Clock::new(start.time_scale),
        faults: file.faults,
        repeat: None,
        host,
        channels: Channels::default(),
        realms: Realms::open(&mut start, &file, inbox.clone()).await?,
        blobs: Blobs::default(),
        durable: durable_thread::start(store, inbox.clone()),
        spool: spool::Spool::default(),
        recorder: Recorder::open(&file, &state_dir, &start)?,
        logs: Logs::default(),
        events: broadcast::channel(EVENTS_LAG_MAX).0,
        waiting: serve::Desk::default(),
        machine: serde_json::Value::Null,
        bases: file.host.bases.clone(),
        insecure: file.node.insecure,
        stats: views::Stats::default(),
        next: VecDeque::new(),
        inbox,
    };
    for (what, fd) in std::mem::take(&mut start.attachments) {
        driver.attach(what, fd)?;
    }
    driver.feed(Input::Boot(boot)).await?;
    driver.host.send(&ToHost::Ready).await?;
    for event in early {
        driver.host_event(event).await?;
    }
    driver.drive(events).await
}

impl Driver {
    /// One loop: drain, wait for one thing, feed. What waits in the inbox is fed before a timer that is due:
    /// an answer that came in time must not be taken for one that did not come.
    async fn drive(mut self, mut inbox: mpsc::Receiver<Event>) -> Result<(), NodeError> {
        loop {
            for _ in 0..EVENTS_BEFORE_TICK_MAX {
                let Ok(event) = inbox.try_recv() else { break };
                self.event(event).await?;
            }
            let wake = self.node.next_wake().map(|(at, _)| at);
            tokio::select! {
                biased;
                () = self.clock.sleep_until(wake), if wake.is_some() => self.feed(Input::Tick).await?,
                said = self.host.recv() => match said? {
                    None => return Ok(()),
                    Some(HostSays::Event(event)) => self.host_event(event).await?,
                    Some(HostSays::Face(FromHost::Attach(what), Some(fd))) => self.attach(what, fd)?,
                    Some(HostSays::Face(FromHost::Stop, _)) => return self.end().await,
                    Some(HostSays::Face(..)) => {}
                },
                event = inbox.recv() => match event {
                    // The driver holds a sender itself, so the inbox never closes.
                    None => return Ok(()),
                    Some(event) => self.event(event).await?,
                },
            }
        }
    }

    /// Feeds one input and performs what comes of it, and of that, until nothing is left.
    async fn feed(&mut self, input: Input) -> Result<(), NodeError> {
        self.next.push_back(input);
        while let Some(input) = self.next.pop_front() {
            let now = self.clock.now();
            self.recorder.input(now, &input);
            self.node.handle(now, input);
            while let Some(output) = self.node.poll() {
                self.recorder.output(now, &output);
                self.perform(now, output).await?;
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), NodeError> {
        self.realms.close().await;
        self.recorder.close();
        Ok(())
    }
}

/// The thread that waits for the disk, so that the machine does not.
mod durable_thread {
    use super::{DurableStore, Event};
    use obu_core::io::Durable;
    use policies::id::Digest;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    /// Writes that may wait for the disk; beyond it the node is told that the disk does not keep up.
    const WRITES_MAX: usize = 1024;

    #[derive(Debug)]
    pub(super) struct Handle {
        queue: std::sync::mpsc::SyncSender<(u64, Durable)>,
        pub(super) store: Arc<DurableStore>,
    }

    impl Handle {
        /// Queues a write. `Err` if the disk does not keep up.
        pub(super) fn persist(&self, ticket: u64, what: Durable) -> Result<(), String> {
            self.queue.try_send((ticket, what)).map_err(|_| "the disk does not keep up".to_owned())
        }

        pub(super) fn module(&self, bundle: Digest) -> Option<Vec<u8>> {
            self.store.module(bundle).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read a module");
                None
            })
        }
    }

    pub(super) fn start(store: DurableStore, inbox: mpsc::Sender<Event>) -> Handle {
        let (queue, waiting) = std::sync::mpsc::sync_channel::<(u64, Durable)>(WRITES_MAX);
        let store = Arc::new(store);
        let writer = store.clone();
        std::thread::spawn(move || {
            for (ticket, what) in waiting {
                let result = writer.persist(&what).map_err(|e| e.to_string());
                if inbox.blocking_send(Event::Persisted { ticket, result }).is_err() {
                    return;
                }
            }
        });
        Handle { queue, store }
    }
}
