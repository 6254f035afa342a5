//! Control groups version 2: one tree, in which the processes are born.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use policies::host::{Enforced, Usage};
use policies::manifest::Resources;
use policies::task::Class;
use rustix::fs::{Mode, OFlags};

use super::{FACES, FACES_WEIGHT, PERIOD_US, Place, Tree, file, quota_us, squeezed, weight};
use crate::fault::FileError;
use crate::sandbox::readback::line;

/// Controllers we use.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Our folder, and what can be limited in it.
#[derive(Clone, Debug)]
pub struct V2 {
    /// Our folder.
    pub root: PathBuf,
    /// Those of [`CONTROLLERS`] that the parent group passes on. Empty on hybrid kernels.
    pub controllers: Vec<&'static str>,
}

impl V2 {
    fn at(&self, place: &Place) -> PathBuf {
        self.root.join(place.to_string())
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Lets the children of `group` have limits.
    fn pass_on(&self, group: &Path) -> Result<(), FileError> {
        if self.controllers.is_empty() {
            return Ok(());
        }
        let wanted: Vec<String> = self.controllers.iter().map(|name| format!("+{name}")).collect();
        file::write(&group.join("cgroup.subtree_control"), wanted.join(" "))
    }

    fn limit_memory(group: &Path, resources: &Resources) -> Result<Enforced, FileError> {
        let bytes = resources.memory.get();
        let value = file::set(&group.join("memory.max"), bytes.to_string())?;
        // Reclaim begins a little below the limit, so that page cache does not meet the OOM killer.
        file::write(&group.join("memory.high"), (bytes - bytes / 16).to_string())?;
        let swap = group.join("memory.swap.max");
        if swap.exists() {
            file::write(&swap, "0")?;
        }
        Ok(line("memory", "cgroup2 memory.max", value, false))
    }

    fn limit_cpu(group: &Path, resources: &Resources) -> Result<Enforced, FileError> {
        let value = format!("{} {PERIOD_US}", quota_us(resources.cpu.get()));
        Ok(line("cpu", "cgroup2 cpu.max", file::set(&group.join("cpu.max"), value)?, false))
    }

    fn limit_pids(group: &Path, resources: &Resources) -> Result<Enforced, FileError> {
        // One more than the manifest says: the sandbox's init is ours, not the app's.
        let value = file::set(&group.join("pids.max"), (resources.pids + 1).to_string())?;
        Ok(line("pids", "cgroup2 pids.max", value, false))
    }
}

impl Tree for V2 {
    fn describe(&self) -> Vec<Enforced> {
        let names = if self.controllers.is_empty() { "none".into() } else { self.controllers.join(" ") };
        let degraded = self.controllers.len() < CONTROLLERS.len();
        vec![
            line("cgroup tree", "cgroup2", self.root.display().to_string(), false),
            line("cgroup controllers", "cgroup2", names, degraded),
        ]
    }

    fn create(&self, place: &Place) -> Result<(), FileError> {
        let group = self.at(place);
        if self.controllers.is_empty() {
            return file::make_dirs(&group);
        }
        let mut made = self.root.clone();
        file::make_dirs(&made)?;
        for part in group.strip_prefix(&self.root).unwrap_or(Path::new("")) {
            self.pass_on(&made)?;
            made.push(part);
            file::make_dirs(&made)?;
        }
        if matches!(place, Place::Face(_)) && self.has("cpu") {
            file::write(&self.root.join(FACES).join("cpu.weight"), FACES_WEIGHT.to_string())?;
        }
        Ok(())
    }

    fn limit(&self, place: &Place, resources: &Resources) -> Result<Vec<Enforced>, FileError> {
        let group = self.at(place);
        let mut lines = Vec::with_capacity(3);
        if self.has("cpu") {
            lines.push(Self::limit_cpu(&group, resources)?);
        }
        if self.has("memory") {
            lines.push(Self::limit_memory(&group, resources)?);
        }
        if self.has("pids") {
            lines.push(Self::limit_pids(&group, resources)?);
        }
        Ok(lines)
    }

    fn birthplace(&self, place: &Place) -> Result<Option<OwnedFd>, FileError> {
        self.create(place)?;
        let group = self.at(place);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&group, flags, Mode::empty()).map(Some).map_err(FileError::at("open", &group))
    }

    fn furnish(&self, _: &Place) -> Result<(), FileError> {
        Ok(())
    }

    fn tasks(&self, _: &Place) -> Result<Vec<File>, FileError> {
        Ok(Vec::new())
    }

    fn set_frozen(&self, place: &Place, frozen: bool) -> Result<(), FileError> {
        file::write(&self.at(place).join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    fn is_frozen(&self, place: &Place) -> Result<bool, FileError> {
        // cgroup.freeze only repeats what was asked for; cgroup.events says what is.
        let events = self.at(place).join("cgroup.events");
        Ok(file::read(&events)?.lines().any(|line| line == "frozen 1"))
    }

    fn freezes_by(&self) -> &'static str {
        "cgroup2 cgroup.freeze"
    }

    fn kill(&self, place: &Place) -> Result<(), FileError> {
        let kill = self.at(place).join("cgroup.kill");
        if kill.exists() {
            return file::write(&kill, "1");
        }
        Ok(()) // kernels before 5.14: killing init takes its namespace with it
    }

    fn remove(&self, place: &Place) -> Result<(), FileError> {
        file::remove_dir(&self.at(place))
    }

    fn squeeze(&self, class: Class, share: u16) -> Result<String, FileError> {
        if !self.has("cpu") {
            return Ok("nothing".into());
        }
        let path = self.at(&Place::Class(class)).join("cpu.weight");
        file::write(&path, squeezed(weight(class), share).to_string())?;
        Ok(format!("cgroup2 cpu.weight {}", file::read(&path)?))
    }

    fn usage(&self, place: &Place) -> Usage {
        let group = self.at(place);
        let number = |name: &str| file::number(&group.join(name));
        let field = |name: &str, field: &str| file::field(&group.join(name), field);
        Usage {
            cpu_us: field("cpu.stat", "usage_usec"),
            throttled_us: field("cpu.stat", "throttled_usec"),
            memory: number("memory.current"),
            memory_peak: number("memory.peak"),
            oom_kills: field("memory.events", "oom_kill"),
            pids: number("pids.current").map(|n| n.saturating_sub(1)),
            pids_refused: field("pids.events", "max"),
            frozen: self.is_frozen(place).unwrap_or(false),
        }
    }

    fn is_populated(&self, place: &Place) -> bool {
        let events = self.at(place).join("cgroup.events");
        file::read(&events).is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
    }

    fn handles(&self, place: &Place) -> Vec<(&'static str, File)> {
        let group = self.at(place);
        ["cgroup.kill", "cgroup.freeze"]
            .into_iter()
            .filter_map(|name| Some((name, file::open(&group.join(name)).ok()?)))
            .collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.root.clone()]
    }

    fn clear(&self) -> Result<(), FileError> {
        let kill = self.root.join("cgroup.kill");
        if kill.exists() {
            file::write(&kill, "1")?;
        }
        file::groups_below(&self.root)
            .into_iter()
            .try_for_each(|group| crate::cgroup::detect::retry_busy(|| file::remove_dir(&group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::host::AppRef;
    use policies::id::{AppName, TenantId};

    fn lane() -> Place {
        let app = AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new("lane").unwrap() };
        Place::App(Class::Background, app)
    }

    /// A folder with the files that the kernel would make.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, V2) {
        let kernel = tempfile::tempdir().unwrap();
        let v2 = V2 { root: kernel.path().join("verge-a1"), controllers: CONTROLLERS.to_vec() };
        for group in ["", "background", "background/oem"] {
            std::fs::create_dir_all(v2.root.join(group)).unwrap();
            std::fs::write(v2.root.join(group).join("cgroup.subtree_control"), "").unwrap();
        }
        v2.create(&lane()).unwrap();
        for (name, text) in files {
            std::fs::write(v2.at(&lane()).join(name), text).unwrap();
        }
        (kernel, v2)
    }

    #[test]
    fn limits_are_written_and_read_back() {
        let (_kernel, v2) =
            group(&[("cpu.max", ""), ("memory.max", ""), ("memory.high", ""), ("pids.max", "")]);
        let lines = v2.limit(&lane(), &Resources::default()).unwrap();
        let read: Vec<_> = lines.iter().map(|line| (line.by.as_str(), line.value.as_str())).collect();
        assert_eq!(
            read,
            [
                ("cgroup2 cpu.max", "50000 100000"),
                ("cgroup2 memory.max", "67108864"),
                ("cgroup2 pids.max", "33")
            ]
        );
        let passed_on = file::read(&v2.root.join("background/oem/cgroup.subtree_control")).unwrap();
        assert_eq!(passed_on, "+cpu +memory +pids");
    }

    #[test]
    fn frozen_is_what_the_kernel_says_not_what_was_asked() {
        let (_kernel, v2) = group(&[("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
        v2.set_frozen(&lane(), true).unwrap();
        assert!(!v2.is_frozen(&lane()).unwrap());
        std::fs::write(v2.at(&lane()).join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert!(v2.is_frozen(&lane()).unwrap());
    }
}
