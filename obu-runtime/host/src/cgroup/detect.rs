//! Finds what kind of cgroups this kernel has mounted, and where our tree may be.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{Tree, file, hybrid::Hybrid, v1::V1, v2};
use crate::fault::{Explain, FileError};

/// How long a group that has just been killed may stay busy before its removal counts as failed.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);

/// Where the configuration wants the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Wherever it can be.
    #[default]
    Auto,
    /// Nowhere.
    None,
    /// Below this path of each hierarchy's root.
    Below(PathBuf),
}

/// Why there is no usable tree although one is wanted.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another host holds the tree.
    #[error("another verge-host holds the cgroup {}", path.display())]
    Busy {
        /// Our root folder.
        path: PathBuf,
    },
}

impl Explain for DetectError {
    fn fix(&self) -> Option<String> {
        match self {
            Self::File(error) => error.fix(),
            Self::Busy { .. } => {
                Some("end the other verge-host, or give this node another id in [node]".to_owned())
            }
        }
    }
}

/// A tree, and the lock that keeps other hosts out of it.
#[derive(Debug)]
pub struct Owned {
    /// The tree.
    pub tree: Box<dyn Tree>,
    _lock: File,
}

/// One line of /proc/self/mountinfo that is a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// Path within the hierarchy that is mounted here.
    root: PathBuf,
    version: u8,
    options: Vec<String>,
}

/// Finds or makes the tree `verge-{node}`. `None` if this kernel or this user has no cgroup to offer.
///
/// # Errors
/// If a tree could be made and something went wrong with it.
pub fn find(node: &str, wanted: &Wanted) -> Result<Option<Owned>, DetectError> {
    if *wanted == Wanted::None {
        return Ok(None);
    }
    let mounts = parse_mounts(&file::read(Path::new("/proc/self/mountinfo"))?);
    let own = file::read(Path::new("/proc/self/cgroup"))?;
    let name = format!("verge-{node}");
    let Some((tree, root)) = choose(&mounts, &own, wanted, &name)? else { return Ok(None) };
    file::make_dirs(&root)?;
    let lock = File::open(&root).map_err(FileError::at("open", &root))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(DetectError::Busy { path: root });
    }
    Ok(Some(Owned { tree, _lock: lock }))
}

type Chosen = Option<(Box<dyn Tree>, PathBuf)>;

fn choose(mounts: &[Mount], own: &str, wanted: &Wanted, name: &str) -> Result<Chosen, DetectError> {
    let v1 = v1_tree(mounts, wanted, name);
    let v2 = mounts.iter().find(|mount| mount.version == 2);
    let v2_tree = match v2 {
        Some(mount) => v2_tree(mount, own, wanted, name)?,
        None => None,
    };
    Ok(match (v1, v2_tree) {
        (Some(v1), Some(v2)) if v2.controllers.is_empty() => {
            let root = v2.root.clone();
            Some((Box::new(Hybrid { v1: V1 { freezer: None, ..v1 }, v2 }), root))
        }
        (_, Some(v2)) if !v2.controllers.is_empty() => {
            let root = v2.root.clone();
            Some((Box::new(v2), root))
        }
        (Some(v1), _) => {
            let root = v1.roots().first().map(|root| (*root).clone());
            root.map(|root| (Box::new(v1) as Box<dyn Tree>, root))
        }
        _ => None,
    })
}

/// Version 1 below each hierarchy's root; only where that is ours to write.
fn v1_tree(mounts: &[Mount], wanted: &Wanted, name: &str) -> Option<V1> {
    let root = |controller: &str| {
        let mount = mounts.iter().find(|m| m.version == 1 && m.options.iter().any(|o| o == controller))?;
        let parent = match wanted {
            Wanted::Below(path) => mount.point.join(path.strip_prefix("/").unwrap_or(path)),
            _ => mount.point.clone(),
        };
        is_writable(&parent).then(|| parent.join(name))
    };
    let v1 = V1 {
        cpu: root("cpu"),
        cpuacct: root("cpuacct"),
        memory: root("memory"),
        pids: root("pids"),
        freezer: root("freezer"),
    };
    (v1.memory.is_some() && v1.pids.is_some()).then_some(v1)
}

/// Version 2: below our own group if that was delegated to us, else below the root if we may write it.
fn v2_tree(mount: &Mount, own: &str, wanted: &Wanted, name: &str) -> Result<Option<v2::V2>, DetectError> {
    let own_path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let inside = Path::new(own_path).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let own_group = mount.point.join(inside);
    let parent = match wanted {
        Wanted::Below(path) => mount.point.join(path.strip_prefix("/").unwrap_or(path)),
        _ if own_group != mount.point && is_delegated(&own_group) => own_group.clone(),
        _ => mount.point.clone(),
    };
    if !is_writable(&parent) || !is_writable(&parent.join("cgroup.procs")) {
        return Ok(None);
    }
    let offered = file::read(&parent.join("cgroup.controllers")).unwrap_or_default();
    let offered: Vec<&str> = offered.split_ascii_whitespace().collect();
    let controllers: Vec<&'static str> =
        v2::CONTROLLERS.into_iter().filter(|name| offered.contains(name)).collect();
    if parent == own_group && own_group != mount.point && !controllers.is_empty() {
        // A group with limits for its children may hold no process itself: step into a leaf.
        let leaf = parent.join("verge-host");
        file::make_dirs(&leaf)?;
        file::write(&leaf.join("cgroup.procs"), std::process::id().to_string())?;
    }
    let tree = v2::V2 { root: parent.join(name), controllers };
    if !tree.controllers.is_empty() {
        let wanted: Vec<String> = tree.controllers.iter().map(|name| format!("+{name}")).collect();
        file::write(&parent.join("cgroup.subtree_control"), wanted.join(" "))?;
    }
    Ok(Some(tree))
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether systemd (or a container manager) has given this group to us.
fn is_delegated(group: &Path) -> bool {
    if rustix::process::geteuid().as_raw() != 0 {
        return is_writable(group) && is_writable(&group.join("cgroup.procs"));
    }
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0u8; 1];
        rustix::fs::getxattr(group, *name, &mut value[..]).is_ok_and(|_| value == *b"1")
    })
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => 1,
        "cgroup2" => 2,
        _ => return None,
    };
    let options = right.nth(1)?.split(',').map(str::to_owned).collect();
    Some(Mount { point: point.into(), root: root.into(), version, options })
}

/// Tries again while the kernel says "busy": a killed process leaves its group a moment after its death.
///
/// # Errors
/// The last one, after five seconds.
pub fn retry_busy(mut act: impl FnMut() -> Result<(), FileError>) -> Result<(), FileError> {
    let give_up = Instant::now() + REMOVAL_WAIT;
    loop {
        match act() {
            Err(error) if error.source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < give_up => {
                std::thread::yield_now();
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
31 25 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
33 25 0:29 / /tmp rw - tmpfs tmpfs rw";

    #[test]
    fn mountinfo_tells_versions_and_controllers() {
        let mounts = parse_mounts(HYBRID);
        let seen: Vec<_> = mounts.iter().map(|m| (m.point.to_str().unwrap(), m.version)).collect();
        assert_eq!(
            seen,
            [("/sys/fs/cgroup/cpu", 1), ("/sys/fs/cgroup/memory", 1), ("/sys/fs/cgroup/unified", 2)]
        );
        assert!(mounts[1].options.contains(&"memory".to_owned()));
    }

    #[test]
    fn a_pure_second_version_gets_its_controllers_switched_on() {
        let kernel = tempfile::tempdir().unwrap();
        let point = kernel.path().to_owned();
        for (name, text) in [
            ("cgroup.procs", ""),
            ("cgroup.controllers", "cpuset cpu io memory pids"),
            ("cgroup.subtree_control", ""),
        ] {
            std::fs::write(point.join(name), text).unwrap();
        }
        let mount = Mount { point: point.clone(), root: "/".into(), version: 2, options: vec![] };
        let tree = v2_tree(&mount, "0::/\n", &Wanted::Auto, "verge-a1").unwrap().unwrap();
        assert_eq!(tree.root, point.join("verge-a1"));
        assert_eq!(tree.controllers, v2::CONTROLLERS);
        assert_eq!(file::read(&point.join("cgroup.subtree_control")).unwrap(), "+cpu +memory +pids");
    }
}
