"""A real node: its file, its processes, its command line, and what the kernel says about them."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from . import machine

UP_WITHIN_S = 60
DOWN_WITHIN_S = 30
LOOK_EVERY_S = 0.02
UID_BASE = 400_000  # away from the demo's
UIDS = 10_000
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failure(Exception):
    """Something that the bench needs did not happen; says what."""


def until(what, look, seconds=UP_WITHIN_S):
    """Waits until `look` returns something true, and returns it."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = look()
        if found:
            return found
        time.sleep(LOOK_EVERY_S)
    raise Failure(f"waited {seconds} s for {what}")


class Node:
    """`verge-host` with everything below it. `extra` is appended to its file. Ends with `stop`."""

    count = 0

    def __init__(self, setup, name, extra="", host=None, verge=None):
        self.setup, self.name = setup, name
        self.host, self.verge = host or setup.host, verge or setup.verge
        self.directory = setup.run / name
        self.socket = self.directory / "run/control.sock"
        self.process = None
        Node.count += 1
        # A node of this name before us had other uids: nothing of its state is for us.
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        (self.directory / "node.toml").write_text(self._file(extra), encoding="utf-8")

    def _file(self, extra):
        key = self.setup.key().with_name("dev.pub.pem")
        unenforceable = "refuse" if os.geteuid() == 0 else "degrade"
        return (
            f'apiVersion = "verge/v1"\n[node]\nid = "{self.name}"\ncar = "bench"\nrun_dir = "run"\nstate_dir = "state"\n'
            f'[host]\ntrusted_keys = ["{key}"]\nuid_base = {UID_BASE + UIDS * Node.count}\nuid_count = {UIDS}\n'
            f'unenforceable = "{unenforceable}"\n{extra}'
        )

    def spawn(self):
        """Starts host without waiting; returns the clock just before (CLOCK_MONOTONIC, ns)."""
        command = [self.host, "--config", self.directory / "node.toml", "--verge", self.verge]
        environment = {**os.environ, "RUST_LOG": "warn"}
        with open(self.directory / "host.log", "ab") as log:
            began = time.monotonic_ns()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        return began

    def start(self):
        """Starts it and waits until its control socket answers."""
        self.spawn()
        self.wait_up()
        return self

    def wait_up(self):
        until(f"node {self.name}", self._answers)

    def _answers(self):
        if self.process.poll() is not None:
            raise Failure(f"node {self.name} ended at once:\n{self.log()[-2000:]}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def log(self):
        return (self.directory / "host.log").read_text(errors="replace")

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DOWN_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    # ---- the command line ----

    def cli(self, *words, check=True):
        """A `verge` command at this node; returns what it prints."""
        environment = {**os.environ, "VERGE_SOCKET": str(self.socket), "VERGE_KEY": str(self.setup.key())}
        done = subprocess.run([self.verge, *map(str, words)], capture_output=True, text=True, env=environment)
        if check and done.returncode != 0:
            raise Failure(f"verge {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def get(self, what):
        return json.loads(self.cli("get", what, "-o", "json"))

    def apply(self, text):
        """Applies a manifest given as text."""
        path = self.directory / "manifest.yaml"
        path.write_text("apiVersion: verge/v1\n" + text, encoding="utf-8")
        return self.cli("apply", "-f", path)

    def lines(self, app, count=1000):
        """The last lines that an app of tenant `bench` printed."""
        return self.cli("logs", f"bench/{app}", "-n", count, check=False).splitlines()

    def wait_function(self, name):
        def ready():
            return any(f["function"] == name and f["state"] == "ready" for f in self.get("functions"))

        until(f"function {name}", ready)

    # ---- what the kernel says ----

    def pids(self):
        """Host and all processes below it."""
        tree = [self.process.pid]
        for pid in tree:
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    tree += map(int, task.read_text().split())
                except OSError:
                    pass  # it ended a moment ago
        return tree

    def pss_kb(self):
        """Proportional set size of each process, by pid."""
        sizes = {}
        for pid in self.pids():
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            sizes[pid] = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
        return sizes

    def cpu_ns(self):
        """CPU time that all its threads have used."""
        total = 0
        for pid in self.pids():
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    total += int(task.read_text().split()[0])
                except OSError:
                    pass  # the thread ended
        return total

    def cgroup_memory(self):
        """Bytes charged to the groups of its apps, kernel memory included; None if the kernel does not tell."""
        total, found = 0, False
        v1, v2 = machine.cgroup_mounts()
        for mount in [*v1, *v2]:
            for name in ("memory.usage_in_bytes", "memory.current"):
                for path in pathlib.Path(mount).glob(f"verge-{self.name}/**/{name}"):
                    if not any(entry.is_dir() for entry in path.parent.iterdir()):
                        total, found = total + int(path.read_text()), True
        return total if found else None


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"
