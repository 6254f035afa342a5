//! What really confines a running sandbox, read back from the kernel: never what we believe we asked for.

use policies::host::Enforced;

use crate::procfs;

/// Namespaces of a sandbox: the name in /proc, and what reports call it.
const NAMESPACES: [(&str, &str); 7] = [
    ("user", "userns"),
    ("pid", "pidns"),
    ("mnt", "mountns"),
    ("net", "netns"),
    ("ipc", "ipcns"),
    ("uts", "utsns"),
    ("cgroup", "cgroupns"),
];

/// One line of a report.
pub fn line(what: &str, by: &str, value: impl Into<String>, degraded: bool) -> Enforced {
    Enforced { what: what.into(), by: by.into(), value: value.into(), degraded }
}

/// What confines the program under the init `pid`. If it has already ended, what confines its init, which is the
/// same by construction.
pub fn isolation(init: i32) -> Vec<Enforced> {
    let pid = procfs::first_child(init).unwrap_or(init);
    let mut lines = Vec::with_capacity(12);
    for (kind, what) in NAMESPACES {
        let theirs = procfs::namespace(&pid.to_string(), kind);
        let own = theirs.is_some() && theirs != procfs::namespace("self", kind);
        // Without privileges the links of a process that is just ending cannot be read: said, not guessed.
        let value = if theirs.is_none() {
            "not readable"
        } else if own {
            "own"
        } else {
            "shared"
        };
        lines.push(line(what, "namespace", value, !own && theirs.is_some()));
    }
    for (field, what, by, good) in [
        ("Seccomp", "seccomp", "seccomp filter", "2"),
        ("NoNewPrivs", "no_new_privs", "prctl", "1"),
        ("CapBnd", "capabilities", "bounding set", "0000000000000000"),
        ("CapEff", "capabilities", "effective set", "0000000000000000"),
    ] {
        let value = procfs::status_field(pid, field).unwrap_or_else(|| "not readable".into());
        let degraded = value != good && value != "not readable";
        lines.push(line(what, by, value, degraded));
    }
    lines
}
