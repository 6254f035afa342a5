//! `verge border`, one per tenant: hosts the islands of its apps. It parses and limits, it enforces nothing:
//! what it says is hostile, node and bus check every grant again behind the channel it came in on.
//!
//! ```text
//!   node   -- Open, Close, Reply -->  +--------+  /islands/APP/island.sock
//!   bus    -- Signals ------------->  | border | == island of APP == stock Zenoh client
//!   camera -- Frame --------------->  +--------+
//!   node   <-- Ask, GiveUp, Opened --
//! ```
//! An island is a Zenoh router of its own, connected to nothing: what an app declares or puts reaches no
//! other app. Whatever it asks gets an answer: served, or refused with the reason.
//!
//! A fault of Zenoh itself takes all islands of this tenant, and no other tenant's: host starts the border
//! again, node opens the islands again, the clients inside connect again.

mod form;
mod island;
mod limit;
mod pulse;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use policies::face::{Answer, Ask, Attachment, CameraFrame, FromBorder, FromHost, ToBorder, ToHost};
use policies::host::Face;
use policies::id::AppName;
use policies::limits::APPS_MAX;
use policies::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use v2e::session::SessionError;
use zenoh::query::Query;

use crate::channel::{self, ChannelError, FaceStart, HostChannel, HostSays, Sender};
use island::{Grants, Heard, Island, Verdict};
use pulse::Pulse;

/// Where host lets a border make its islands; an app sees its own folder as `/run/verge`.
const ISLANDS: &str = "/islands";

/// The socket's name in an island's folder.
const SOCKET: &str = "island.sock";

/// Messages that wait for the loop. Islands have bounds of their own below it.
const EVENTS_WAITING_MAX: usize = 1024;

/// How long after its deadline the outcome of a task may come before the app is told that none will.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// How long the guard may take over a frame.
const TRANSMIT_MAX: Duration = Duration::from_secs(2);

/// Failures that end a border.
#[derive(Debug, thiserror::Error)]
pub enum BorderError {
    /// The channel to host or another face.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// An island does not close; the apps are better served by a new border.
    #[error("the island of {app} does not close; the border of this tenant starts anew")]
    Stuck {
        /// Whose island.
        app: AppName,
    },
}

/// Exit code of a border that is stuck.
const STUCK: i32 = 3;

/// The loop goes round at least so often.
const ROUND: Duration = Duration::from_secs(1);

/// Why an island could not be opened. Told to node; the border goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its folder or the socket's mode.
    #[error("cannot {operation} {path:?}: {source}")]
    Folder {
        /// `make`, `open up`.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// Its session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Its declarations.
    #[error("cannot declare what the island serves: {why}")]
    Declare {
        /// Zenoh's words.
        why: String,
    },
    /// Too many.
    #[error("{APPS_MAX} islands are open; that is the maximum")]
    Full,
}

/// Serves until host says stop or is gone.
///
/// # Errors
/// What keeps it from serving; host has been told.
pub async fn run(start: FaceStart, host: HostChannel) -> Result<(), BorderError> {
    let result = serve(start, &host, Path::new(ISLANDS)).await;
    if let Err(error) = &result {
        let failed = ToHost::Failed { what: "border".into(), why: error.to_string(), fix: None };
        // Host may be gone; then nobody is left to tell.
        let _ = host.send(&failed).await;
        if matches!(error, BorderError::Stuck { .. }) {
            // What is stuck is a thread that would be waited for.
            std::process::exit(STUCK);
        }
    }
    result
}

async fn serve(start: FaceStart, host: &HostChannel, folder: &Path) -> Result<(), BorderError> {
    let (queue, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let mut border = Border::new(folder, start.time_scale, queue);
    let watched = border.pulse.watch(2 * ROUND * border.time_scale, || {
        tracing::error!(
            "the border stands still: what an app declared keeps its island busy; it starts anew"
        );
        std::process::exit(STUCK);
    });
    watched.map_err(|source| ChannelError::Io { operation: "watch", peer: "the border".into(), source })?;
    for (what, fd) in start.attachments {
        border.attach(&what, fd).await?;
    }
    host.send(&ToHost::Ready).await?;
    match border.until_stop(host, events).await {
        Ok(()) => border.close().await,
        Err(error) => {
            // Dropping a session waits for it to close, which a stuck one does not: the process ends with them open.
            std::mem::forget(border);
            return Err(error);
        }
    }
    Ok(())
}

/// What the loop hears besides host.
enum Event {
    /// From node, bus or camera (`None`: the channel ended), in this life of that channel.
    Face(Face, u64, Option<ToBorder>),
    /// From an island, in that life of it.
    Heard(AppName, u64, Heard),
}

/// A request that node has not answered.
struct Open {
    app: AppName,
    query: Query,
    due: Instant,
}

struct Border {
    folder: PathBuf,
    time_scale: u32,
    islands: BTreeMap<AppName, Island>,
    open: BTreeMap<u64, Open>,
    /// Counts requests; never used twice, also not for another node process.
    requests: u64,
    node: Option<Sender<FromBorder>>,
    /// Keeps the sending halves of bus and camera: their channels close with them.
    sources: BTreeMap<Face, Sender<()>>,
    /// Counts channels and islands, so that a late word of an earlier one is told apart.
    lives: BTreeMap<Face, u64>,
    life: u64,
    queue: mpsc::Sender<Event>,
    pulse: Pulse,
}

impl Border {
    fn new(folder: &Path, time_scale: u32, queue: mpsc::Sender<Event>) -> Self {
        Self {
            folder: folder.into(),
            time_scale: time_scale.max(1),
            islands: BTreeMap::new(),
            open: BTreeMap::new(),
            requests: 0,
            node: None,
            sources: BTreeMap::new(),
            lives: BTreeMap::new(),
            life: 0,
            queue,
            pulse: Pulse::default(),
        }
    }

    /// Serves until host says stop or is gone.
    async fn until_stop(
        &mut self,
        host: &HostChannel,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<(), BorderError> {
        loop {
            self.pulse.beat();
            let due = self.next_due();
            tokio::select! {
                said = host.recv() => match said? {
                    None | Some(HostSays::Face(FromHost::Stop, _)) => return Ok(()),
                    Some(HostSays::Face(FromHost::Attach(what), Some(fd))) => self.attach(&what, fd).await?,
                    Some(other) => tracing::warn!(?other, "not for a border"),
                },
                Some(event) = events.recv() => self.handle(event).await?,
                () = tokio::time::sleep_until(due) => {}
            }
            self.give_up(Instant::now()).await;
        }
    }

    /// Takes a (new) channel to node, bus or camera.
    async fn attach(&mut self, what: &Attachment, fd: std::os::fd::OwnedFd) -> Result<(), ChannelError> {
        let Attachment::Channel(face @ (Face::Node | Face::Bus | Face::Camera)) = what else {
            tracing::warn!(?what, "not for a border");
            return Ok(());
        };
        self.life += 1;
        let (life, from) = (self.life, face.clone());
        self.lives.insert(face.clone(), life);
        let wrap = move |message| Event::Face(from.clone(), life, message);
        if *face == Face::Node {
            // Another process: it knows nothing of what the last one was asked.
            self.node_gone().await;
            let (sender, receiver) = channel::channel::<FromBorder, ToBorder>(fd, "node")?;
            self.node = Some(sender);
            receiver.forward(self.queue.clone(), wrap);
        } else {
            let (sender, receiver) = channel::channel::<(), ToBorder>(fd, &face.to_string())?;
            self.sources.insert(face.clone(), sender);
            receiver.forward(self.queue.clone(), wrap);
        }
        Ok(())
    }

    async fn handle(&mut self, event: Event) -> Result<(), BorderError> {
        match event {
            Event::Face(face, life, _) if self.lives.get(&face) != Some(&life) => {}
            Event::Face(Face::Node, _, None) => self.node_gone().await,
            Event::Face(face, _, None) => {
                self.sources.remove(&face);
            }
            Event::Face(face, _, Some(message)) => self.told(&face, message).await?,
            Event::Heard(app, life, heard) => self.heard(app, life, heard).await,
        }
        Ok(())
    }

    /// Each face says what is its to say; the rest is dropped.
    async fn told(&mut self, from: &Face, message: ToBorder) -> Result<(), BorderError> {
        match (from, message) {
            (Face::Node, ToBorder::Open { app, tasks, cameras, can_tx }) => {
                let cameras = cameras.into_iter().map(|camera| camera.id).collect();
                self.open_island(app, Grants { tasks, cameras, can_tx }).await;
            }
            (Face::Node, ToBorder::Close { app }) => self.close_island(&app).await?,
            (Face::Node, ToBorder::Reply { request, answer }) => self.reply(request, answer).await,
            (Face::Bus, ToBorder::Signals { app, samples }) => self.signals(&app, &samples).await,
            (Face::Camera, ToBorder::Frame { app, frame }) => self.frame(&app, frame).await,
            (from, other) => tracing::warn!(%from, ?other, "not its to say"),
        }
        Ok(())
    }

    async fn signals(&mut self, app: &AppName, samples: &[(Signal, u64)]) {
        if let Some(island) = self.islands.get_mut(app) {
            island.publish_signals(samples).await;
        }
    }

    async fn frame(&mut self, app: &AppName, frame: CameraFrame) {
        if let Some(island) = self.islands.get_mut(app) {
            island.publish_frame(frame).await;
        }
    }

    async fn open_island(&mut self, app: AppName, grants: Grants) {
        let result = if let Some(island) = self.islands.get_mut(&app) {
            island.regrant(grants);
            Ok(())
        } else {
            self.new_island(&app, grants).await
        };
        match result {
            Ok(()) => self.tell(&FromBorder::Opened { app }).await,
            Err(error) => self.tell(&FromBorder::OpenFailed { app, why: error.to_string() }).await,
        }
    }

    async fn new_island(&mut self, app: &AppName, grants: Grants) -> Result<(), OpenError> {
        if self.islands.len() >= APPS_MAX {
            return Err(OpenError::Full);
        }
        let folder = self.folder.join(app.as_str());
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(OpenError::Folder { operation: "make", path: folder, source: error });
            }
            _ => {}
        }
        self.life += 1;
        let (life, queue, name) = (self.life, self.queue.clone(), app.clone());
        let hear = move |heard| queue.try_send(Event::Heard(name.clone(), life, heard)).is_ok();
        let island = Island::open(&folder.join(SOCKET), self.time_scale, life, grants, hear).await?;
        self.islands.insert(app.clone(), island);
        Ok(())
    }

    async fn close_island(&mut self, app: &AppName) -> Result<(), BorderError> {
        let gone: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.app == *app).map(|(request, _)| *request).collect();
        for request in gone {
            self.open.remove(&request);
            self.tell(&FromBorder::GiveUp { request }).await;
        }
        if let Some(island) = self.islands.remove(app) {
            if !island.close(self.time_scale).await {
                return Err(BorderError::Stuck { app: app.clone() });
            }
        }
        Ok(())
    }

    async fn heard(&mut self, app: AppName, life: u64, heard: Heard) {
        let Some(island) = self.islands.get_mut(&app).filter(|island| island.life() == life) else { return };
        match island.judge(heard, Instant::now()).await {
            Verdict::Served => {}
            Verdict::Denied(None) => {}
            Verdict::Denied(Some(key)) => {
                let request = self.next_request();
                self.tell(&FromBorder::Ask { app, request, ask: Ask::Denied { key } }).await;
            }
            Verdict::Ask(ask, query) => self.ask(app, ask, query).await,
        }
    }

    async fn ask(&mut self, app: AppName, ask: Ask, query: Query) {
        let wait = match &ask {
            Ask::RunTask { deadline_us, .. } => Duration::from_micros(*deadline_us) + ANSWER_GRACE,
            Ask::SendFrame(_) | Ask::Denied { .. } => TRANSMIT_MAX,
        };
        let request = self.next_request();
        let sent = match &self.node {
            Some(node) => node.offer(&FromBorder::Ask { app: app.clone(), request, ask }).unwrap_or(false),
            None => false,
        };
        if sent {
            let due = Instant::now() + wait * self.time_scale;
            self.open.insert(request, Open { app, query, due });
        } else {
            self.finish(&app, &query, &Err("the node is busy or restarting; ask again".into())).await;
        }
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    async fn reply(&mut self, request: u64, answer: Answer) {
        // An answer that nobody waits for any more, or that reports a denial, has no query.
        let Some(Open { app, query, .. }) = self.open.remove(&request) else { return };
        let answer = match answer {
            Answer::Task { json, result } => Ok(form::outcome(&json, result.as_deref())),
            Answer::Ok => Ok("{\"done\":true}".into()),
            Answer::Refused { why } => Err(why),
        };
        self.finish(&app, &query, &answer).await;
    }

    async fn finish(&mut self, app: &AppName, query: &Query, answer: &Result<String, String>) {
        if let Some(island) = self.islands.get_mut(app) {
            island.answered();
        }
        match answer {
            Ok(json) => island::reply_json(query, json).await,
            Err(why) => island::refuse(query, why).await,
        }
    }

    /// When the loop goes round though nothing happens.
    fn next_due(&self) -> Instant {
        let far = Instant::now() + ROUND;
        self.open.values().map(|open| open.due).min().map_or(far, |due| due.min(far))
    }

    async fn give_up(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.due <= now).map(|(request, _)| *request).collect();
        for request in late {
            let Some(Open { app, query, .. }) = self.open.remove(&request) else { continue };
            self.finish(&app, &query, &Err("no answer came in time".into())).await;
            self.tell(&FromBorder::GiveUp { request }).await;
        }
    }

    async fn node_gone(&mut self) {
        self.node = None;
        for (_, Open { app, query, .. }) in std::mem::take(&mut self.open) {
            self.finish(&app, &query, &Err("the node restarted; what became of it is not known".into()))
                .await;
        }
    }

    async fn tell(&mut self, message: &FromBorder) {
        let Some(node) = &self.node else { return };
        let sent = {
            let mut sending = std::pin::pin!(node.send(message));
            loop {
                tokio::select! {
                    sent = &mut sending => break sent,
                    // Node's delay is none of ours.
                    () = tokio::time::sleep(ROUND) => self.pulse.beat(),
                }
            }
        };
        if sent.is_err() {
            self.node = None;
        }
    }

    async fn close(self) {
        for (app, island) in self.islands {
            if !island.close(self.time_scale).await {
                tracing::warn!(%app, "an island does not close in time");
            }
        }
    }
}
