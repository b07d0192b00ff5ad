"""What fits, plans and comparisons say, as tables and remarks; the command line and reports show the same ones."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

import numpy as np

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.tables import Table, between, score, whole
from elmnet.theory.compare import Judgement, Profile
from elmnet.theory.fit import Fit
from elmnet.theory.front import Gap
from elmnet.theory.limits import Limit
from elmnet.theory.model import CONSTANTS
from elmnet.theory.next_runs import Choice
from elmnet.theory.plain import UnitFit
from elmnet.theory.planner import Plan, Prediction
from elmnet.theory.runs import Runs
from elmnet.theory.unit import memory_of

SIZES = ("N", "d_m", "d_tree", "d_s")
LAW = "95 % of the law"
MOST = 20
"""Networks listed with what limits them."""


def _sizes(network: NetworkConfig) -> list[str]:
    first, neuron = network.layers[0], network.layers[0].neuron
    return [whole(number) for number in (first.units, neuron.memory, neuron.branches, neuron.synapses)]


def constants(known: Fit, title: str = "Constants of the fit") -> Table:
    """Constants of a fit with intervals, and what each means."""
    rows = []
    for name, meaning in CONSTANTS.items():
        value = float(getattr(known.law, name))
        free = name in known.free
        ends = between(known.interval(attrgetter(name)), ".4g") if free else "not fitted"
        rows.append((name, f"{value:.4g}" if free else f"{value:g}", ends, meaning))
    return Table(title, ("constant", "value", "95 % interval", "meaning"), rows)


def limits(known: Fit) -> Table:
    """Bits that each network lacks, and which mechanism takes most of them; the best networks first."""
    runs, law = known.runs, known.law
    shapes: dict[tuple[float, ...], list[int]] = {}
    for i, shape in enumerate(zip(runs.N, runs.k_e, runs.k_c, strict=True)):
        shapes.setdefault(shape, []).append(i)
    best = sorted(shapes.items(), key=lambda item: float(runs.y[item[1]].mean()))[:MOST]
    rows = []
    for (N, k_e, k_c), members in best:
        saturation, redundancy = float(law.saturation_bits(k_e, k_c)), float(law.redundancy_bits(N))
        alone = {
            "units too simple": float(law.saturation_bits(k_e, np.inf)),
            "synapses too few": float(law.saturation_bits(np.inf, k_c)),
            "units too few": redundancy,
        }
        rows.append(
            (
                f"{N:,.0f}",
                f"{runs.d_m[members[0]]:,.0f}",
                f"{N * (k_e + k_c):,.0f}",
                score(float(np.mean(runs.y[members]))),
                score(float(law.loss(N, k_e, k_c))),
                f"{saturation:.3f}",
                f"{redundancy:.3f}",
                max(alone, key=lambda name: alone[name]),
            )
        )
    few = f", the best {MOST} of {len(shapes)}" if len(shapes) > MOST else ""
    columns = ("N", "d_m", "P'", runs.score, "law", "bits lost: saturation", "bits lost: redundancy", "more to")
    return Table(f"What limits each network{few}", columns, rows)


def plans(found: Sequence[Plan], known: Fit | None, title: str) -> Table:
    """One row per budget."""
    learned = [] if known is None else ["near-optimal d_m", known.runs.score, LAW]
    rows = []
    for one in found:
        cost = [whole(one.cost.parameters), whole(one.cost.flops)]
        row = [f"{one.limit.value:,.10g}", *_sizes(one.network), *cost, between(one.best_memory, "d")]
        if known is not None:
            loss = score(one.loss) + (" extrapolated" if one.extrapolated else "")
            row += [between(one.near_optimal, "d"), loss, between(one.interval, ".4f")]
        rows.append(row)
    return Table(title, ["budget", *SIZES, "P", "FLOPs/step", "best d_m, 95 %", *learned], rows)


def predictions(found: Sequence[Prediction], known: Fit) -> Table:
    """Losses of networks that were asked for."""
    rows = [
        (
            *_sizes(one.network),
            whole(budget.parameters(one.network)),
            score(one.loss) + (" extrapolated" if one.extrapolated else ""),
            between(one.interval, ".4f"),
        )
        for one in found
    ]
    return Table(f"predicted by a fit to {known.runs.source}", (*SIZES, "P", known.runs.score, LAW), rows)


def next_runs(before: float, choices: Sequence[Choice], limit: Limit) -> Table:
    """The next runs, most telling first."""
    title = f"runs that would tell most about the best loss at {10 * limit.value:,.10g}: its sd is {before:.4f} now"
    rows = [
        (whole(i), *_sizes(one.network), whole(budget.parameters(one.network)), score(one.sd))
        for i, one in enumerate(choices, 1)
    ]
    return Table(title, ("", *SIZES, "P", "sd after it"), rows)


def gaps(known: Fit, found: Sequence[Gap]) -> Table:
    """The law's front beside the pinball curve."""
    title = f"least {known.runs.score} of a budget: the law's, and the pinball curve (a tenth of all runs lie lower)"
    rows = [
        (
            f"{gap.hidden:,.0f}",
            score(gap.model),
            between(gap.model_interval, ".4f"),
            score(gap.pinball),
            between(gap.pinball_interval, ".4f"),
            gap.verdict,
        )
        for gap in found
    ]
    return Table(title, ("P'", "SNRR", "95 %", "pinball", "95 %", "verdict"), rows)


def forms(runs: Runs, judged: Sequence[Judgement], low: float, high: float) -> Table:
    """Naive alternatives to the law."""
    factor, name = _small(runs)
    rows = []
    for one in judged:
        numbers = (one.rmse * factor, one.aicc, one.left_out_rmse * factor, one.best_d_m, one.ends_best_d_m)
        rows.append((one.name, str(one.constants), *(f"{x:.4g}" for x in (*numbers, one.ends_rmse * factor))))
    columns = (f"RMSE, {name}", "AICc", "leave-one-out", "d_m*", "d_m* from the ends", "held-out RMSE")
    title = f"naive alternatives; the ends are d_m ≤ {low:g} and ≥ {high:g}"
    return Table(title, ("form", "constants", *columns), rows)


def profile(runs: Runs, found: Sequence[Profile]) -> Table:
    """The best fit for every exponent a."""
    factor, name = _small(runs)
    rows = [
        (
            f"{one.a:g}",
            f"{one.rmse * factor:.4g}",
            f"{one.d_m:.1f}",
            f"{one.d_m_tenfold:.1f}",
            score(one.loss_tenfold),
        )
        for one in found
    ]
    return Table("profile over a", ("a held at", f"RMSE, {name}", "d_m*", "d_m* at 10 P'", "loss at 10 P'"), rows)


def _small(runs: Runs) -> tuple[int, str]:
    """Factor and name of the unit for small differences of a score."""
    return (1000, "mbpc") if runs.score.endswith("bpc") else (1, runs.score)


def neurons(fits: Mapping[str, UnitFit], title: str) -> Table:
    """Laws of single neurons' signal-to-noise."""
    rows = []
    for name, one in fits.items():
        error = one.error
        spread = f" ± {error['a']:.2f}" if "a" in error else ""
        kappa = f"{one.kappa_e:.1f} ± {100 * error['ln kappa_e']:.1f} %"
        rows.append((name, f"{one.eta_inf:.2f}", kappa, f"{one.a:.2f}{spread}", f"{one.rms:.4f}"))
    return Table(title, ("", "η_inf", "κ_e", "a", "rms of ln(1/η)"), rows)


def fit_remarks(known: Fit, skipped: Mapping[str, str]) -> list[str]:
    """What the table of constants does not say: quality, what is fixed, the best split, who was left out."""
    runs = known.runs
    words = [f"{len(runs)} runs, RMSE {known.rmse:.4g}, R² {known.r2:.4f}, standard deviation of a run {known.sd:.3g}"]
    words += [f"{name} is fixed at {why}" for name, why in known.fixed.items()]
    if known.no_intervals:
        words.append(f"no intervals: {known.no_intervals}")
    hidden, k_c = float(np.median(runs.hidden)), float(runs.neuron.connectivity)
    best = known.law.optimum(hidden, k_c)
    d_m = float(memory_of(best.complexity, runs.neuron))
    interval = known.interval(lambda law: memory_of(law.optimum(hidden, k_c).complexity, runs.neuron))
    words.append(
        f"best split of the runs' median P' = {hidden:,.0f} at k_c = {k_c:,.0f}: d_m* {d_m:.1f} "
        f"{between(interval, '.1f')}, N* {float(best.units):.0f}, {runs.score} {float(best.loss):.4f}"
    )
    if "kappa_c" in known.free:
        best = known.law.optimum_free(hidden)
        interval = known.interval(lambda law: law.optimum_free(hidden).connectivity)
        outside = known.outside(hidden, float(best.connectivity))
        words.append(
            f"with synapses free: k_c* {float(best.connectivity):,.0f} {between(interval, ',.0f')}, "
            f"k_e* {float(best.complexity):,.0f}, N* {float(best.units):.0f}, {runs.score} {float(best.loss):.4f}"
            f"{f'; extrapolated: {outside}' if outside else ''}"
        )
    left = {**known.excluded, **skipped}
    words += [f"left out: {name}: {why}" for name, why in left.items()]
    return words


def plan_remarks(one: Plan, known: Fit | None) -> list[str]:
    """What the table of plans has no room for."""
    words = []
    if one.unused:
        words.append(f"budget {one.limit.value:,.10g} {one.limit.kind}: {one.unused}")
    if one.extrapolated:
        advice = "the best d_m is no safer: train a few splits of this budget and wiring, then plan --from them"
        words.append(f"extrapolated: {one.extrapolated}; {advice}")
    if one.best_connectivity is not None:
        low, high = one.best_connectivity
        k_c = one.network.layers[0].neuron.connectivity
        words.append(f"k_c {k_c:,}, chosen; 95 % of the law's best: {low:,} … {high:,}")
    if known is None:
        return words
    for rival in one.rivals:
        first = rival.network.layers[0]
        interval = "" if rival.interval is None else f" [{rival.interval[0]:+.4f}, {rival.interval[1]:+.4f}]"
        words.append(
            f"regret at {one.limit.value:,.10g} of {rival.name} (N {first.units:,}, d_m {first.neuron.memory}): "
            f"{rival.regret:+.4f}{interval}{_wired_otherwise(rival.network, one, known)}"
        )
    words.append(f"near-optimal: predicted within {one.delta:.2g} of the least, the noise of one run")
    return words


def _wired_otherwise(network: NetworkConfig, one: Plan, known: Fit) -> str:
    """A warning where a comparison rests on what the runs cannot tell."""
    here, there = (n.layers[0].neuron.connectivity for n in (network, one.network))
    if here == there or "kappa_c" in known.free:
        return ""
    return f" (k_c {here:,} instead of {there:,}: these runs cannot tell what synapses are worth)"
