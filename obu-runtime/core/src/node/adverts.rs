//! What this node says of itself: on change, but not more often than five times a second; and once a second
//! so that others know it is there.

use alloc::vec::Vec;
use core::time::Duration;
use policies::limits::ADVERT_FRESH;
use policies::time::Timestamp;
use v2e_core::message::{Advert, Load, Offer};
use v2e_core::report::Realm;

use super::Live;
use crate::io::Output;

/// Shortest time between two adverts: 5 Hz, so that a busy node stays below a kilobyte per second.
pub(super) const ADVERT_MIN: Duration = Duration::from_millis(200);

/// Longest time between two adverts.
pub(super) const ADVERT_MAX: Duration = Duration::from_millis(1_000);

const _: () = assert!(ADVERT_FRESH.as_millis() >= 3 * ADVERT_MAX.as_millis());

/// CPU use is told in steps of a tenth: smaller changes decide nothing and would be told all the time.
const CPU_STEP: u16 = 100;

/// What was said last, and when.
#[derive(Debug, Default)]
pub(super) struct Adverts {
    seq: u64,
    said_at: Option<Timestamp>,
    begun_at: Timestamp,
    said: Load,
    /// Whether something has changed since.
    changed: bool,
}

impl Adverts {
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.begun_at = now;
    }

    pub(super) fn next_wake(&self) -> Timestamp {
        let wait = if self.changed { ADVERT_MIN } else { ADVERT_MAX };
        self.said_at.map_or(self.begun_at, |at| at + wait)
    }
}

impl Live {
    /// Says what there is to say, if it is time.
    pub(super) fn announce(&mut self, now: Timestamp) {
        let mut load = self.worker.load(now);
        load.cpu_used = self.supervisor.cpu_used() / CPU_STEP * CPU_STEP;
        if load.running == 0 && load.queued == 0 {
            load.backlog_us = 0;
        }
        self.adverts.changed |= load != self.adverts.said || self.functions.take_changed();
        if self.adverts.next_wake() > now {
            return;
        }
        let offers = self.functions.offers();
        self.adverts.seq += 1;
        (self.adverts.said_at, self.adverts.changed) = (Some(now), false);
        self.adverts.said = load;
        self.say(Realm::Car, offers.clone(), load);
        if self.config.outside {
            // A car that runs nothing for others offers nothing outside either.
            let offers = if self.config.serve_outside { offers } else { Vec::new() };
            self.say(Realm::Outside, offers, load);
        }
    }

    fn say(&mut self, realm: Realm, functions: Vec<Offer>, load: Load) {
        let advert = Advert {
            seq: self.adverts.seq,
            car: self.config.car.clone(),
            role: self.config.role,
            cores: self.config.cores,
            functions,
            load,
        };
        let advert = self.envelope(advert);
        self.outputs.push_back(Output::Announce { realm, advert });
    }
}
