//! What /proc tells about processes: who they are beyond their number, what confines them, what they use.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process, named so that a later one with the same number is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl ProcessName {
    /// Names the process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: stat_fields(pid)?.1 })
    }

    /// Whether that very process is still there.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// State letter and start time of a process.
fn stat_fields(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything, so count from its end.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Whether every thread of this process is stopped (`T`) or dead.
pub fn is_stopped(pid: i32) -> bool {
    stat_fields(pid).is_none_or(|(state, _)| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// The identity of one of a process's namespaces (`pid`, `net`, ...), such as `pid:[4026531836]`.
pub fn namespace(pid: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// First child of a process's main thread, as long as it has one.
pub fn first_child(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// Every process below `pid`, by following children.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok());
            for child in children {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}

/// One field of /proc/PID/status.
pub fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The soft limit of this name in /proc/PID/limits, such as `Max processes`.
pub fn limit(pid: i32, name: &str) -> Option<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_beyond_its_number() {
        let me = ProcessName::of(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessName { started: me.started + 1, ..me }.is_alive());
        assert_eq!(status_field(me.pid, "Pid"), Some(me.pid.to_string()));
    }
}
