//! Control groups: one tree per node, `{class}/{tenant}/{app}` and `faces/{face}`, on whatever the kernel has.
//!
//! | kernel | limits | freeze, kill, placement |
//! |---|---|---|
//! | v2 | `cpu.max` `cpu.weight` `memory.max` `memory.high` `pids.max` | `cgroup.freeze` `cgroup.kill`, born into the group |
//! | v1 | `cpu.cfs_quota_us` `cpu.shares` `memory.limit_in_bytes` `pids.max` | `freezer.state`, thaw then kill; `0` into `tasks` |
//! | hybrid | as v1 | as v2 |
//!
//! All files are reached below paths that the constructor got, so a temporary folder can play the kernel.

pub mod detect;
pub mod file;
pub mod hybrid;
pub mod v1;
pub mod v2;

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use policies::host::{AppRef, Enforced, Face, Usage};
use policies::id::{AppName, TenantId};
use policies::manifest::Resources;
use policies::task::Class;

use crate::fault::FileError;

/// One group of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// All apps of a class.
    Class(Class),
    /// One app.
    App(Class, AppRef),
    /// One face of the node itself.
    Face(Face),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(f, "{class}"),
            Self::App(class, app) => write!(f, "{class}/{}/{}", app.tenant, app.app),
            Self::Face(face) => write!(f, "{FACES}/{face}"),
        }
    }
}

impl Place {
    /// The place that this path below the root stands for, if it is one of ours.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [FACES, face] => parse_face(face).map(Self::Face),
            [class, tenant, app] => {
                let app = AppRef { tenant: TenantId::new(tenant).ok()?, app: AppName::new(app).ok()? };
                Some(Self::App(Class::parse(class)?, app))
            }
            _ => None,
        }
    }
}

fn parse_face(name: &str) -> Option<Face> {
    let tenant = |prefix: &str| TenantId::new(name.strip_prefix(prefix)?).ok();
    match name {
        "node" => Some(Face::Node),
        "bus" => Some(Face::Bus),
        "link" => Some(Face::Link),
        "camera" => Some(Face::Camera),
        _ => tenant("border-").map(Face::Border).or_else(|| tenant("worker-").map(Face::Worker)),
    }
}

/// Period of CPU quotas, microseconds. The kernel's own default.
pub const PERIOD_US: u64 = 100_000;

/// Smallest CPU quota that the kernel takes, microseconds.
const QUOTA_MIN_US: u64 = 1_000;

/// CPU quota per [`PERIOD_US`] for a share in thousandths of a core.
pub fn quota_us(cpu_milli: u32) -> u64 {
    (u64::from(cpu_milli) * PERIOD_US / 1000).max(QUOTA_MIN_US)
}

/// Folder of the node's own processes.
pub const FACES: &str = "faces";

/// `cpu.weight` of the node's own processes: as much as all critical apps, so that no app starves its node.
pub const FACES_WEIGHT: u64 = 1000;

/// `cpu.weight` of a class that is not squeezed (the kernel's default is 100).
pub fn weight(class: Class) -> u64 {
    match class {
        Class::Critical => 1000,
        Class::Driving => 400,
        Class::Comfort => 100,
        Class::Background => 20,
    }
}

/// `weight` scaled by `share` thousandths, never below 1.
pub fn squeezed(weight: u64, share: u16) -> u64 {
    (weight * u64::from(share) / 1000).max(1)
}

/// One node's tree on one kind of kernel.
pub trait Tree: fmt::Debug {
    /// What the kernel offers here, for `verge doctor`.
    fn describe(&self) -> Vec<Enforced>;
    /// Makes a group with its parents.
    ///
    /// # Errors
    /// Names the file that could not be made or written. So do all others.
    fn create(&self, place: &Place) -> Result<(), FileError>;
    /// Sets an app's limits and reads them back.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn limit(&self, place: &Place, resources: &Resources) -> Result<Vec<Enforced>, FileError>;
    /// Makes as much of a group as must be there when its first process is born, and opens what it is born in. `None`
    /// where a process joins later, by [`Self::tasks`].
    ///
    /// # Errors
    /// As [`Self::create`].
    fn birthplace(&self, place: &Place) -> Result<Option<OwnedFd>, FileError>;
    /// Makes what [`Self::birthplace`] has left out of a group.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn furnish(&self, place: &Place) -> Result<(), FileError>;
    /// The files of a group into which a new process writes `0` to join it.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn tasks(&self, place: &Place) -> Result<Vec<File>, FileError>;
    /// Asks the kernel to freeze or thaw. Whether it happened is [`Self::is_frozen`].
    ///
    /// # Errors
    /// As [`Self::create`].
    fn set_frozen(&self, place: &Place, frozen: bool) -> Result<(), FileError>;
    /// Whether every process of the group is frozen.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn is_frozen(&self, place: &Place) -> Result<bool, FileError>;
    /// What freezes here: `cgroup2 cgroup.freeze`.
    fn freezes_by(&self) -> &'static str;
    /// Kills every process of the group, frozen or not.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn kill(&self, place: &Place) -> Result<(), FileError>;
    /// Removes the group, which must be empty. It is no error if it is already gone.
    ///
    /// # Errors
    /// As [`Self::create`]; `EBUSY` while a process is left.
    fn remove(&self, place: &Place) -> Result<(), FileError>;
    /// Sets the share of a class in thousandths of normal. Says by what.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn squeeze(&self, class: Class, share: u16) -> Result<String, FileError>;
    /// What the group has used. Reads what is there; missing files are `None`.
    fn usage(&self, place: &Place) -> Usage;
    /// Whether any process is in the group.
    fn is_populated(&self, place: &Place) -> bool;
    /// Files that node may write itself (`cgroup.kill`, `cgroup.freeze`), opened.
    fn handles(&self, place: &Place) -> Vec<(&'static str, File)>;
    /// Our folder in each hierarchy.
    fn folders(&self) -> Vec<PathBuf>;
    /// Every app's and face's group that is there.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for root in self.folders() {
            let groups = file::groups_below(&root);
            let names = groups.iter().filter_map(|group| group.strip_prefix(&root).ok()?.to_str());
            places.extend(names.filter_map(Place::parse));
        }
        places.sort();
        places.dedup();
        places
    }
    /// Kills whatever is in the tree and removes it whole.
    ///
    /// # Errors
    /// As [`Self::create`].
    fn clear(&self) -> Result<(), FileError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_they_are_written() {
        let oem = TenantId::new("oem").unwrap();
        let app = AppRef { tenant: oem.clone(), app: AppName::new("lane").unwrap() };
        for place in [
            Place::App(Class::Driving, app),
            Place::Face(Face::Node),
            Place::Face(Face::Worker(oem.clone())),
            Place::Face(Face::Border(oem)),
        ] {
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for foreign in ["", "faces", "faces/root", "driving/oem", "other/oem/lane", "driving/../lane"] {
            assert_eq!(Place::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_quota_is_never_below_what_the_kernel_takes() {
        assert_eq!(quota_us(300), 30_000);
        assert_eq!(quota_us(1), 1_000);
        assert_eq!(squeezed(weight(Class::Background), 10), 1);
    }
}
