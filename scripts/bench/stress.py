"""Burns CPU, memory bandwidth and the disk beside what is measured, as a busy machine would."""

import os
import subprocess
import sys

CPU = "while True: sum(i * i for i in range(10_000))"
MEMORY = "a = bytearray(64 << 20)\nwhile True: a = bytearray(a)"
DISK = """
import os, sys
block = os.urandom(1 << 20)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        for _ in range(16):
            file.write(block)
        os.fsync(file.fileno())
        file.seek(0)
"""


class Stress:
    """One CPU burner per core, one copier, one writer. Ends with the `with` block."""

    def __init__(self, directory):
        self.file = directory / "stress.bin"
        self.processes = []

    def __enter__(self):
        burners = [CPU] * (os.cpu_count() or 1) + [MEMORY, DISK]
        self.processes = [subprocess.Popen([sys.executable, "-c", burner, self.file]) for burner in burners]
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.file.unlink(missing_ok=True)
