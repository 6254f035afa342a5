"""One bare Zenoh session, the rival: bare_zenoh.py CONFIG ROLE [ARGUMENT...]. Prints `open`, then what its role
prints, and ends at the end of its input.

    idle                nothing
    answer KEY          answers queries on KEY with an empty reply
    ask KEY COUNT       asks COUNT times, one after the other, with 64 bytes; prints the microseconds of each
    publish KEY         for each line on standard input publishes it on KEY
    listen KEY          prints `VALUE CLOCK_NS` of each sample on KEY
"""

import sys
import time

import zenoh

PAYLOAD = bytes(64)
WARM_UP = 50
EVERY_S = 0.004  # as the asking app is paced
TIMEOUT_S = 5.0


def ask(session, key, count):
    for number in range(int(count) + WARM_UP):
        began = time.perf_counter_ns()
        replies = [reply for reply in session.get(key, payload=PAYLOAD, timeout=TIMEOUT_S) if reply.ok]
        took = (time.perf_counter_ns() - began) / 1000
        time.sleep(EVERY_S)
        if number >= WARM_UP and replies:
            print(took)
    print("end", flush=True)


def listen(session, key):
    def show(sample):
        now = time.monotonic_ns()
        print(sample.payload.to_string(), now, flush=True)

    return session.declare_subscriber(key, show)


def main():
    config = zenoh.Config.from_json5(sys.argv[1])
    with zenoh.open(config) as session:
        role, arguments = sys.argv[2], sys.argv[3:]
        kept = None
        if role == "answer":
            kept = session.declare_queryable(arguments[0], lambda query: query.reply(query.key_expr, b""))
        elif role == "listen":
            kept = listen(session, arguments[0])
        print("open", flush=True)
        if role == "ask":
            ask(session, *arguments)
        for line in sys.stdin:
            if role == "publish":
                session.put(arguments[0], line.strip())
        del kept


main()
