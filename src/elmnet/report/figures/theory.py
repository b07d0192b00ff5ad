"""Figures of the theory: a fit, a plan, the surface, the front."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elmnet import budget
from elmnet.config import NeuronConfig
from elmnet.errors import TheoryError
from elmnet.report.figures.style import BELOW, BLUE, GREEN, GREY, ORANGE, axis, decades, few_numbers, source
from elmnet.theory.fit import Fit
from elmnet.theory.front import near_front, pinball, power_law
from elmnet.theory.kinds import KINDS
from elmnet.theory.model import ends
from elmnet.theory.planner import Plan
from elmnet.theory.unit import complexity_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
MODEL = "SNRR: elmnet's model of the two mechanisms of arXiv:2605.12049"


def of_fit(known: Fit) -> dict[str, Callable[[], "Axes"]]:
    """Every figure that a fit allows, by name."""
    figures: dict[str, Callable[[], Axes]] = {
        "budget_curve": lambda: budget_curve(known),
        "mechanisms": lambda: mechanisms(known),
        "surface": lambda: surface(known),
        "front": lambda: front(known),
    }
    return figures


def _along(known: Fit, hidden: float, neuron: NeuronConfig) -> tuple[Array, Array, Array, float]:
    """Continuous d_m, N, k_e of all ways to spend P' = hidden with a neuron's branches and synapses, and their k_c."""
    most = max(100.0, 1.3 * float(known.runs.d_m.max()))
    d_m = np.geomspace(2.0, most, 200)
    k_e = complexity_of(d_m, neuron)
    units = hidden / (k_e + neuron.connectivity)
    kept = units >= 4
    return d_m[kept], units[kept], k_e[kept], float(neuron.connectivity)


def _middle(known: Fit) -> float:
    """The budget P' at which most runs were made."""
    hidden = known.runs.hidden
    near = [int(np.sum(np.abs(np.log(hidden / one)) < 0.1)) for one in hidden]
    return float(np.median(hidden[np.abs(np.log(hidden / hidden[int(np.argmax(near))])) < 0.1]))


def _dots(ax: "Axes", known: Fit, k_c: float, x: Array, y: Array, shown: NDArray[np.bool_] | None = None) -> None:
    """Runs: those with about k_c synapses per unit filled, others hollow."""
    alike = np.abs(np.log(known.runs.k_c / k_c)) < 0.1
    shown = np.ones(len(x), bool) if shown is None else shown
    label = "runs" if alike.all() else f"runs with k_c = {k_c:,.0f}"
    for some, colour, words in ((alike, ORANGE, label), (~alike, "none", "runs with other k_c")):
        if (some & shown).any():
            edge = "white" if some is alike else ORANGE
            x_of, y_of = x[some & shown], y[some & shown]
            ax.plot(x_of, y_of, "o", color=colour, markeredgecolor=edge, markersize=5, label=words)


def budget_curve(
    known: Fit, hidden: float | None = None, ax: "Axes | None" = None, *, neuron: NeuronConfig | None = None
) -> "Axes":
    """Score against d_m at one budget: runs, the fitted law with its 95 % band, and the near-optimal interval.

    Args:
        known: fit of the runs.
        hidden: P'; None: the one at which most runs were made.
        ax: where to draw.
        neuron: whose branches and synapses the law's units have; None: the runs' commonest.
    """
    ax, hidden, neuron = axis(ax), hidden or _middle(known), neuron or known.runs.neuron
    d_m, units, k_e, k_c = _along(known, hidden, neuron)
    loss, low, high = known.predict(units, k_e, np.full_like(units, k_c))
    runs = known.runs
    here = np.abs(np.log(runs.hidden / hidden)) < 0.1
    if known.worlds is not None and not known.outside(hidden, k_c):
        ax.fill_between(d_m, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % of the law")
    several = np.ptp(runs.k_c) > 0 or k_c != runs.k_c[0]
    label = f"SNRR fit, {neuron.branches} × {neuron.synapses} synapses" if several else "SNRR fit"
    ax.plot(d_m, loss, color=BLUE, label=label)
    _dots(ax, known, k_c, runs.d_m, runs.y, here)
    near = d_m[loss <= loss.min() + known.sd]
    ax.axvspan(near[0], near[-1], color=GREY, alpha=0.12, linewidth=0, label="within one run's noise of the best")
    best = int(loss.argmin())
    if 0 < best < len(d_m) - 1:
        place, words = (d_m[best], loss[best]), f"d_m* = {d_m[best]:.1f}"
        ax.plot(*place, "v", color=BLUE, markersize=7, label="_SNRR fit")
        ax.annotate(words, place, (0, -16), textcoords="offset points", ha="center")
    ax.set_xscale("log")
    decades(ax, (2, 3, 5, 10, 20, 30, 50, 100))
    shown = runs.y[here] if here.any() else loss  # no runs were made at this budget
    spread = max(float(np.ptp(shown)), 5 * known.sd)
    ax.set_ylim(float(min(loss.min(), shown.min())) - 0.2 * spread, float(shown.max()) + 0.15 * spread)
    ax.set_xlabel("memory units per neuron, d_m (complexity)")
    ax.set_ylabel(_score(known))
    ax.set_title(f"How to spend P' = {hidden:,.0f} parameters\n{source(runs.source)}")
    ax.legend()
    return ax


def mechanisms(known: Fit, hidden: float | None = None, ax: "Axes | None" = None) -> "Axes":
    """What limits the network at one budget: loss due to SNR saturation and to redundancy, against d_m."""
    ax, hidden = axis(ax), hidden or _middle(known)
    d_m, units, k_e, k_c = _along(known, hidden, known.runs.neuron)
    law, per_bit = known.law, known.law.unit * known.law.D / 2
    saturation, redundancy = law.saturation_bits(k_e, k_c), law.redundancy_bits(units)
    if law.kappa_c:
        ax.plot(d_m, saturation, color=BLUE, label=f"SNR saturation: units too simple, k_c = {k_c:,.0f} too few")
        synapses = np.full_like(d_m, float(law.saturation_bits(np.inf, k_c)))
        ax.plot(d_m, synapses, "-.", color=BLUE, linewidth=1.0, label="of it, what complexity cannot cure: synapses")
    else:
        ax.plot(d_m, saturation, color=BLUE, label="SNR saturation: units too simple")
    ax.plot(d_m, redundancy, "--", color=ORANGE, label="redundancy: too few units")
    ax.plot(d_m, saturation + redundancy, ":", color=GREY, label="both")
    ax.set_xscale("log")
    decades(ax, (2, 3, 5, 10, 20, 30, 50, 100))
    ax.set_ylim(0, 1.3 * float((saturation + redundancy)[(d_m > 3)].max()))
    ax.set_xlabel("memory units per neuron, d_m (complexity)")
    ax.set_ylabel("signal-to-noise lost, bits")
    ax.set_title(f"What each mechanism costs at P' = {hidden:,.0f}\n{MODEL}")
    ax.legend()
    if float(np.max(law.log2_snr(units, k_e, k_c))) > 3:  # else a bit is worth less and less
        right = ax.secondary_yaxis("right", functions=(lambda x: x * per_bit, lambda x: x / per_bit))
        right.set_ylabel(f"≈ {_unit(known)} of {known.runs.score}")
    return ax


def surface(known: Fit, ax: "Axes | None" = None) -> "Axes":
    """Predicted score over N and k_e with lines of equal budget and the path of the optimum; k_c of most runs."""
    ax, runs, law = axis(ax), known.runs, known.law
    k_c = float(runs.neuron.connectivity)
    N = np.geomspace(runs.N.min() / 2, runs.N.max() * 4, 160)
    k_e = np.geomspace(max(runs.k_e.min() / 2, 2), runs.k_e.max() * 3, 160)
    loss = law.loss(N[None, :], k_e[:, None], k_c)
    levels = np.quantile(loss, np.linspace(0.02, 0.98, 11))
    filled = ax.contourf(N, k_e, loss, np.unique(levels), cmap="cividis_r", extend="both")
    ax.figure.colorbar(filled, ax=ax, label=_score(known), format="%.3g")
    hidden = np.geomspace(N[0] * (k_e[0] + k_c), N[-1] * (k_e[-1] + k_c), 300)
    best = law.optimum(hidden, np.full_like(hidden, k_c))
    dark = [_outline(3)]
    label = "best N and k_e of each budget"
    ax.plot(best.units, best.complexity, color="white", linewidth=2.0, label=label, path_effects=dark)
    middle = _middle(known)
    for power in (-2, -1, 0, 1):
        total = middle * 10.0**power
        line = total / N - k_c
        inside = (line > k_e[0]) & (line < k_e[-1])
        if inside.sum() < 2:
            continue
        ax.plot(N[inside], line[inside], "--", color="white", linewidth=0.9, path_effects=[_outline(1.6)])
        at = int(np.flatnonzero(inside)[inside.sum() // 3])
        label = f"P' = {_two_digits(total)}"
        ax.annotate(label, (N[at], line[at]), (3, 3), textcoords="offset points", color="white", path_effects=dark)
    _dots(ax, known, k_c, runs.N, runs.k_e)
    ax.set(xscale="log", yscale="log", xlim=(N[0], N[-1]), ylim=(k_e[0], k_e[-1]))
    few_numbers(ax)
    ax.set_xlabel("units, N")
    ax.set_ylabel("complexity, k_e (parameters per unit)")
    ax.set_title(f"Predicted {runs.score}, k_c = {k_c:,.0f} synapses per unit\n{MODEL}")
    ax.legend(**BELOW)
    return ax


def front(known: Fit, ax: "Axes | None" = None) -> "Axes":
    """Least score of every budget with its band; dotted where it is extrapolated.

    N and k_e are free; k_c, too, where the runs tell what synapses are worth, and else that of most runs.
    """
    ax, runs = axis(ax), known.runs
    free, k_c = "kappa_c" in known.free, float(runs.neuron.connectivity)
    low, high = known.fitted_range
    hidden = np.geomspace(low / 10, high * 10, 200)
    best = known.front(known.law, hidden)
    inside = np.array([known.outside(*one) is None for one in zip(hidden, best.connectivity, strict=True)])
    ax.plot(hidden, best.loss, ":", color=BLUE, label="extrapolated")
    words = "N, k_e, k_c" if free else f"N, k_e; k_c = {k_c:,.0f}"
    ax.plot(hidden[inside], best.loss[inside], color=BLUE, label=f"best {words} of each budget, SNRR")
    if known.worlds is not None and inside.any():
        shown = hidden[inside][::4]
        low, high = ends(known.front(known.worlds, shown).loss)
        ax.fill_between(shown, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % of the law")
    _dots(ax, known, k_c, runs.hidden, runs.y)
    near = near_front(runs.hidden, runs.y, known.sd)
    with contextlib.suppress(TheoryError):  # too few runs, or too near each other
        law = power_law(runs.hidden[near], runs.y[near])
        reach = np.geomspace(law.P_min, law.P_max, 100)
        label = f"L_inf + (P_c/P')^α, α = {law.alpha:.2f} here"
        ax.plot(reach, law.loss(reach), "--", color=GREEN, label=label)
        ax.plot(
            reach, pinball(runs.hidden, runs.y).loss(reach), "-.", color=GREY, label="a tenth of all runs lie lower"
        )
    ax.axhline(known.law.L_inf, color=GREY, linewidth=0.8)
    ax.annotate("L_inf, this training's limit", (hidden[0], known.law.L_inf), (2, 3), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_xlabel("parameters of the hidden layer, P' = N (k_e + k_c)")
    ax.set_ylabel(_score(known))
    words = "" if "a" in known.free else f"; its exponent a = {known.law.a:g} is assumed"
    ax.set_title(f"What a budget buys{words}\n{source(runs.source)}")
    ax.legend(**BELOW)
    return ax


def plan_curve(known: Fit, chosen: Plan, ax: "Axes | None" = None) -> "Axes":
    """The budget's curve with the plan and its rivals."""
    ax = budget_curve(known, float(chosen.cost.hidden), ax, neuron=chosen.network.layers[0].neuron)
    law, shown = known.law, []
    shapes = [("the plan", chosen.network)] + [(rival.name, rival.network) for rival in chosen.rivals]
    for (name, network), marker in zip(shapes, "Ds^P", strict=False):
        price = budget.cost(network)
        loss = float(law.loss(price.units, price.complexity, price.connectivity))
        d_m = network.layers[0].neuron.memory
        shown.append(loss)
        colour = GREEN if marker == "D" else GREY
        label = name if f"d_m = {d_m}" in name else f"{name}: d_m = {d_m}"
        ax.plot(d_m, loss, marker, color=colour, markersize=7, label=label)
    low, high = ax.get_ylim()
    ax.set_ylim(low, max(high, max(shown) + 0.05 * (max(shown) - low)))
    ax.legend()
    return ax


def _score(known: Fit) -> str:
    return f"{known.runs.score.replace('_', ' ')} ({_unit(known)})"


def _unit(known: Fit) -> str:
    kind = KINDS.get(known.runs.score.partition("_")[2])
    return kind.measure if kind else "nats" if known.runs.unit != 1 else "bits"


def _outline(width: float) -> Any:
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=width, foreground="#222222")


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.1e}'):,.0f}"
