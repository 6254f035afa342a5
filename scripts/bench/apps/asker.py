"""For the rows `task.rtt.*`: asks for the function `noop`, one call after the other, with 64 bytes. Prints
`MICROSECONDS NODE_TOOK_US EXECUTION_US NODE` for each that was done, `not OUTCOME WHY` for others, then `end`."""

import json
import time

from island import open_session

COUNT = 400
EVERY_S = 0.004  # an island takes 500 requests a second; the rival is paced alike
WARM_UP = 50
PAYLOAD = bytes(64)


def ask(session):
    for reply in session.get("task/run/noop?deadline_ms=1000;class=driving", payload=PAYLOAD, timeout=3):
        return json.loads((reply.ok or reply.err).payload.to_bytes())
    return {}


with open_session() as session:
    print("ready", flush=True)
    for number in range(WARM_UP + COUNT):
        began = time.perf_counter_ns()
        outcome = ask(session)
        took = (time.perf_counter_ns() - began) / 1000
        time.sleep(EVERY_S)
        if outcome.get("outcome") == "done" and number >= WARM_UP:
            print(took, outcome["took_us"], outcome["phases"]["execution_us"], outcome["node"], flush=True)
        elif outcome.get("outcome") != "done":
            print("not", outcome.get("outcome"), outcome.get("why") or outcome.get("refused"), flush=True)
    print("end", flush=True)
    while True:
        time.sleep(1)
