//! Both versions at once: limits from version 1, freezing, killing and placement from a version 2 mount that
//! has no controllers. What old boards and some build machines have.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use policies::host::{Enforced, Usage};
use policies::manifest::Resources;
use policies::task::Class;

use super::{Place, Tree, v1::V1, v2::V2};
use crate::fault::FileError;

/// A tree in both.
#[derive(Clone, Debug)]
pub struct Hybrid {
    /// Limits. Its freezer is not used.
    pub v1: V1,
    /// Everything else.
    pub v2: V2,
}

impl Tree for Hybrid {
    fn describe(&self) -> Vec<Enforced> {
        let v1 = self.v1.describe().into_iter().filter(|line| line.what != "cgroup freezer");
        v1.chain(self.v2.describe().into_iter().filter(|line| line.what == "cgroup tree")).collect()
    }

    fn create(&self, place: &Place) -> Result<(), FileError> {
        self.v1.create(place)?;
        self.v2.create(place)
    }

    fn limit(&self, place: &Place, resources: &Resources) -> Result<Vec<Enforced>, FileError> {
        self.v1.limit(place, resources)
    }

    fn birthplace(&self, place: &Place) -> Result<Option<OwnedFd>, FileError> {
        self.v2.birthplace(place)
    }

    fn furnish(&self, place: &Place) -> Result<(), FileError> {
        self.v1.create(place)
    }

    fn tasks(&self, place: &Place) -> Result<Vec<File>, FileError> {
        self.v1.tasks(place)
    }

    fn set_frozen(&self, place: &Place, frozen: bool) -> Result<(), FileError> {
        self.v2.set_frozen(place, frozen)
    }

    fn is_frozen(&self, place: &Place) -> Result<bool, FileError> {
        self.v2.is_frozen(place)
    }

    fn freezes_by(&self) -> &'static str {
        self.v2.freezes_by()
    }

    fn kill(&self, place: &Place) -> Result<(), FileError> {
        self.v2.kill(place)
    }

    fn remove(&self, place: &Place) -> Result<(), FileError> {
        self.v2.remove(place)?;
        self.v1.remove(place)
    }

    fn squeeze(&self, class: Class, share: u16) -> Result<String, FileError> {
        self.v1.squeeze(class, share)
    }

    fn usage(&self, place: &Place) -> Usage {
        Usage { frozen: self.v2.is_frozen(place).unwrap_or(false), ..self.v1.usage(place) }
    }

    fn is_populated(&self, place: &Place) -> bool {
        self.v2.is_populated(place)
    }

    fn handles(&self, place: &Place) -> Vec<(&'static str, File)> {
        self.v2.handles(place)
    }

    fn folders(&self) -> Vec<PathBuf> {
        [self.v1.folders(), self.v2.folders()].concat()
    }

    fn clear(&self) -> Result<(), FileError> {
        self.v2.clear()?;
        self.v1.clear()
    }
}
