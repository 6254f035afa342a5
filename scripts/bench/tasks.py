"""Family `task`: a no-op task with 64 bytes from a confined Python app and back, on this node and on the sibling,
beside a stock Zenoh query over the same number of processes and links."""

import time

from .idle import realm
from .latency import start_app
from .life import POLICY
from .node import Failure, Node, until
from .rows import Row
from .zenohs import Mesh, free_port

NAMES = ["bench-t1", "bench-t2"]
COUNT = 400
SETTLE_S = 2
ALL_WITHIN_S = 240

# A WASI command that does nothing: (module (memory (export "memory") 1) (func (export "_start")))
NOOP = bytes.fromhex(
    "0061736d01000000"  # magic, version
    "010401600000"  # type 0: no parameters, no results
    "03020100"  # function 0 has type 0
    "0503010001"  # one memory of one page
    "071302" "066d656d6f72790200" "065f73746172740000"  # exports
    "0a040102000b"  # its body: nothing
)


def _pair(setup):
    port = free_port()
    return [Node(setup, name, realm(setup, NAMES, name, port) + POLICY) for name in NAMES]


def _ask(setup, asked, runs_here):
    """Starts the asking app on the first node; lines of its log, by word."""
    first, second = asked
    module = setup.run / "noop.wasm"
    module.write_bytes(NOOP)
    layout, digest = setup.bundle(module)
    function = (
        f"functions:\n  noop: {{tenant: bench, bundle: {digest}, service_time: 1ms, memory: 1Mi}}\n"
    )
    if runs_here:
        first.cli("bundle", "push", layout)
    else:
        second.cli("bundle", "push", layout)
        second.apply(function)
        second.wait_function("noop")
    # Without the bundle the first node knows the function but cannot run it: only the sibling can.
    first.apply(function)
    if runs_here:
        first.wait_function("noop")
    else:
        until("the sibling", lambda: len(first.get("nodes")) >= 2)
        time.sleep(SETTLE_S)
    start_app(setup, first, "asker", "{tasks: [noop]}")
    until("the calls", lambda: "end" in first.lines("asker"), ALL_WITHIN_S)
    return [line.split() for line in first.lines("asker") if line not in ("ready", "end")]


def _samples(words, wanted):
    done = [w for w in words if w[0] != "not" and w[3] == wanted]
    if not done:
        raise Failure(f"no task was done on {wanted}: {[' '.join(w) for w in words[-3:]]}")
    other = len(words) - len(done)
    notes = [f"{other} of {len(words)} elsewhere or not done, e.g. {' '.join(next(w for w in words if w not in done))}"] if other else []
    return [float(w[0]) for w in done], [float(w[1]) for w in done], [float(w[2]) for w in done], notes


def _verge(setup, runs_here):
    nodes = _pair(setup)
    try:
        for node in nodes:
            node.start()
        return _samples(_ask(setup, nodes, runs_here), NAMES[0] if runs_here else NAMES[1])
    finally:
        for node in nodes:
            node.stop()


def _bare(setup, sibling):
    """Client, router, [mutual TLS, router,] client that answers."""
    sockets = [f"unixsock-stream/{setup.run}/bare{number}.sock" for number in range(2)]
    port, mesh = free_port(), Mesh(setup, NAMES)
    try:
        mesh.session(NAMES[0], "router", [sockets[0], f"tls/127.0.0.1:{port}"])
        if sibling:
            mesh.session(NAMES[1], "router", [sockets[1]], [f"tls/127.0.0.1:{port}"])
        mesh.session("answer", "client", [], [sockets[1 if sibling else 0]], "answer", "noop")
        time.sleep(SETTLE_S)
        asker = mesh.session("ask", "client", [], [sockets[0]], "ask", "noop", COUNT)
        lines = iter(asker.stdout.readline, "")
        samples = []
        for line in lines:
            if line.strip() == "end":
                return samples
            samples.append(float(line))
        raise Failure("the bare Zenoh asker ended early")
    finally:
        mesh.stop()


def _row(setup, id, what, verge, bare):
    took, node_took, execution, notes = verge

    def middle(samples):
        return sorted(samples)[len(samples) // 2]

    return Row(
        id,
        what,
        "us",
        took,
        "p50 <= 1.5x",
        lambda own, rivals: own["p50"] <= 1.5 * rivals["stock Zenoh query (Python)"]["p50"],
        {"stock Zenoh query (Python)": bare},
        notes=[
            f"{middle(took) / middle(bare):.1f}x; of it the node itself {middle(node_took):.0f} us, "
            f"the function's execution {middle(execution):.0f} us (p50)",
            "client and rival are the same stock Python client; placement, deadline and lease are Verge's alone",
            "naive offloader not measured yet",
            f"profile {setup.profile}",
            *notes,
        ],
    )


def measure(setup):
    """Rows `task.rtt` (to the sibling), `task.rtt.local` and `task.execution`."""
    sibling = _row(
        setup,
        "task.rtt",
        "64 B no-op task from a confined app to a worker on the sibling and back, mutual TLS",
        _verge(setup, False),
        _bare(setup, True),
    )
    here = _verge(setup, True)
    local = _row(setup, "task.rtt.local", "the same, to a worker on the same node", here, _bare(setup, False))
    execution = Row(
        "task.execution",
        "of task.rtt.local: instantiate and call of the no-op in the worker, as the task's report says",
        "us",
        here[2],
        "-",
        notes=["whole microseconds, clocked by the node's processes; not the bare wasm.call", f"profile {setup.profile}"],
    )
    return [sibling, local, execution]
