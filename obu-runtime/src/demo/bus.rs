//! The buses of the two cars: vcan interfaces of the run's own where the kernel has CAN and lets us, else the
//! user-space multicast bus that python-can speaks.

use std::process::{Command, Stdio};

use crate::cli::line;

/// Multicast group of the user-space bus.
pub(super) const GROUP: &str = "239.74.163.2";

/// The interfaces that a run makes and takes away.
const INTERFACES: [&str; 2] = ["vergedemo0", "vergedemo1"];

/// What carries the buses of car A and car B.
#[derive(Debug)]
pub(super) enum Buses {
    /// Interfaces of the kernel; they go when this is dropped.
    Vcan,
    /// Ports of the multicast group.
    Multicast([u16; 2]),
}

impl Buses {
    /// Makes the interfaces, or falls back to the ports and says why.
    pub(super) fn make(ports: [u16; 2]) -> Self {
        // Interfaces of a run that was killed.
        remove();
        for name in INTERFACES {
            let made =
                ip(&["link", "add", name, "type", "vcan"]).and_then(|()| ip(&["link", "set", name, "up"]));
            if let Err(why) = made {
                remove();
                line(format!("the bus: python-can's multicast bus in user space (no vcan: {why})"));
                return Self::Multicast(ports);
            }
        }
        line(format!("the bus: the kernel's vcan, interfaces {}", INTERFACES.join(" and ")));
        Self::Vcan
    }

    /// The keys of one car's `[[bus]]`: 0 is car A, 1 is car B.
    pub(super) fn section(&self, car: usize) -> String {
        match self {
            Self::Vcan => format!("kind = \"socketcan\"\ninterface = \"{}\"\n", INTERFACES[car]),
            Self::Multicast(ports) => {
                format!("kind = \"multicast\"\ngroup = \"{GROUP}\"\nport = {}\n", ports[car])
            }
        }
    }

    /// How `verge can replay` is told of it.
    pub(super) fn replay_words(&self, car: usize) -> [String; 2] {
        match self {
            Self::Vcan => ["--interface".into(), INTERFACES[car].into()],
            Self::Multicast(ports) => ["--multicast".into(), format!("{GROUP}:{}", ports[car])],
        }
    }

    /// How the ledger is told of car A's.
    pub(super) fn ledger_words(&self) -> Vec<String> {
        match self {
            Self::Vcan => vec!["--socketcan".into(), INTERFACES[0].into()],
            Self::Multicast(ports) => {
                vec!["--multicast".into(), GROUP.into(), "--port".into(), ports[0].to_string()]
            }
        }
    }
}

impl Drop for Buses {
    fn drop(&mut self) {
        if matches!(self, Self::Vcan) {
            remove();
        }
    }
}

fn remove() {
    for name in INTERFACES {
        // It need not be there.
        let _ = ip(&["link", "del", name]);
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(error) => Err(format!("cannot run ip: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_told_of_the_same_bus() {
        let buses = Buses::Multicast([7001, 7002]);
        assert!(buses.section(1).contains("port = 7002"));
        assert_eq!(buses.replay_words(0)[1], format!("{GROUP}:7001"));
        assert_eq!(buses.ledger_words().last().map(String::as_str), Some("7001"));
    }
}
