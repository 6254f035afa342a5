"""The ledger, run as the demo runs it: a process, a bus, a TCP port, a signal at the end.

    PYTHONPATH=target/material/pylib python3 -m unittest discover scripts/tests
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import can

LEDGER = pathlib.Path(__file__).parents[1] / "ledger.py"
GROUP = "239.74.163.2"
DEADLINE_S = 10


class LedgerTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = pathlib.Path(directory.name)

    def start(self, *arguments):
        command = [sys.executable, LEDGER, "--effects", self.dir / "effects", "--summary", self.dir / "summary"]
        self.ledger = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.ledger.stdout.close)
        self.addCleanup(self.ledger.kill)
        return int(self.ledger.stdout.readline())

    def end(self):
        self.ledger.send_signal(signal.SIGTERM)
        self.assertEqual(self.ledger.wait(DEADLINE_S), 0)
        return json.loads((self.dir / "summary").read_text())

    def ask(self, port, *lines):
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client, client.makefile("rwb") as pipe:
            answers = []
            for line in lines:
                pipe.write(line)
                pipe.flush()
                answers.append(pipe.readline().decode().split(" ")[:2])
            return [" ".join(words).strip() for words in answers]

    def test_counts_effects_and_names_duplicates(self):
        port = self.start()
        self.assertEqual(
            self.ask(port, b"toll gantry=A task=7\n", b"toll gantry=B task=8\n", b"toll gantry=A task=7\n", b"x\n"),
            ["ok 1", "ok 2", "ok 3", "ok 4"],
        )
        lines = [line.split(" ", 1)[1] for line in (self.dir / "effects").read_text().splitlines()]
        self.assertEqual(lines, ["toll gantry=A task=7", "toll gantry=B task=8", "toll gantry=A task=7", "x"])
        effects = {"lines": 4, "tasks": 2, "without_task": 1, "duplicates": {"7": 2}}
        self.assertEqual(self.end(), {"frames": None, "effects": effects})

    def test_garbage_is_refused_and_written_nowhere(self):
        port = self.start()
        for garbage in (b"\n", b"\xff\xfe\n", b"a\x00b\n", b"x" * 20_000 + b"\n"):
            self.assertTrue(self.ask(port, garbage)[0].startswith("error"), garbage[:10])
        self.assertEqual(self.ask(port, b"still here\n"), ["ok 1"])
        self.assertEqual(self.end()["effects"]["lines"], 1)

    def test_counts_frames_and_keeps_the_watched_ones(self):
        udp_port = 20_000 + os.getpid() % 20_000  # of its own, should another test listen
        bus_options = ["--multicast", GROUP, "--port", str(udp_port)]
        self.start(*bus_options, "--watch", "2A0", "--frames", self.dir / "frames")
        with can.Bus(interface="udp_multicast", channel=GROUP, port=udp_port, hop_limit=0) as bus:
            for number in range(20):
                bus.send(can.Message(arbitration_id=0x100, is_extended_id=False, data=[number]))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as garbage:
                garbage.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
                garbage.sendto(b"garbage", (GROUP, udp_port))
            bus.send(can.Message(arbitration_id=0x18FF1000, data=[1]))
            bus.send(can.Message(arbitration_id=0x2A0, is_extended_id=False, data=[0xAB, 2]))
        self.wait_for_text(self.dir / "frames", "2A0#AB02")
        frames = self.end()["frames"]
        self.assertEqual(frames["by_id"], {"100": 20, "18FF1000": 1, "2A0": 1})
        self.assertEqual((frames["total"], frames["garbage"]), (22, 1))

    def wait_for_text(self, path, text):
        give_up = time.monotonic() + DEADLINE_S
        while text not in (path.read_text() if path.exists() else ""):
            self.assertLess(time.monotonic(), give_up, f"{text} never came")
            time.sleep(0.02)

    def test_refuses_to_serve_beyond_loopback(self):
        command = [sys.executable, LEDGER, "--effects", "e", "--summary", "s", "--listen", "0.0.0.0:0"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.dir, timeout=DEADLINE_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("not a loopback address", done.stderr)


if __name__ == "__main__":
    unittest.main()
