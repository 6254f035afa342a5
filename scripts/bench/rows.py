"""Rows of the table: samples to quantiles, the printed form, summary.json and the raw samples."""

import csv
import json
import math


def stats(samples):
    """min, p50, p99, p999 and max of the samples (nearest rank); None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)

    def rank(share):
        return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]

    figures = {"min": ordered[0], "p50": rank(0.5), "p99": rank(0.99), "p999": rank(0.999), "max": ordered[-1]}
    return {name: float(f"{value:.5g}") for name, value in figures.items()}


class Row:
    """One row. `samples`, `rivals` (by name) and `floor` are lists of figures in `unit`; `met` judges the row's
    own quantiles and the rivals' (None where there is nothing to judge)."""

    def __init__(self, id, what, unit, samples, goal, met=None, rivals=None, floor=None, notes=()):
        self.id, self.what, self.unit, self.goal = id, what, unit, goal
        self.samples, self.rivals, self.floor = samples, rivals or {}, floor or []
        self.notes = list(notes)
        self.verge = stats(samples)
        self.met = None
        if self.verge and met:
            self.met = bool(met(self.verge, {name: stats(rival) for name, rival in self.rivals.items()}))

    def under_stress(self):
        """The same row as measured beside CPU, memory and disk burners: no goal, the rivals tell."""
        self.id, self.goal, self.met = f"{self.id}.stress", "-", None
        self.notes.append("CPU, memory and disk burnt beside it")
        return self

    def json(self):
        return {
            "id": self.id,
            "what": self.what,
            "unit": self.unit,
            "n": len(self.samples),
            "verge": self.verge,
            "rivals": {name: stats(samples) for name, samples in self.rivals.items()},
            "floor": stats(self.floor),
            "goal": self.goal,
            "met": self.met,
            "notes": "; ".join(self.notes),
        }

    def write_raw(self, directory):
        """Every sample, in the order in which it was taken."""
        with open(directory / f"{self.id}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["series", self.unit])
            for name, samples in [("verge", self.samples), *self.rivals.items(), ("floor", self.floor)]:
                writer.writerows([name, f"{value:.6g}"] for value in samples)


def figure(value):
    """A figure for people: three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _middle(figures):
    return [figure(figures["p50"]), figure(figures["p99"])] if figures else ["-", "-"]


def printed(rows):
    """The table, rivals and floor below their row, and the notes below the table."""
    lines = [["id", "unit", "n", "p50", "p99", "goal", "met"]]
    for row in (row.json() for row in rows):
        met = {True: "yes", False: "NO", None: "-"}[row["met"]]
        lines.append([row["id"], row["unit"], str(row["n"]), *_middle(row["verge"]), row["goal"], met])
        others = {**row["rivals"], "floor": row["floor"]}
        lines += [[f"  {name}", "", "", *_middle(figures), "", ""] for name, figures in others.items() if figures]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{row.id}: {row.what}" + "".join(f"; {note}" for note in row.notes) for row in rows]
    return "\n".join([*text, "", *notes])


def write(rows, machine, figure, path):
    """The summary as JSON, and the raw samples beside it."""
    directory = path.parent
    raw = directory / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for row in rows:
        row.write_raw(raw)
    head, *lines = figure
    names = ["what", *head[1:]]
    summary = {
        "machine": machine,
        "rows": [row.json() for row in rows],
        "figure3": [dict(zip(names, line)) for line in lines],
    }
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
