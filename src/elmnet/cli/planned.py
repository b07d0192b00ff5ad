"""What `elmnet plan` answers besides tables: remarks and documents of plans."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elmnet.config import NetworkConfig
    from elmnet.theory.fit import Fit
    from elmnet.theory.planner import Plan, Prediction


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
