"""Bare Zenoh as the rival: stock Python sessions, each in a process of its own."""

import json
import pathlib
import socket
import subprocess
import sys

from .node import Failure


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mesh:
    """Processes that each hold one session; `role` says what the process does with it (apps/bare_zenoh.py)."""

    def __init__(self, setup, names):
        self.setup, self.names = setup, names
        self.processes = {}

    def config(self, name, mode, listen, connect):
        """The session's configuration; with mutual TLS if the name has a certificate."""
        keys = self.setup.authority(self.names)
        config = {
            "mode": mode,
            "listen": {"endpoints": listen},
            "connect": {"endpoints": connect},
            "scouting": {"multicast": {"enabled": False}},
            "transport": {"shared_memory": {"enabled": False}},
        }
        if name in self.names:
            own = {"certificate": str(keys / f"{name}.pem"), "private_key": str(keys / f"{name}.key.pem")}
            tls = {f"{side}_{what}": path for side in ("listen", "connect") for what, path in own.items()}
            tls |= {"root_ca_certificate": str(keys / "ca.pem"), "enable_mtls": True, "verify_name_on_connect": False}
            config["transport"]["link"] = {"tls": tls}
        return config

    def session(self, name, mode="router", listen=(), connect=(), role="idle", *arguments):
        """Starts one and waits until its session is open."""
        config = self.config(name, mode, list(listen), list(connect))
        program = self.setup.root / "scripts/bench/apps/bare_zenoh.py"
        process = subprocess.Popen(
            [sys.executable, program, json.dumps(config), role, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes[name] = process
        if process.stdout.readline().strip() != "open":
            raise Failure(f"a bare Zenoh session ({name}) did not open")
        return process

    def cpu_ns(self, name):
        tasks = pathlib.Path(f"/proc/{self.processes[name].pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def stop(self):
        for process in self.processes.values():
            process.stdin.close()  # it ends at the end of its input
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = {}
