"""Counts what arrives on its island and tells it as JSON lines; what comes twice is counted as well."""

import json
import time

import zenoh

config = zenoh.Config()
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", '["unixsock-stream//run/verge/island.sock"]')
config.insert_json5("scouting/multicast/enabled", "false")

counts = {"signals": 0, "frames": 0, "twice": 0}
times = set()


def take(kind, key, time_us):
    counts[kind] += 1
    if (key, time_us) in times:
        counts["twice"] += 1
    times.add((key, time_us))


def on_signal(sample):
    take("signals", str(sample.key_expr), json.loads(sample.payload.to_bytes())["source_time_us"])


def on_frame(sample):
    take("frames", str(sample.key_expr), json.loads(sample.attachment.to_bytes())["captured_us"])


with zenoh.open(config) as session:
    subscribers = [session.declare_subscriber("vss/**", on_signal), session.declare_subscriber("cam/**", on_frame)]
    while True:
        print(json.dumps(counts), flush=True)
        time.sleep(0.2)
