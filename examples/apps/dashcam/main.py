"""Dashcam: for each camera frame, asks for the vision function `lane` and counts what comes back in time.

Where the function runs (here, on the sibling, at the roadside) is not this app's business.
"""

import json
import os
import queue
import time

import zenoh

FUNCTION = "lane"
DEADLINE_MS = 150
SELECTOR = f"task/run/{FUNCTION}?deadline_ms={DEADLINE_MS};class=driving"
# The outcome says itself when a deadline was missed; this only bounds the wait for it.
ANSWER_WITHIN_S = 2.0


def island():
    """A session on this app's island: a Unix socket that nobody else sees."""
    endpoint = os.environ.get("VERGE_ISLAND", "unixsock-stream//run/verge/island.sock")
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")  # an island is one hop, without /dev/shm
    return zenoh.open(config)


class Tally:
    """What became of the frames, printed once a second."""

    def __init__(self):
        self.frames = self.skipped = 0
        self.outcomes = {}
        self.last = None
        self.due = time.monotonic() + 1

    def add(self, outcome):
        kind = outcome.get("outcome", "unknown")
        self.outcomes[kind] = self.outcomes.get(kind, 0) + 1
        if kind == "done":
            self.last = outcome

    def report(self):
        if time.monotonic() < self.due:
            return
        self.due += 1
        done = self.outcomes.get("done", 0)
        missed = sum(self.outcomes.values()) - done
        print(f"dashcam: frames {self.frames} skipped {self.skipped} done {done} missed {missed} "
              f"{json.dumps(self.outcomes)} last {json.dumps(self.last)}", flush=True)


def ask(session, frame):
    """Hands one JPEG to the function; returns the outcome, whatever it is."""
    for reply in session.get(SELECTOR, payload=frame, timeout=ANSWER_WITHIN_S):
        if reply.ok is not None:
            return json.loads(reply.ok.payload.to_bytes())
        return {"outcome": "refused", "why": reply.err.payload.to_string()}
    return {"outcome": "unanswered"}


def main():
    tally = Tally()
    newest = queue.Queue(maxsize=1)

    def on_frame(sample):
        tally.frames += 1
        info = json.loads(sample.attachment.to_bytes())
        try:
            newest.put_nowait((info["seq"], sample.payload.to_bytes()))
        except queue.Full:
            tally.skipped += 1  # still busy with the one before

    with island() as session:
        subscriber = session.declare_subscriber("cam/front/frame", on_frame)
        print(f"dashcam: {subscriber.key_expr} -> {SELECTOR}", flush=True)
        while True:
            try:
                _, frame = newest.get(timeout=0.2)
                tally.add(ask(session, frame))
            except queue.Empty:
                pass
            tally.report()


if __name__ == "__main__":
    main()
