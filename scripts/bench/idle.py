"""Families `memory` and `idle`: what a node costs that has nothing to do."""

import pathlib
import time

from . import netns
from .life import POLICY
from .node import Node, command_of, until
from .rows import Row
from .setup import say
from .zenohs import Mesh, free_port

SETTLE_S = 3
APPS = 10
ROUNDS = 3
WINDOWS, WINDOW_S = 10, 1.0
NODES = 3
KERNEL_KINDS = ("SUnreclaim", "PageTables", "KernelStack")


def realm(setup, names, name, port):
    """The car realm of one of these nodes: the first listens, the others connect."""
    keys = setup.authority(names)
    end = "listen" if name == names[0] else "connect"
    return (
        f'[car]\n{end} = ["tls/127.0.0.1:{port}"]\n'
        f'ca = "{keys}/ca.pem"\ncert = "{keys}/{name}.pem"\nkey = "{keys}/{name}.key.pem"\n'
    )


def bus(setup, port):
    """The user-space bus with the DBC that ships."""
    dbc = setup.root / "can-bridge/dbc"
    return (
        f'[[bus]]\nname = "can0"\nkind = "multicast"\ngroup = "239.74.163.9"\nport = {port}\n'
        f'dbc = "{dbc}/verge-demo.dbc"\nmapping = "{dbc}/verge-demo.vss.json"\n'
    )


def kernel_kb():
    """Kernel memory of the whole machine that apps cost: slab, page tables, stacks."""
    figures = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    return {kind: int(figures[kind].split()[0]) for kind in KERNEL_KINDS}


def memory(setup):
    """Rows `memory.node`, `memory.app`, `memory.app.island`."""
    layout, digest = setup.bundle(setup.stamp_app())
    extra = bus(setup, free_port()) + realm(setup, ["bench-idle"], "bench-idle", free_port()) + POLICY
    node = Node(setup, "bench-idle", extra).start()
    try:
        node.cli("bundle", "push", layout)
        time.sleep(SETTLE_S)
        rows = [_node_row(setup, node)]
        rows.append(_app_row(node, digest, "memory.app", "no island", "", "<= 0.4 MB", 0.4))
        grants = "    grants: {signals: [Vehicle.Speed]}\n"
        # The first app with an island brings its tenant's border, which is not the price of a further one.
        node.apply(_apps(digest, grants, ["first"]))
        rows.append(_app_row(node, digest, "memory.app.island", "with an island", grants, "-", None))
    finally:
        node.stop()
    return rows


def _node_row(setup, node):
    sizes = node.pss_kb()
    parts = ", ".join(f"{' '.join(command_of(pid).split()[1:4])[:40] or command_of(pid)[:40]} {kb / 1000:.1f}" for pid, kb in sizes.items())
    return Row(
        "memory.node",
        "PSS of all processes of an idle node with a bus and the car realm",
        "MB",
        [sum(sizes.values()) / 1000],
        "<= 16 MB",
        lambda verge, _: verge["p50"] <= 16,
        notes=[f"by process: {parts}", "Ankaios, k3s not run: not in Debian", f"profile {setup.profile}"],
    )


def _apps(digest, grants, names):
    text = "apps:\n"
    for name in names:
        text += (
            f"  {name}:\n    tenant: bench\n    bundle: {digest}\n    command: [/app/stamp, stay]\n"
            f"    resources: {{cpu: 20m, memory: 4Mi, pids: 8, tmp: 1Mi}}\n{grants}"
        )
    return text


def _app_row(node, digest, id, kind, grants, goal, limit):
    """The difference that ten more apps make, per app. No round removes its apps: memory that ended apps leave
    in the node's heaps would make the next round look cheap."""
    samples, parts = [], []
    for round in range(ROUNDS):
        before, kernel_before, charged_before = sum(node.pss_kb().values()), kernel_kb(), node.cgroup_memory() or 0
        names = [f"{id.rsplit('.', 1)[-1]}{round}-{number}" for number in range(APPS)]
        node.apply(_apps(digest, grants, names))
        until("the apps", lambda: all(node.lines(name, 1) for name in names))
        time.sleep(SETTLE_S)
        pss = (sum(node.pss_kb().values()) - before) / APPS / 1000
        after = kernel_kb()
        kernel = {k: (after[k] - kernel_before[k]) / APPS / 1000 for k in KERNEL_KINDS}
        charged = ((node.cgroup_memory() or 0) - charged_before) / APPS / 1e6
        samples.append(charged + kernel["SUnreclaim"])
        parts.append(f"{charged:.2f} + {kernel['SUnreclaim']:.2f} [{pss:.2f} + {sum(kernel.values()):.2f}]")
    return Row(
        id,
        f"a further idle confined static app, {kind}: cgroup memory and slab difference over {APPS} apps",
        "MB",
        samples,
        goal,
        (lambda verge, _: verge["p50"] <= limit) if limit else None,
        notes=[
            "cgroup memory + slab [for comparison: PSS of all the node's processes + slab, page tables and kernel "
            f"stacks], by round: {'; '.join(parts)}",
            "slab is the whole machine's: it moves with whatever else runs, and what the cgroups are charged of it counts twice",
        ],
    )


def cpu_and_bytes(setup):
    """Rows `idle.cpu` and `idle.bytes`, in a network namespace of their own."""
    names = [f"bench-i{number}" for number in range(1, NODES + 1)]
    shares, rates = netns.inside(_idle_car, setup, names)
    bare_shares, bare_rates = netns.inside(_idle_mesh, setup, names)
    return [
        Row(
            "idle.cpu",
            "CPU share of an idle node (all its processes) that listens in a car of three",
            "%",
            shares,
            "<= 0.3 %",
            lambda verge, _: verge["p50"] <= 0.3,
            {"bare Zenoh (Python session)": bare_shares},
            notes=["of one core, in windows of 1 s; rival: the listening one of three sessions", f"profile {setup.profile}"],
        ),
        Row(
            "idle.bytes",
            f"bytes per second and node in an idle car of {NODES}",
            "kB/s",
            rates,
            "<= 1 kB/s",
            lambda verge, _: verge["p50"] <= 1,
            {"bare Zenoh (3 sessions)": bare_rates},
            notes=["all bytes on a loopback of their own, TCP and IP headers and acknowledgements included, both with mutual TLS"],
        ),
    ]


def _windows(cpu_ns):
    """CPU share in percent and kilobytes per second and node, per window."""
    shares, rates = [], []
    for _ in range(WINDOWS):
        cpu, sent, began = cpu_ns(), netns.bytes_so_far(), time.monotonic()
        time.sleep(WINDOW_S)
        took = time.monotonic() - began
        shares.append((cpu_ns() - cpu) / took / 1e7)
        rates.append((netns.bytes_so_far() - sent) / took / NODES / 1000)
    return shares, rates


def _idle_car(setup, names):
    nodes, port = [], 7447
    try:
        for name in names:
            nodes.append(Node(setup, name, realm(setup, names, name, port) + POLICY).start())
        until("the car", lambda: len(nodes[0].get("nodes")) >= NODES)
        time.sleep(SETTLE_S)
        say(f"idle: {WINDOWS} windows of {WINDOW_S:.0f} s")
        return _windows(nodes[0].cpu_ns)
    finally:
        for node in nodes:
            node.stop()


def _idle_mesh(setup, names):
    mesh = Mesh(setup, names)
    try:
        mesh.session(names[0], listen=["tls/127.0.0.1:7447"], mode="peer")
        for name in names[1:]:
            mesh.session(name, connect=["tls/127.0.0.1:7447"], mode="peer")
        time.sleep(SETTLE_S)
        return _windows(lambda: mesh.cpu_ns(names[0]))
    finally:
        mesh.stop()
