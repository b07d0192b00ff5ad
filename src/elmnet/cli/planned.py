"""What `elmnet plan` answers: tables, remarks and documents of plans."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from elmnet.cli.theory import interval_words

if TYPE_CHECKING:
    from elmnet.config import NetworkConfig
    from elmnet.theory.fit import Fit
    from elmnet.theory.next_runs import Choice
    from elmnet.theory.planner import Limit, Plan, Prediction


def plan_table(plans: "Sequence[Plan]", where: str, known: "Fit | None") -> Table:
    """One row per budget."""
    title = f"budget in {plans[0].limit.kind}, learned from {where}"
    table = Table(title=escape(title), title_justify="left")
    names = ["budget", "N", "d_m", "d_tree", "d_s", "P", "FLOPs/step", "best d_m, 95 %"]
    learned = [] if known is None else ["near-optimal d_m", known.runs.score, "95 % of the law"]
    for name in names + learned:
        table.add_column(name, justify="right")
    for one in plans:
        first, neuron = one.network.layers[0], one.network.layers[0].neuron
        sizes = (first.units, neuron.memory, neuron.branches, neuron.synapses, one.cost.parameters, one.cost.flops)
        cells = [f"{one.limit.value:,.10g}", *(f"{size:,}" for size in sizes), interval_words(one.best_memory, "d")]
        if known is not None:
            loss = f"{one.loss:.4f}" + (" extrapolated" if one.extrapolated else "")
            cells += [interval_words(one.near_optimal, "d"), loss, interval_words(one.interval, ".4f")]
        table.add_row(*cells)
    return table


def plan_remarks(one: "Plan", known: "Fit | None") -> list[str]:
    """What the table has no room for."""
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


def _wired_otherwise(network: "NetworkConfig", one: "Plan", known: "Fit") -> str:
    """A warning where a comparison rests on what the runs cannot tell."""
    here, there = (n.layers[0].neuron.connectivity for n in (network, one.network))
    if here == there or "kappa_c" in known.free:
        return ""
    return f" (k_c {here:,} instead of {there:,}: what synapses are worth, these runs cannot tell)"


def design_table(before: float, choices: "Sequence[Choice]", limit: "Limit") -> Table:
    """The next runs, most telling first."""
    title = f"runs that would tell most about the best loss at {10 * limit.value:,.10g}: its sd is {before:.4f} now"
    table = Table("", "N", "d_m", "d_tree", "d_s", "P", "sd after it", title=title, title_justify="left")
    from elmnet import budget

    for i, choice in enumerate(choices, 1):
        first = choice.network.layers[0]
        neuron = first.neuron
        numbers = (i, first.units, neuron.memory, neuron.branches, neuron.synapses, budget.parameters(choice.network))
        table.add_row(*(f"{number:,}" for number in numbers), f"{choice.sd:.4f}")
    return table


def predictions_table(predictions: "Sequence[Prediction]", known: "Fit") -> Table:
    """Losses of networks that were asked for."""
    from elmnet import budget

    table = Table(title=escape(f"predicted by a fit to {known.runs.source}"), title_justify="left")
    for name in ("N", "d_m", "d_tree", "d_s", "P", known.runs.score, "95 % of the law", ""):
        table.add_column(name, justify="right")
    for one in predictions:
        first = one.network.layers[0]
        sizes = (first.units, first.neuron.memory, first.neuron.branches, first.neuron.synapses)
        numbers = (f"{number:,}" for number in (*sizes, budget.parameters(one.network)))
        words = "extrapolated" if one.extrapolated else ""
        table.add_row(*numbers, f"{one.loss:.4f}", interval_words(one.interval, ".4f"), words)
    return table


def plan_document(one: "Plan") -> dict[str, Any]:
    """For `--json`."""
    return {
        "budget": one.limit.value,
        "kind": one.limit.kind,
        "price": one.price,
        **document(one),
        "best_d_m": one.best_memory,
        "best_k_c": one.best_connectivity,
        "near_optimal_d_m": one.near_optimal,
        "regret": {rival.name: rival.regret for rival in one.rivals},
        "unused": one.unused,
    }


def document(one: "Plan | Prediction") -> dict[str, Any]:
    """A network, and its loss."""
    from elmnet import budget

    first, cost = one.network.layers[0], budget.cost(one.network)
    return {
        "N": first.units,
        "d_m": first.neuron.memory,
        "d_tree": first.neuron.branches,
        "d_s": first.neuron.synapses,
        "P": cost.parameters,
        "flops_per_step": cost.flops,
        "loss": one.loss,
        "interval": one.interval,
        "extrapolated": one.extrapolated,
    }
