"""cantools as its users call it, for the row `can.decode`: cantools_rate.py DBC LOG.

For each number of passes on standard input it prints frames, nanoseconds and the sum of all values of one pass.
"""

import sys
import time

import cantools


def main():
    database = cantools.database.load_file(sys.argv[1])
    known = {message.frame_id for message in database.messages}
    frames = []
    for line in open(sys.argv[2], encoding="ascii"):
        number, _, data = line.split()[2].partition("#")
        if int(number, 16) in known and not data.startswith(("#", "R")):
            frames.append((int(number, 16), bytes.fromhex(data)))
    for line in sys.stdin:
        passes, total = int(line), 0.0
        began = time.perf_counter_ns()
        for _ in range(passes):
            total = 0.0
            for number, data in frames:
                total += sum(database.decode_message(number, data, decode_choices=False).values())
        print(len(frames) * passes, time.perf_counter_ns() - began, repr(total), flush=True)


main()
