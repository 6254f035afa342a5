//! `verge doctor`: what this machine gives, what this node enforces, and how to get the rest.

use std::fs;
use std::path::Path;

use super::{Client, Failure, Format, get, report};
use crate::control::View;

/// One line of the diagnosis.
struct Finding {
    what: &'static str,
    found: String,
    ok: bool,
    fix: &'static str,
}

pub(super) fn doctor(client: &Client) -> Result<(), Failure> {
    let findings = [program(), kernel(), cgroups(), user_namespaces(), psi(), can(), host_binary()];
    let node = get::fetch(client, View::Machine).ok();
    if client.output == Format::Json {
        let machine: Vec<_> = findings
            .iter()
            .map(|f| serde_json::json!({ "what": f.what, "found": f.found, "ok": f.ok, "fix": f.fix }))
            .collect();
        report::line(serde_json::json!({ "machine": machine, "node": node }));
        return Ok(());
    }
    let rows = findings
        .iter()
        .map(|f| {
            let fix = if f.ok { "" } else { f.fix };
            vec![f.what.into(), if f.ok { "ok" } else { "lacks" }.into(), f.found.clone(), fix.into()]
        })
        .collect();
    report::table(&["what", "", "found", "how to get it"], rows);
    match node {
        None => report::line(format!("no node answers at {}", client.socket.display())),
        Some(node) => {
            let lines = node["machine"].as_array().cloned().unwrap_or_default();
            let keys = ["what", "by", "value", "degraded"];
            let rows = lines.iter().map(|l| keys.iter().map(|k| get::cell(&l[*k])).collect()).collect();
            report::line("the node at this socket enforces:");
            report::table(&keys, rows);
        }
    }
    Ok(())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Which release this is and what it was built for: under an emulator that is not the machine's own architecture.
fn program() -> Finding {
    let found = format!("{} for {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    Finding { what: "verge", found, ok: true, fix: "" }
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut parts = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Finding { what: "kernel", found: release.clone(), ok: version >= (5, 15), fix: "Linux 5.15 is the floor" }
}

fn cgroups() -> Finding {
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    let v1: Vec<&str> = ["cpu", "memory", "pids", "freezer"]
        .into_iter()
        .filter(|c| Path::new("/sys/fs/cgroup").join(c).is_dir())
        .collect();
    let (found, ok) = match (controllers.is_empty(), v1.is_empty()) {
        (false, _) => (format!("v2: {controllers}"), true),
        (true, false) if Path::new("/sys/fs/cgroup/unified").is_dir() => {
            (format!("hybrid: v1 {}", v1.join(" ")), true)
        }
        (true, false) => (format!("v1 {}", v1.join(" ")), true),
        (true, true) => ("none".into(), false),
    };
    Finding { what: "cgroups", found, ok, fix: "mount cgroup2 at /sys/fs/cgroup" }
}

fn user_namespaces() -> Finding {
    let max = read("/proc/sys/user/max_user_namespaces");
    let allowed = read("/proc/sys/kernel/unprivileged_userns_clone") != "0";
    let ok = max.parse::<u64>().is_ok_and(|n| n > 0) && allowed;
    let fix = "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1";
    Finding { what: "user namespaces", found: format!("at most {max}"), ok, fix }
}

fn psi() -> Finding {
    let ok = obu_host::pressure::has_psi(Path::new("/proc"));
    let found = if ok { "/proc/pressure" } else { "none; CPU and memory in use stand in" };
    Finding { what: "pressure (PSI)", found: found.into(), ok, fix: "boot with psi=1" }
}

fn can() -> Finding {
    let ok = Path::new("/proc/net/can").exists();
    let found = if ok { "AF_CAN" } else { "none; the user-space multicast bus works" };
    Finding { what: "CAN in the kernel", found: found.into(), ok, fix: "modprobe can can-raw vcan" }
}

fn host_binary() -> Finding {
    match super::node::host_binary() {
        Ok(path) => Finding { what: "verge-host", found: path.display().to_string(), ok: true, fix: "" },
        Err(_) => Finding {
            what: "verge-host",
            found: "not found".into(),
            ok: false,
            fix: "install it beside verge",
        },
    }
}
