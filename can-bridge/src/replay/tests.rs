//! Replays onto a bus that only remembers, by a clock that only counts.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use super::*;
use crate::bus::{BusIoError, Received};
use crate::clock::Reading;
use can_core::frame::{BusIndex, CanFrame, TimedFrame};

#[derive(Debug)]
struct Memory {
    sent: Arc<Mutex<Vec<u32>>>,
    refuse: usize,
    with: SendFailure,
    file: std::fs::File,
}

impl Bus for Memory {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn receive(&mut self, _: Reading, _: BusIndex, _: &mut Vec<TimedFrame>) -> Result<Received, BusIoError> {
        Ok(Received::default())
    }

    fn send(&mut self, frame: &CanFrame) -> Result<(), SendFailure> {
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(self.with);
        }
        self.sent.lock().unwrap().push(frame.id().value());
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

#[derive(Default)]
struct Counted {
    now: Duration,
    waits: Vec<u128>,
}

impl Pacer for Counted {
    fn elapsed(&self) -> Duration {
        self.now
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.waits.push(time.as_millis());
    }
}

/// Replays; gives the ids sent, the waits in ms, and the outcome.
fn run(
    log: &str,
    interface: Option<&str>,
    speed: Speed,
    refuse: (usize, SendFailure),
) -> (Vec<u32>, Vec<u128>, String) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let file = std::fs::File::open("/dev/null").unwrap();
    let bus = Box::new(Memory { sent: Arc::clone(&sent), refuse: refuse.0, with: refuse.1, file });
    let mut targets = [Target { interface: interface.map(String::from), bus }];
    let mut pacer = Counted::default();
    let outcome = match replay(log.as_bytes(), &mut targets, speed, &mut pacer) {
        Ok(r) => format!("sent {} skipped {} dropped {} bad {}", r.sent, r.skipped, r.dropped, r.bad_lines),
        Err(error) => error.to_string(),
    };
    let ids = sent.lock().unwrap().clone();
    (ids, pacer.waits, outcome)
}

const LOG: &str = "(10.0) can0 001#\n(10.1) can1 002#\nrubbish\n(10.3) can0 003#11\r\n(10.2) can0 004#\n(10.5) can0 20000040#00\n";
const NEVER: (usize, SendFailure) = (0, SendFailure::Full);

#[test]
fn frames_come_in_order_and_in_time() {
    let (ids, waits, outcome) = run(LOG, None, Speed::Times(1.0), NEVER);
    assert_eq!((ids, waits), (vec![1, 2, 3, 4], vec![100, 200]));
    assert_eq!(outcome, "sent 4 skipped 1 dropped 0 bad 1");
    let (_, waits, _) = run(LOG, None, Speed::Times(10.0), NEVER);
    assert_eq!(waits, [10, 20]);
    let (_, waits, _) = run(LOG, None, Speed::Flat, NEVER);
    assert_eq!(waits, [0; 0]);
}

#[test]
fn other_interfaces_are_skipped() {
    let (ids, _, outcome) = run(LOG, Some("can1"), Speed::Flat, NEVER);
    assert_eq!((ids, outcome.as_str()), (vec![2], "sent 1 skipped 4 dropped 0 bad 1"));
}

#[test]
fn a_full_bus_is_tried_again_for_a_bounded_time() {
    let (ids, waits, _) = run(LOG, None, Speed::Flat, (3, SendFailure::Full));
    assert_eq!((ids.len(), waits.len()), (4, 3));
    let (_, _, outcome) = run(LOG, None, Speed::Flat, (1000, SendFailure::Full));
    assert_eq!(outcome, "sent 0 skipped 1 dropped 4 bad 1");
    let (_, _, outcome) = run(LOG, None, Speed::Flat, (1, SendFailure::Down));
    assert_eq!(outcome, "memory went down at line 1");
}

#[test]
fn odd_speeds_and_binary_files_are_told() {
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(run(LOG, None, Speed::Times(speed), NEVER).2.contains("not a positive number"));
    }
    let long = "\u{1}".repeat(100_000);
    assert_eq!(run(&long, None, Speed::Flat, NEVER).2, "sent 0 skipped 0 dropped 0 bad 1");
}
