//! One camera: reads its file on a thread of its own, plays the frames at their rate.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use policies::id::CameraId;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::splitter::Splitter;

/// Bytes of one read.
const READ_LEN: usize = 256 << 10;

/// Frames read ahead of their time.
const AHEAD_MAX: usize = 2;

/// How a source is played.
#[derive(Clone, Debug)]
pub(super) struct Play {
    /// Which camera.
    pub(super) camera: CameraId,
    /// Time from one frame to the next.
    pub(super) period: Duration,
    /// Whether it starts again at its end.
    pub(super) repeat: bool,
}

/// A frame whose time has come.
#[derive(Debug)]
pub(super) struct Captured {
    /// Which camera.
    pub(super) camera: CameraId,
    /// Counts from 0.
    pub(super) seq: u64,
    /// The JPEG.
    pub(super) jpeg: Vec<u8>,
}

/// Plays `file` into `out` until the file or the receiver ends. Damaged frames are counted in `bad`.
///
/// # Errors
/// If the kernel gives no thread.
pub(super) fn play(
    play: Play,
    file: OwnedFd,
    bad: Arc<AtomicU64>,
    out: mpsc::Sender<Captured>,
) -> std::io::Result<()> {
    let (ahead, mut frames) = mpsc::channel(AHEAD_MAX);
    let (camera, repeat) = (play.camera.clone(), play.repeat);
    thread::Builder::new().name(format!("camera-{camera}")).spawn(move || {
        if let Err(error) = read(File::from(file), repeat, &bad, &ahead) {
            tracing::warn!(%camera, %error, "the camera's file ends early");
        }
    })?;
    tokio::spawn(async move {
        let mut beat = interval(play.period);
        // After a pause the frames come at their rate again; what was missed is not made up for.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seq = 0;
        while let Some(jpeg) = frames.recv().await {
            beat.tick().await;
            let captured = Captured { camera: play.camera.clone(), seq, jpeg };
            if out.send(captured).await.is_err() {
                return;
            }
            seq += 1;
        }
        tracing::info!(camera = %play.camera, frames = seq, "the camera's file has ended");
    });
    Ok(())
}

/// Reads frame after frame, again and again if `repeat`; ends when nobody listens.
fn read(
    mut file: File,
    repeat: bool,
    bad: &AtomicU64,
    out: &mpsc::Sender<Vec<u8>>,
) -> Result<(), std::io::Error> {
    let mut buffer = vec![0; READ_LEN];
    loop {
        let mut frames = 0u64;
        let mut splitter = Splitter::default();
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            splitter.push(&buffer[..got]);
            while let Some(next) = splitter.next_frame() {
                let Ok(frame) = next else {
                    bad.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                if out.blocking_send(frame).is_err() {
                    return Ok(());
                }
                frames += 1;
            }
        }
        if frames == 0 {
            return Err(std::io::Error::other("there is no whole JPEG frame in it"));
        }
        if !repeat {
            return Ok(());
        }
        file.rewind()?;
    }
}
