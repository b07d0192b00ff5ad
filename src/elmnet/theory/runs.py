"""What fits are made from: a few numbers per finished run."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from elmnet import budget
from elmnet.config import NetworkConfig, NeuronConfig
from elmnet.errors import TheoryError


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A table of runs, one score each. Arrays have shape (runs,)."""

    source: str
    """Where they come from, for people."""
    score: str
    """What was measured, e.g. `valid_bpc`."""
    H0: float
    """Score of a network that knows nothing."""
    unit: float
    """u: 1 for bits (and error rates, where the link is empirical), ln 2 for nats."""
    floor: float
    """Least score there can be: 0, or -inf for the logarithm of an error."""
    network: NetworkConfig
    """A network of the kind that was run; the plan varies its hidden layer."""
    task: str | None
    """What they were trained on, where that is known."""
    names: tuple[str, ...]
    configurations: tuple[str, ...]
    """Runs of one configuration differ in the seed alone."""
    steps: tuple[int | None, ...]
    """How long each was trained; None: not known."""
    settings: tuple[str | None, ...]
    """The same for runs that were trained alike in all else; None: not known."""
    d_m: NDArray[np.float64]
    N: NDArray[np.float64]
    k_e: NDArray[np.float64]
    k_c: NDArray[np.float64]
    readout: NDArray[np.float64]
    """R, parameters outside the hidden layer."""
    y: NDArray[np.float64]
    """The score; lower is better."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def neuron(self) -> NeuronConfig:
        """That of `network`, whose wiring is the runs' commonest."""
        return self.network.layers[0].neuron

    @property
    def trained(self) -> str:
        """How they were trained, in words; empty where that is not known."""
        words, lengths = [], sorted({steps for steps in self.steps if steps is not None})
        settings = len({*self.settings} - {None})
        if lengths:
            words.append(f"{lengths[0]:,} steps" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} steps")
        if settings > 1:
            words.append(f"{settings} training settings or data")
        return ", ".join(words)

    @property
    def caution(self) -> str | None:
        """What makes a law of them all doubtful."""
        if all(len({*known} - {None}) <= 1 for known in (self.steps, self.settings)):
            return None
        return f"trained differently ({self.trained}): the law is of one training, so fit runs of one alone"

    @property
    def hidden(self) -> NDArray[np.float64]:
        """P' = N·(k_e + k_c)."""
        return self.N * (self.k_e + self.k_c)

    @property
    def P(self) -> NDArray[np.float64]:
        """All trainable parameters."""
        return self.hidden + self.readout

    def at(self, chosen: NDArray[Any]) -> Self:
        """Some of the runs, by index or by truth value."""
        index = np.arange(len(self))[chosen]
        columns: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in index) for name in _TUPLES}
        columns |= {name: getattr(self, name)[index] for name in _ARRAYS}
        return replace(self, **columns)

    def with_scores(self, y: NDArray[np.float64]) -> Self:
        """The same runs with other scores."""
        return replace(self, y=np.asarray(y, float))

    def nearest(self, hidden: float) -> str:
        """Name of the run whose P' is nearest, as a ratio."""
        return self.names[int(np.argmin(np.abs(np.log(self.hidden / hidden))))]

    def collapsed(self, least_memory: int = budget.LEAST_MEMORY) -> dict[int, str]:
        """Runs that no smooth law describes, by index, and why (§9).

        Args:
            least_memory: d_m below which a run counts as one of them.
        """
        found = {}
        logarithm = self.floor == -math.inf
        near = self.H0 + math.log2(0.8) if logarithm else 0.8 * self.H0
        for i, (d_m, y) in enumerate(zip(self.d_m, self.y, strict=True)):
            learned = y < near
            if not np.isfinite(y):
                found[i] = f"its {self.score} is {y}"
            elif d_m < least_memory:
                did = f" (it did here: --least-memory {d_m:.0f} takes it in)" if learned else ""
                found[i] = f"d_m = {d_m:.0f} is below {least_memory}, where training may not start{did}"
            elif not learned:
                of = " in the error itself" if logarithm else ""
                found[i] = f"{self.score} {y:.4g} is within 20 %{of} of {self.H0:.4g}, that of knowing nothing"
        return found

    def seed_sd(self) -> float | None:
        """Standard deviation of a run within its configuration, by the median so that a few noisy configurations (those
        of very few units) do not decide; None with less than 3 degrees of freedom, or of mere copies."""
        groups: dict[str, list[float]] = {}
        for configuration, y in zip(self.configurations, self.y, strict=True):
            groups.setdefault(configuration, []).append(y)
        several = [np.asarray(group) for group in groups.values() if len(group) > 1]
        if sum(len(group) - 1 for group in several) < 3:
            return None
        # a deviation from a mean of n has a variance smaller by (n - 1)/n
        off = [np.abs(group - group.mean()) * np.sqrt(len(group) / (len(group) - 1)) for group in several]
        return float(1.4826 * np.median(np.concatenate(off))) or None


_ARRAYS = ("d_m", "N", "k_e", "k_c", "readout", "y")
_TUPLES = ("names", "configurations", "steps", "settings")


def table(
    networks: Sequence[NetworkConfig],
    scores: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    configurations: Sequence[str] | None = None,
    network: NetworkConfig | None = None,
    task: str | None = None,
    steps: Sequence[int | None] | None = None,
    settings: Sequence[str | None] | None = None,
    source: str,
    score: str,
    H0: float,
    unit: float,
    floor: float = 0.0,
) -> Runs:
    """Runs of networks with one hidden layer each.

    Args:
        networks: of the runs.
        scores: of the runs.
        names: of the runs; None: their d_m and N.
        configurations: the same for runs that differ in the seed alone; None: those of equal networks.
        network: what a plan varies; None: the middle one of those wired most commonly.
        task: what the runs were trained on.
        steps: how long each was trained; None: not known.
        settings: the same for runs that were trained alike in all else; None: not known.
        source: where they come from, for people.
        score: what was measured.
        H0: score of a network that knows nothing.
        unit: 1 for bits, ln 2 for nats.
        floor: least score there can be: 0, or -inf for the logarithm of an error.

    Raises:
        TheoryError: no runs; a network with several hidden layers.
    """
    if not networks:
        raise TheoryError(f"{source}: no runs")
    several = [i for i, network in enumerate(networks) if len(network.layers) != 1]
    if several:
        raise TheoryError(f"{source}: run {several[0]} has {len(networks[several[0]].layers)} hidden layers; one fits")
    costs = [budget.cost(network) for network in networks]
    memory = [network.layers[0].neuron.memory for network in networks]
    columns = {
        "d_m": memory,
        "N": [cost.units for cost in costs],
        "k_e": [cost.complexity for cost in costs],
        "k_c": [cost.connectivity for cost in costs],
        "readout": [cost.readout for cost in costs],
        "y": scores,
    }
    arrays: dict[str, Any] = {name: np.asarray(column, float) for name, column in columns.items()}
    labels = names or [f"d_m {m}, N {cost.units}" for m, cost in zip(memory, costs, strict=True)]
    same = configurations or [str(one) for one in networks]
    return Runs(
        source=source,
        score=score,
        H0=H0,
        unit=unit,
        floor=floor,
        task=task,
        network=network or _common(networks),
        names=tuple(labels),
        configurations=tuple(same),
        steps=tuple(steps or [None] * len(networks)),
        settings=tuple(settings or [None] * len(networks)),
        **arrays,
    )


def _common(networks: Sequence[NetworkConfig]) -> NetworkConfig:
    """The middle one of those with the commonest branches and synapses."""
    wirings = [(layer.neuron.branches, layer.neuron.synapses) for layer in (n.layers[0] for n in networks)]
    ((common, _),) = Counter(wirings).most_common(1)
    alike = [network for network, wiring in zip(networks, wirings, strict=True) if wiring == common]
    return alike[len(alike) // 2]
