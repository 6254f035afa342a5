//! Faults that strike a node at a moment, and their end.

use obu_core::io::Input;
use policies::host::Pressure;
use policies::limits::TASKS_OWNED_MAX;
use v2e_core::message::Role;
use v2e_core::report::Realm;

use super::{Event, Failure, World};
use crate::fault::Fault;

/// Tasks that a flooding app asks for at once.
const FLOOD: (u64, u64) = (20, 200);

/// The same for one flood in ten: more than a node may own.
const FLOOD_ALL: (u64, u64) = (TASKS_OWNED_MAX as u64 + 1, TASKS_OWNED_MAX as u64 + 100);

/// On average each node is struck once in so many microseconds.
const STRIKE_EVERY: u64 = 8_000_000;

impl World {
    /// Something goes wrong somewhere, and the next time is drawn.
    pub(super) fn strike(&mut self) -> Result<(), Failure> {
        let kinds = self.options.faults.striking();
        let Some(fault) = self.faults.pick(&kinds).copied() else { return Ok(()) };
        if self.now > self.end_of_load() || self.bodies.is_empty() {
            return Ok(());
        }
        let every = STRIKE_EVERY / self.bodies.len() as u64;
        let again = self.faults.between((every / 2, every * 3 / 2));
        self.queue.add(self.now + again.max(1), Event::Strike);
        let unit = self.faults.index(self.bodies.len());
        if self.bodies[unit].node.is_none() || self.bodies[unit].held.is_some() {
            return Ok(());
        }
        self.struck(fault, true);
        self.strike_one(unit, fault)
    }

    /// Counts a fault if it happened.
    pub(super) fn struck(&mut self, fault: Fault, happened: bool) {
        if happened {
            *self.report.strikes.entry(fault).or_default() += 1;
        }
    }

    fn strike_one(&mut self, unit: usize, fault: Fault) -> Result<(), Failure> {
        match fault {
            Fault::Crash => {
                self.die(unit, (20_000, 1_500_000));
                self.bodies[unit].power_cut();
                let down = self.faults.between((300_000, 4_000_000));
                self.queue.add(self.now + down, Event::Start { unit });
            }
            Fault::Kill => {
                self.die(unit, (1_000, 50_000));
                self.bodies[unit].end_life();
                let down = self.faults.between((50_000, 500_000));
                self.queue.add(self.now + down, Event::Start { unit });
            }
            Fault::Freeze => {
                self.bodies[unit].held = Some(Vec::new());
                self.relief(unit, fault, Realm::Car, (20_000, 4_000_000));
            }
            Fault::Partition => {
                let realm = *self.faults.pick(&[Realm::Car, Realm::Outside]).unwrap_or(&Realm::Car);
                self.network.isolate(realm, unit, true);
                self.relief(unit, fault, realm, (100_000, 5_000_000));
            }
            Fault::AppCrash => {
                let body = &mut self.bodies[unit];
                if let Some(event) = body.host.crash_one(&mut body.chance) {
                    self.tell(unit, 100, Input::Host(event));
                }
            }
            Fault::Pressure => {
                let cpu = u16::try_from(self.faults.between((300, 1000))).unwrap_or(1000);
                self.bodies[unit].host.pressure =
                    Pressure { cpu: Some(cpu), memory: Some(0), memory_used: 500, cpu_used: 1000 };
                self.bodies[unit].host.unreliable = true;
                self.relief(unit, fault, Realm::Car, (2_000_000, 8_000_000));
            }
            Fault::Handover => self.hand_over(unit)?,
            Fault::Flood => self.flood(unit)?,
            // Properties of links, clocks, disks and ports: they do not strike.
            Fault::Loss
            | Fault::Duplicate
            | Fault::Reorder
            | Fault::Skew
            | Fault::Disk
            | Fault::Ledger
            | Fault::Repeat => {}
        }
        Ok(())
    }

    /// One app of the node asks for many tasks at once.
    fn flood(&mut self, unit: usize) -> Result<(), Failure> {
        let size = if self.faults.below(10) == 0 { FLOOD_ALL } else { FLOOD };
        let apps = self.bodies[unit].member.manifest.apps.len();
        let app = self.faults.index(apps);
        for _ in 0..self.faults.between(size) {
            self.demand_once(unit, app)?;
        }
        Ok(())
    }

    fn relief(&mut self, unit: usize, fault: Fault, realm: Realm, after: (u64, u64)) {
        let at = self.now + self.faults.between(after);
        self.queue.add(at, Event::Relief { unit, fault, realm });
    }

    /// A fault ends.
    pub(super) fn relieve(&mut self, unit: usize, fault: Fault, realm: Realm) -> Result<(), Failure> {
        match fault {
            Fault::Freeze => {
                for input in self.bodies[unit].held.take().unwrap_or_default() {
                    self.feed(unit, input)?;
                }
                self.feed(unit, Input::Tick)
            }
            Fault::Partition => {
                self.network.isolate(realm, unit, false);
                self.link_up(realm, unit)
            }
            Fault::Pressure => {
                self.bodies[unit].host.pressure = Pressure::default();
                self.bodies[unit].host.unreliable = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The node's process is gone; its peers hear of it after a while, or never.
    fn die(&mut self, unit: usize, after: (u64, u64)) {
        let id = self.id(unit);
        self.checker.gone(&id);
        self.bodies[unit].apply_request = None;
        for realm in [Realm::Car, Realm::Outside] {
            self.part(realm, unit, after);
        }
    }

    /// Most peers of a node hear that its session is gone.
    fn part(&mut self, realm: Realm, unit: usize, after: (u64, u64)) {
        let id = self.id(unit);
        for peer in self.peers(realm, unit) {
            let wait = self.faults.between(after);
            if self.faults.below(4) > 0 {
                self.tell(peer, wait, Input::PeerGone { realm, peer: id.clone() });
            }
        }
    }

    /// The car of a gateway drives into another zone: break before make.
    fn hand_over(&mut self, unit: usize) -> Result<(), Failure> {
        let zones = self.bodies.iter().filter(|body| body.member.config.role == Role::Edge).count();
        let config = &self.bodies[unit].member.config;
        if zones < 2 || !config.outside || config.role != Role::Obu {
            return Ok(());
        }
        for peer in self.peers(Realm::Outside, unit) {
            let peer = self.id(peer);
            self.tell(unit, 1_000, Input::PeerGone { realm: Realm::Outside, peer });
        }
        self.part(Realm::Outside, unit, (1_000, 1_000_000));
        let step = 1 + self.faults.index(zones - 1);
        self.bodies[unit].zone = (self.bodies[unit].zone + step) % zones;
        self.link_up(Realm::Outside, unit)
    }
}
