//! What a run may leave behind, listed before and after: processes, cgroups, mounts, interfaces, sockets.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::road::PLACES;

/// Everything of the machine that a run could add to.
#[derive(Debug)]
pub(super) struct Inventory {
    items: BTreeSet<String>,
}

impl Inventory {
    /// Lists what is there now. `root` is the directory of the run: whatever names it belongs to the run.
    pub(super) fn take(root: &Path) -> Self {
        let mut items = BTreeSet::new();
        let root = root.to_string_lossy().into_owned();
        for line in lines("/proc/self/mountinfo") {
            if let Some(point) = line.split_whitespace().nth(4) {
                items.insert(format!("mount {point}"));
            }
        }
        for line in lines("/proc/net/dev").iter().skip(2) {
            if let Some((name, _)) = line.split_once(':') {
                items.insert(format!("interface {}", name.trim()));
            }
        }
        for line in lines("/proc/net/unix") {
            if let Some(path) = line.split_whitespace().nth(7).filter(|path| path.contains(&root)) {
                items.insert(format!("socket {path}"));
            }
        }
        cgroups(Path::new("/sys/fs/cgroup"), 0, &mut items);
        processes(&root, &mut items);
        Self { items }
    }

    /// What is there now and was not before, and whatever is ours beyond doubt: a process that a killed run left and
    /// that this one did not clear away is still there.
    pub(super) fn added_since(&self, before: &Self) -> Vec<String> {
        let is_ours = |item: &&String| ["process ", "cgroup "].iter().any(|kind| item.starts_with(kind));
        let (ours, others): (Vec<_>, Vec<_>) = self.items.iter().partition(is_ours);
        let new = others.into_iter().filter(|item| !before.items.contains(*item));
        ours.into_iter().chain(new).cloned().collect()
    }
}

/// How long the kernel may take to clear away processes that have ended.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);

/// What is left of the run once the kernel has had its time.
pub(super) fn settled(root: &Path, before: &Inventory, time_scale: u32) -> Vec<String> {
    let until = Instant::now() + SETTLED_WITHIN * time_scale;
    loop {
        let left = Inventory::take(root).added_since(before);
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Whether a name is that of a node's cgroup of the demo; other nodes may run on the machine as well.
fn is_ours(name: &str) -> bool {
    PLACES.iter().any(|place| name.strip_prefix("verge-") == Some(place.id))
}

/// The programs of a run; Python may have its version in its name.
const PROGRAMS: [&str; 2] = ["verge", "verge-host"];
const PYTHON: &str = "python3";

/// Whether a command line (words that end in NUL) is that of one of our programs, with a path of the run in it.
/// Somebody who reads a log of the run is not part of it.
pub(super) fn is_of_run(words: &str, root: &str) -> bool {
    let program = words.split('\0').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    (PROGRAMS.contains(&program) || program.starts_with(PYTHON)) && words.contains(&format!("{root}/"))
}

/// Our cgroups, wherever in the tree. Those of another user's demo have another owner.
fn cgroups(dir: &Path, depth: u32, items: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let user = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
        let path = entry.path();
        if is_ours(&entry.file_name().to_string_lossy()) {
            if entry.metadata().is_ok_and(|found| found.uid() != user) {
                continue;
            }
            items.insert(format!("cgroup {}", path.display()));
        } else if depth < 6 {
            cgroups(&path, depth + 1, items);
        }
    }
}

/// Processes that were started with a path of the run, see a directory of it, or are in a cgroup of it.
fn processes(root: &str, items: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let own = std::process::id().to_string();
    let user = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let words = String::from_utf8_lossy(&read("cmdline")).into_owned();
        let sees = String::from_utf8_lossy(&read("mountinfo")).contains(root);
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        // Apps of a root demo have users of their own.
        let is_mine = user == 0 || entry.metadata().is_ok_and(|found| found.uid() == user);
        let grouped = is_mine && groups.split(['/', '\n']).any(is_ours);
        if pid != own && (is_of_run(&words, root) || sees || grouped) {
            items.insert(format!("process {pid} {}", words.replace('\0', " ").trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let before = Inventory::take(dir.path());
        let socket = dir.path().join("left.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let added = Inventory::take(dir.path()).added_since(&before);
        assert_eq!(added, [format!("socket {}", socket.display())]);
    }
}
