"""What the information model says of some runs."""

from contextlib import suppress
from operator import attrgetter

import numpy as np

from elmnet.errors import BudgetError, ConfigError, TheoryError
from elmnet.report import figures
from elmnet.report.page import Figure, Section, Table, interval, number
from elmnet.theory.fit import Fit, fit
from elmnet.theory.model import CONSTANTS, CREDIT
from elmnet.theory.planner import Limit, Wiring, plan, wirings
from elmnet.theory.runs import Runs

ABOUT = {
    "budget_curve": "Score against d_m at the runs' main budget: runs, the fitted law with its 95 % band, optimum.",
    "mechanisms": "Bits of signal-to-noise lost to units that are too simple, and to units that are too few.",
    "surface": "Predicted score over N and k_e, with lines of equal budget and the path of the optimum.",
    "front": "Least predicted score of every budget; dotted where it is extrapolated.",
}
TITLES = {
    "budget_curve": "Number against complexity at a fixed budget",
    "mechanisms": "What each mechanism costs",
    "surface": "Predicted score over N and complexity",
    "front": "What a budget buys",
}
MOST = 20
"""Networks listed with what limits them."""


def theory(runs: Runs) -> Section:
    """Fit, what limits each network, the next budget, figures, and who was left out.

    Raises:
        TheoryError: too few usable runs.
    """
    known = fit(runs)
    section = Section(f"What limits these networks: {runs.source}")
    words = f"{runs.score}: {len(known.runs)} runs fitted, RMSE {known.rmse:.4g}, R² {known.r2:.4f}. {CREDIT}"
    section.words.append(words)
    if known.runs.caution is not None:
        section.words.append(f"Caution: {known.runs.caution}.")
    section.words += [f"{name} is fixed at {why}." for name, why in known.fixed.items()]
    if known.no_intervals:
        section.words.append(f"No intervals: {known.no_intervals}.")
    rows = []
    for name, meaning in CONSTANTS.items():
        between = known.interval(attrgetter(name)) if name in known.free else None
        rows.append((name, f"{float(getattr(known.law, name)):.4g}", interval(between, ".4g"), meaning))
    section.tables.append(Table("Constants of the fit", ("constant", "value", "95 % interval", "meaning"), rows))
    section.tables.append(_limits(known))
    with suppress(ConfigError, BudgetError):  # outputs that fix the number of units leave nothing to plan
        section.tables.append(_next_budget(known))
    if known.excluded:
        section.tables.append(Table("Runs left out of the fit", ("run", "why"), list(known.excluded.items())))
    draws = figures.of_fit(known)
    section.figures += [Figure(name, TITLES[name], words, draws[name]) for name, words in ABOUT.items()]
    return section


def _limits(known: Fit) -> Table:
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
                number(float(np.mean(runs.y[members]))),
                number(float(law.loss(N, k_e, k_c))),
                f"{saturation:.3f}",
                f"{redundancy:.3f}",
                max(alone, key=lambda name: alone[name]),
            )
        )
    few = f", the best {MOST} of {len(shapes)}" if len(shapes) > MOST else ""
    columns = ("N", "d_m", "P'", runs.score, "law", "bits lost: saturation", "bits lost: redundancy", "more to")
    return Table(f"What limits each network{few}", columns, rows)


def _next_budget(known: Fit) -> Table:
    """What the planner would build with the runs' largest budget, and with 3 and 10 times that.

    It chooses the synapses where the runs tell what those are worth.
    """
    network, neuron = known.runs.network, known.runs.neuron
    options = [Wiring(neuron.branches, neuron.synapses)]
    if "kappa_c" in known.free:
        with suppress(TheoryError):  # no number of synapses at these branches
            options = wirings(known, neuron.branches)
    rows = []
    for factor in (1, 3, 10):
        limit = Limit(round(factor * float(known.runs.P.max())))
        chosen = plan(network, limit, options, known)
        first = chosen.network.layers[0]
        rows.append(
            (
                f"{limit.value:,.0f}",
                f"{first.units:,}",
                f"{first.neuron.memory}",
                f"{first.neuron.branches} × {first.neuron.synapses}",
                interval(chosen.best_memory, "d"),
                interval(chosen.near_optimal, "d"),
                number(chosen.loss) + (" extrapolated" if chosen.extrapolated else ""),
                interval(chosen.interval, ".4f"),
            )
        )
    columns = (
        "P",
        "N",
        "d_m",
        "branches × synapses",
        "best d_m, 95 %",
        "near-optimal d_m",
        known.runs.score,
        "95 % of the law",
    )
    return Table("How to spend the next budget", columns, rows)
