//! Values that have the right type and cannot be. The one set of rules for host, which acts on these sections, and for
//! `verge validate`, which promises that host will.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{ControlSection, HostSection, NodeSection, UIDS_MIN};

/// Highest uid that a process can have; the number above it means "none" to the kernel.
const UID_MAX: u32 = u32::MAX - 1;

/// Uids below belong to the system.
const UID_BASE_MIN: u32 = 1000;

/// A value that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its keys from the top of the file, with dots between; an entry of a list by its number: `camera.0.fps`.
    pub key: String,
    /// Why it cannot be.
    pub why: String,
    /// What to write instead.
    pub fix: Option<String>,
}

impl Misfit {
    /// A value that cannot be, with what to write instead.
    pub fn new(key: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into(), fix: Some(fix.into()) }
    }
}

/// The first value that cannot be, in the parts of the file that host acts on.
pub fn misfit(
    api_version: Option<&str>,
    node: &NodeSection,
    host: &HostSection,
    control: &ControlSection,
) -> Option<Misfit> {
    let version = policies::manifest::API_VERSION;
    if let Some(got) = api_version.filter(|got| *got != version) {
        let why = format!("apiVersion is {got:?}; this release reads {version:?}");
        return Some(Misfit::new("apiVersion", why, format!("write apiVersion = {version:?}")));
    }
    if !(1..=1000).contains(&node.time_scale) {
        let why = format!("time_scale is {}, it must be between 1 and 1000", node.time_scale);
        return Some(Misfit::new("node.time_scale", why, "write 1, which is real time"));
    }
    uids(host).or_else(|| cgroup(host)).or_else(|| mode(control))
}

fn uids(host: &HostSection) -> Option<Misfit> {
    let (base, count) = (host.uid_base, host.uid_count);
    if base < UID_BASE_MIN {
        let why = format!("uid_base is {base}; uids below {UID_BASE_MIN} belong to the system");
        return Some(Misfit::new("host.uid_base", why, "write a base whose uids nobody has, such as 200000"));
    }
    if count < UIDS_MIN {
        let why = format!("uid_count is {count}; faces and apps need at least {UIDS_MIN}");
        return Some(Misfit::new("host.uid_count", why, format!("write {UIDS_MIN} or more, such as 65536")));
    }
    if u64::from(base) + u64::from(count) - 1 > u64::from(UID_MAX) {
        let why = format!("{count} uids from {base} on go beyond the highest, {UID_MAX}");
        return Some(Misfit::new("host.uid_base", why, "write a lower base, such as 200000"));
    }
    None
}

fn cgroup(host: &HostSection) -> Option<Misfit> {
    let why = format!("cgroup is {:?}; `..` would lead out of the cgroup root", host.cgroup);
    let fix = "write auto, none, or a path below the cgroup root without `..`";
    host.cgroup.split('/').any(|part| part == "..").then(|| Misfit::new("host.cgroup", why, fix))
}

fn mode(control: &ControlSection) -> Option<Misfit> {
    let mode = control.mode.as_deref()?;
    let octal = mode.bytes().all(|digit| digit.is_ascii_digit());
    let is_mode = octal && u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= 0o777);
    let why = format!("mode is {mode:?}, which is no octal mode from 0 to 0777");
    (!is_mode).then(|| Misfit::new("control.mode", why, "write mode = \"0660\""))
}

/// The bytes of `text` at which the key is set. Of a key that the file leaves out: the deepest one above it; the
/// beginning, if that is missing as well.
pub fn place(text: &str, key: &str) -> Range<usize> {
    let mut place = 0..0;
    let Ok(table) = DeTable::parse(text) else { return place };
    let root = DeValue::Table(table.into_inner());
    let mut here = &root;
    for key in key.split('.') {
        let below = match here {
            DeValue::Table(table) => {
                let entry = table.iter().find(|(name, _)| name.get_ref() == key);
                place = entry.map_or(place, |(name, _)| name.span());
                entry.map(|(_, value)| value)
            }
            DeValue::Array(list) => key.parse::<usize>().ok().and_then(|number| list.get(number)),
            _ => None,
        };
        match below {
            Some(value) => here = value.get_ref(),
            None => break,
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_own_section() {
        let text = "mode = 1\n[node]\nmode = 2\n[[bus]]\nname = 'a'\n[[bus]]\nname = 'b'\nx = {y = 3}\n[control]\nmode = 4\n";
        for (key, line, name) in [
            ("mode", 1, "mode"),
            ("node.mode", 3, "mode"),
            ("control.mode", 10, "mode"),
            ("bus.0.name", 5, "name"),
            ("bus.1.name", 7, "name"),
            ("bus.1.x.y", 8, "y"),
            ("control.socket", 9, "control"),
            ("control.mode.deeper", 10, "mode"),
            ("nowhere.at.all", 1, ""),
        ] {
            let place = place(text, key);
            assert_eq!(text[..place.start].matches('\n').count() + 1, line, "{key}");
            assert_eq!(&text[place], name, "{key}");
        }
        assert_eq!(place("[no toml", "no"), 0..0);
    }
}
