"""Figures of what goes on inside a network; `elmnet.report.inside` computes what they draw."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elmnet.report.figures.style import BLUE, COLOURS, GREEN, GREY, ORANGE, axis, short, whole_numbers
from elmnet.report.inside import Degrees, ReadoutNorms, count_silent, participation_ratio, variance_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
TRACES = 8
"""Memory units and classes that one figure tells apart."""


def activity_raster(activity: Array, step: float = 1.0, unit: str = "steps", ax: "Axes | None" = None) -> "Axes":
    """Activity (T, N) of every unit over time, the most active units on top.

    Args:
        activity: of one sequence.
        step: length of a time step.
        unit: of `step`.
        ax: where to draw.
    """
    ax = axis(ax)
    order = np.argsort(activity.mean(0))
    top = max(float(np.quantile(activity, 0.995)), 1e-12)
    extent = (0.0, step * len(activity), 0.0, float(activity.shape[1]))
    image = ax.imshow(
        activity.T[order], aspect="auto", origin="lower", extent=extent, cmap="Greys", vmin=0, vmax=top,
        interpolation="nearest",
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label="activity", extend="max")
    ax.set_xlabel(f"time ({unit})")
    ax.set_ylabel("unit, by mean activity")
    ax.set_title("Activity of the hidden layer")
    return ax


def activity_distribution(activity: Array, ax: "Axes | None" = None) -> "Axes":
    """Histogram over units of their mean activity (..., N)."""
    ax = axis(ax)
    means = activity.reshape(-1, activity.shape[-1]).mean(0)
    counts, edges = np.histogram(means, 30)
    ax.stairs(counts, edges, color=BLUE, fill=True, alpha=0.6, label="units")
    ax.set_xlabel("mean activity of a unit")
    whole_numbers(ax)
    ax.set_ylabel("units (count)")
    ax.set_title(f"How active units are; {count_silent(activity)} of {len(means)} silent")
    return ax


def timescale_distribution(
    tau: Array, measured: Array, step: float = 1.0, unit: str = "steps", ax: "Axes | None" = None
) -> "Axes":
    """Timescales of memory beside those of activity.

    Args:
        tau: τ_m (N, d_m), in steps.
        measured: autocorrelation times (N,), in steps; NaN where there is none.
        step: length of a time step.
        unit: of `step`.
        ax: where to draw.
    """
    ax = axis(ax)
    found = measured[np.isfinite(measured)]
    everything = step * np.concatenate([tau.flatten(), found[found > 0]])
    edges = np.geomspace(everything.min() / 1.2, everything.max() * 1.2, 41)
    ax.stairs(np.histogram(step * tau, edges)[0] / tau.size, edges, color=BLUE, label="memory, τ_m", linewidth=1.6)
    if len(found):
        share = np.histogram(step * found, edges)[0] / len(found)
        label = "activity: autocorrelation falls to 1/e"
        ax.stairs(share, edges, color=ORANGE, fill=True, alpha=0.55, label=label)
    ax.set_xscale("log")
    ax.set_xlabel(f"timescale ({unit})")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend
    ax.set_ylabel("share of memory units, of units")
    ax.set_title("Timescales")
    ax.legend(loc="upper right")
    return ax


def memory_traces(
    memory: Array, tau: Array, step: float = 1.0, unit: str = "steps", name: str = "", ax: "Axes | None" = None
) -> "Axes":
    """The memory (T, d_m) of one unit over time, one line for each timescale (d_m,); of many, every n-th."""
    ax = axis(ax)
    from matplotlib import colormaps

    chosen = np.unique(np.linspace(0, len(tau) - 1, min(TRACES, len(tau))).astype(int))
    time = step * np.arange(1, len(memory) + 1)
    for place, m in enumerate(chosen):
        colour = colormaps["viridis"](0.9 * place / max(len(chosen) - 1, 1))
        ax.plot(time, memory[:, m], color=colour, linewidth=1.1, label=f"τ = {short(step * tau[m])}")
    ax.set_xlabel(f"time ({unit})")
    ax.set_ylabel("memory, m (dimensionless)")
    ax.set_title(f"Memory of {name or 'one unit'}; τ in {unit}")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def branch_drive(
    branch: Array, step: float = 1.0, unit: str = "steps", name: str = "", ax: "Axes | None" = None
) -> "Axes":
    """Drive (T, d_tree) of one unit's branches over time."""
    ax = axis(ax)
    top = max(float(np.quantile(np.abs(branch), 0.995)), 1e-12)
    extent = (0.0, step * len(branch), 0.0, float(branch.shape[1]))
    image = ax.imshow(
        branch.T, aspect="auto", origin="lower", extent=extent, cmap="PuOr", vmin=-top, vmax=top,
        interpolation="nearest",
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label="drive, b (dimensionless)", extend="both")
    ax.set_xlabel(f"time ({unit})")
    whole_numbers(ax)
    ax.set_ylabel("branch")
    ax.set_title(f"Drive of the branches of {name or 'one unit'}")
    return ax


def degree_distribution(counted: Degrees, ax: "Axes | None" = None) -> "Axes":
    """In- and out-degrees of the connectome: how many synapses read what, and are read by how many."""
    ax = axis(ax)
    shown: list[tuple[str, Any, str, str]] = [
        ("in: inputs read by a unit", counted.from_inputs, BLUE, "-"),
        ("in: units read by a unit", counted.from_units, ORANGE, "-"),
        ("out: synapses on an input", counted.of_inputs, BLUE, "--"),
        ("out: synapses on a unit", counted.of_units, ORANGE, "--"),
    ]
    most = max(int(values.max(initial=0)) for _, values, _, _ in shown)
    edges = np.unique(np.linspace(-0.5, most + 0.5, min(most + 2, 41)))
    for label, values, colour, line in shown:
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        ax.stairs(share, edges, color=colour, linestyle=line, label=label, linewidth=1.4)
    ax.set_xlabel("degree (synapses)")
    ax.set_ylabel("share of units, of inputs")
    ax.set_title("Connectome")
    ax.legend()
    return ax


def readout_strength(norms: ReadoutNorms, ax: "Axes | None" = None) -> "Axes":
    """Norms of every unit's read-out, and of the next layer's weights on it, each by rank."""
    ax = axis(ax)
    rank = np.arange(1, len(norms.own) + 1)
    ax.plot(rank, np.sort(norms.own)[::-1], color=BLUE, label="‖W_y‖: how strongly a unit speaks")
    if norms.next is not None:
        ax.plot(rank, np.sort(norms.next)[::-1], "--", color=ORANGE, label="how strongly the read-out listens to it")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("rank of a unit")
    ax.set_ylabel("norm of weights (dimensionless)")
    ax.set_title("Read-out of every unit")
    ax.legend()
    return ax


def dimension(activity: Array, ax: "Axes | None" = None) -> "Axes":
    """Variance of activity (..., N) along its first principal axes, with the participation ratio."""
    ax = axis(ax)
    shares, ratio = np.cumsum(variance_spectrum(activity)), participation_ratio(activity)
    ax.plot(np.arange(1, len(shares) + 1), shares, color=BLUE, label="variance explained")
    ax.axvline(max(ratio, 1.0), color=GREEN, linestyle="--")
    ax.annotate(f"participation ratio {ratio:.1f}", (max(ratio, 1.0), 0.03), (5, 0), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("principal axes of activity (count)")
    ax.set_ylabel("share of the variance")
    ax.set_title(f"Effective dimension of the activity of {activity.shape[-1]} units")
    return ax


def spikes_and_classes(
    spikes: NDArray[np.bool_],
    probability: Array,
    target: int,
    step: float = 1.0,
    unit: str = "steps",
    ax: "Axes | None" = None,
) -> "Axes":
    """Input spikes (T, channels) above the running probability (T, classes) of the likeliest classes.

    Args:
        spikes: of one sequence.
        probability: of every class after each step.
        target: the true class.
        step: length of a time step.
        unit: of `step`.
        ax: whose place both take.
    """
    ax = axis(ax)
    ax.axis("off")
    ax.set_title("Input spikes, and what the network takes them for")
    above, below = ax.inset_axes((0.0, 0.53, 1.0, 0.47)), ax.inset_axes((0.0, 0.0, 1.0, 0.47))
    time, channel = np.nonzero(spikes)
    height = float(np.clip(120 / spikes.shape[1], 1.0, 8.0))  # points; of one channel, or just visible
    above.plot(step * (time + 0.5), channel, "|", markersize=height, color="black", rasterized=True)
    above.set_xlim(0, step * len(spikes))
    above.set_ylabel("input channel")
    above.tick_params(labelbottom=False)
    shown = np.argsort(probability.max(0))[::-1][: TRACES - 2]
    shown = shown if target in shown else np.append(shown[:-1], target)
    colours = dict(zip([one for one in shown if one != target], COLOURS[1:], strict=False))
    ends = step * np.arange(1, len(probability) + 1)
    for one in sorted(shown):
        right = one == target
        style: dict[str, Any] = {"color": BLUE, "linewidth": 2.2} if right else {"color": colours.get(one, GREY)}
        label = f"class {one}" + (" (true)" if right else "")
        below.plot(ends, probability[:, one], label=label, **{"linewidth": 1.1, **style})
    below.set_xlim(0, step * len(spikes))
    below.set_ylim(0, min(1.02, 1.1 * float(probability[:, shown].max())))
    below.set_xlabel(f"time ({unit})")
    below.set_ylabel("probability")
    below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
