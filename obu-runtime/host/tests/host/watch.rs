//! What a host and everything below it does to the machine, seen from outside: what must not change, taken before and
//! after; and who its processes are, what they hold and where they stand, looked at all the time by a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use obu_host::procfs::{ProcessName, descendants, status_field};
use policies::id::Digest;

use crate::rig::Rig;

/// Uids and gids outside that the node's file gives to host: the default of `[host]`.
const IDS: std::ops::Range<u32> = 200_000..265_536;

/// Pause between two looks at all processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a process that stands in a foreign group is looked at again before that counts: one that dies is shown in
/// the root's for a moment.
const LOOKS_AT_THE_DYING: usize = 2000;

/// null, zero, full, random, urandom: what every sandbox has.
const HARMLESS: [(u32, u32); 5] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];

/// Files of the machine that say who may do what on it; one that is not there must not appear.
const OF_THE_MACHINE: [&str; 12] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/vm/overcommit_memory",
];

/// What a group may be set to.
const SETTINGS: [&str; 10] = [
    "cpu.shares",
    "cpu.weight",
    "cpu.max",
    "cpu.cfs_quota_us",
    "memory.max",
    "memory.limit_in_bytes",
    "pids.max",
    "cgroup.freeze",
    "freezer.state",
    "cgroup.subtree_control",
];

/// A directory that lies open to all the world: what keeps a node's processes out of it is their confinement alone.
pub(crate) struct Guarded(tempfile::TempDir);

impl Guarded {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("verge-guarded-").tempdir().unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (file, secret, inner) =
            (dir.path().join("file"), dir.path().join("secret"), dir.path().join("dir"));
        fs::write(&file, "everybody may write here").unwrap();
        fs::write(&secret, "nobody may read this").unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("below"), "below").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("link")).unwrap();
        for (path, mode) in [(&inner.join("below"), 0o666), (&inner, 0o777), (&file, 0o666), (&secret, 0o600)]
        {
            open(path, mode);
        }
        open(dir.path(), 0o777);
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Paths that somebody who is out for them would name: in it, and out of a sandbox to it.
    pub(crate) fn targets(&self) -> Vec<String> {
        let dir = self.path().display();
        let inside = ["file", "secret", "dir/below", "link", "new"].map(|name| format!("{dir}/{name}"));
        let outside = ["/app/../../../..", "/proc/1/root", "/proc/self/root/../..", "/dev/fd/../../.."];
        let ways = outside.map(|way| format!("{way}{dir}/file"));
        inside.into_iter().chain(ways).collect()
    }
}

/// What must be the same before and after.
pub(crate) struct Surroundings {
    host: i32,
    files: BTreeMap<PathBuf, String>,
    /// As the test sees them, and host.
    mounts: [Option<String>; 2],
    groups: BTreeMap<PathBuf, String>,
}

impl Surroundings {
    /// Contents and metadata of what lies beside the node's own directories, in the guarded directory and in /dev; files
    /// of the machine; mounts as host and the test see them; groups that are not this node's.
    pub(crate) fn take(rig: &Rig, guarded: &Guarded) -> Self {
        Self::of(rig.pid().as_raw_nonzero().get(), rig, guarded)
    }

    fn of(host: i32, rig: &Rig, guarded: &Guarded) -> Self {
        let mut files = BTreeMap::new();
        let own = [rig.dir.path().join("run"), rig.dir.path().join("state")];
        // The directory itself changes when host makes or removes its own.
        for entry in fs::read_dir(rig.dir.path()).unwrap() {
            walk(&entry.unwrap().path(), &own, &mut files);
        }
        walk(guarded.path(), &[], &mut files);
        for path in OF_THE_MACHINE.map(PathBuf::from) {
            let content = fs::read(&path).ok().map(|bytes| Digest::of(&bytes).hex());
            files.insert(path, content.unwrap_or_else(|| "not there".into()));
        }
        for device in fs::read_dir("/dev").unwrap().flatten() {
            let about = device.metadata().map(|m| format!("{:o} {} {}", m.mode(), m.uid(), m.rdev()));
            files.insert(device.path(), about.unwrap_or_default());
        }
        let mounts = ["self".to_owned(), host.to_string()];
        let mounts = mounts.map(|pid| fs::read_to_string(format!("/proc/{pid}/mounts")).ok());
        Self { host, files, mounts, groups: groups() }
    }

    /// Fails with what is different now.
    #[track_caller]
    pub(crate) fn assert_unchanged(&self, rig: &Rig, guarded: &Guarded) {
        let now = Self::of(self.host, rig, guarded);
        assert_eq!(differences(&self.files, &now.files), Vec::<String>::new(), "files");
        assert_eq!(differences(&self.groups, &now.groups), Vec::<String>::new(), "groups");
        assert_eq!(self.mounts[0], now.mounts[0], "mounts");
        // A host that has ended sees none any more.
        assert!(
            now.mounts[1].is_none() || self.mounts[1] == now.mounts[1],
            "mounts of host: {:?}",
            now.mounts[1]
        );
    }
}

fn differences(before: &BTreeMap<PathBuf, String>, now: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let paths: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let changed = paths.into_iter().filter(|path| before.get(*path) != now.get(*path));
    changed
        .map(|path| format!("{}: {:?}, was {:?}", path.display(), now.get(path), before.get(path)))
        .collect()
}

/// Everything about a path and what is below it, but for when it was read.
fn walk(path: &Path, own: &[PathBuf], files: &mut BTreeMap<PathBuf, String>) {
    if own.iter().any(|own| own == path) {
        return;
    }
    let meta = fs::symlink_metadata(path).unwrap();
    let (changed, modified) = ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()));
    let content = match meta.file_type() {
        kind if kind.is_file() => Digest::of(&fs::read(path).unwrap()).hex(),
        kind if kind.is_symlink() => fs::read_link(path).unwrap().display().to_string(),
        _ => String::new(),
    };
    let about = format!(
        "{:o} {}:{} inode {} links {} changed {changed:?} modified {modified:?} {content}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.ino(),
        meta.nlink()
    );
    files.insert(path.to_owned(), about);
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), own, files);
        }
    }
}

/// Groups two levels deep with what they are set to, but for those of nodes: others may come and go beside this one.
fn groups() -> BTreeMap<PathBuf, String> {
    let dirs = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let hierarchies = dirs(Path::new("/sys/fs/cgroup"));
    let below = hierarchies.iter().flat_map(|hierarchy| dirs(hierarchy));
    let foreign = below.filter(|group| !group.display().to_string().contains("/verge-"));
    let settings = |group: &Path| {
        let read =
            |name: &&str| fs::read_to_string(group.join(name)).ok().map(|text| format!("{name} {text}"));
        SETTINGS.iter().filter_map(read).collect::<String>()
    };
    foreign.map(|group| (group.clone(), settings(&group))).collect()
}

/// Looks at host's processes until it is told to end.
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What the looks have come to.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Looks at all processes.
    pub(crate) looks: u64,
    /// Programs in sandboxes: neither host's nor a face's.
    pub(crate) programs: BTreeSet<(i32, u64)>,
    /// Uids of all.
    pub(crate) uids: BTreeSet<u32>,
    /// What no process may be, hold or stand in.
    pub(crate) faults: BTreeSet<String>,
}

impl Watch {
    /// From now on. Node's process must be up: where it stands is where every program must.
    pub(crate) fn begin(rig: &Rig) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (eye, until) = (Eye::of(rig), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(Ordering::Relaxed) {
                eye.look_at_all(&mut seen);
                std::thread::park_timeout(LOOK_EVERY);
            }
            seen
        });
        Self { ended, thread }
    }

    /// What was seen.
    pub(crate) fn end(self) -> Seen {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap()
    }
}

/// A program by its file.
type Program = (u64, u64);

/// Where a process stands, by hierarchy.
type Standing = BTreeMap<String, String>;

/// What is needed to judge a process.
struct Eye {
    host: i32,
    program_of_host: Program,
    program_of_faces: Program,
    /// Devices that host was started with: its own output.
    given: BTreeSet<(u32, u32)>,
    /// How the node's groups are called.
    group: String,
    /// Where host itself stands; on their way, its children do as well.
    host_stands: Standing,
    /// Hierarchies in which the node has groups.
    hierarchies: BTreeSet<String>,
}

impl Eye {
    fn of(rig: &Rig) -> Self {
        let host = rig.pid().as_raw_nonzero().get();
        let file = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap();
        let group = format!("/verge-{}", rig.node);
        let node = descendants(host)
            .into_iter()
            .find(|pid| program(*pid) == Some(file(env!("CARGO_BIN_EXE_verge-host-stand-in"))));
        let stands = standing(node.expect("node is up"));
        let hierarchies = stands.iter().filter(|(_, path)| path.contains(&group)).map(|(id, _)| id.clone());
        Self {
            host,
            program_of_host: file(env!("CARGO_BIN_EXE_verge-host")),
            program_of_faces: file(env!("CARGO_BIN_EXE_verge-host-stand-in")),
            given: devices(host),
            host_stands: standing(host),
            hierarchies: hierarchies.collect(),
            group,
        }
    }

    fn look_at_all(&self, seen: &mut Seen) {
        seen.looks += 1;
        for pid in std::iter::once(self.host).chain(descendants(self.host)) {
            let Some(name) = ProcessName::of(pid) else { continue };
            // Before its uid: a process may still give up being root, but none that runs a program may be.
            let Some(program) = program(pid) else { continue };
            self.look_at(pid, program, seen);
            if program != self.program_of_host && program != self.program_of_faces {
                seen.programs.insert((name.pid, name.started));
            }
        }
    }

    fn look_at(&self, pid: i32, program: Program, seen: &mut Seen) {
        let is_host = program == self.program_of_host;
        for field in ["Uid", "Gid", "Groups"] {
            let Some(ids) = status_field(pid, field) else { return };
            for id in ids.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()) {
                if field == "Uid" {
                    seen.uids.insert(id);
                }
                // Host's own code is root until it has entered the sandbox that it makes, or while it imports.
                if !(IDS.contains(&id) || is_host && (id == 0 || field == "Groups")) {
                    seen.faults.insert(format!("a process ({program:?}) with {field} {ids}"));
                }
            }
        }
        for device in devices(pid) {
            let given = (is_host || program == self.program_of_faces) && self.given.contains(&device);
            if !given && !HARMLESS.contains(&device) {
                seen.faults.insert(format!("a process ({program:?}) that holds device {device:?}"));
            }
        }
        if let Some(place) = self.stays_misplaced(pid, is_host) {
            seen.faults.insert(format!("a process ({program:?}) in group {place}"));
        }
    }

    /// A group in which this process must not be and stays.
    fn stays_misplaced(&self, pid: i32, is_host: bool) -> Option<String> {
        for _ in 0..LOOKS_AT_THE_DYING {
            self.misplaced(pid, is_host)?;
            program(pid)?;
            std::thread::yield_now();
        }
        self.misplaced(pid, is_host)
    }

    /// A group in which this process must not be.
    fn misplaced(&self, pid: i32, is_host: bool) -> Option<String> {
        let is_right = |id: &String, path: &String| {
            let on_its_way = is_host || !self.hierarchies.contains(id);
            path.contains(&self.group) || on_its_way && self.host_stands.get(id) == Some(path)
        };
        let wrong = standing(pid).into_iter().find(|(id, path)| !is_right(id, path));
        wrong.map(|(id, path)| format!("{id} {path}"))
    }
}

/// The file of a process's program; none if it has ended.
fn program(pid: i32) -> Option<Program> {
    fs::metadata(format!("/proc/{pid}/exe")).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Major and minor numbers of the devices that a process has open.
fn devices(pid: i32) -> BTreeSet<(u32, u32)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = open.filter_map(|entry| fs::metadata(entry.path()).ok());
    let devices = files.filter(|m| m.file_type().is_char_device() || m.file_type().is_block_device());
    devices.map(|m| (rustix::fs::major(m.rdev()), rustix::fs::minor(m.rdev()))).collect()
}

fn standing(pid: i32) -> Standing {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (id, rest) = line.split_once(':')?;
        Some((id.to_owned(), rest.split_once(':')?.1.to_owned()))
    });
    lines.collect()
}

#[test]
fn what_changes_in_a_guarded_directory_is_noticed() {
    let guarded = Guarded::new();
    let look = || {
        let mut files = BTreeMap::new();
        walk(guarded.path(), &[], &mut files);
        files
    };
    let at = |name: &str| guarded.path().join(name);
    let before = look();
    assert_eq!(differences(&before, &look()), Vec::<String>::new());
    type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let changes: [Change<'_>; 6] = [
        ("file", Box::new(|| fs::write(at("file"), "everybody may write hers").unwrap())),
        (
            "secret",
            Box::new(|| fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o644)).unwrap()),
        ),
        ("dir", Box::new(|| fs::write(at("dir/new"), "").unwrap())),
        ("dir/below", Box::new(|| fs::remove_file(at("dir/below")).unwrap())),
        ("link", Box::new(|| fs::rename(at("link"), at("moved")).unwrap())),
        ("dir", Box::new(|| fs::hard_link(at("file"), at("dir/other")).unwrap())),
    ];
    for (name, change) in changes {
        let before = look();
        change();
        let found = differences(&before, &look());
        let of_it = |line: &String| line.starts_with(&at(name).display().to_string());
        assert!(found.iter().any(of_it), "{name}: {found:?}");
    }
}
