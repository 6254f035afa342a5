//! What a node could leave behind: processes, cgroups, mounts, sockets. Found by what is only its own: its uids,
//! its directory, its id.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What tells a node's things from everybody else's.
#[derive(Clone, Debug)]
pub struct Marks {
    /// Its id; its cgroups are `verge-ID`.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Uids that only its processes have.
    pub uids: Range<u32>,
}

impl Marks {
    /// Everything that is there now, one line each.
    pub fn found(&self) -> Vec<String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let mut found: Vec<String> = self
            .processes()
            .into_iter()
            .map(|pid| format!("process {pid} {}", command_line(pid).join(" ")))
            .collect();
        found.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        found.extend(lines("/proc/self/mountinfo").into_iter().filter(|l| l.contains(&dir)));
        found.extend(lines("/proc/net/unix").into_iter().filter(|l| l.contains(&dir)));
        found
    }

    /// Processes with its uids, or started with its directory.
    pub fn processes(&self) -> Vec<Pid> {
        let dir = self.dir.to_string_lossy().into_owned();
        let me = Pid::this();
        all_processes()
            .into_iter()
            .filter(|pid| *pid != me)
            .filter(|pid| {
                uid(*pid).is_some_and(|uid| self.uids.contains(&uid))
                    || command_line(*pid).iter().any(|word| word.contains(&dir))
            })
            .collect()
    }

    /// Its cgroups in every hierarchy, deepest first.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let name = format!("verge-{}", self.id);
        let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0, false)];
        while let Some((dir, depth, inside)) = open.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                    continue;
                }
                let inside = inside || entry.file_name().to_string_lossy() == name;
                if inside {
                    found.push(entry.path());
                }
                if inside || depth < 6 {
                    open.push((entry.path(), depth + 1, inside));
                }
            }
        }
        found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        found
    }

    /// Ends and removes whatever is there, for a test that failed half way.
    pub fn sweep(&self) {
        for _ in 0..100 {
            let processes = self.processes();
            // What cannot be written is of another kind or gone; the processes are killed one by one as well.
            for path in self.cgroups() {
                let _ = fs::write(path.join("cgroup.kill"), "1");
            }
            for pid in &processes {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            for path in self.cgroups() {
                let _ = fs::remove_dir(path);
            }
            if processes.is_empty() && self.cgroups().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Processes below `root`, `root` first.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(children(parent));
        next += 1;
    }
    tree
}

fn children(pid: Pid) -> BTreeSet<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}

/// Words of a process's command line; none for one that is gone or a zombie.
pub fn command_line(pid: Pid) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).split_terminator('\0').map(str::to_owned).collect()
}

fn all_processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

fn uid(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
