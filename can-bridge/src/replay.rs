//! A recorded log onto buses, in its own time or scaled.

use std::io::{self, BufRead};
use std::time::Duration;

use can_core::candump::{self, CandumpError, LINE_LEN_MAX};
use can_core::hub::SendFailure;
use policies::time::WallTime;

use crate::bus::Bus;

/// Most damaged lines described in a report; all are counted.
pub const PROBLEMS_MAX: usize = 20;

/// Longest wait for a full queue before a frame is dropped: ten frames of a slow bus.
const SEND_WAIT_MAX: Duration = Duration::from_millis(20);

/// Pause between two tries.
const SEND_RETRY: Duration = Duration::from_millis(1);

/// How fast a log is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// This many times as fast as it was recorded; 1.0 is its own time.
    Times(f64),
    /// Without waiting.
    Flat,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Frames sent.
    pub sent: u64,
    /// Frames of interfaces that no bus was given for, and error reports.
    pub skipped: u64,
    /// Frames that a bus did not take in time.
    pub dropped: u64,
    /// Lines that are no record.
    pub bad_lines: u64,
    /// The first of them.
    pub problems: Vec<CandumpError>,
    /// How far the latest frame was behind its time, at the most.
    pub latest_by: Duration,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error("cannot read the log after line {line}: {source}")]
    Read {
        /// Lines read so far.
        line: u64,
        /// The cause.
        source: io::Error,
    },
    /// A bus is down.
    #[error("{bus} went down at line {line}")]
    Down {
        /// Which.
        bus: String,
        /// The line that could not be sent.
        line: u64,
    },
    /// The speed is no positive number.
    #[error("speed {got} is not a positive number")]
    Speed {
        /// What was asked.
        got: f64,
    },
}

impl ReplayError {
    /// What the operator can do.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Down { bus, .. } => Some(format!("bring {bus} up and start again")),
            Self::Speed { .. } => Some("use 1 for the log's own time, 50 for fifty times as fast".into()),
        }
    }
}

/// One bus that a replay sends on.
#[derive(Debug)]
pub struct Target {
    /// The interface as the log names it; `None`: every interface that no other target names.
    pub interface: Option<String>,
    /// The bus.
    pub bus: Box<dyn Bus>,
}

/// A clock that a replay follows, and waits by.
pub trait Pacer {
    /// Time since the replay began.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn wait(&mut self, time: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct RealTime(std::time::Instant);

impl RealTime {
    /// Starts now.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Pacer for RealTime {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Sends every frame of `log`. Damaged lines are counted and passed over; a log whose time goes back is followed
/// without waiting.
///
/// # Errors
/// [`ReplayError`]; what was sent before stays sent.
pub fn replay(
    mut log: impl BufRead,
    targets: &mut [Target],
    speed: Speed,
    pacer: &mut impl Pacer,
) -> Result<ReplayReport, ReplayError> {
    if let Speed::Times(got) = speed
        && (!got.is_finite() || got <= 0.0)
    {
        return Err(ReplayError::Speed { got });
    }
    let mut report = ReplayReport::default();
    let mut first: Option<WallTime> = None;
    let mut line = Vec::new();
    let (mut number, mut offset) = (0, 0);
    loop {
        let read =
            read_line(&mut log, &mut line).map_err(|source| ReplayError::Read { line: number, source })?;
        if read == 0 {
            return Ok(report);
        }
        number += 1;
        let start = offset;
        offset += read;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let record = match candump::parse_line(&line) {
            Ok(record) => record,
            Err(flaw) => {
                note(&mut report, CandumpError { line: number, offset: start, flaw });
                continue;
            }
        };
        let due = due(speed, first.get_or_insert(record.at), record.at);
        let Some(target) = find(targets, record.interface).filter(|_| record.frame.is_data()) else {
            report.skipped += 1;
            continue;
        };
        wait_until(due, pacer);
        report.latest_by = report.latest_by.max(pacer.elapsed().saturating_sub(due.unwrap_or(Duration::MAX)));
        match send(target, &record.frame, pacer) {
            Ok(()) => report.sent += 1,
            Err(SendFailure::Full) => report.dropped += 1,
            Err(SendFailure::Down) => {
                return Err(ReplayError::Down { bus: target.describe(), line: number });
            }
        }
    }
}

/// Reads up to and with the next line feed; keeps at most a little more than the longest legal line, so that a
/// binary file without line feeds costs nothing. Returns the bytes passed over.
fn read_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut passed = 0;
    loop {
        let bytes = match log.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(bytes.len());
        let room = (LINE_LEN_MAX + 1).saturating_sub(line.len());
        line.extend(bytes.iter().take(taken.min(room)));
        log.consume(taken);
        passed += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok(passed);
        }
    }
}

fn note(report: &mut ReplayReport, problem: CandumpError) {
    report.bad_lines += 1;
    if report.problems.len() < PROBLEMS_MAX {
        report.problems.push(problem);
    }
}

/// When a record is due; `None`: at once.
fn due(speed: Speed, first: &WallTime, at: WallTime) -> Option<Duration> {
    let since = u64::try_from(at.0.saturating_sub(first.0)).unwrap_or(0);
    match speed {
        Speed::Flat => None,
        Speed::Times(times) => {
            Duration::try_from_secs_f64(Duration::from_micros(since).as_secs_f64() / times).ok()
        }
    }
}

fn wait_until(due: Option<Duration>, pacer: &mut impl Pacer) {
    let left = due.and_then(|due| due.checked_sub(pacer.elapsed()));
    if let Some(left) = left.filter(|left| !left.is_zero()) {
        pacer.wait(left);
    }
}

fn find<'t>(targets: &'t mut [Target], interface: &str) -> Option<&'t mut Box<dyn Bus>> {
    let named = targets.iter().position(|target| target.interface.as_deref() == Some(interface));
    let at = named.or_else(|| targets.iter().position(|target| target.interface.is_none()))?;
    targets.get_mut(at).map(|target| &mut target.bus)
}

/// Sends, waiting a little while the queue is full.
fn send(
    bus: &mut Box<dyn Bus>,
    frame: &can_core::frame::CanFrame,
    pacer: &mut impl Pacer,
) -> Result<(), SendFailure> {
    let give_up = pacer.elapsed() + SEND_WAIT_MAX;
    loop {
        match bus.send(frame) {
            Err(SendFailure::Full) if pacer.elapsed() < give_up => pacer.wait(SEND_RETRY),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
