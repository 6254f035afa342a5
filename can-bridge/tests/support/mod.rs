//! What the tests of this crate share: a bus of their own, python with its libraries, recordings, deadlines.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

pub mod process;

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use can_bridge::bus::Bus;
use can_bridge::clock::Reading;
use can_bridge::multicast::{Group, Multicast};
use can_core::frame::{BusIndex, CanFrame, CanId, FrameKind, TimedFrame};

/// How long a test waits for something that must happen. Far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A group that no other test and no other run uses.
pub fn own_group() -> Group {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let address = Ipv4Addr::new(239, 74, (pid % 250) as u8, NEXT.fetch_add(1, Ordering::Relaxed));
    let port = 20_000 + (pid / 250 % 20_000) as u16;
    Group { address: SocketAddrV4::new(address, port), ..Group::default() }
}

/// Opens a member of a group.
pub fn open(group: Group) -> Multicast {
    Multicast::open(group).unwrap_or_else(|error| panic!("{error}; fix: {:?}", error.fix()))
}

/// Polls `what` until it gives something.
pub fn wait_for<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < give_up, "{name} did not happen within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Reads frames until there are `count`.
pub fn receive(bus: &mut Multicast, count: usize) -> Vec<CanFrame> {
    let mut frames: Vec<TimedFrame> = Vec::new();
    wait_for("receiving frames", || {
        bus.receive(Reading::take(), BusIndex(0), &mut frames).unwrap();
        (frames.len() >= count).then_some(())
    });
    frames.into_iter().map(|timed| timed.frame).collect()
}

pub fn id(value: u32, extended: bool) -> CanId {
    CanId::new(value, extended).unwrap()
}

/// One frame of every kind.
pub fn zoo() -> Vec<CanFrame> {
    let fd = |bit_rate_switch, error_state| FrameKind::Fd { bit_rate_switch, error_state };
    let long: Vec<u8> = (0..64).collect();
    vec![
        CanFrame::classic(id(0x123, false), &[0xDE, 0xAD]).unwrap(),
        CanFrame::classic(id(0x7FF, false), &[]).unwrap(),
        CanFrame::classic(id(0x1FFF_FFFF, true), &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
        CanFrame::classic(id(5, true), &[5]).unwrap(),
        CanFrame::remote(id(0x42, false), 8).unwrap(),
        CanFrame::new(id(0x200, false), fd(true, false), &long).unwrap(),
        CanFrame::new(id(0x201, true), fd(false, true), &long[..12]).unwrap(),
    ]
}

/// Says loudly that something was not tested, in one form that scripts can count.
pub fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Recordings and DBC files, if they are here: `$VERGE_SHARED`, or `shared` beside the repository.
pub fn shared_data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let root = std::env::var_os("VERGE_SHARED").map_or(beside, PathBuf::from);
    Some(root.join("data")).filter(|data| data.is_dir())
}

/// The DBC and overlay files of this crate.
pub fn own_dbc(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dbc").join(name)
}

/// A running python script with the libraries of `$VERGE_PYLIB` (or `target/material/pylib`).
pub struct Python {
    child: Child,
    pub input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Python {
    /// Starts a script of `tests/python`; `None`, said loudly, where the libraries are not here.
    pub fn start(test: &str, script: &str, arguments: &[String]) -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let usual = here.join("../target/material/pylib");
        let library = std::env::var_os("VERGE_PYLIB").map_or(usual, PathBuf::from);
        if !library.join("can").is_dir() {
            skipped(test, "python-can and cantools are not here; set VERGE_PYLIB");
            return None;
        }
        let named = std::fs::read_to_string(library.join(".python")).unwrap_or_default();
        let program = if named.trim().is_empty() { "python3" } else { named.trim() };
        let mut child = Command::new(program)
            .arg(here.join("tests/python").join(script))
            .args(arguments)
            .env("PYTHONPATH", &library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { child, input, lines })
    }

    /// The next line it prints.
    pub fn line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.unwrap())
    }

    /// Waits for the line that says that it listens.
    pub fn ready(&mut self) {
        assert_eq!(self.line().as_deref(), Some("ready"));
    }

    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end; it must have succeeded.
    pub fn finish(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success(), "python failed; see above");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // After `finish` both fail harmlessly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
