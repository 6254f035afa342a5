"""Family `boot`: how long after host begins an app runs that it kept, and has its first signal."""

import threading
import time

import can

from .idle import bus
from .latency import start_app
from .life import POLICY, manifest, stamp_after
from .node import Node, until
from .rows import Row
from .zenohs import free_port

BOOTS = 10
GROUP = "239.74.163.9"


class Traffic(threading.Thread):
    """About 1000 frames/s on the user-space bus: a speed that changes with each frame."""

    def __init__(self, group, port):
        super().__init__(daemon=True)
        self.group, self.port, self.sent, self.ending = group, port, 0, threading.Event()

    def run(self):
        with can.Bus(interface="udp_multicast", channel=self.group, port=self.port) as sender:
            while not self.ending.is_set():
                for _ in range(10):
                    self.sent += 1
                    data = (self.sent % 10_000).to_bytes(2, "little") + bytes(6)
                    sender.send(can.Message(arbitration_id=0x100, data=data, is_extended_id=False))
                time.sleep(0.009)

    def stop(self):
        self.ending.set()
        self.join()


def boot(setup):
    """Row `boot.app`: exec of host to the first instruction of a critical app that was kept from before."""
    layout, digest = setup.bundle(setup.stamp_app())
    node = Node(setup, "bench-boot", POLICY).start()
    samples = []
    try:
        node.cli("bundle", "push", layout)
        began = time.monotonic_ns()
        node.apply(manifest(digest, klass="critical"))
        stamp_after(node, began)
        for _ in range(BOOTS):
            node.stop()
            began = node.spawn()
            node.wait_up()
            samples.append((stamp_after(node, began) - began) / 1e6)
    finally:
        node.stop()
    return [
        Row(
            "boot.app",
            "exec of verge-host to the first instruction of a critical static app that it kept from its last life",
            "ms",
            samples,
            "part of boot.signal (<= 150 ms)",
            lambda verge, _: verge["p50"] <= 150,
            notes=[f"profile {setup.profile}"],
        ),
        *boot_signal(setup),
    ]


def boot_signal(setup):
    """Row `boot.signal`: exec of host to the first signal at a critical app that was kept from before."""
    port = free_port()
    node = Node(setup, "bench-signal", bus(setup, port) + POLICY).start()
    traffic = Traffic(GROUP, port)
    samples = []
    try:
        traffic.start()
        start_app(setup, node, "speed", "{signals: [Vehicle.Speed]}")
        for _ in range(BOOTS):
            node.stop()
            began = node.spawn()
            node.wait_up()

            def first():
                words = [line.split() for line in node.lines("speed")]
                came = [int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()]
                return min((clock for clock in came if clock > began), default=None)

            samples.append((until("the first signal", first) - began) / 1e6)
    finally:
        traffic.stop()
        node.stop()
    return [
        Row(
            "boot.signal",
            "exec of verge-host to the first signal at a Python app that it kept, bus at about 1000 frames/s",
            "ms",
            samples,
            "<= 150 ms at a static app",
            lambda verge, _: verge["p50"] <= 150,
            notes=["the app is Python: its interpreter and imports are in it", f"profile {setup.profile}"],
        )
    ]
