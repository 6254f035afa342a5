"""Declares without end: thousands of subscriptions with wildcards, which cost whoever routes them, from many
processes, as fast as they are taken."""

import json
import os
import time

import zenoh

PROCESSES = 8


def main():
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", '["unixsock-stream//run/verge/island.sock"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")
    for _ in range(PROCESSES - 1):
        if os.fork() == 0:
            break
    session = zenoh.open(config)
    kept = []
    while True:
        kept.append(session.declare_subscriber(f"**/{len(kept)}_{os.getpid()}/**", zenoh.handlers.RingChannel(1)))
        if len(kept) % 1000 == 0:
            print(json.dumps({"declared": len(kept)}), flush=True)
            time.sleep(0.01)


main()
