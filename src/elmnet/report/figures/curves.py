"""Figures of runs and sweeps, in the style of `elmnet.report.figures`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from elmnet.report.figures.style import (
    BELOW,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    axis,
    decades,
    few_numbers,
    plain,
)
from elmnet.scores import labelled, larger_is_better, leading
from elmnet.sweep.compare import Comparison
from elmnet.train.journal import validations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CRITERIA = {"cross_entropy": ("nats", "cross entropy (nats)"), "error": ("loss", "loss")}
"""What training calls what it minimises: what validation calls the same, and both in words."""
SEEDS = 24
"""Configurations whose seeds are drawn."""
POINTS = 10_000
"""Of all learning curves in a figure, about; 100,000 made a page of 18 MB."""
MANY = 4
"""Entries of a legend; with more it hides what is drawn, and goes below."""
AXES = {
    "N": "units, N",
    "d_m": "memory units per neuron, d_m (complexity)",
    "k_c": "synapses per unit, k_c (connectivity)",
}


def learning_curve(metrics: Sequence[dict[str, Any]], ax: "Axes | None" = None) -> "Axes":
    """What training minimises and its like of validation against the step; where validation has no like of it, its
    leading score alone."""
    ax = axis(ax)
    said = [name for m in metrics if m.get("event") == "train" for name in m]
    criterion = next((name for name in CRITERIA if name in said), None)
    valid = validations(metrics)
    score, unit = CRITERIA.get(criterion or "", (leading(valid[0]) if valid else "nats", ""))
    training = [(m["step"], m[criterion]) for m in metrics if m.get("event") == "train" and criterion in m]
    validation = [(m["step"], m[score]) for m in valid if score in m]
    if training:
        ax.plot(*np.transpose(training), color=BLUE, linewidth=1.0, label="training")
    if validation:
        ax.plot(*np.transpose(validation), "--o", color=ORANGE, markersize=4, label="validation")
    ax.set_xlabel("training step")
    ax.set_ylabel(unit or f"validation {labelled(score)}")
    ax.set_title("Learning")
    if training or validation:
        ax.legend()
    return ax


def run_curves(runs: Mapping[str, Sequence[dict[str, Any]]], score: str, ax: "Axes | None" = None) -> "Axes":
    """Validation score of several runs against the step.

    Args:
        runs: metrics of each, by its name.
        score: e.g. `bpc`.
        ax: where to draw.
    """
    ax = axis(ax)
    for i, (name, metrics) in enumerate(runs.items()):
        points = [(m["step"], m[score]) for m in validations(metrics) if score in m]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        if points:
            ax.plot(*np.transpose(points), label=plain(name), linewidth=1.0, markersize=3, **style)
    ax.set_xlabel("training step")
    ax.set_ylabel(f"validation {labelled(score)}")
    ax.set_title("Learning, side by side")
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
    found = budgets(rows, score)
    alike = Counter(key[:4] for key in found)
    for i, (key, group) in enumerate(found.items()):
        hidden, d_tree, d_s, steps, setting, data = key
        d_m, y = [row["d_m"] for row in group], [row[score] for row in group]
        error = [row[f"{score}_se"] or 0.0 for row in group]
        label = f"P' ≈ {hidden:,}, {d_tree}×{d_s}, {steps:,} steps"
        if alike[key[:4]] > 1:
            label += f", rate {group[0]['learning_rate']:g}, setting {setting[:4]}, {data}"
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 2}
        ax.errorbar(d_m, y, error, label=label, markersize=4, **style)
        best = int(np.argmax(y) if larger_is_better(score) else np.argmin(y))
        circle: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "color": style["color"]}
        ax.plot(d_m[best], y[best], "o", label=f"_{label}", **circle)
    ax.set_xscale("log")
    decades(ax, (1, 2, 3, 5, 10, 20, 30, 50, 100))
    ax.set_xlabel(AXES["d_m"])
    ax.set_ylabel(_label(score))
    ax.set_title("Number against complexity at fixed budgets; circles mark the best")
    ax.legend(**(BELOW if len(found) > MANY else {}))
    return ax


def seed_spread(rows: Sequence[dict[str, Any]], score: str, ax: "Axes | None" = None) -> "Axes":
    """Score of every seed of every configuration that has several, best first; bars are ± one standard error.

    Args:
        rows: of single trials (`elmnet.sweep.store.row`).
        score: e.g. `valid_bpc`.
    """
    ax = axis(ax)
    groups = sorted(seeds(rows, score).values(), key=lambda group: float(np.mean([row[score] for row in group])))
    groups = groups[::-1][:SEEDS] if larger_is_better(score) else groups[:SEEDS]
    points = [(place, float(row[score])) for place, group in enumerate(groups, 1) for row in group]
    means = [float(np.mean([row[score] for row in group])) for group in groups]
    errors = [float(np.std([row[score] for row in group], ddof=1)) / len(group) ** 0.5 for group in groups]
    places = np.arange(1, len(groups) + 1)
    ax.plot(*np.transpose(points), "o", color=ORANGE, markersize=4, label="one seed")
    style: dict[str, Any] = {"color": BLUE, "fmt": "_", "markersize": 12, "capsize": 4}
    ax.errorbar(places, means, errors, label="mean ± standard error", **style)
    rotation, between = (0, "\n") if len(groups) <= 8 else (90, ", ")
    names = [f"N {group[0]['N']}{between}d_m {group[0]['d_m']}" for group in groups]
    ax.set_xticks(places, names, rotation=rotation)
    ax.set_xlim(0.4, len(groups) + 0.6)
    ax.set_xlabel("configuration, best first")
    ax.set_ylabel(_label(score))
    ax.set_title("Spread over seeds")
    ax.legend()
    return ax


def differences(comparison: Comparison, ax: "Axes | None" = None) -> "Axes":
    """How much every value of a setting is above the one it is compared with: a dot for each pair of runs, the mean
    and its 95 % interval."""
    ax = axis(ax)
    values = [one for one in comparison.values[1:] if one.differences]
    for place, one in enumerate(values):
        ax.plot(one.differences, [place] * len(one.differences), "o", color=ORANGE, markersize=4, alpha=0.7)
        middle, ends = fmean(one.differences), one.interval
        if ends is not None:
            ax.plot(ends, [place, place], color=BLUE)
        ax.plot(middle, place, "D", color=BLUE, markersize=6)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_yticks(range(len(values)), [plain(str(one.value)) for one in values])
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_ylabel(plain(comparison.by))
    ax.set_xlabel(f"{_label(comparison.score)}, above that of {plain(str(comparison.against))}; {comparison.sense}")
    ax.set_title("Differences within pairs of runs (dots), mean and 95 % interval")
    return ax


def seeds(rows: Sequence[dict[str, Any]], score: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Finished rows of configurations with at least two seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["state"] == "done" and row[score] is not None and np.isfinite(row[score]):
            groups.setdefault((row["configuration"], row["data"]), []).append(row)
    return {key: group for key, group in groups.items() if len(group) > 1}


def learning_curves(
    runs: Sequence[tuple[int, Sequence[dict[str, Any]]]], score: str, ax: "Axes | None" = None
) -> "Axes":
    """Validation score of many runs against the step, coloured by d_m.

    Args:
        runs: d_m and metrics of each.
        score: e.g. `bpc`.
        ax: where to draw.
    """
    ax = axis(ax)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    memories = [d_m for d_m, _ in runs]
    low, high = min(memories), max(memories)
    norm = LogNorm(low, max(high, low + 1))
    lines = [(d_m, [(m["step"], m[score]) for m in validations(metrics) if score in m]) for d_m, metrics in runs]
    lines = [(d_m, _thinned(points, POINTS // len(lines))) for d_m, points in lines if points]
    marker = "." if sum(len(points) for _, points in lines) <= POINTS / 5 else ""
    for d_m, points in sorted(lines, key=lambda one: one[0]):
        colour = colormaps["viridis"](0.92 * norm(d_m))
        ax.plot(*np.transpose(points), color=colour, linewidth=0.9, alpha=0.8, marker=marker, markersize=3)
    colours = ScalarMappable(norm, colormaps["viridis"])
    bar = ax.figure.colorbar(colours, ax=ax, label="memory units per neuron, d_m")
    bar.ax.set_yticks(sorted(set(memories)), [str(one) for one in sorted(set(memories))], minor=False)
    bar.ax.minorticks_off()
    ax.set_xlabel("training step")
    ax.set_ylabel(f"validation {labelled(score)}")
    ax.set_title(f"Learning, {len(runs)} runs")
    return ax


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Not many more than `most` points of a curve, evenly, the first and the last among them."""
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, max(most, 10)).astype(int))]


def budgets(rows: Sequence[dict[str, Any]], score: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows of one budget P', d_tree, d_s, length and setting each, where d_m has 3 values or more.

    A budget is what lies at most 15 % below its largest P': whole units do not spend every budget to the end.
    """
    names = _together([float(row["hidden"]) for row in rows])
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row[score] is not None:
            key = (names[row["hidden"]], *(row[name] for name in ("d_tree", "d_s", "steps", "setting", "data")))
            groups.setdefault(key, []).append(row)
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
    few_numbers(ax, "x")
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
            same = (row[name] for name in ("setting", "data", "steps", "d_tree", *others))
            groups.setdefault(tuple(same), []).append(row)
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
    return f"{split} {labelled(kind)}"
