"""How to spend a budget: the network with the least loss that fits, and what is known about it (§9).

A plan goes through every integer d_m, gives each the largest N that fits, predicts every loss in every bootstrap world,
and takes the d_m whose regret, averaged over the worlds, is least.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import BudgetError, ConfigError, TheoryError
from elmnet.theory.fit import Fit, fit
from elmnet.theory.limits import Limit, Wiring
from elmnet.theory.model import SNRR, ends
from elmnet.theory.rows import PUBLISHED
from elmnet.theory.solve import PRIOR

Array = NDArray[np.float64]
MOST_MEMORY = 200
"""Largest d_m that a plan considers."""
CONNECTIVITIES = 24
"""Numbers of synapses that a plan considers, at most."""
LEAST_UNITS = 4
SIMPLE = 3
"""d_m of the simple-unit default that a plan is compared with."""
RECIPE = 0.5
"""d_m/√N of the paper's recipe for a task without a published network; those have 0.47 and 0.51 (§4)."""
TOLERANCE = 0.005
"""A plan that leaves more of the budget unused says why."""


@dataclass(frozen=True)
class Prediction:
    """What a fit says of a network's loss."""

    network: NetworkConfig
    loss: float
    interval: tuple[float, float] | None
    """95 % of the law's loss; None without a bootstrap, and where it would be an extrapolation."""
    extrapolated: str | None
    """Why the loss is no more than that."""

    def to_dict(self) -> dict[str, Any]:
        """Sizes, cost and loss as plain values."""
        return _told(self)


@dataclass(frozen=True)
class Rival:
    """Something else the budget could be spent on."""

    name: str
    network: NetworkConfig
    regret: float
    """Its predicted loss above the plan's."""
    interval: tuple[float, float] | None
    """95 % of the law's; None without a bootstrap, and where either loss would be an extrapolation."""


@dataclass(frozen=True)
class Plan:
    """How to spend a budget."""

    limit: Limit
    network: NetworkConfig
    price: float
    """What the network takes of the limit."""
    unused: str | None
    """Why more than TOLERANCE of the budget is left."""
    loss: float | None
    """Predicted; None without runs."""
    interval: tuple[float, float] | None
    """95 % of the law's loss; None without a bootstrap, and beyond what was fitted."""
    extrapolated: str | None
    """Why the loss is no more than an extrapolation, and what it would be under other exponents."""
    best_memory: tuple[int, int] | None
    """95 % interval of the d_m that is best in a world."""
    best_connectivity: tuple[int, int] | None
    """The same of k_c; None where there was one wiring."""
    near_optimal: tuple[int, int] | None
    """d_m whose predicted loss is within `delta` of the least; None without runs."""
    delta: float | None
    """The standard deviation of one run; None without runs."""
    rivals: tuple[Rival, ...]
    """Empty without runs."""

    @property
    def cost(self) -> budget.Cost:
        """Exact counts."""
        return budget.cost(self.network)

    def to_dict(self) -> dict[str, Any]:
        """The network, its loss, and what is known of the best, as plain values."""
        return {
            "budget": self.limit.value,
            "kind": self.limit.kind,
            "price": self.price,
            **_told(self),
            "best_d_m": self.best_memory,
            "best_k_c": self.best_connectivity,
            "near_optimal_d_m": self.near_optimal,
            "regret": {rival.name: rival.regret for rival in self.rivals},
            "unused": self.unused,
        }


def _told(one: Plan | Prediction) -> dict[str, Any]:
    """A network, and its loss."""
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


def candidates(
    start: NetworkConfig, limit: Limit, wiring: Wiring, least_memory: int = budget.LEAST_MEMORY
) -> list[NetworkConfig]:
    """For every d_m from the least on, the network of the largest N that fits.

    Raises:
        BudgetError: nothing fits; the message has the least possible budget.
    """
    found = []
    for d_m in range(least_memory, MOST_MEMORY + 1):
        try:
            network = budget.largest(
                partial(_units, start, wiring, d_m), limit.value, "N", limit.price, limit.kind, limit.floor
            )
        except BudgetError:
            break  # larger units do not fit either
        if network.layers[0].units >= LEAST_UNITS:
            found.append(network)
    if not found:
        least = limit.price(wiring.at(start, LEAST_UNITS, least_memory))
        raise BudgetError(
            f"a budget of {limit.value:,.10g} {limit.kind} is too small: "
            f"{LEAST_UNITS} units of d_m = {least_memory} already take {least:,.10g}"
        )
    return found


def _units(start: NetworkConfig, wiring: Wiring, d_m: int, units: int) -> NetworkConfig:
    return wiring.at(start, units, d_m)


def sizes(networks: Sequence[NetworkConfig]) -> tuple[Array, Array, Array]:
    """N, k_e, k_c of each network's hidden layer."""
    layers = [network.layers[0] for network in networks]
    rows = [(layer.units, budget.complexity(layer.neuron), layer.neuron.connectivity) for layer in layers]
    N, k_e, k_c = np.asarray(rows, float).T
    return N, k_e, k_c


def prior_worlds(draws: int = 300, seed: int = 0) -> SNRR:
    """Models drawn from the priors of κ_e and N_r: what is known before any run. They tell how to allocate, no loss."""
    rng = np.random.default_rng(seed)
    drawn = {
        name: np.exp(np.log(PRIOR[name][0]) + PRIOR[name][1] * rng.standard_normal((draws, 1)))
        for name in ("kappa_e", "N_r")
    }
    return _without_loss(**drawn)


def _without_loss(**constants: Any) -> SNRR:
    """A model for comparing networks: half a bit of loss per bit of signal-to-noise, far from knowing nothing."""
    return SNRR(L_inf=0.0, D=1.0, H0=40.0, **constants)


def wirings(known: Fit, branches: int) -> list[Wiring]:
    """Wirings for a plan to choose from: numbers of synapses whose worth the runs tell, spread evenly in logarithm.

    Raises:
        TheoryError: the runs cannot tell, or not at this number of branches.
    """
    if "kappa_c" not in known.free:
        raise TheoryError(f"what synapses are worth these runs cannot tell: kappa_c is {known.fixed['kappa_c']}")
    few, many = known.wired_range
    low, high = math.ceil(few / branches), math.floor(many / branches)
    if high < max(low, 1):
        raise TheoryError(f"{branches} branches have no number of synapses with k_c in {few:,.0f} to {many:,.0f}")
    chosen = np.unique(np.geomspace(max(low, 1), high, CONNECTIVITIES).round().astype(int))
    return [Wiring(branches, int(synapses)) for synapses in chosen]


def plan(
    start: NetworkConfig, limit: Limit | float, wiring: Wiring | Sequence[Wiring], known: Fit | None = None
) -> Plan:
    """The best network of a budget.

    Args:
        start: task's network; the plan varies its one hidden layer.
        limit: the budget; a number: of parameters.
        wiring: of the hidden layer; of several (`wirings`) the plan chooses one.
        known: a fit; None: priors alone, which say how to allocate but not what the loss will be.

    Raises:
        BudgetError: nothing fits.
        ConfigError: the network has several hidden layers, or no read-out.
    """
    if len(start.layers) != 1:
        raise ConfigError(f"a plan is for one hidden layer, the network has {len(start.layers)}")
    if start.readout == "none":
        raise ConfigError("without a read-out the outputs fix the number of units; there is nothing to plan")
    limit = Limit.of(limit)
    options = [wiring] if isinstance(wiring, Wiring) else list(wiring)
    wired = fitting(start, limit, options, budget.LEAST_MEMORY if known is None else known.least_memory)
    networks = [network for _, network in wired]
    law, worlds = _models(known)
    losses = law.loss(*sizes(networks))
    regrets = losses - losses.min() if worlds is None else _regrets(worlds, networks)
    chosen = int(np.argmin(np.atleast_2d(regrets).mean(0)))
    wiring, network = wired[chosen]
    d_m, k_c = (np.array([getattr(n.layers[0].neuron, name) for n in networks]) for name in ("memory", "connectivity"))
    near = None if known is None else d_m[losses <= losses.min() + known.sd]
    best = (None, None) if worlds is None else tuple(_interval(of[regrets.argmin(1)]) for of in (d_m, k_c))
    loss, interval, extrapolated = _loss(known, network)
    price = limit.price(network)
    return Plan(
        limit=limit,
        network=network,
        price=price,
        unused=_unused(start, limit, wiring, network, price),
        loss=loss,
        interval=interval,
        extrapolated=extrapolated,
        best_memory=best[0],
        best_connectivity=best[1] if len(options) > 1 else None,
        near_optimal=None if near is None else (int(near.min()), int(near.max())),
        delta=None if known is None else known.sd,
        rivals=() if known is None else tuple(_rivals(start, limit, wiring, network, known)),
    )


def fitting(
    start: NetworkConfig, limit: Limit, options: Sequence[Wiring], least_memory: int = budget.LEAST_MEMORY
) -> list[tuple[Wiring, NetworkConfig]]:
    """The candidates of every wiring that fits.

    Raises:
        BudgetError: none does.
    """
    found: list[tuple[Wiring, NetworkConfig]] = []
    refusals = []
    for wiring in options:
        try:
            found += [(wiring, network) for network in candidates(start, limit, wiring, least_memory)]
        except BudgetError as refusal:
            refusals.append(refusal)
    if not found:
        raise refusals[0]
    return found


def _interval(values: NDArray[np.int64]) -> tuple[int, int]:
    """95 % of them."""
    low, high = ends(values, method="nearest")
    return int(low), int(high)


def _models(known: Fit | None) -> tuple[SNRR, SNRR | None]:
    if known is not None:
        return known.law, known.worlds
    medians = {name: PRIOR[name][0] for name in ("kappa_e", "N_r")}
    return _without_loss(**medians), prior_worlds()


def _regrets(worlds: SNRR, networks: Sequence[NetworkConfig]) -> Array:
    """Loss above the best, in every world; (worlds, networks)."""
    losses = worlds.loss(*sizes(networks))
    return np.asarray(losses - losses.min(1, keepdims=True))


def predict(known: Fit, networks: Sequence[NetworkConfig]) -> list[Prediction]:
    """Losses of networks with one hidden layer, with what is known about them."""
    predictions = []
    for network, loss, low, high in zip(networks, *known.predict(*sizes(networks)), strict=True):
        extrapolated = _outside(known, network)
        interval = None if extrapolated or known.worlds is None else (float(low), float(high))
        predictions.append(Prediction(network, float(loss), interval, extrapolated))
    return predictions


def _outside(known: Fit, network: NetworkConfig) -> str | None:
    """Why a loss is no more than an extrapolation, if so (`Fit.outside`)."""
    cost = budget.cost(network)
    return known.outside(cost.hidden, cost.connectivity)


def _loss(known: Fit | None, network: NetworkConfig) -> tuple[float | None, tuple[float, float] | None, str | None]:
    """Predicted loss, its interval, and why it is no more than an extrapolation."""
    if known is None:
        return None, None, None
    (found,) = predict(known, [network])
    words, (least, most) = found.extrapolated, known.fitted_range
    if words and "a" not in known.free and not least <= budget.cost(network).hidden <= most:
        held = {} if "kappa_c" in known.free else {"kappa_c": float(known.law.kappa_c)}
        for a in (0.5, 1.5):
            other = fit(known.runs, fixed={**held, "a": a}, draws=0, keep_collapsed=True)
            words += f"; with a = {a:g} it would be {predict(other, [network])[0].loss:.4f}"
    return found.loss, found.interval, words


def _unused(start: NetworkConfig, limit: Limit, wiring: Wiring, network: NetworkConfig, price: float) -> str | None:
    """Why a budget is not spent."""
    if price >= (1 - TOLERANCE) * limit.value:
        return None
    first = network.layers[0]
    more = limit.price(wiring.at(start, first.units + 1, first.neuron.memory))
    return f"{1 - price / limit.value:.1%} is left: one unit more would take {more:,.10g} {limit.kind}"


def _rivals(start: NetworkConfig, limit: Limit, wiring: Wiring, chosen: NetworkConfig, known: Fit) -> list[Rival]:
    """What else people would build with the budget: simple units, the published ones, the paper's recipe."""
    builds = {f"simple units, d_m = {SIMPLE}": lambda units: wiring.at(start, units, SIMPLE)}
    ratio, task = RECIPE, known.runs.task
    if task in PUBLISHED:
        first = NetworkConfig.preset(PUBLISHED[task].preset).layers[0]
        ratio = first.neuron.memory / first.units**0.5
        builds[f"published unit, d_m = {first.neuron.memory}"] = lambda units: start.with_hidden(
            units=units, **first.neuron.sizes
        )

    def by_recipe(units: int) -> NetworkConfig:
        return Wiring(None, wiring.synapses).at(start, units, max(1, round(ratio * units**0.5)))

    builds["the paper's recipe, d_m ∝ √N"] = by_recipe
    rivals = []
    for name, build in builds.items():
        try:
            network = budget.largest(build, limit.value, "N", limit.price, limit.kind, limit.floor)
        except BudgetError:
            continue
        both = sizes([network, chosen])
        regret, interval = float(np.subtract(*known.law.loss(*both))), None
        if known.worlds is not None and not _outside(known, network) and not _outside(known, chosen):
            losses = known.worlds.loss(*both)
            low, high = ends(losses[:, 0] - losses[:, 1])
            interval = (float(low), float(high))
        rivals.append(Rival(name, network, regret, interval))
    return rivals
