"""Where things are, as scripts/bench.sh prepared them, and the directory of this run."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from . import machine


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


class Setup:
    """Paths come from the environment that bench.sh sets. `run` is short, because Unix sockets' paths are."""

    def __init__(self):
        self.root = pathlib.Path(os.environ["ROOT"])
        self.build = pathlib.Path(os.environ["BUILD"])
        self.material = pathlib.Path(os.environ["MATERIAL"])
        self.verge = pathlib.Path(os.environ["BENCH_BIN"]) / "verge"
        self.host = pathlib.Path(os.environ["BENCH_BIN"]) / "verge-host"
        self.release = pathlib.Path(os.environ["BENCH_RELEASE"])
        self.profile = os.environ["BENCH_PROFILE"]
        self.out = self.build / "bench"
        self.programs = self.out / "programs"
        self.rivals = self.out / "rivals"
        self.run = pathlib.Path(tempfile.mkdtemp(prefix="verge-bench-"))
        self.run.chmod(0o755)
        self._digests = {}

    def close(self):
        shutil.rmtree(self.run, ignore_errors=True)

    # ---- rivals ----

    def rival(self, name):
        """Path of a rival's program as Debian ships it; None if it could not be had."""
        for place in ("usr/bin", "usr/sbin"):
            path = self.rivals / place / name
            if path.is_file():
                return str(path)
        return None

    def rival_environment(self):
        libraries = [str(path) for path in self.rivals.glob("usr/lib/*-linux-gnu")]
        libraries += [str(path) for path in self.rivals.glob("lib/*-linux-gnu")]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}

    def rival_version(self, name):
        program = self.rival(name)
        return machine.first_line(program, "--version", env=self.rival_environment()) if program else None

    # ---- keys and bundles ----

    def cli(self, *words):
        """A `verge` command that needs no node; returns what it prints."""
        return subprocess.run([self.verge, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def key(self):
        """The signing key of this run."""
        path = self.run / "keys/dev.key.pem"
        if not path.exists():
            self.cli("pki", "key", path.parent)
        return path

    def authority(self, names):
        """An authority for a car and certificates for these nodes; returns its directory."""
        directory = self.run / "keys" / "-".join(names)
        if not directory.exists():
            self.cli("pki", "authority", directory, "--realm", "bench")
            for name in names:
                self.cli("pki", "node", directory, name)
        return directory

    def bundle(self, source):
        """Builds and signs a bundle of a directory or a file. Returns its layout and its digest."""
        if source not in self._digests:
            layout = self.run / "bundles" / str(len(self._digests))
            layout.parent.mkdir(exist_ok=True)
            digest = self.cli("bundle", "build", source, "--out", layout)
            self.cli("bundle", "sign", layout, "--key", self.key())
            self._digests[source] = (layout, digest)
        return self._digests[source]

    def stamp_app(self):
        """A directory with the stamp program alone, to be bundled."""
        directory = self.run / "stamp"
        directory.mkdir(exist_ok=True)
        shutil.copy(self.programs / "stamp", directory / "stamp")
        return directory
