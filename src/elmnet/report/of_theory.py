"""What the information model says of some runs."""

from contextlib import suppress

from elmnet.errors import BudgetError, ConfigError, TheoryError
from elmnet.report import figures
from elmnet.report.page import Figure, Section
from elmnet.tables import Table
from elmnet.theory import answers
from elmnet.theory.fit import Fit, fit
from elmnet.theory.limits import Limit, Wiring
from elmnet.theory.model import CREDIT
from elmnet.theory.planner import plan, wirings
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


def theory(runs: Runs) -> Section:
    """Fit, what limits each network, the next budget, figures, and who was left out.

    Raises:
        TheoryError: too few usable runs.
    """
    known = fit(runs)
    section = Section(f"What limits these networks: {runs.source}")
    words = f"{runs.score}: {len(known.runs)} runs fitted, RMSE {known.rmse:.4g}, R² {known.r2:.4f}. {CREDIT}"
    section.words.append(words)
    section.words += [f"Caution: {words}." for words in known.cautions]
    section.words += [f"{name} is fixed at {why}." for name, why in known.fixed.items()]
    if known.no_intervals:
        section.words.append(f"No intervals: {known.no_intervals}.")
    section.tables += [answers.constants(known), answers.limits(known)]
    with suppress(ConfigError, BudgetError):  # outputs that fix the number of units leave nothing to plan
        section.tables.append(_next_budget(known))
    if known.excluded:
        section.tables.append(Table("Runs left out of the fit", ("run", "why"), list(known.excluded.items())))
    draws = figures.of_fit(known)
    section.figures += [Figure(name, TITLES[name], words, draws[name]) for name, words in ABOUT.items()]
    return section


def _next_budget(known: Fit) -> Table:
    """What the planner would build with the runs' largest budget, and with 3 and 10 times that.

    It chooses the synapses where the runs tell what those are worth.
    """
    network, neuron = known.runs.network, known.runs.neuron
    options = [Wiring(neuron.branches, neuron.synapses)]
    if "kappa_c" in known.free:
        with suppress(TheoryError):  # no number of synapses at these branches
            options = wirings(known, neuron.branches)
    largest = float(known.runs.P.max())
    found = [plan(network, Limit(round(factor * largest)), options, known) for factor in (1, 3, 10)]
    return answers.plans(found, known, "How to spend the next budget")
