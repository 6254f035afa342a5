"""Family `start`: from the command's bytes on host's socket to the app's first instruction, beside OCI runtimes and
bubblewrap that start the same program. The series are interleaved in blocks, so that all see the same machine."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from . import machine
from .node import Failure, Node, until
from .rows import Row
from .setup import say

BLOCKS = 4
IDLE_MS, IDLE_RUNS = 100, 75  # per block
HOT_RUNS = 50
MEMORY = 64 << 20
CPU_QUOTA_US, CPU_PERIOD_US = 50_000, 100_000
PIDS = 32
BLOCK_WITHIN_S = 180

# The mounts of a container engine's default, as in the confinement that Verge gives.
MOUNTS = [
    ("proc", "/proc", []),
    ("tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("devpts", "/dev/pts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    ("tmpfs", "/dev/shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("mqueue", "/dev/mqueue", ["nosuid", "noexec", "nodev"]),
    ("sysfs", "/sys", ["nosuid", "noexec", "nodev", "ro"]),
]
MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def oci_bundle(setup):
    """An OCI bundle around the stamp program: fresh namespaces, no capabilities, limits on memory, CPU and pids."""
    # Anew each time: the family is measured once more under stress.
    bundle = pathlib.Path(tempfile.mkdtemp(prefix="oci-", dir=setup.run))
    root = bundle / "rootfs"
    root.mkdir()
    shutil.copy(setup.programs / "stamp", root / "stamp")
    namespaces = ["pid", "network", "ipc", "uts", "mount"]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/stamp"],
            "env": ["PATH=/"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [{"type": t, "source": t, "destination": d, "options": o} for t, d, o in MOUNTS],
        "linux": {
            "cgroupsPath": "/verge-bench-rival",
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": MEMORY},
                "cpu": {"quota": CPU_QUOTA_US, "period": CPU_PERIOD_US},
                "pids": {"limit": PIDS},
            },
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def rivals(setup):
    """Command of each rival that is there, and words on those that are not."""
    commands, notes = {}, []
    bundle = oci_bundle(setup)
    for name in ("crun", "runc"):
        program = setup.rival(name)
        if program is None:
            notes.append(f"{name} not run: not to be had from Debian")
        elif os.geteuid() != 0:
            notes.append(f"{name} not run: its cgroup limits need root")
        else:
            state = setup.run / f"{name}-state"
            commands[name] = [program, "--root", state, "run", "--bundle", bundle, f"verge-bench-{name}"]
    bwrap = setup.rival("bwrap")
    if bwrap is None:
        notes.append("bwrap not run: not to be had from Debian")
    else:
        mounts = ["--ro-bind", bundle / "rootfs", "/", "--proc", "/proc", "--dev", "/dev"]
        (bundle / "rootfs/proc").mkdir()
        (bundle / "rootfs/dev").mkdir()
        (bundle / "rootfs/sys").mkdir()
        commands["bwrap"] = [bwrap, "--unshare-all", "--die-with-parent", *mounts, "/stamp"]
    notes.append("youki, podman, Ankaios not run: not in Debian or not unpackable without installing")
    return commands, notes


def without_v2(command):
    """On a hybrid host, newer crun wants to use the v2 mount that has no controllers: hide it, for all alike."""
    v1, v2 = machine.cgroup_mounts()
    if not v1 or not v2 or os.geteuid() != 0:
        return command
    script = 'umount "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", v2[0], *command]


def spawned(setup, idle_ms, runs, command):
    """Runs of a command by the spawn program: milliseconds to the stamp, and to the end."""
    words = without_v2([setup.programs / "spawn", str(idle_ms), str(runs), *command])
    done = subprocess.run(
        words, capture_output=True, text=True, env=setup.rival_environment(), timeout=BLOCK_WITHIN_S
    )
    if done.returncode != 0:
        raise Failure(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    pairs = [line.split() for line in done.stdout.splitlines()]
    return [int(first) / 1e6 for first, _ in pairs], [int(end) / 1e6 for _, end in pairs]


def verge_block(setup, series):
    """A host with the stand-in for node that starts the app and stamps the clock itself. By label: the milliseconds,
    and how many starts found no sandbox made ahead."""
    layout, digest = setup.bundle(setup.stamp_app())
    plan = ", ".join(f'"{label} {idle} {runs} {digest}"' for label, idle, runs in series)
    stand_in = setup.release / "examples/start_latency"
    node = Node(setup, "bench-start", f"[policy]\nbench = [{plan}]\n", setup.release / "verge-host", stand_in)
    (node.directory / "host.log").write_bytes(b"")
    node.spawn()
    try:
        spool = until("host's spool", lambda: _spool(node))
        part = node.directory / "run/part"
        shutil.copytree(layout, part)
        part.rename(spool / digest.removeprefix("sha256:"))
        until("the starts", lambda: _is_over(node), BLOCK_WITHIN_S)
    finally:
        node.stop()
    words = [line.split() for line in node.log().splitlines() if line.startswith("start ")]
    of = {label: [w for w in words if w[1] == label] for label, _, _ in series}
    return {label: ([int(w[2]) / 1e6 for w in ws], sum(w[5] == "spot" for w in ws)) for label, ws in of.items()}


def _spool(node):
    """The spool, once node's process runs: host has made it by then."""
    spool = node.directory / "state/spool"
    return spool if spool.is_dir() and len(node.pids()) > 1 else None


def _is_over(node):
    if node.process.poll() is not None:
        raise Failure(f"host ended: {node.log()[-1000:]}")
    if "start failed" in node.log():
        raise Failure(node.log()[-1000:])
    return "start done" in node.log()


class Series:
    """All samples of one spacing."""

    def __init__(self, label, idle_ms, runs):
        self.label, self.idle_ms, self.runs = label, idle_ms, runs
        self.verge, self.floor, self.first, self.whole = [], [], {}, {}
        self.misses = 0


def measure(setup):
    """Rows `start.idle` and `start.hot`."""
    commands, notes = rivals(setup)
    both = [Series("idle", IDLE_MS, IDLE_RUNS), Series("hot", 0, HOT_RUNS)]
    for block in range(BLOCKS):
        say(f"start: block {block + 1} of {BLOCKS}")
        starts = verge_block(setup, [(s.label, s.idle_ms, s.runs) for s in both])
        for series in both:
            milliseconds, misses = starts[series.label]
            series.verge += milliseconds
            series.misses += misses
            _rival_block(setup, series, commands, notes)
    return [_row(series, notes) for series in both]


def _rival_block(setup, series, commands, notes):
    first, _ = spawned(setup, series.idle_ms, series.runs, [setup.programs / "stamp"])
    series.floor += first
    for name, command in list(commands.items()):
        try:
            first, whole = spawned(setup, series.idle_ms, series.runs, command)
        except Failure as failure:
            notes.append(f"{name} not run: {failure}")
            del commands[name]
            continue
        series.first.setdefault(name, []).extend(first)
        series.whole.setdefault(f"{name} (whole run)", []).extend(whole)


def _row(series, notes):
    words = "100 ms idle between starts" if series.idle_ms else "no pause between starts"
    goal, limit = ("p50 <= 1.2 ms", 1.2) if series.idle_ms else ("p50 <= 0.6 ms", 0.6)
    return Row(
        f"start.{series.label}",
        f"command on host's socket to the first instruction of a confined static app, {words}",
        "ms",
        series.verge,
        goal,
        lambda verge, _: verge["p50"] <= limit,
        {**series.first, **series.whole},
        series.floor,
        [
            "rivals from just before their spawn to the app's first instruction, and to their end",
            "rivals have no seccomp filter and no user namespace (favours them), bwrap has no limits at all",
            "floor: vfork and exec of the same program, unconfined",
            f"{series.misses} of {len(series.verge)} starts found no sandbox made ahead",
            f"cgroup {machine.cgroup_version()}, host in release profile",
            *notes,
        ],
    )
