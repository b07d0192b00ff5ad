"""Every kind of network there is to train, by name: what it is, what it costs, how it is built and found again."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elmnet import budget, pretrained
from elmnet.baselines import config as baselines
from elmnet.baselines.config import BaselineConfig
from elmnet.baselines.network import Baseline
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError
from elmnet.network import ELMNetwork

ModelConfig = NetworkConfig | BaselineConfig
Network = ELMNetwork | Baseline
State = Any
"""`NetworkState` or `BaselineState`, whichever is the network's; a union could not say that."""
KINDS = ("elm", "leaky", *baselines.KINDS)


@dataclass(frozen=True)
class Counts:
    """Sizes and cost of a model, in the terms all kinds share; what is None of baselines is of ELM neurons alone."""

    units: int
    """N; of a baseline the width."""
    memory: int | None
    """d_m of the first layer, as what follows."""
    branches: int | None
    synapses: int | None
    complexity: int | None
    connectivity: int | None
    hidden: int
    """Trainable parameters before the read-out."""
    readout: int
    flops: int
    """Per time step and sample, forward pass."""

    @property
    def parameters(self) -> int:
        """P, all trainable parameters."""
        return self.hidden + self.readout

    @property
    def by_symbol(self) -> dict[str, int | None]:
        """Sizes by the paper's symbols."""
        return {
            "N": self.units,
            "d_m": self.memory,
            "d_tree": self.branches,
            "d_s": self.synapses,
            "k_e": self.complexity,
            "k_c": self.connectivity,
            "P": self.parameters,
        }


def counts(model: ModelConfig) -> Counts:
    """Exact parameters and FLOPs of a model of any kind."""
    if isinstance(model, BaselineConfig):
        hidden = model.parameters - model.readout
        return Counts(model.width, None, None, None, None, None, hidden, model.readout, model.flops)
    price, neuron = budget.cost(model), model.layers[0].neuron
    sizes = (price.units, neuron.memory, neuron.branches, neuron.synapses, price.complexity, price.connectivity)
    return Counts(*sizes, price.hidden, price.readout, price.flops)


def kind_of(model: ModelConfig) -> str:
    """Its name in `KINDS`; `leaky` is every ELM network whose hidden units are as simple as `leaky` makes them."""
    if isinstance(model, BaselineConfig):
        return model.kind
    units = [layer.neuron for layer in model.layers]
    simple = all((unit.memory, unit.hidden_layers, unit.branches) == (1, 0, 1) for unit in units)
    return "leaky" if simple else "elm"


def require_kind(kind: str, model: ModelConfig, options: Iterable[str]) -> None:
    """Refuse a model whose hidden units are no longer of a kind after what these options have changed."""
    if kind_of(model) != kind:
        raise ConfigError(f"{kind} units have a shape of their own; leave out {', '.join(options)}")


def choose(kind: str, like: ModelConfig) -> ModelConfig:
    """A model of this kind with the inputs and outputs of another.

    `elm` is `like` itself. `leaky` is `like` with hidden units of the simplest sort: d_m = 1, one affine map as MLP
    (L = 0), one branch that holds all k_c synapses; N, wiring, filters and read-out stay the same. Its single
    timescale starts at √(τ_min·τ_max) and is learned, up to τ_max, because one fixed timescale for all units would
    decide the comparison. The others are `BaselineConfig` with their own defaults.

    Raises:
        ConfigError: there is no such kind, or `like` is a baseline and cannot say how ELM neurons should be.
    """
    if kind not in KINDS:
        raise ConfigError(f"no model {kind!r}; known: {', '.join(KINDS)}")
    if kind not in ("elm", "leaky"):
        tokens = like.tokens if isinstance(like, BaselineConfig) else like.token_scale is not None
        return BaselineConfig.from_dict(
            {"kind": kind, "inputs": like.inputs, "outputs": like.outputs, "tokens": tokens}
        )
    if isinstance(like, BaselineConfig):
        raise ConfigError(f"a model {kind!r} needs an ELM network to start from, not a {like.kind}")
    if kind == "elm":
        return like
    layers = []
    for layer in like.layers:
        unit = layer.neuron
        middle = math.sqrt(unit.tau_min * unit.tau_max)
        simple = unit.replace(
            memory=1,
            hidden=None,
            hidden_layers=0,
            branches=1,
            synapses=unit.connectivity,
            tau_min=middle,
            tau_max=middle,
            learn_timescales=True,
            tau_range_scale=max((unit.tau_max / middle) ** 2, 1.1),
        )
        layers.append(layer.replace(neuron=simple))
    readout = like.stack[-1] if like.readout == "elm" else like.readout
    return like.replace(layers=tuple(layers), readout=readout)


def spend(model: ModelConfig, limit: int) -> ModelConfig:
    """The model with as many units as `limit` parameters allow.

    Raises:
        BudgetError: one unit exceeds it.
    """
    if isinstance(model, BaselineConfig):
        return baselines.spend(model, limit)
    return budget.spend(model, limit)


def build(model: ModelConfig, *, seed: int | None = None, backend: str = "auto") -> Network:
    """The untrained network.

    Raises:
        BackendError: the demanded backend cannot run it.
    """
    if isinstance(model, BaselineConfig):
        return Baseline(model, seed=seed, backend=backend)
    return ELMNetwork(model, seed=seed, backend=backend)


def load(directory: Path, *, backend: str = "auto") -> Network:
    """A saved network of any kind, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
    """
    kind = Baseline if isinstance(pretrained.read_config(directory, read), BaselineConfig) else ELMNetwork
    return kind.from_pretrained(directory, backend=backend)


def read(data: Any) -> ModelConfig:
    """A model's configuration from plain values; a baseline's says its `kind`.

    Raises:
        ConfigError: a setting is wrong.
    """
    if isinstance(data, NetworkConfig | BaselineConfig):
        return data
    is_baseline = isinstance(data, dict) and "kind" in data
    return BaselineConfig.from_dict(data) if is_baseline else NetworkConfig.from_dict(data)
