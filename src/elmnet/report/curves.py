"""Figures of runs and sweeps, in the style of `elmnet.report.figures`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elmnet.report.figures import BLUE, GREEN, GREY, ORANGE, axis, decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
UNITS = {"bpc": "bits per character", "nats": "nats", "accuracy": "share right"}
AXES = {
    "N": "units, N",
    "d_m": "memory units per neuron, d_m (complexity)",
    "k_c": "synapses per unit, k_c (connectivity)",
}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a torn last one is left out."""
    lines = []
    for line in file.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            lines.append(record)
    return lines


def learning_curve(metrics: Sequence[dict[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """Training and validation cross entropy against the step, in nats."""
    ax = axis(ax)
    training = [(m["step"], m["cross_entropy"]) for m in metrics if m.get("event") == "train" and "cross_entropy" in m]
    validation = [(m["step"], m["nats"]) for m in metrics if m.get("event") == "valid" and "nats" in m]
    if training:
        ax.plot(*np.transpose(training), color=BLUE, linewidth=1.0, label="training")
    if validation:
        ax.plot(*np.transpose(validation), "--o", color=ORANGE, markersize=4, label="validation")
    ax.set_xlabel("training step")
    ax.set_ylabel("cross entropy (nats)")
    ax.set_title("Learning")
    ax.legend()
    return ax


def gradient_norm(metrics: Sequence[dict[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """Gradient norm before clipping against the step, logarithmic."""
    ax = axis(ax)
    points = [(m["step"], m["gradient_norm"]) for m in metrics if m.get("event") == "train" and "gradient_norm" in m]
    if points:
        ax.semilogy(*np.transpose(points), color=GREY, linewidth=1.0)
    ax.set_xlabel("training step")
    ax.set_ylabel("gradient norm before clipping")
    ax.set_title("Gradient")
    return ax


def budget_curves(rows: Sequence[dict[str, Any]], score: str, ax: "Axes | None" = None) -> "Axes":
    """Score against d_m, a line for every budget, wiring and length; means over seeds with standard errors.

    Args:
        rows: of `elmnet.sweep.table.aggregate`.
        score: e.g. `valid_bpc`.
    """
    ax = axis(ax)
    for i, ((hidden, d_tree, d_s, steps), group) in enumerate(budgets(rows, score).items()):
        d_m, y = [row["d_m"] for row in group], [row[score] for row in group]
        error = [row[f"{score}_se"] or 0.0 for row in group]
        label = f"P' ≈ {hidden:,}, {d_tree}×{d_s}, {steps:,} steps"
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 2}
        ax.errorbar(d_m, y, error, label=label, markersize=4, **style)
        best = int(np.argmin(y)) if not score.endswith("accuracy") else int(np.argmax(y))
        ax.plot(d_m[best], y[best], "o", markersize=11, markerfacecolor="none", color=style["color"])
    ax.set_xscale("log")
    decades(ax, (1, 2, 3, 5, 10, 20, 30, 50, 100))
    ax.set_xlabel(AXES["d_m"])
    ax.set_ylabel(_label(score))
    ax.set_title("Number against complexity at fixed budgets; circles mark the best")
    ax.legend()
    return ax


def budgets(rows: Sequence[dict[str, Any]], score: str) -> dict[tuple[int, ...], list[dict[str, Any]]]:
    """Rows of one budget P', d_tree, d_s and length each, where d_m has 3 values or more.

    A budget is what lies at most 15 % below its largest P': whole units do not spend every budget to the end.
    """
    names = _together([float(row["hidden"]) for row in rows])
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row[score] is not None:
            groups.setdefault((names[row["hidden"]], row["d_tree"], row["d_s"], row["steps"]), []).append(row)
    return {
        key: sorted(group, key=lambda row: float(row["d_m"]))
        for key, group in sorted(groups.items())
        if len({row["d_m"] for row in group}) >= 3
    }


def axis_curve(rows: Sequence[dict[str, Any]], varied: str, score: str, ax: "Axes | None" = None) -> "Axes":
    """Score against one of N, d_m, k_c where the two others are constant: the longest such series."""
    ax = axis(ax)
    for i, group in enumerate(series(rows, varied, score)):
        x, y = [row[varied] for row in group], [row[score] for row in group]
        error = [row[f"{score}_se"] or 0.0 for row in group]
        others = ", ".join(f"{name} {group[0][name]:,}" for name in AXES if name != varied)
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 2}
        ax.errorbar(x, y, error, markersize=4, label=others, **style)
    ax.set_xscale("log")
    ax.set_xlabel(AXES[varied])
    ax.set_ylabel(_label(score))
    ax.set_title(f"{varied} alone")
    ax.legend()
    return ax


def series(rows: Sequence[dict[str, Any]], varied: str, score: str) -> list[list[dict[str, Any]]]:
    """Rows that differ in one axis alone, at least 4 values each, longest first; at most 4 series."""
    others = [name for name in AXES if name != varied]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row[score] is not None:
            groups.setdefault((row["steps"], *(row[name] for name in others)), []).append(row)
    found = [sorted(group, key=lambda row: float(row[varied])) for group in groups.values()]
    found = [group for group in found if len({row[varied] for row in group}) >= 4]
    return sorted(found, key=len, reverse=True)[:4]


def _together(values: Sequence[float]) -> dict[float, int]:
    """The largest of those at most 15 % above each value, to two digits."""
    names: dict[float, int] = {}
    largest = float("inf")
    for value in sorted(values, reverse=True):
        largest = value if value < 0.85 * largest else largest
        names[value] = int(float(f"{largest:.1e}"))
    return names


def _label(score: str) -> str:
    split, _, kind = score.partition("_")
    return f"{split} {kind} ({UNITS[kind]})"
