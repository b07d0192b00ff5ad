"""Which runs would tell most about what a larger budget buys (§9)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from elmnet.config import NetworkConfig
from elmnet.errors import BudgetError, TheoryError
from elmnet.theory.fit import Fit, open_worlds
from elmnet.theory.limits import Limit, Wiring
from elmnet.theory.planner import candidates, fitting, sizes


@dataclass(frozen=True)
class Choice:
    """A run worth making."""

    network: NetworkConfig
    sd: float
    """Standard deviation of L*(10 P) that is left once this run and those before it are known."""


def design(
    start: NetworkConfig, limit: Limit | float, wiring: Wiring | Sequence[Wiring], known: Fit, count: int
) -> tuple[float, list[Choice]]:
    """The runs, within the budget, that together shrink the interval of L*(10 P) most; each is chosen greedily.

    Worlds are bootstrap fits in which also the constants vary that the runs so far cannot tell. Seeing a run's score
    conditions the worlds linearly (an ensemble Kalman update with the noise of one run).

    Args:
        start: task's network.
        limit: the largest budget of a new run; a number: of parameters.
        wiring: of the plan whose loss at ten times the budget is asked; of several (`wirings`) it chooses one.
        known: fit of the runs so far.
        count: of runs.

    Returns:
        Standard deviation of L*(10 P) now, and the runs in the order of choice.
    """
    if count < 1:
        raise TheoryError(f"a design is of at least 1 run, got {count}")
    limit, worlds = Limit.of(limit), open_worlds(known)
    wirings = [wiring] if isinstance(wiring, Wiring) else list(wiring)
    tenfold = fitting(start, replace(limit, value=10 * limit.value), wirings, known.least_memory)
    target = worlds.loss(*sizes([network for _, network in tenfold])).min(1)
    options = _options(start, limit, wirings, known.least_memory)
    losses = worlds.loss(*sizes(options))
    before, choices = float(target.std()), []
    for _ in range(count):
        spread = losses - losses.mean(0)
        gain = spread.T @ (target - target.mean()) / len(target) / (losses.var(0) + known.sd**2)
        best = int(np.argmax(gain**2 * (losses.var(0) + known.sd**2)))
        shared = spread.T @ spread[:, best] / len(target) / (losses[:, best].var() + known.sd**2)
        # the mean is unknown, the spread is not: a deterministic (square-root) update of the deviations
        shrink = 1 / (1 + known.sd / np.sqrt(losses[:, best].var() + known.sd**2))
        seen = spread[:, best].copy()
        target = target - shrink * gain[best] * seen
        losses = losses - shrink * shared * seen[:, None]
        choices.append(Choice(options[best], float(target.std())))
    return before, choices


def _options(start: NetworkConfig, limit: Limit, wirings: Sequence[Wiring], least_memory: int) -> list[NetworkConfig]:
    """Networks at four budgets, several connectivities, and d_m spread over what fits."""
    options: dict[NetworkConfig, None] = {}
    for share in (1.0, 1 / 3, 1 / 10, 1 / 30):
        less = replace(limit, value=share * limit.value)
        for wiring in _around(wirings):
            try:
                found = candidates(start, less, wiring, least_memory)
            except BudgetError:
                continue
            memories = np.unique(np.geomspace(least_memory, found[-1].layers[0].neuron.memory, 8).round())
            options |= {n: None for n in found if n.layers[0].neuron.memory in memories}
    return list(options)


def _around(wirings: Sequence[Wiring]) -> list[Wiring]:
    """Five of several; one, with a third and twice its synapses."""
    if len(wirings) > 1:
        return [wirings[i] for i in np.unique(np.linspace(0, len(wirings) - 1, 5).round().astype(int))]
    (one,) = wirings
    return [Wiring(one.branches, n) for n in sorted({max(1, one.synapses // 3), one.synapses, 2 * one.synapses})]
