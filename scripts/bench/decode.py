"""Family `can.decode`: frames per second on one core, beside cantools and beside the C that cantools generates.

Each decoder is a process on the same core that takes a number of passes over the drive and prints how many frames
it decoded, in how many nanoseconds, and the sum of all values; the sums must agree. They take turns.
"""

import gzip
import os
import pathlib
import struct
import subprocess
import sys

import cantools
from cantools.database.can.c_source import camel_to_snake_case

from .node import Failure
from .rows import Row
from .setup import say

ROUNDS = 15
ROUND_S = 0.25
SUMS_AGREE = 1e-9  # relative; the order of additions differs


def drive(setup):
    """The recorded drive beside the project if it is there, else the one that ships. Log, DBC, name."""
    data = setup.root.parent / "shared/data"
    log, dbc = data / "drive-gnss-obd2-600s.log", data / "canmod-gps.dbc"
    if log.is_file() and dbc.is_file():
        return log, dbc, log.name
    log = setup.run / "a10kw.log"
    log.write_bytes(gzip.decompress((setup.root / "sim/drives/a10kw.log.gz").read_bytes()))
    return log, setup.root / "can-bridge/dbc/verge-demo.dbc", "the drive that ships"


def frames_of(log, database):
    """Id (bit 31: 29-bit) and data of every frame that the DBC describes, in order."""
    known = {m.frame_id | (1 << 31 if m.is_extended_frame else 0) for m in database.messages}
    frames = []
    for line in log.read_text().splitlines():
        name, _, data = line.split()[2].partition("#")
        number = int(name, 16) | (1 << 31 if len(name) > 3 else 0)
        if number in known and not data.startswith(("#", "R")):
            frames.append((number, bytes.fromhex(data)))
    return frames


def write_frames(path, frames):
    """For the C program: id, length, data in 16 bytes a frame."""
    path.write_bytes(b"".join(struct.pack("<IB3x8s", number, len(data), data) for number, data in frames))


def c_cases(database):
    """The part of the C program that knows the messages."""
    cases = []
    for message in database.messages:
        number = message.frame_id | (1 << 31 if message.is_extended_frame else 0)
        name = f"bench_{camel_to_snake_case(message.name)}"
        sums = "".join(
            f" sum += {name}_{camel_to_snake_case(s.name)}_decode(m.{camel_to_snake_case(s.name)});"
            for s in message.signals
        )
        cases.append(f"case {number}u: {{ struct {name}_t m; if ({name}_unpack(&m, data, length) == 0) {{{sums} }} break; }}")
    return "\n".join(cases) + "\n"


def build_c(setup, dbc, database):
    """cantools' C for this DBC with our loop around it; the program's path, or None where it cannot be compared."""
    if any(message.is_multiplexed() for message in database.messages):
        return None
    directory = setup.run / "c"
    directory.mkdir()
    generate = [sys.executable, "-m", "cantools", "generate_c_source", "--database-name", "bench", "-o", directory, dbc]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    (directory / "cases.inc").write_text(c_cases(database))
    program = directory / "decode"
    sources = [setup.root / "scripts/bench/programs/decode.c", directory / "bench.c"]
    subprocess.run(["gcc", "-O2", "-I", directory, "-o", program, *sources], check=True)
    return program


class Decoder:
    """A decoding process, pinned to the last core."""

    def __init__(self, *command):
        core = {max(os.sched_getaffinity(0))}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, core),
        )
        self.rates = []
        frames, taken, self.sum = self.passes(1)
        self.frames = frames
        self.per_round = max(1, int(ROUND_S * 1e9 / taken))

    def passes(self, count):
        """Frames, nanoseconds and sum of so many passes."""
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        if len(words) != 3:
            raise Failure(f"decoder {self.process.args[0]} ended")
        return int(words[0]), int(words[1]), float(words[2])

    def round(self):
        frames, taken, _ = self.passes(self.per_round)
        self.rates.append(frames * 1e9 / taken)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(setup):
    """Row `can.decode`."""
    log, dbc, name = drive(setup)
    database = cantools.database.load_file(dbc)
    frames = frames_of(log, database)
    program = build_c(setup, dbc, database)
    decoders = {"verge": Decoder(setup.release / "examples/decode_rate", dbc, log)}
    apps = setup.root / "scripts/bench/apps"
    decoders["cantools (Python)"] = Decoder(sys.executable, apps / "cantools_rate.py", dbc, log)
    if program:
        write_frames(setup.run / "frames", frames)
        decoders["cantools' generated C"] = Decoder(program, setup.run / "frames")
    say(f"can.decode: {len(frames)} frames of {name}")
    for _ in range(ROUNDS):
        for decoder in decoders.values():
            decoder.round()
    for decoder in decoders.values():
        decoder.end()
    return [_row(decoders, name, program)]


def _row(decoders, name, program):
    verge = decoders.pop("verge")
    notes = [f"{name}, {verge.frames} frames; every signal of every frame to its physical value; samples are rounds"]
    for rival, decoder in decoders.items():
        if decoder.frames != verge.frames or abs(decoder.sum - verge.sum) > SUMS_AGREE * abs(verge.sum):
            raise Failure(f"{rival} decodes something else: {decoder.frames} frames, sum {decoder.sum} for {verge.sum}")
    middle = lambda decoder: sorted(decoder.rates)[len(decoder.rates) // 2]
    notes += [f"{middle(verge) / middle(d):.2f}x {rival}" for rival, d in decoders.items()]
    if program is None:
        notes.append("cantools' generated C not run: the DBC is multiplexed")

    def met(own, rivals):
        c = rivals.get("cantools' generated C")
        return own["p50"] >= 100 * rivals["cantools (Python)"]["p50"] and (c is None or own["p50"] >= c["p50"])

    return Row(
        "can.decode",
        "DBC decode on one core",
        "1/s",
        verge.rates,
        ">= 1x generated C, >= 100x cantools",
        met,
        {rival: decoder.rates for rival, decoder in decoders.items()},
        notes=notes,
    )
