"""What an app sees of its island, told as JSON lines: main.py watcher | talker.

The watcher looks at everything that a stock client can look at; the talker of the same tenant says everything
that a stock client can say. Neither may notice the other.
"""

import json
import sys
import time

import zenoh


def island():
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", '["unixsock-stream//run/verge/island.sock"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    return zenoh.open(config)


def tell(**what):
    print(json.dumps(what), flush=True)


def replies(session, key):
    return sorted({str(r.ok.key_expr) for r in session.get(key, timeout=1.0) if r.ok is not None})


def tokens(session):
    return sorted({str(r.ok.key_expr) for r in session.liveliness().get("**", timeout=1.0) if r.ok is not None})


def watch(session):
    seen, queries, alive, forged, speeds = set(), [], set(), 0, 0

    def on_sample(sample):
        nonlocal forged, speeds
        seen.add(str(sample.key_expr))
        if str(sample.key_expr) == "vss/Vehicle/Speed":
            speeds += 1
            forged += json.loads(sample.payload.to_bytes())["value"] == 999

    subscriber = session.declare_subscriber("**", on_sample)
    watcher = session.liveliness().declare_subscriber("**", lambda s: alive.add(str(s.key_expr)))
    while speeds < 5:
        time.sleep(0.1)
    got = {key: replies(session, key) for key in ("vss/**", "**", "vss/Vehicle/CurrentLocation/Latitude")}
    # A session answers for itself under its own id; what others tell of themselves is what must not be there.
    got["@/**"] = [key for key in replies(session, "@/**") if not key.startswith(f"@/{session.info.zid()}/")]
    queryable = session.declare_queryable("**", lambda query: queries.append(str(query.key_expr)))
    rounds = 0
    while True:
        rounds += 1
        tell(rounds=rounds, keys=sorted(seen), tokens=tokens(session), alive=sorted(alive), queries=queries[:20],
             got=got, forged=forged, speeds=speeds)
        time.sleep(0.1)


def talk(session):
    token = session.liveliness().declare_token("talk/token")
    queryable = session.declare_queryable("talk/queryable", lambda query: query.reply("talk/queryable", "here"))
    rounds = 0
    while True:
        rounds += 1
        session.put("talk/put", "hello")
        session.put("vss/Vehicle/Speed", json.dumps({"value": 999, "unit": "km/h", "quality": "ok"}))
        got = replies(session, "vss/**")
        other = [key for key in replies(session, "**") if not key.startswith("talk/")]
        tell(rounds=rounds, got=got, other=other, tokens=[t for t in tokens(session) if t != "talk/token"])
        time.sleep(0.1)


with island() as session:
    {"watcher": watch, "talker": talk}[sys.argv[1]](session)
