"""Surround: looks at several crops of the scene at once, in bursts that one unit alone cannot run in time.

Twelve tasks go out together twice a second. Where each of them runs is not this app's business.
"""

import concurrent.futures
import json
import os
import queue
import time

import zenoh

BURST = 12
SELECTOR = "task/run/lane?deadline_ms=120;class=driving"
ANSWER_WITHIN_S = 2.0  # the outcome says itself when a deadline was missed; this only bounds the wait for it


def island():
    """A session on this app's island: a Unix socket that nobody else sees."""
    endpoint = os.environ.get("VERGE_ISLAND", "unixsock-stream//run/verge/island.sock")
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")  # an island is one hop, without /dev/shm
    return zenoh.open(config)


def ask(session, frame):
    for reply in session.get(SELECTOR, payload=frame, timeout=ANSWER_WITHIN_S):
        if reply.ok is not None:
            return json.loads(reply.ok.payload.to_bytes()).get("outcome", "unknown")
        return "refused"
    return "unanswered"


def main():
    newest = queue.Queue(maxsize=1)

    def on_frame(sample):
        try:
            newest.put_nowait(sample.payload.to_bytes())
        except queue.Full:
            pass  # still busy with the burst before

    asked, outcomes, due = 0, {}, time.monotonic() + 1
    with island() as session, concurrent.futures.ThreadPoolExecutor(BURST) as pool:
        subscriber = session.declare_subscriber("cam/front/frame", on_frame)
        print(f"surround: {subscriber.key_expr} -> {BURST} x {SELECTOR}", flush=True)
        while True:
            try:
                frame = newest.get(timeout=0.2)
            except queue.Empty:
                continue
            asked += BURST
            for outcome in pool.map(lambda _: ask(session, frame), range(BURST)):
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if time.monotonic() >= due:
                due += 1
                print(f"surround: asked {asked} outcomes {json.dumps(outcomes)}", flush=True)


if __name__ == "__main__":
    main()
