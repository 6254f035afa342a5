"""`python -m bench [FAMILY]`: runs the families whose names begin with FAMILY, prints the table, writes the files."""

import signal
import sys
import traceback

from . import boot, decode, figure3, idle, latency, life, machine, rows, start, tasks
from .node import Failure
from .setup import Setup, say
from .stress import Stress

# Name, by which a family is chosen, and what measures it.
FAMILIES = [
    ("start", start.measure),
    ("apply", life.apply),
    ("boot", boot.boot),
    ("memory", idle.memory),
    ("idle", idle.cpu_and_bytes),
    ("can.decode", decode.measure),
    ("can.latency", latency.measure),
    ("task", tasks.measure),
]
# Latencies, which are measured once more under stress.
STRESSED = ("start", "apply", "can.latency", "task")
NOT_YET = "not measured yet: start.idle.freshnet, start.warm, verify, wasm.call (alone), freeze, resize, interference, \
task.rate, task.decide, outage.*, handover, can.sustain, camera.cpu, update.delta, sim.scale"


def chosen(wanted):
    picked = [family for family in FAMILIES if family[0].startswith(wanted) or wanted.startswith(family[0] + ".")]
    if not picked and wanted != "figure3":
        names = ", ".join([name for name, _ in FAMILIES] + ["figure3"])
        sys.exit(f"error: no family is called {wanted!r}\n  fix: use one of: {names}")
    return picked


def measure(setup, families):
    """Rows of all families, and what failed. A family that cannot be measured does not stop the others."""
    found, failed = [], []

    def attempt(name, family):
        say(f"measuring {name} (load {machine.load()[0]:.2f})")
        try:
            return family(setup)
        except Exception as error:  # one family's trouble, told at the end
            if not isinstance(error, Failure):
                traceback.print_exc()
            failed.append(f"{name}: {error}")
            return []

    for name, family in families:
        found += attempt(name, family)
    for name, family in families:
        if name in STRESSED:
            with Stress(setup.run):
                found += [row.under_stress() for row in attempt(f"{name} under stress", family)]
    return found, failed


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    families = chosen(wanted)
    # An end from outside ends the nodes as well: the families stop them on their way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    setup = Setup()
    try:
        quiet = machine.is_quiet()
        described = machine.describe(setup)
        found, failed = measure(setup, families)
    finally:
        setup.close()
    described["load_end"] = machine.load()
    figure = figure3.table(setup, found)
    # A single family does not take the place of a whole run.
    summary = setup.out / (f"summary-{wanted}.json" if wanted else "summary.json")
    rows.write(found, described, figure, summary)
    print(f"machine: {described['cpu']}, Linux {described['kernel']}, cgroup {described['cgroup']}, "
          f"commit {described['commit']}, profile {described['profile']}")
    before, after = (" ".join(f"{value:.2f}" for value in figures) for figures in (described["load"], described["load_end"]))
    print(f"load average: {before} before, {after} after" + ("" if quiet else
          "; THE MACHINE WAS NOT QUIET when this began: latencies are not the programs' alone"))
    print()
    if found:
        print(rows.printed(found))
        print()
    print(figure3.printed(figure))
    print()
    print(NOT_YET)
    for line in failed:
        print(f"NOT MEASURED {line}")
    print(f"summary: {summary}, raw samples: {setup.out / 'raw'}")
    return 1 if failed else 0


sys.exit(main())
