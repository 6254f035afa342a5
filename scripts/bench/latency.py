"""Family `can.latency`: a frame sent on the user-space bus to the sample at a confined app, beside one bare Zenoh
hop over a Unix socket. Both ends are the same Python client, so the difference is what Verge adds."""

import time

import can

from .idle import bus
from .life import POLICY
from .node import Failure, Node, until
from .rows import Row
from .zenohs import Mesh, free_port

COUNT = 300
WARM_UP = 10
ARRIVES = 0.99  # share of the samples without which quantiles say nothing
EVERY_S = 0.06  # Vehicle.Speed is handed out at most every 50 ms
MOTION = 0x100  # the message whose first 16 bits are the speed in hundredths of km/h
SETTLE_S = 1
LOST_AFTER_S = 2


def app_manifest(setup, name, grants):
    """A Python app of the bench on its island."""
    layout, base = setup.bundle(setup.material / "base-python")
    source, digest = setup.bundle(setup.root / "scripts/bench/apps")
    text = (
        f"apps:\n  {name}:\n    tenant: bench\n    bundle: {digest}\n    base: {base}\n"
        f"    command: [/usr/bin/python3, /app/{name}.py]\n    class: driving\n    restart: NEVER\n"
        f"    resources: {{cpu: 1000m, memory: 128Mi, pids: 32}}\n    grants: {grants}\n"
    )
    return text, [layout, source]


def start_app(setup, node, name, grants):
    text, layouts = app_manifest(setup, name, grants)
    for layout in layouts:
        node.cli("bundle", "push", layout)
    node.apply(text)
    until(f"app {name}", lambda: "ready" in node.lines(name))


def _on_the_bus(sender, number):
    data = number.to_bytes(2, "little") + bytes(6)
    sent = time.monotonic_ns()
    sender.send(can.Message(arbitration_id=MOTION, data=data, is_extended_id=False))
    return sent


def _latencies(sent, lines):
    """Microseconds by matching numbers; `lines` are `NUMBER CLOCK_NS`. The first of a number counts: a value that
    turns stale is handed out once more."""
    came = {}
    for words in map(str.split, lines):
        if len(words) == 2 and words[0].isdigit():
            came.setdefault(int(words[0]), int(words[1]))
    return [(came[number] - at) / 1000 for number, at in sent.items() if number in came and number > WARM_UP]


def _send_all(send):
    sent = {}
    for number in range(1, COUNT + WARM_UP + 1):
        sent[number] = send(number)
        time.sleep(EVERY_S)
    time.sleep(LOST_AFTER_S)
    return sent


def _through_verge(setup):
    port = free_port()
    node = Node(setup, "bench-can", bus(setup, port) + POLICY).start()
    try:
        start_app(setup, node, "speed", "{signals: [Vehicle.Speed]}")
        time.sleep(SETTLE_S)
        with can.Bus(interface="udp_multicast", channel="239.74.163.9", port=port) as sender:
            sent = _send_all(lambda number: _on_the_bus(sender, number))
        return _latencies(sent, node.lines("speed"))
    finally:
        node.stop()


def _bare_hop(setup):
    endpoint = f"unixsock-stream/{setup.run}/hop.sock"
    mesh = Mesh(setup, ["hop"])
    try:
        publisher = mesh.session("publisher", "peer", [endpoint], [], "publish", "hop")
        listener = mesh.session("listener", "client", [], [endpoint], "listen", "hop")
        time.sleep(SETTLE_S)

        def send(number):
            sent = time.monotonic_ns()
            publisher.stdin.write(f"{number}\n")
            publisher.stdin.flush()
            return sent

        sent = _send_all(send)
        listener.stdin.close()
        return _latencies(sent, listener.stdout.read().splitlines())
    finally:
        mesh.stop()


def measure(setup):
    """Row `can.latency`."""
    samples, hop = _through_verge(setup), _bare_hop(setup)
    for where, arrived in (("the app", samples), ("the rival's listener", hop)):
        if len(arrived) < ARRIVES * COUNT:
            raise Failure(f"{len(arrived)} of {COUNT} signals reached {where}: quantiles would be those of the survivors")
    return [
        Row(
            "can.latency",
            f"frame on the user-space bus to the sample at a confined Python app, {1 / EVERY_S:.0f} frames/s",
            "us",
            samples,
            "p50 <= 1.8x of the bare hop",
            lambda verge, rivals: verge["p50"] <= 1.8 * rivals["bare Zenoh hop (Python)"]["p50"],
            {"bare Zenoh hop (Python)": hop},
            notes=[
                f"{COUNT - len(samples)} of {COUNT} lost; rival: a line on a pipe to a Python publisher, Unix socket, Python subscriber",
                "not measured yet: a Rust subscriber, 100 to 10 000 frames/s, the python-can + cantools + zenoh loop",
                f"profile {setup.profile}",
            ],
        )
    ]
