"""What a figure depends on besides the code: machine, load, versions."""

import os
import pathlib
import platform
import subprocess

QUIET_LOAD = 0.3  # load average per core above which latencies are no longer the programs' own


def cgroup_mounts():
    """Mount points of cgroup v1 hierarchies and of cgroup v2."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    v1 = [words[1] for words in mounts if words[2] == "cgroup"]
    v2 = [words[1] for words in mounts if words[2] == "cgroup2"]
    return v1, v2


def cgroup_version():
    v1, v2 = cgroup_mounts()
    if v1 and v2:
        return "hybrid"
    return "v2" if v2 else "v1" if v1 else "none"


def load():
    return list(os.getloadavg())


def is_quiet():
    return load()[0] <= QUIET_LOAD * (os.cpu_count() or 1)


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def first_line(*command, env=None):
    """The first line that a command prints, such as a version; None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=env, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter((done.stdout or done.stderr).strip().splitlines()), None)


def describe(setup):
    """The `machine` object of summary.json."""
    root = str(setup.root)
    versions = {name: setup.rival_version(name) for name in ("crun", "runc", "bwrap")}
    versions["verge"] = first_line(str(setup.verge), "--version")
    versions["python"] = platform.python_version()
    versions["gcc"] = first_line("gcc", "--version")
    dirty = first_line("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    commit = first_line("git", "-C", root, "rev-parse", "--short=12", "HEAD") or "unknown"
    return {
        "kernel": platform.release(),
        "cgroup": cgroup_version(),
        "cpu": f"{cpu_model()} x {os.cpu_count()}",
        "load": load(),
        "versions": versions,
        "commit": commit + ("+changes" if dirty else ""),
        "profile": setup.profile,
        "root": os.geteuid() == 0,
    }
