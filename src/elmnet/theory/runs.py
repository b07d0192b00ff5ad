"""What fits are made from: a few numbers per finished run."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from elmnet import budget
from elmnet.config import NetworkConfig, NeuronConfig
from elmnet.errors import TheoryError
from elmnet.theory.model import NATS

Score = Literal["bpc", "loss", "error"]
LEAST_MEMORY = 3
"""d_m below which training has a threshold that no smooth law describes (§6, §9)."""


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
    network: NetworkConfig
    """A network of the kind that was run; the plan varies its hidden layer."""
    task: str | None
    """What they were trained on, where that is known."""
    caution: str | None
    """What makes a law of them all doubtful."""
    names: tuple[str, ...]
    configurations: tuple[str, ...]
    """Runs of one configuration differ in the seed alone."""
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
        arrays = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name in _ARRAYS}
        names, configurations = (tuple(words[i] for i in index) for words in (self.names, self.configurations))
        return replace(self, names=names, configurations=configurations, **arrays)

    def with_scores(self, y: NDArray[np.float64]) -> Self:
        """The same runs with other scores."""
        return replace(self, y=np.asarray(y, float))

    def nearest(self, hidden: float) -> str:
        """Name of the run whose P' is nearest, as a ratio."""
        return self.names[int(np.argmin(np.abs(np.log(self.hidden / hidden))))]

    def collapsed(self) -> dict[int, str]:
        """Runs that no smooth law describes, by index, and why (§9)."""
        found = {}
        for i, (d_m, y) in enumerate(zip(self.d_m, self.y, strict=True)):
            if not np.isfinite(y):
                found[i] = f"its {self.score} is {y}"
            elif d_m < LEAST_MEMORY:
                found[i] = f"d_m = {d_m:.0f} is below {LEAST_MEMORY}, where training may not start"
            elif y >= 0.8 * self.H0:
                found[i] = f"{self.score} {y:.4g} is within 20 % of {self.H0:.4g}, that of knowing nothing"
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


def table(
    networks: Sequence[NetworkConfig],
    scores: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    configurations: Sequence[str] | None = None,
    network: NetworkConfig | None = None,
    task: str | None = None,
    caution: str | None = None,
    source: str,
    score: str,
    H0: float,
    unit: float,
) -> Runs:
    """Runs of networks with one hidden layer each.

    Args:
        networks: of the runs.
        scores: of the runs.
        names: of the runs; None: their d_m and N.
        configurations: the same for runs that differ in the seed alone; None: those of equal networks.
        network: what a plan varies; None: the middle one of those wired most commonly.
        task: what the runs were trained on.
        caution: what makes a law of them all doubtful.
        source: where they come from, for people.
        score: what was measured.
        H0: score of a network that knows nothing.
        unit: 1 for bits, ln 2 for nats.

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
    facts: dict[str, Any] = {"source": source, "score": score, "H0": H0, "unit": unit, "task": task, "caution": caution}
    return Runs(
        **facts, network=network or _common(networks), names=tuple(labels), configurations=tuple(same), **arrays
    )


def _common(networks: Sequence[NetworkConfig]) -> NetworkConfig:
    """The middle one of those with the commonest branches and synapses."""
    wirings = [(layer.neuron.branches, layer.neuron.synapses) for layer in (n.layers[0] for n in networks)]
    ((common, _),) = Counter(wirings).most_common(1)
    alike = [network for network, wiring in zip(networks, wirings, strict=True) if wiring == common]
    return alike[len(alike) // 2]


@dataclass(frozen=True)
class _Published:
    """A table of the authors' public code release."""

    file: str
    preset: str
    scores: tuple[str, ...]
    ignorance: Mapping[Score, float]


PUBLISHED = {
    "enwik8": _Published("enwik8_fixed_budget.csv", "enwik8", ("valid_bpc", "test_bpc", "train_bpc"), {"bpc": 5.05}),
    "shd-adding": _Published(
        "shd_adding_fixed_budget.csv",
        "shd-adding",
        tuple(f"{split}_{kind}" for kind in ("loss", "error") for split in ("valid", "test", "train")),
        {"loss": 2.793772, "error": 0.9},
    ),
    "neuronio": _Published("neuronio_single_neuron.csv", "neuronio", ("test_soma_explained_variance",), {}),
}
"""The 36 published runs, one seed each (arXiv:2605.12049, public code release, MIT); H0 from docs/theory.md §1."""


def published_rows(task: str) -> list[dict[str, float]]:
    """The figures of a published table as they stand in its file.

    Raises:
        TheoryError: there is no such table.
    """
    if task not in PUBLISHED:
        raise TheoryError(f"no published runs of {task!r}; there are {', '.join(PUBLISHED)}")
    text = resources.files("elmnet.theory").joinpath("published", PUBLISHED[task].file).read_text()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def published(task: str, score: str | None = None) -> Runs:
    """Published runs at a fixed budget.

    Args:
        task: `enwik8` or `shd-adding`.
        score: enwik8: valid_bpc (default), test_bpc, train_bpc; shd-adding: valid_loss (default, nats), test_loss,
            train_loss, valid_error, test_error, train_error.

    Raises:
        TheoryError: no such table or score.
    """
    rows, kind = published_rows(task), PUBLISHED[task]
    if not kind.ignorance:
        raise TheoryError(f"published:{task} holds single neurons; fit_unit fits them (elmnet fit published:{task})")
    score = score or kind.scores[0]
    if score not in kind.scores:
        raise TheoryError(f"published:{task} has no score {score!r}; it has {', '.join(kind.scores)}")
    split, measure = score.split("_")
    if measure == "error":
        scores = [1 - row[f"{split}_accuracy"] for row in rows]
    else:
        scores = [row[f"{split}_loss_nats" if measure == "loss" else score] for row in rows]
    start = NetworkConfig.preset(kind.preset)
    networks = [
        start.with_hidden(
            units=int(row["num_hidden"]),
            memory=int(row["num_memory"]),
            branches=int(row["num_branch"]),
            synapses=int(row["num_synapse_per_branch"]),
        )
        for row in rows
    ]
    return table(
        networks,
        scores,
        network=start,
        task=task,
        source=f"published:{task} ({len(rows)} runs of arXiv:2605.12049, one seed each)",
        score=score,
        H0=next(value for name, value in kind.ignorance.items() if name == measure),
        unit=NATS if measure == "loss" else 1.0,
    )
