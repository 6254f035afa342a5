//! Control groups version 1: one hierarchy per controller, one folder of ours in each.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use policies::host::{Enforced, Usage};
use policies::manifest::Resources;
use policies::task::Class;

use super::{FACES, FACES_WEIGHT, PERIOD_US, Place, Tree, file, quota_us, squeezed, weight};
use crate::fault::FileError;
use crate::sandbox::readback::line;

/// Our folder in each hierarchy; `None` where the kernel lacks the controller.
#[derive(Clone, Debug, Default)]
pub struct V1 {
    /// `cpu`: quota and shares.
    pub cpu: Option<PathBuf>,
    /// `cpuacct`: time used.
    pub cpuacct: Option<PathBuf>,
    /// `memory`.
    pub memory: Option<PathBuf>,
    /// `pids`.
    pub pids: Option<PathBuf>,
    /// `freezer`.
    pub freezer: Option<PathBuf>,
}

impl V1 {
    /// The hierarchies at hand, each once even where two controllers share one.
    pub fn roots(&self) -> Vec<&PathBuf> {
        let mut roots: Vec<&PathBuf> = [&self.cpu, &self.cpuacct, &self.memory, &self.pids, &self.freezer]
            .into_iter()
            .flatten()
            .collect();
        roots.sort();
        roots.dedup();
        roots
    }

    fn at(root: Option<&PathBuf>, place: &Place) -> Option<PathBuf> {
        root.map(|root| root.join(place.to_string()))
    }

    fn freezer_state(&self, place: &Place) -> Option<PathBuf> {
        Self::at(self.freezer.as_ref(), place).map(|group| group.join("freezer.state"))
    }

    fn limit_cpu(group: &std::path::Path, resources: &Resources) -> Result<Enforced, FileError> {
        file::write(&group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
        let quota = file::set(&group.join("cpu.cfs_quota_us"), quota_us(resources.cpu.get()).to_string())?;
        Ok(line("cpu", "cgroup1 cpu.cfs_quota_us", format!("{quota} of {PERIOD_US} us"), false))
    }

    fn limit_memory(group: &std::path::Path, resources: &Resources) -> Result<Enforced, FileError> {
        let path = group.join("memory.limit_in_bytes");
        let bytes = resources.memory.get().to_string();
        let with_swap = group.join("memory.memsw.limit_in_bytes");
        let set_with_swap = || match file::write(&with_swap, &bytes) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        // Memory may never exceed memory plus swap: where the limit grows beyond that, that one comes first.
        let value = match file::set(&path, &bytes) {
            Err(error) if error.source.raw_os_error() == Some(libc::EINVAL) => {
                set_with_swap()?;
                file::set(&path, &bytes)?
            }
            value => {
                let value = value?;
                set_with_swap()?;
                value
            }
        };
        Ok(line("memory", "cgroup1 memory.limit_in_bytes", value, false))
    }

    fn limit_pids(group: &std::path::Path, resources: &Resources) -> Result<Enforced, FileError> {
        // One more than the manifest says: the sandbox's init is ours, not the app's.
        let value = file::set(&group.join("pids.max"), (resources.pids + 1).to_string())?;
        Ok(line("pids", "cgroup1 pids.max", value, false))
    }

    /// Every process of the group, by whichever hierarchy is at hand.
    fn processes(&self, place: &Place) -> Vec<i32> {
        self.roots()
            .first()
            .map_or_else(Vec::new, |root| file::pids(&root.join(place.to_string()).join("cgroup.procs")))
    }
}

impl Tree for V1 {
    fn describe(&self) -> Vec<Enforced> {
        let has = |what: &str, root: &Option<PathBuf>| {
            let value = root.as_ref().map_or("missing".into(), |root| root.display().to_string());
            line(&format!("cgroup {what}"), "cgroup1", value, root.is_none())
        };
        vec![
            has("cpu", &self.cpu),
            has("memory", &self.memory),
            has("pids", &self.pids),
            has("freezer", &self.freezer),
        ]
    }

    fn create(&self, place: &Place) -> Result<(), FileError> {
        self.roots().into_iter().try_for_each(|root| file::make_dirs(&root.join(place.to_string())))?;
        match (place, &self.cpu) {
            (Place::Face(_), Some(cpu)) => {
                file::write(&cpu.join(FACES).join("cpu.shares"), (FACES_WEIGHT * 1024 / 100).to_string())
            }
            _ => Ok(()),
        }
    }

    fn limit(&self, place: &Place, resources: &Resources) -> Result<Vec<Enforced>, FileError> {
        let mut lines = Vec::with_capacity(3);
        if let Some(group) = Self::at(self.cpu.as_ref(), place) {
            lines.push(Self::limit_cpu(&group, resources)?);
        }
        if let Some(group) = Self::at(self.memory.as_ref(), place) {
            lines.push(Self::limit_memory(&group, resources)?);
        }
        if let Some(group) = Self::at(self.pids.as_ref(), place) {
            lines.push(Self::limit_pids(&group, resources)?);
        }
        Ok(lines)
    }

    fn birthplace(&self, _: &Place) -> Result<Option<OwnedFd>, FileError> {
        Ok(None)
    }

    fn furnish(&self, place: &Place) -> Result<(), FileError> {
        self.create(place)
    }

    fn tasks(&self, place: &Place) -> Result<Vec<File>, FileError> {
        self.roots().into_iter().map(|root| file::open(&root.join(place.to_string()).join("tasks"))).collect()
    }

    fn set_frozen(&self, place: &Place, frozen: bool) -> Result<(), FileError> {
        let Some(state) = self.freezer_state(place) else { return Ok(()) };
        file::write(&state, if frozen { "FROZEN" } else { "THAWED" })
    }

    fn is_frozen(&self, place: &Place) -> Result<bool, FileError> {
        let Some(state) = self.freezer_state(place) else { return Ok(false) };
        // FREEZING means asked for and not yet true.
        Ok(file::read(&state)? == "FROZEN")
    }

    fn freezes_by(&self) -> &'static str {
        "cgroup1 freezer.state"
    }

    fn kill(&self, place: &Place) -> Result<(), FileError> {
        // A frozen task does not take SIGKILL on version 1, so thaw around it.
        for pid in self.processes(place) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        self.set_frozen(place, false)
    }

    fn remove(&self, place: &Place) -> Result<(), FileError> {
        self.roots().into_iter().try_for_each(|root| file::remove_dir(&root.join(place.to_string())))
    }

    fn squeeze(&self, class: Class, share: u16) -> Result<String, FileError> {
        let Some(group) = Self::at(self.cpu.as_ref(), &Place::Class(class)) else {
            return Ok("nothing".into());
        };
        // Version 1 counts 1024 where version 2 counts 100; 2 is the kernel's minimum.
        let shares = squeezed(weight(class) * 1024 / 100, share).max(2);
        file::write(&group.join("cpu.shares"), shares.to_string())?;
        Ok(format!("cgroup1 cpu.shares {}", file::read(&group.join("cpu.shares"))?))
    }

    fn usage(&self, place: &Place) -> Usage {
        let at =
            |root: &Option<PathBuf>, name: &str| Self::at(root.as_ref(), place).map(|group| group.join(name));
        let number = |root, name: &str| at(root, name).and_then(|path| file::number(&path));
        let field = |root, name: &str, field: &str| at(root, name).and_then(|path| file::field(&path, field));
        Usage {
            cpu_us: number(&self.cpuacct, "cpuacct.usage").map(|ns| ns / 1000),
            throttled_us: field(&self.cpu, "cpu.stat", "throttled_time").map(|ns| ns / 1000),
            memory: number(&self.memory, "memory.usage_in_bytes"),
            memory_peak: number(&self.memory, "memory.max_usage_in_bytes"),
            oom_kills: field(&self.memory, "memory.oom_control", "oom_kill"),
            pids: number(&self.pids, "pids.current").map(|n| n.saturating_sub(1)),
            pids_refused: field(&self.pids, "pids.events", "max"),
            frozen: self.is_frozen(place).unwrap_or(false),
        }
    }

    fn is_populated(&self, place: &Place) -> bool {
        !self.processes(place).is_empty()
    }

    fn handles(&self, place: &Place) -> Vec<(&'static str, File)> {
        let state = self.freezer_state(place).and_then(|path| file::open(&path).ok());
        state.map(|file| ("freezer.state", file)).into_iter().collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.roots().into_iter().cloned().collect()
    }

    fn clear(&self) -> Result<(), FileError> {
        for root in self.roots() {
            for group in file::groups_below(root) {
                for pid in file::pids(&group.join("cgroup.procs")) {
                    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
                let _ = file::write(&group.join("freezer.state"), "THAWED");
            }
        }
        self.roots()
            .into_iter()
            .flat_map(|root| file::groups_below(root))
            .try_for_each(|group| crate::cgroup::detect::retry_busy(|| file::remove_dir(&group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::host::AppRef;
    use policies::id::{AppName, TenantId};

    #[test]
    fn limits_land_in_the_files_of_their_hierarchy() {
        let kernel = tempfile::tempdir().unwrap();
        let root = |name: &str| Some(kernel.path().join(name));
        let v1 = V1 { cpu: root("cpu"), memory: root("memory"), pids: root("pids"), ..V1::default() };
        let app = AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new("lane").unwrap() };
        let place = Place::App(Class::Driving, app);
        v1.create(&place).unwrap();
        let file = |name: &str| kernel.path().join(name);
        for name in [
            "cpu/driving/oem/lane/cpu.cfs_period_us",
            "cpu/driving/oem/lane/cpu.cfs_quota_us",
            "memory/driving/oem/lane/memory.limit_in_bytes",
            "pids/driving/oem/lane/pids.max",
            "cpu/driving/cpu.shares",
        ] {
            std::fs::write(file(name), "").unwrap();
        }
        let lines = v1.limit(&place, &Resources::default()).unwrap();
        let read: Vec<_> = lines.iter().map(|line| (line.what.as_str(), line.value.as_str())).collect();
        assert_eq!(read, [("cpu", "50000 of 100000 us"), ("memory", "67108864"), ("pids", "33")]);
        assert_eq!(v1.squeeze(Class::Driving, 10).unwrap(), "cgroup1 cpu.shares 40");
        let missing = v1.limit(&Place::Class(Class::Comfort), &Resources::default()).unwrap_err();
        assert!(missing.to_string().contains("comfort/cpu.cfs_period_us"), "{missing}");
    }
}
