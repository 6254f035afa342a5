"""Hostile: tries, step by step, what a bad app would try, and prints what came of it.

It listens to everything, poses as a source of signals, asks for a frame on the bus without a grant, forks
without end, eats memory, and burns every core, for ever. For use in a confined sandbox only. Each attack
has an upper bound all the same, so that a mistake in a set-up does not take the machine down.
"""

import json
import os
import signal
import time

import zenoh

STEP_S = 2.5
MOST_CHILDREN = 2000
MOST_MEMORY_MIB = 2048
MEMORY_STEP_MIB = 8


def island():
    """A session on this app's island: a Unix socket that nobody else sees."""
    endpoint = os.environ.get("VERGE_ISLAND", "unixsock-stream//run/verge/island.sock")
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "false")  # an island is one hop, without /dev/shm
    return zenoh.open(config)


def tell(step, **what):
    """One JSON line per step, so that a console and a test can read it."""
    print(json.dumps({"hostile": step, **what}), flush=True)


def listen_to_everything(session):
    seen = {}

    def on_sample(sample):
        key = str(sample.key_expr)
        seen[key] = seen.get(key, 0) + 1

    subscriber = session.declare_subscriber("**", on_sample)
    time.sleep(STEP_S)
    subscriber.undeclare()
    tell("subscribe **", samples=sum(seen.values()), keys=sorted(seen)[:10])


def ask_who_is_there(session):
    tokens = [str(r.ok.key_expr) for r in session.liveliness().get("**", timeout=STEP_S) if r.ok is not None]
    tell("liveliness **", tokens=tokens[:10], count=len(tokens))


def pose_as_signal_source(session):
    asked = []

    def on_query(query):
        asked.append(str(query.key_expr))
        query.reply(query.key_expr, json.dumps({"value": 0, "unit": "km/h", "quality": "ok"}))

    queryable = session.declare_queryable("vss/**", on_query, complete=True)
    time.sleep(STEP_S)
    queryable.undeclare()
    tell("queryable vss/**", queries=len(asked), keys=sorted(set(asked))[:10])


def ask_for_a_frame(session):
    """A full stop, by the one message of the demo's DBC that an app may be granted; this app is not."""
    frame = {"id": 0x2A0, "extended": False, "data": "0000000003000000"}
    answers = []
    for reply in session.get("can/can0/tx", payload=json.dumps(frame), timeout=STEP_S):
        answer = reply.ok or reply.err
        answers.append({"ok": reply.ok is not None, "text": answer.payload.to_string()[:300]})
    tell("frame can/can0/tx", answers=answers, sent=any(a["ok"] for a in answers))


def fork_without_end():
    children, refused = [], None
    while len(children) < MOST_CHILDREN and refused is None:
        try:
            child = os.fork()
        except OSError as error:
            refused = error.strerror
            break
        if child == 0:
            while True:
                signal.pause()
        children.append(child)
    time.sleep(STEP_S)
    end(children)
    tell("fork bomb", children=len(children), refused=refused)


def eat_memory():
    """In a child, so that whoever kills it need not kill the one who tells."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        eaten = []
        try:
            while len(eaten) * MEMORY_STEP_MIB < MOST_MEMORY_MIB:
                block = bytearray(MEMORY_STEP_MIB << 20)
                block[::4096] = b"x" * (len(block) // 4096)  # touch every page
                eaten.append(block)
                os.write(writer, b".")
        except MemoryError:
            os._exit(3)
        time.sleep(STEP_S)
        os._exit(0)
    os.close(writer)
    steps = 0
    while got := os.read(reader, 4096):
        steps += len(got)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    other = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    ends = {0: "nobody stopped it", 3: "allocation refused"}
    tell("memory", eaten_mib=steps * MEMORY_STEP_MIB, end=ends.get(code, other))


def burn_every_core():
    """For ever; says every few seconds how much it got."""
    for _ in range(os.cpu_count() or 1):
        try:
            if os.fork() == 0:
                while True:
                    pass
        except OSError as error:
            tell("burn", refused=error.strerror)
    tell("burn", processes=os.cpu_count())
    ticks = 0
    last = time.monotonic()
    while True:
        ticks += 1
        if time.monotonic() - last >= STEP_S:
            tell("burn", loops_per_s=round(ticks / (time.monotonic() - last)))
            ticks, last = 0, time.monotonic()


def end(children):
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def main():
    with island() as session:
        listen_to_everything(session)
        ask_who_is_there(session)
        pose_as_signal_source(session)
        ask_for_a_frame(session)
    fork_without_end()
    eat_memory()
    burn_every_core()


if __name__ == "__main__":
    main()
