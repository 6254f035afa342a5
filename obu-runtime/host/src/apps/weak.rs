//! Limits where there is no cgroup: what a process can be held to by itself. Weaker, and every report says so.

use policies::host::Enforced;
use policies::manifest::Resources;
use policies::task::Class;
use rustix::process::Resource;

use crate::procfs;
use crate::sandbox::Eagerness;
use crate::sandbox::readback::line;

/// Address space beyond the memory limit: reserved but unused ranges (thread stacks, arenas) cost nothing.
const ADDRESS_SPACE_EXTRA: u64 = 1 << 30;

/// How a class is scheduled when only nice values tell classes apart.
pub(super) fn eagerness(class: Class) -> Eagerness {
    match class {
        Class::Critical => Eagerness { nice: 0, idle: false },
        Class::Driving => Eagerness { nice: 3, idle: false },
        Class::Comfort => Eagerness { nice: 10, idle: false },
        Class::Background => Eagerness { nice: 19, idle: true },
    }
}

/// Resource limits in place of a cgroup.
pub(super) fn rlimits(resources: &Resources) -> Vec<(Resource, u64)> {
    let memory = resources.memory.get();
    vec![
        (Resource::Data, memory),
        (Resource::As, memory.saturating_mul(4).saturating_add(ADDRESS_SPACE_EXTRA)),
        // Counted per user namespace since Linux 5.14, so per app; one more for the sandbox's init.
        (Resource::Nproc, u64::from(resources.pids) + 1),
    ]
}

/// What holds an app without a cgroup, read back from the program under the init `pid`.
pub(super) fn enforced(init: i32, class: Class) -> Vec<Enforced> {
    let pid = procfs::first_child(init).unwrap_or(init);
    let limit = |name: &str| procfs::limit(pid, name).unwrap_or_else(|| "not readable".into());
    let eagerness = eagerness(class);
    let scheduling = if eagerness.idle { "SCHED_IDLE".into() } else { format!("nice {}", eagerness.nice) };
    vec![
        line("memory", "rlimit DATA (each process)", limit("Max data size"), true),
        line("pids", "rlimit NPROC", limit("Max processes"), false),
        line("cpu", "nice, SCHED_IDLE (no quota)", scheduling, true),
        line("freeze", "SIGSTOP by the init", "on command", true),
    ]
}

/// Lowers or restores the nice value of everything under these inits. Says what became of it.
pub(super) fn squeeze(inits: &[i32], class: Class, share: u16) -> String {
    let normal = eagerness(class).nice;
    // One nice step is a factor of 1.25, so ten of them about a tenth.
    let wanted = if share >= 1000 {
        normal
    } else if share >= 100 {
        (normal + 10).min(19)
    } else {
        19
    };
    let mut denied = 0;
    for pid in inits.iter().flat_map(|init| procfs::descendants(*init)) {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
        if rustix::process::setpriority_process(Some(pid), wanted).is_err() {
            denied += 1;
        }
    }
    match denied {
        0 => format!("nice {wanted}"),
        _ => format!("nice {wanted}; {denied} processes kept theirs (raising it takes a privilege)"),
    }
}
