"""The oracle: cantools decodes. Prints one JSON line per case, as the Rust side asks.

usage: codec.py random SEED COUNT DBC...   random payloads for every message that strict cantools accepts
       codec.py log LOG DBC               every frame of a candump log
Lines: {"dbc": n, "id", "extended", "data": hex, "values": {signal: number as text} or null, "encoded": hex or null}
"""
import json
import random
import sys
import cantools


def numbers(message, data):
    try:
        decoded = message.decode(data, decode_choices=False, allow_truncated=True)
    except Exception:
        return None
    # As text: JSON has no infinity.
    return {name: repr(float(value)) for name, value in decoded.items()}


def encoded(message, data):
    """What cantools makes of its own decoded values; None where it cannot."""
    try:
        values = message.decode(data, decode_choices=False)
        return message.encode(values, strict=False).hex()
    except Exception:
        return None


def row(dbc, message, data):
    print(json.dumps({"dbc": dbc, "id": message.frame_id, "extended": message.is_extended_frame, "data": data.hex(),
                      "values": numbers(message, data), "encoded": encoded(message, data)}))


def random_payloads(seed, count, files):
    chance = random.Random(seed)
    for number, file in enumerate(files):
        try:
            database = cantools.database.load_file(file, strict=True)
        except Exception as error:
            print(json.dumps({"dbc": number, "refused": str(error)[:200]}))
            continue
        for message in database.messages:
            if message.length > 64 or message.length == 0 or not message.signals:
                continue
            for _ in range(count):
                data = bytes(chance.choice((0, 255, chance.randrange(256))) for _ in range(message.length))
                row(number, message, data)


def log(file, dbc):
    database = cantools.database.load_file(dbc, strict=False)
    known = {(m.frame_id, m.is_extended_frame): m for m in database.messages}
    for line in open(file):
        ident, _, data = line.split()[2].partition("#")
        message = known.get((int(ident, 16), len(ident) == 8))
        if message is not None:
            payload = bytes.fromhex(data)
            print(json.dumps({"id": message.frame_id, "values": numbers(message, payload)}))


if sys.argv[1] == "random":
    random_payloads(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
else:
    log(sys.argv[2], sys.argv[3])
