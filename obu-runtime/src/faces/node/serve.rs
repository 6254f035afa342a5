//! The control API's server side: one task per connection reads a request, the driver answers it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obu_core::io::{ControlReply, Input};
use policies::face::ToBus;
use policies::signal::Signal;
use policies::wire::{self, Kind};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use super::{Driver, Event, NodeError, answer, views};
use crate::control::{Reply, Request, UPLOAD_CHUNK, View, read_frame};

/// Requests under way at once; one more is refused.
const OPEN_MAX: usize = 128;

/// Connections whose requests are being read at once. With the largest message this bounds the memory of all
/// requests to a quarter of a gibibyte. One more takes the place of the one that has been silent longest: the command
/// line says its request at once, so nobody who asks for something has to wait for those who do not.
const READING_MAX: usize = 64;

/// Replies that are being written at once, streams among them.
const ANSWERING_MAX: usize = 256;

/// Longest time from a connection to the whole of its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Pause after the kernel refused a connection, such as for lack of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Replies that may wait for a slow reader.
const REPLIES_MAX: usize = 64;

/// Numbers of our own requests to the bus have this and nothing else in their top four bits; the machine
/// numbers its own from 1 and, for calls from the roadside, from its highest bit.
const OURS: u64 = 1 << 60;

/// A request with the way back.
#[derive(Debug)]
pub(super) struct Waiting {
    request: Request,
    back: mpsc::Sender<Reply>,
}

/// Requests that the driver has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Desk {
    last: u64,
    open: BTreeMap<u64, mpsc::Sender<Reply>>,
}

impl Desk {
    fn admit(&mut self, back: mpsc::Sender<Reply>) -> Option<u64> {
        self.open.retain(|_, back| !back.is_closed());
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        self.last += 1;
        self.open.insert(self.last, back);
        Some(self.last)
    }
}

/// Whether a request to the bus is one of ours and not the machine's.
pub(super) fn is_ours(request: u64) -> bool {
    request >> 60 == OURS >> 60
}

/// Serves the control socket from now on.
pub(super) fn listen(fd: OwnedFd, inbox: mpsc::Sender<Event>) -> Result<(), NodeError> {
    let io = |source| crate::channel::ChannelError::Io {
        operation: "open",
        peer: "the command line".into(),
        source,
    };
    let listener = StdListener::from(fd);
    listener.set_nonblocking(true).map_err(io)?;
    let listener = UnixListener::from_std(listener).map_err(io)?;
    tokio::spawn(async move {
        let readers = Readers::default();
        let answering = Arc::new(Semaphore::new(ANSWERING_MAX));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (place, told_to_go) = readers.place().await;
                    tokio::spawn(serve(stream, inbox.clone(), answering.clone(), place, told_to_go));
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket: cannot accept");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    Ok(())
}

/// Those who have not said their request yet.
#[derive(Clone, Debug)]
struct Readers {
    places: Arc<Semaphore>,
    /// Oldest first.
    silent: Arc<Mutex<VecDeque<(u64, oneshot::Sender<()>)>>>,
    last: Arc<AtomicU64>,
}

impl Default for Readers {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(READING_MAX));
        Self { places, silent: Arc::default(), last: Arc::default() }
    }
}

/// One place of a reader.
struct Place {
    readers: Readers,
    number: u64,
    _held: OwnedSemaphorePermit,
}

impl Readers {
    /// A place, and how its holder learns that somebody else needs it.
    async fn place(&self) -> (Place, oneshot::Receiver<()>) {
        if self.places.available_permits() == 0 {
            // Dropping its sender tells the oldest to go. If all are about to be taken over, one of them goes by itself.
            drop(self.lock().pop_front());
        }
        let held = self.places.clone().acquire_owned().await.expect("never closed");
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (tell, told_to_go) = oneshot::channel();
        self.lock().push_back((number, tell));
        (Place { readers: self.clone(), number, _held: held }, told_to_go)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, oneshot::Sender<()>)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The request is whole: nobody takes this place now.
    fn keep(&self) {
        self.readers.lock().retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep();
    }
}

/// Reads the one request of a connection and writes its replies.
async fn serve(
    mut stream: UnixStream,
    inbox: mpsc::Sender<Event>,
    answering: Arc<Semaphore>,
    place: Place,
    told_to_go: oneshot::Receiver<()>,
) {
    let (back, mut replies) = mpsc::channel(REPLIES_MAX);
    let request = tokio::time::timeout(REQUEST_WITHIN, read_frame::<Request>(&mut stream));
    let request = tokio::select! {
        biased;
        request = request => request,
        _ = told_to_go => return,
    };
    place.keep();
    let request = match request {
        Ok(Ok(request)) => request,
        // Whoever connects and says nothing, or half of it, keeps no place.
        Err(_) => return,
        Ok(Err(error)) => {
            let why = match error {
                crate::control::FrameError::Io(_) => return,
                crate::control::FrameError::Wire(error) => error.to_string(),
            };
            write(&mut stream, &refused("read the request", why, Some("use the verge of the same release")))
                .await;
            return;
        }
    };
    let Ok(_answering) = answering.try_acquire_owned() else {
        let why = format!("{ANSWERING_MAX} answers are being given already");
        write(&mut stream, &refused("take the request", why, Some("end some `-w` and `-f`, then try again")))
            .await;
        return;
    };
    if inbox.send(Event::Control(Waiting { request, back })).await.is_err() {
        return;
    }
    drop(place);
    while let Some(reply) = replies.recv().await {
        if !write(&mut stream, &reply).await {
            return;
        }
    }
}

async fn write(stream: &mut UnixStream, reply: &Reply) -> bool {
    let frame = wire::encode(Kind::Control, reply).unwrap_or_else(|error| {
        let reply = refused("answer", error.to_string(), None);
        wire::encode(Kind::Control, &reply).unwrap_or_default()
    });
    stream.write_all(&frame).await.is_ok()
}

fn refused(what: &str, why: String, fix: Option<&str>) -> Reply {
    Reply::Error { what: what.into(), why, fix: fix.map(Into::into) }
}

impl Driver {
    /// Answers a request, or makes it an input.
    pub(super) fn control(&mut self, waiting: Waiting) -> Option<Input> {
        let Waiting { request, back } = waiting;
        match request {
            Request::Call { call, payload } => return self.call(call, payload, back),
            Request::View(View::Signals(signals)) => self.ask_signals(signals, back),
            Request::View(view) => {
                let json = views::view(self, &view);
                let _ = back.try_send(Reply::Json(json.to_string()));
            }
            Request::Events => stream_out(Vec::new(), Some(self.events.subscribe()), back, EVENTS),
            Request::Logs { app, lines, follow: stay } => {
                let (lines, news) = self.logs.tail(&app, lines as usize);
                let apps = if lines.is_empty() { self.node.apps() } else { Vec::new() };
                if lines.is_empty() && apps.iter().all(|view| view.app != app) {
                    let known: Vec<_> = apps.iter().map(|view| view.app.to_string()).collect();
                    let why = format!("there is no app {app}; there are: {}", known.join(", "));
                    let _ =
                        back.try_send(refused("show the log", why, Some("name it as verge get apps does")));
                    return None;
                }
                let sent = lines.into_iter().map(Reply::Line);
                stream_out(sent.collect(), stay.then_some(news), back, LOG);
            }
            Request::Upload { bundle, name, offset, bytes } => {
                let stored = if bytes.len() > UPLOAD_CHUNK {
                    Err(std::io::Error::other("the part is longer than a part may be"))
                } else {
                    self.spool.store(bundle, &name, offset, &bytes)
                };
                let reply = match stored {
                    Ok(()) => Reply::Stored,
                    Err(e) => {
                        let full = e.kind() == std::io::ErrorKind::StorageFull;
                        let fix = full.then_some("free some space in the node's state_dir, then apply again");
                        refused(&format!("store {name} of {bundle}"), e.to_string(), fix)
                    }
                };
                let _ = back.try_send(reply);
            }
        }
        None
    }

    fn call(
        &mut self,
        mut call: obu_core::io::ControlCall,
        payload: Option<Vec<u8>>,
        back: mpsc::Sender<Reply>,
    ) -> Option<Input> {
        if let obu_core::io::ControlCall::RunTask { input, .. } = &mut call {
            // The reference is computed here from the bytes that came, never taken from the caller.
            match self.blobs.put(self.clock.now(), payload.unwrap_or_default()) {
                Some(held) => *input = held,
                None => {
                    let _ = back.try_send(refused("run the task", "its input is too long".into(), None));
                    return None;
                }
            }
        }
        match self.waiting.admit(back.clone()) {
            Some(request) => Some(Input::Control { request, call }),
            None => {
                let why = format!("{OPEN_MAX} requests are under way already");
                let _ = back.try_send(refused("take the request", why, Some("wait and try again")));
                None
            }
        }
    }

    /// The machine has answered a request.
    pub(super) fn reply(&mut self, request: u64, reply: ControlReply) {
        let payload = match &reply {
            ControlReply::Task(report) => {
                self.task_ended(&answer::report_json(report));
                answer::result_bytes(&self.blobs, report)
            }
            ControlReply::Ok { .. } | ControlReply::Refused { .. } | ControlReply::Called(_) => None,
        };
        if let Some(back) = self.waiting.open.remove(&request) {
            let _ = back.try_send(Reply::Control { reply, payload });
        }
    }

    fn ask_signals(&mut self, signals: Vec<policies::signal::SignalPattern>, back: mpsc::Sender<Reply>) {
        let ask = |this: &mut Self, back| {
            let request = OURS + this.waiting.admit(back)?;
            let bus = this.channels.bus.as_ref()?;
            bus.offer(&ToBus::Snapshot { request, signals }).ok().filter(|sent| *sent)
        };
        if ask(self, back.clone()).is_none() {
            let fix = "give the node a [[bus]] section, or ask the OBU that has the bus";
            let _ = back.try_send(refused("read signals", "this node has no bus process".into(), Some(fix)));
        }
    }

    /// The bus has answered a view of signals.
    pub(super) fn signals_view(&mut self, request: u64, samples: &[(Signal, u64)]) {
        if let Some(back) = self.waiting.open.remove(&(request - OURS)) {
            let _ = back.try_send(Reply::Json(views::signals(samples).to_string()));
        }
    }
}

/// How a stream says its lines, and how many of them its reader was too slow for.
#[derive(Clone, Copy)]
struct Form {
    line: fn(String) -> Reply,
    lost: fn(u64) -> Reply,
}

const EVENTS: Form = Form {
    line: Reply::Json,
    lost: |lines| Reply::Json(serde_json::json!({ "event": "lost", "lines": lines }).to_string()),
};

const LOG: Form = Form {
    line: Reply::Line,
    lost: |lines| Reply::Line(format!("[{lines} lines came too fast and are left out]")),
};

fn stream_out(
    first: Vec<Reply>,
    news: Option<broadcast::Receiver<String>>,
    back: mpsc::Sender<Reply>,
    form: Form,
) {
    tokio::spawn(async move {
        for reply in first {
            if back.send(reply).await.is_err() {
                return;
            }
        }
        match news {
            Some(news) => pass_on(news, back, form).await,
            None => drop(back.send(Reply::End).await),
        }
    });
}

async fn pass_on(mut news: broadcast::Receiver<String>, back: mpsc::Sender<Reply>, form: Form) {
    loop {
        let reply = match news.recv().await {
            Ok(line) => (form.line)(line),
            // A follower that lags loses the oldest.
            Err(broadcast::error::RecvError::Lagged(lines)) => (form.lost)(lines),
            Err(broadcast::error::RecvError::Closed) => Reply::End,
        };
        let ended = reply == Reply::End;
        if back.send(reply).await.is_err() || ended {
            return;
        }
    }
}
