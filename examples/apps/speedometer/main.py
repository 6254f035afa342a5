"""Speedometer: prints a few signals of the car once a second.

Uses nothing but the stock Zenoh client. What is not granted in app.yaml does not exist here.
"""

import json
import os
import time

import zenoh

ALIVE = "speedometer/alive"
SIGNALS = ["Vehicle/Speed", "Vehicle/CurrentLocation/Latitude", "Vehicle/CurrentLocation/Longitude"]


def island():
    """A session on this app's island: a Unix socket that nobody else sees."""
    endpoint = os.environ.get("VERGE_ISLAND", "unixsock-stream//run/verge/island.sock")
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")  # an island is one hop, without /dev/shm
    return zenoh.open(config)


def main():
    latest, counts = {}, dict.fromkeys(SIGNALS, 0)

    def on_sample(sample):
        path = str(sample.key_expr).removeprefix("vss/")
        latest[path] = json.loads(sample.payload.to_bytes())
        counts[path] = counts.get(path, 0) + 1

    with island() as session:
        subscribers = [session.declare_subscriber(f"vss/{path}", on_sample) for path in SIGNALS]
        token = session.liveliness().declare_token(ALIVE)  # it ends with its variable
        print(f"speedometer: {len(subscribers)} subscriptions, token {ALIVE}", flush=True)
        while True:
            time.sleep(1)
            shown = "; ".join(show(p, latest.get(p), counts[p]) for p in SIGNALS)
            known = sum(reply.ok is not None for reply in session.get("vss/**", timeout=1))
            print(f"speedometer: {shown}; last values known: {known}", flush=True)


def show(path, sample, count):
    name = path.rsplit("/", 1)[-1]
    if sample is None:
        return f"{name} -"
    age_ms = sample["age_us"] / 1000
    return f"{name} {sample['value']} {sample['unit'] or ''} (age {age_ms:.1f} ms, {sample['quality']}, n={count})"


if __name__ == "__main__":
    main()
