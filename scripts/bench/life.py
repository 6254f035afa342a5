"""Family `apply`: how long until an app that somebody asked for runs."""

import time

from .node import Node, until
from .rows import Row

APPLIES = 40
WARM_UP = 3


def manifest(digest, name="stamp", klass="comfort"):
    """One static app that stamps the clock and stays."""
    return (
        f"apps:\n  {name}:\n    tenant: bench\n    bundle: {digest}\n    command: [/app/stamp, stay]\n"
        f"    class: {klass}\n    resources: {{cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}}\n"
    )


POLICY = (
    '[[policy.tenants]]\ntenant = "bench"\nbest_class = "critical"\n'
    'allow = { signals = ["Vehicle.**"], tasks = ["noop"] }\n'
)


def stamp_after(node, began, app="stamp"):
    """The newest stamp that the app printed after `began` (ns), once there is one."""

    def look():
        stamps = [int(line) for line in node.lines(app, 5) if line.strip().isdigit()]
        return max((stamp for stamp in stamps if stamp > began), default=None)

    return until("the app's stamp", look)


def apply(setup):
    """Row `apply`: `verge apply` of a manifest whose bundle is in the store, to the app's first instruction."""
    layout, digest = setup.bundle(setup.stamp_app())
    node = Node(setup, "bench-apply", POLICY).start()
    samples, command = [], []
    try:
        node.cli("bundle", "push", layout)
        for number in range(WARM_UP + APPLIES):
            began = time.monotonic_ns()
            node.apply(manifest(digest))
            ended = time.monotonic_ns()
            stamp = stamp_after(node, began)
            if number >= WARM_UP:
                samples.append((stamp - began) / 1e6)
                command.append((ended - began) / 1e6)
            node.cli("delete", "bench/stamp")
            until("the app's end", lambda: not any(a["app"] == "bench/stamp" for a in node.get("apps")))
    finally:
        node.stop()
    median = sorted(command)[len(command) // 2]
    return [
        Row(
            "apply",
            "start of the command `verge apply` to the first instruction of the app, bundle already pushed",
            "ms",
            samples,
            "p50 <= 10 ms",
            lambda verge, _: verge["p50"] <= 10,
            notes=[
                f"the command itself ends after {median:.1f} ms (p50)",
                "Ankaios and k3s not run: not in Debian (Ankaios' figure on such a machine: 515 ms)",
                f"profile {setup.profile}",
            ],
        )
    ]
