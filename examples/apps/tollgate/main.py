"""Tollgate: books one toll every two seconds, each of which must be booked exactly once.

`effect=once`: an answer that cannot be known is reported as such, and this app does not ask again.
"""

import hashlib
import json
import os
import time

import zenoh

SELECTOR = "task/run/toll?deadline_ms=800;class=driving;effect=once"
EVERY_S = 2.0
ANSWER_WITHIN_S = 10.0  # a `once` task is settled, or known to be undecided, long before


def island():
    """A session on this app's island: a Unix socket that nobody else sees."""
    endpoint = os.environ.get("VERGE_ISLAND", "unixsock-stream//run/verge/island.sock")
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")  # an island is one hop, without /dev/shm
    return zenoh.open(config)


def ask(session, passage):
    for reply in session.get(SELECTOR, payload=json.dumps(passage), timeout=ANSWER_WITHIN_S):
        if reply.ok is not None:
            return json.loads(reply.ok.payload.to_bytes())
        return {"outcome": "refused", "why": reply.err.payload.to_string()}
    return {"outcome": "unanswered"}


def main():
    plate = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
    counts, number = {}, 0
    with island() as session:
        print(f"tollgate: plate {plate}", flush=True)
        while True:
            started = time.monotonic()
            number += 1
            outcome = ask(session, {"gantry": f"A10-{number}", "plate_hash": plate})
            kind = outcome.get("outcome", "unknown")
            counts[kind] = counts.get(kind, 0) + 1
            print(f"tollgate: A10-{number} {kind}, so far {json.dumps(counts)}", flush=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - started)))


if __name__ == "__main__":
    main()
