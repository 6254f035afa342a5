//! `verge camera`: takes frames from their source and hands them to the borders of the apps that may see
//! them, each at its granted rate. Parses foreign bytes, so it is a confined process of its own.
//!
//! ```text
//!   file --thread--> splitter --> player (fps) --> routes (rate per app) --> border of the app's tenant
//! ```
//! A border that lags loses frames; the camera never waits for one.

mod route;
mod source;
pub mod splitter;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use policies::face::{Attachment, CameraFrame, FromCamera, FromHost, ToBorder, ToCamera, ToHost};
use policies::host::Face;
use policies::id::{CameraId, TenantId};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use crate::channel::{self, ChannelError, FaceStart, HostChannel, HostSays, Sender};
use crate::config::{self, CameraSection};
use crate::file_error::FileError;

use route::Routes;
use source::{Captured, Play};

/// Frames of all cameras that may wait for the loop.
const CAPTURED_WAITING_MAX: usize = 4;

/// Messages of node that may wait for the loop.
const NODE_WAITING_MAX: usize = 16;

/// Failures that end the camera process.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// The channel to node or host.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Its part of the configuration.
    #[error(transparent)]
    Config(#[from] FileError),
    /// Host attached no channel to node.
    #[error("cannot begin: host attached no channel to node")]
    NoNode,
    /// Host attached no file for a camera.
    #[error("cannot open camera {camera}: host attached no clip:{camera}")]
    NoFile {
        /// The camera.
        camera: CameraId,
    },
    /// No thread for a camera.
    #[error("cannot start a thread for camera {camera}: {source}")]
    Thread {
        /// The camera.
        camera: CameraId,
        /// The kernel's word.
        source: std::io::Error,
    },
}

impl CameraError {
    /// What the operator can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.fix(),
            Self::NoFile { camera } => {
                Some(format!("make sure that the file named as source of camera {camera} can be read"))
            }
            Self::Thread { .. } => Some("raise the limit of processes and threads of the node".into()),
            Self::Channel(_) | Self::NoNode => None,
        }
    }
}

/// Serves until host says stop or is gone.
///
/// # Errors
/// What keeps it from serving; host has been told.
pub async fn run(start: FaceStart, host: HostChannel) -> Result<(), CameraError> {
    let result = serve(start, &host).await;
    if let Err(error) = &result {
        let failed = ToHost::Failed { what: "camera".into(), why: error.to_string(), fix: error.fix() };
        // Host may be gone; then nobody is left to tell.
        let _ = host.send(&failed).await;
    }
    result
}

async fn serve(mut start: FaceStart, host: &HostChannel) -> Result<(), CameraError> {
    let file = config::load(&start.config, Path::new("node.toml"))?;
    let bad = Arc::new(AtomicU64::new(0));
    let (capture, mut captured) = mpsc::channel(CAPTURED_WAITING_MAX);
    for camera in &file.camera {
        open(camera, &mut start, &bad, capture.clone())?;
    }
    let (queue, mut events) = mpsc::channel(NODE_WAITING_MAX);
    let mut hub = Hub::new(&file.camera, bad, queue);
    if !start.attachments.iter().any(|(what, _)| *what == Attachment::Channel(Face::Node)) {
        return Err(CameraError::NoNode);
    }
    for (what, fd) in std::mem::take(&mut start.attachments) {
        hub.attach(what, fd)?;
    }
    host.send(&ToHost::Ready).await?;
    loop {
        tokio::select! {
            said = host.recv() => match said? {
                None | Some(HostSays::Face(FromHost::Stop, _)) => return Ok(()),
                Some(HostSays::Face(FromHost::Attach(what), Some(fd))) => hub.attach(what, fd)?,
                Some(other) => tracing::warn!(?other, "not for a camera"),
            },
            Some((life, message)) = events.recv() => hub.hear(life, message).await,
            Some(frame) = captured.recv() => hub.deliver(frame),
        }
    }
}

fn open(
    camera: &CameraSection,
    start: &mut FaceStart,
    bad: &Arc<AtomicU64>,
    out: mpsc::Sender<Captured>,
) -> Result<(), CameraError> {
    let name = format!("clip:{}", camera.id);
    let file = start.take(|what| matches!(what, Attachment::File(n) if *n == name));
    let file = file.ok_or_else(|| CameraError::NoFile { camera: camera.id.clone() })?;
    let period = Duration::from_secs(1) / camera.fps.max(1) * start.time_scale.max(1);
    let play = Play { camera: camera.id.clone(), period, repeat: camera.repeat };
    source::play(play, file, bad.clone(), out)
        .map_err(|source| CameraError::Thread { camera: camera.id.clone(), source })
}

/// What the loop holds.
struct Hub {
    /// Rate of each camera.
    fps: BTreeMap<CameraId, u32>,
    routes: Routes,
    borders: BTreeMap<TenantId, Sender<ToBorder>>,
    node: Option<Sender<FromCamera>>,
    /// Counts the channels to node.
    life: u64,
    queue: mpsc::Sender<(u64, Option<ToCamera>)>,
    bad: Arc<AtomicU64>,
    captured: u64,
    delivered: u64,
    dropped: u64,
}

impl Hub {
    fn new(
        cameras: &[CameraSection],
        bad: Arc<AtomicU64>,
        queue: mpsc::Sender<(u64, Option<ToCamera>)>,
    ) -> Self {
        Self {
            fps: cameras.iter().map(|camera| (camera.id.clone(), camera.fps)).collect(),
            routes: Routes::default(),
            borders: BTreeMap::new(),
            node: None,
            life: 0,
            queue,
            bad,
            captured: 0,
            delivered: 0,
            dropped: 0,
        }
    }

    /// Takes a channel; a border's replaces an older one of the same tenant, and so does node's.
    fn attach(&mut self, what: Attachment, fd: OwnedFd) -> Result<(), ChannelError> {
        match what {
            Attachment::Channel(Face::Node) => {
                let (sender, receiver) = channel::channel::<FromCamera, ToCamera>(fd, "node")?;
                self.life += 1;
                let life = self.life;
                self.node = Some(sender);
                receiver.forward(self.queue.clone(), move |message| (life, message));
            }
            Attachment::Channel(Face::Border(tenant)) => {
                // A border says nothing to a camera; what it sends all the same is never read.
                let (sender, _) = channel::channel::<ToBorder, ()>(fd, "border")?;
                self.borders.insert(tenant, sender);
            }
            other => tracing::debug!(?other, "not for a camera"),
        }
        Ok(())
    }

    async fn hear(&mut self, life: u64, message: Option<ToCamera>) {
        match message {
            _ if life != self.life => {}
            // Node is gone. Its grants hold until its successor says otherwise: apps run on.
            None => self.node = None,
            Some(ToCamera::Route { app, cameras }) => self.routes.set(&app, cameras),
            Some(ToCamera::Stats) => self.tell_stats().await,
        }
    }

    async fn tell_stats(&self) {
        let stats = FromCamera::Stats {
            captured: self.captured,
            delivered: self.delivered,
            dropped: self.dropped,
            bad: self.bad.load(Ordering::Relaxed),
        };
        if let Some(node) = &self.node {
            // If node is gone, its end of the channel will say so.
            let _ = node.send(&stats).await;
        }
    }

    /// Hands one frame to every app whose turn it is.
    fn deliver(&mut self, frame: Captured) {
        self.captured += 1;
        let fps = self.fps.get(&frame.camera).copied().unwrap_or(1);
        let due = self.routes.due(&frame.camera, fps);
        let Captured { camera, seq, jpeg } = frame;
        let frame = CameraFrame { camera, seq, captured_us: now_us(), jpeg };
        for app in due {
            let Some(border) = self.borders.get(&app.tenant) else {
                self.dropped += 1;
                continue;
            };
            let message = ToBorder::Frame { app: app.app, frame: frame.clone() };
            match border.offer(&message) {
                Ok(true) => self.delivered += 1,
                Ok(false) => self.dropped += 1,
                Err(error) => {
                    tracing::debug!(%error, tenant = %app.tenant, "frame not delivered");
                    self.dropped += 1;
                    self.borders.remove(&app.tenant);
                }
            }
        }
    }
}

/// This node's clock, as every process of the node reads it, microseconds.
fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).map_or(0, policies::time::micros)
}
