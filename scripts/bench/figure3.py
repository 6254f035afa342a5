"""Figure 3 of the paper (Morabito et al., IEEE Network 2018) with Verge's rows beside it."""

import pathlib

HEAD = ["", "instantiation", "image", "memory", "language dependency", "portability", "live migration"]
PAPER = [
    ["virtual machine (paper)", "5-10 s", "1000 MB", "100 MB", "no", "high", "yes"],
    ["container (paper)", "800-1000 ms", "50 MB", "5 MB", "no", "high", "no"],
    ["unikernel (paper)", "< 50 ms", "< 5 MB", "8 MB", "yes", "high", "no, by hand"],
]


def size(path):
    """Bytes of a file or of all files below a directory."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _size(paths):
    sizes = sorted(size(path) for path in paths if path.exists())
    if not sizes:
        return "-"
    words = [f"{bytes / 1e6:.2f}" if bytes >= 1e4 else f"{bytes / 1e6:.3f}" for bytes in sizes]
    return f"{words[0]} MB" if len(words) == 1 else f"{words[0]}-{words[-1]} MB"


def table(setup, rows):
    """The figure's lines, its head first; what this run did not measure is a dash."""
    medians = {row.id: (row.verge["p50"], row.unit) for row in rows if row.verge}

    def median(id):
        if id not in medians:
            return "-"
        value, unit = medians[id]
        return f"{value:.3g} {unit}"

    apps = [setup.programs / "stamp", setup.material / "apps/heartbeat"]
    wasm = sorted((setup.material / "wasm").glob("*.wasm"))
    placed = "not needed: each call is placed anew"
    return [
        HEAD,
        *PAPER,
        ["Verge static app", median("start.idle"), _size(apps), median("memory.app"), "no (any static binary)", "per processor", "no (restarts elsewhere)"],
        ["Verge Python app", "-", f"{_size([setup.material / 'base-python'])} shared base", "-", "no (base layer)", "source: high", "no (restarts elsewhere)"],
        ["Verge Wasm function", median("task.execution"), _size(wasm), "-", "no (compiles to WASI)", "high", placed],
    ]


def printed(lines):
    """The figure as text."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join(["Figure 3 of the paper, with this run's figures (p50) beside it; - is not measured in this run", "", *text])
