//! One app's island: a Zenoh router on a Unix socket, what it shows, and what it takes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use policies::face::{Ask, CameraFrame, TxFrame};
use policies::grant::CanTxGrant;
use policies::id::{CameraId, FunctionName};
use policies::signal::{Signal, SignalPath};
use tokio::time::Instant;
use v2e::keys::{ISLAND_ALL, IslandKey, KEY_LEN_MAX};
use v2e::session::Session;
use zenoh::Wait as _;
use zenoh::bytes::Encoding;
use zenoh::key_expr::KeyExpr;
use zenoh::qos::CongestionControl;
use zenoh::query::Query;
use zenoh::sample::Locality;

use super::OpenError;
use super::form;
use super::limit::{Bucket, Reports};

/// Requests and puts of one app that wait for the border. Beyond it they are dropped unanswered.
const QUEUED_MAX: u32 = 128;

/// Requests of one app that wait for node's answer.
const OUTSTANDING_MAX: u32 = 64;

/// Requests that one app may make: 500 a second, 200 at once. A camera at 30 frames a second asks 30.
const ASKS: (Duration, u32) = (Duration::from_millis(2), 200);

/// Denials of one app that are reported: 5 a second, 20 at once; the rest is summed up.
const REPORTS: (Duration, u32) = (Duration::from_millis(200), 20);

/// Paths whose last value an island keeps.
const LATEST_MAX: usize = 2048;

/// Longest time a session may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// What an app may see and ask here, as node said.
#[derive(Debug, Default)]
pub(super) struct Grants {
    pub(super) tasks: Vec<FunctionName>,
    pub(super) cameras: Vec<CameraId>,
    pub(super) can_tx: Vec<CanTxGrant>,
}

/// What came from the app.
pub(super) enum Heard {
    /// A query, for anything.
    Query(Query),
    /// A put or delete on this key.
    Put(String),
}

/// What became of it.
pub(super) enum Verdict {
    /// Answered here.
    Served,
    /// Refused and counted; to be reported under this name unless the limit holds it back.
    Denied(Option<String>),
    /// For node.
    Ask(Ask, Query),
}

pub(super) struct Island {
    session: zenoh::Session,
    life: u64,
    grants: Grants,
    latest: BTreeMap<SignalPath, (Signal, u64, Instant)>,
    frames: BTreeMap<CameraId, CameraFrame>,
    asks: Bucket,
    reports: Reports,
    outstanding: u32,
    queued: Arc<AtomicU32>,
}

impl Island {
    /// Opens the socket and declares what the island serves. `hear` takes what the app does, or says that it
    /// has no place.
    pub(super) async fn open(
        socket: &Path,
        time_scale: u32,
        life: u64,
        grants: Grants,
        hear: impl Fn(Heard) -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let session = Session::island(socket, time_scale)?.open().await?;
        // The app has another uid; only its own mount namespace holds this folder.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))
            .map_err(|source| OpenError::Folder { operation: "open up", path: socket.into(), source })?;
        let queued = Arc::new(AtomicU32::new(0));
        let offer = {
            let queued = queued.clone();
            move |heard| {
                if queued.fetch_add(1, Ordering::Relaxed) >= QUEUED_MAX || !hear(heard) {
                    queued.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        let puts = offer.clone();
        let failed = |error: zenoh::Error| OpenError::Declare { why: error.to_string() };
        let served = session.declare_queryable(ISLAND_ALL).allowed_origin(Locality::Remote);
        served.callback(move |query| offer(Heard::Query(query))).background().await.map_err(failed)?;
        let heard = session.declare_subscriber(ISLAND_ALL).allowed_origin(Locality::Remote);
        let heard = heard.callback(move |sample| {
            puts(Heard::Put(sample.key_expr().as_str().chars().take(KEY_LEN_MAX).collect()));
        });
        heard.background().await.map_err(failed)?;
        let now = Instant::now();
        Ok(Self {
            session,
            life,
            grants,
            latest: BTreeMap::new(),
            frames: BTreeMap::new(),
            asks: Bucket::new(ASKS.0 * time_scale, ASKS.1, now),
            reports: Reports::new(Bucket::new(REPORTS.0, REPORTS.1, now)),
            outstanding: 0,
            queued,
        })
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// Other grants from now on; what is no longer granted is forgotten. Signals come filtered from the bus,
    /// so their last values go as a whole.
    pub(super) fn regrant(&mut self, grants: Grants) {
        self.grants = grants;
        self.latest.clear();
        let cameras = &self.grants.cameras;
        self.frames.retain(|camera, _| cameras.contains(camera));
    }

    pub(super) async fn publish_signals(&mut self, samples: &[(Signal, u64)]) {
        let now = Instant::now();
        for (signal, age_us) in samples {
            let key = IslandKey::Signal(signal.path.clone()).spell();
            let put = self.session.put(key, form::signal(signal, *age_us));
            let put = put.encoding(Encoding::APPLICATION_JSON).express(true);
            // A slow app loses samples, nobody waits for it.
            if let Err(error) = put.congestion_control(CongestionControl::Drop).await {
                tracing::debug!(%error, "signal not published");
            }
            if self.latest.len() < LATEST_MAX || self.latest.contains_key(&signal.path) {
                self.latest.insert(signal.path.clone(), (signal.clone(), *age_us, now));
            }
        }
    }

    pub(super) async fn publish_frame(&mut self, frame: CameraFrame) {
        if !self.grants.cameras.contains(&frame.camera) {
            return;
        }
        let key = IslandKey::Frame(frame.camera.clone()).spell();
        let put = self.session.put(key, frame.jpeg.clone());
        let put = put.attachment(form::frame(frame.seq, frame.captured_us)).encoding(Encoding::IMAGE_JPEG);
        if let Err(error) = put.congestion_control(CongestionControl::Drop).await {
            tracing::debug!(%error, "frame not published");
        }
        self.frames.insert(frame.camera.clone(), frame);
    }

    /// Serves, refuses, or passes on what the app did.
    pub(super) async fn judge(&mut self, heard: Heard, now: Instant) -> Verdict {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        let query = match heard {
            Heard::Put(key) => return self.denied(format!("put {key}"), now),
            Heard::Query(query) => query,
        };
        if !self.asks.take(now) {
            refuse(&query, "too many requests; the island takes 500 a second").await;
            return self.denied(format!("too many requests: {}", short(&query)), now);
        }
        match IslandKey::parse(query.key_expr().as_str()) {
            Ok(IslandKey::RunTask(function)) if self.grants.tasks.contains(&function) => {
                let input = query.payload().map(|bytes| bytes.to_bytes().into_owned()).unwrap_or_default();
                let ask = form::run_task(function, query.parameters().iter(), input);
                self.pass(ask, query).await
            }
            Ok(IslandKey::CanTx(bus)) => {
                let payload = query.payload().map(|bytes| bytes.to_bytes()).unwrap_or_default();
                match form::transmit(bus, &payload) {
                    Ok(frame) if !self.may_send(&frame) => {
                        let what = format!("{} id {:#x}", short(&query), frame.id);
                        self.refuse_and_report(&query, what, now).await
                    }
                    read => self.pass(read.map(Ask::SendFrame), query).await,
                }
            }
            Ok(IslandKey::Signal(_) | IslandKey::Frame(_)) | Err(_) if self.show(&query, now).await => {
                Verdict::Served
            }
            Ok(_) | Err(_) => {
                let what = short(&query);
                self.refuse_and_report(&query, what, now).await
            }
        }
    }

    fn may_send(&self, frame: &TxFrame) -> bool {
        self.grants
            .can_tx
            .iter()
            .any(|grant| grant.bus == frame.bus && grant.id == frame.id && grant.extended == frame.extended)
    }

    async fn pass(&mut self, ask: Result<Ask, String>, query: Query) -> Verdict {
        match ask {
            Err(why) => refuse(&query, &why).await,
            Ok(_) if self.outstanding >= OUTSTANDING_MAX => {
                refuse(&query, &format!("{OUTSTANDING_MAX} requests are open; wait for an answer")).await;
            }
            Ok(ask) => {
                self.outstanding += 1;
                return Verdict::Ask(ask, query);
            }
        }
        Verdict::Served
    }

    /// A request that was passed on has been answered.
    pub(super) fn answered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    async fn refuse_and_report(&mut self, query: &Query, what: String, now: Instant) -> Verdict {
        refuse(query, &format!("{what}: not granted to this app, or no such key here")).await;
        self.denied(what, now)
    }

    fn denied(&mut self, what: String, now: Instant) -> Verdict {
        Verdict::Denied(self.reports.pass(what, now))
    }

    /// Answers a get of last values, with wildcards or without. Whether there was anything to show.
    async fn show(&self, query: &Query, now: Instant) -> bool {
        let mut shown = false;
        for (path, (signal, age_us, since)) in &self.latest {
            let waited = policies::time::micros(now.saturating_duration_since(*since));
            let Some(key) = matching(query, IslandKey::Signal(path.clone())) else { continue };
            let json = form::signal(signal, age_us.saturating_add(waited));
            log(query.reply(key, json).encoding(Encoding::APPLICATION_JSON).await);
            shown = true;
        }
        for (camera, frame) in &self.frames {
            let Some(key) = matching(query, IslandKey::Frame(camera.clone())) else { continue };
            let reply = query.reply(key, frame.jpeg.clone()).encoding(Encoding::IMAGE_JPEG);
            log(reply.attachment(form::frame(frame.seq, frame.captured_us)).await);
            shown = true;
        }
        shown
    }

    /// Closes the socket; the app's sessions end. `false` if it does not close in time: what the app has declared
    /// keeps this process busy.
    #[must_use]
    pub(super) async fn close(self, time_scale: u32) -> bool {
        let closing = tokio::task::spawn_blocking(move || self.session.close().wait());
        tokio::time::timeout(CLOSE_MAX * time_scale, closing).await.is_ok()
    }
}

/// The key, if the query asks for it.
fn matching(query: &Query, key: IslandKey) -> Option<KeyExpr<'static>> {
    let key = KeyExpr::try_from(key.spell()).ok()?;
    query.key_expr().intersects(&key).then_some(key)
}

fn short(query: &Query) -> String {
    query.key_expr().as_str().chars().take(KEY_LEN_MAX).collect()
}

/// Replies with JSON on the key that was asked.
pub(super) async fn reply_json(query: &Query, json: &str) {
    log(query.reply(query.key_expr().clone(), json).encoding(Encoding::APPLICATION_JSON).await);
}

/// Replies with an error that says why.
pub(super) async fn refuse(query: &Query, why: &str) {
    log(query.reply_err(form::refused(why)).encoding(Encoding::APPLICATION_JSON).await);
}

/// The app may be gone; that is no news.
fn log(replied: Result<(), zenoh::Error>) {
    if let Err(error) = replied {
        tracing::debug!(%error, "cannot reply");
    }
}
