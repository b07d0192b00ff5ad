"""What a network costs, exactly, and how to spend a budget. No torch.

Parameters follow the paper (arXiv:2605.12049): P counts every trainable number; a neuron has k_c synapses and k_e
other parameters; all 36 published counts are reproduced to the integer (`tests/test_budget.py`).

FLOPs are counted per time step and sample with these rules: a multiply-add is 2, every other arithmetic operation and
every activation function is 1. The published runs report their compiler's count instead, 1.01 to 1.7 times this one.
"""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from elmnet.config import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.errors import BudgetError, ConfigError
from elmnet.strict import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)
Knob = Literal["units", "memory", "synapses"]
TAPE_LIMIT = 2**31
"""Bytes of activations that the backend `cpu` keeps for the way back; longer sequences are run forward once more."""
LEAST_MEMORY = 3
"""d_m below which training may have a threshold that no smooth law describes, as SHD-Adding's has (§6, §9)."""


@dataclass(frozen=True)
class Cost:
    """The price of a network. Counts of units and per-unit numbers are those of its (first) hidden layer."""

    units: int
    """N."""
    complexity: int
    """k_e, effective complexity: trainable parameters of a unit other than synapses."""
    connectivity: int
    """k_c, synapses of a unit."""
    hidden: int
    """P' = Σ N·(k_e + k_c) over the hidden layers."""
    readout: int
    """Parameters after the hidden layers: read-out neurons and affine map."""
    flops: int
    """Per time step and sample, forward pass."""

    @property
    def parameters(self) -> int:
        """P, all trainable parameters."""
        return self.hidden + self.readout


def complexity(neuron: NeuronConfig) -> int:
    """k_e: MLP, read-out rows and biases; and the timescales if they are learned.

    With one hidden layer and one output: (d_tree + d_m)·d_mlp + d_mlp + d_mlp·d_m + d_m + d_m + 1.
    """
    widths = neuron.mlp_widths
    mlp = sum(n_in * n_out + n_out for n_in, n_out in pairwise(widths))
    timescales = neuron.memory if neuron.learn_timescales else 0
    return mlp + neuron.outputs * (neuron.memory + 1) + timescales


def layer_parameters(layer: LayerConfig) -> int:
    """N·(k_e + k_c)."""
    return layer.units * (complexity(layer.neuron) + layer.neuron.connectivity)


def neuron_flops(neuron: NeuronConfig) -> int:
    """Forward FLOPs of one neuron and time step."""
    c, widths = neuron, neuron.mlp_widths
    branches = 2 * c.connectivity + (c.branches if c.input_scale != 1 else 0)
    branch_filter = 2 * c.branches if c.tau_branch else 0
    mlp = sum(2 * n_in * n_out + n_out for n_in, n_out in pairwise(widths))
    mlp += sum(widths[1:-1]) * (2 if c.mlp_activation == "relu2" else 1)
    memory = 6 * c.memory  # decay, compression (scale, tanh, scale), multiply-add
    readout = c.outputs * (2 * c.memory + 1 + (0 if c.activation == "identity" else 1))
    highpass = 4 * c.outputs if c.tau_highpass else 0
    return branches + branch_filter + mlp + memory + readout + highpass


def cost(network: NetworkConfig) -> Cost:
    """Exact parameters and FLOPs of a network."""
    first = network.layers[0]
    last = network.stack[-1].outputs
    affine = last * network.outputs + network.outputs if network.has_affine else 0
    hidden = sum(map(layer_parameters, network.layers))
    return Cost(
        units=first.units,
        complexity=complexity(first.neuron),
        connectivity=first.neuron.connectivity,
        hidden=hidden,
        readout=sum(map(layer_parameters, network.stack)) - hidden + affine,
        flops=sum(layer.units * neuron_flops(layer.neuron) for layer in network.stack)
        + (2 * last * network.outputs + network.outputs if network.has_affine else 0),
    )


def training_flops(forward: int, sequences: int, time_steps: int) -> float:
    """Of a training step: three times the forward pass.

    Args:
        forward: FLOPs per time step and sample, as in `Cost`.
        sequences: of a batch.
        time_steps: of a sequence.
    """
    return 3.0 * forward * sequences * time_steps


def parameters(network: NetworkConfig) -> int:
    """P."""
    return cost(network).parameters


def saved_bytes(network: NetworkConfig) -> int:
    """Bytes of a saved network: float32 weights and timescales, the connectome (2 bytes a synapse, 4 where a layer
    reads more than 2¹⁵ sources), and what names them, which is a bound that is at most a kilobyte too high.
    """
    total, tensors = 4 * parameters(network), 2 if network.has_affine else 0
    for layer, inputs in zip(network.stack, network.layer_inputs, strict=True):
        c, number = layer.neuron, 2 if inputs + layer.outputs <= 2**15 else 4
        total += layer.units * (number * c.connectivity + (0 if c.learn_timescales else 4 * c.memory))
        tensors += 5 + 2 * (len(c.mlp_widths) - 1)  # of the MLP a weight and a bias for every step between widths
    return total + 110 * tensors + 600 + len(json.dumps(network.to_dict(), indent=2))  # the header, config.json


_NUMBER = 4
"""Bytes of a float32."""


def training_bytes(
    network: NetworkConfig, batch: int, steps: int, *, backend: Literal["cpu", "reference"] = "cpu"
) -> int:
    """An estimate of the memory of one training step with Adam, in bytes; it falls where a tape is too long to keep.

    Weights, gradients, two moments; the connectome and the kernels' tables of it; what is kept to go back through
    `steps` time steps; inputs and outputs of the layers with their gradients. Of `cpu`, within a fifth of what was
    measured (docs/results/growth.md) but for sequences of less than 30 steps or longer than its tape; `reference` keeps
    everything that autograd does.

    Raises:
        ConfigError: another backend.
    """
    if backend not in ("cpu", "reference"):
        raise ConfigError(f"memory is estimated for the backends 'cpu' and 'reference', got {backend!r}")
    step = _reference_bytes if backend == "reference" else _cpu_bytes
    return state_bytes(network) + step(network, batch, steps)


def state_bytes(network: NetworkConfig) -> int:
    """Bytes of weights, gradients and Adam's two moments in float32: what training takes at the least."""
    return 4 * _NUMBER * parameters(network)


def _reference_bytes(network: NetworkConfig, batch: int, steps: int) -> int:
    """What autograd keeps, and the connectome."""
    total = 0
    for layer, inputs in zip(network.stack, network.layer_inputs, strict=True):
        c, widths = layer.neuron, layer.neuron.mlp_widths
        kept = c.connectivity + widths[0] + (3 if c.mlp_activation == "relu2" else 2) * sum(widths[1:-1])
        kept += 3 * c.memory + 2 * c.outputs
        total += 8 * layer.units * c.connectivity + _NUMBER * batch * steps * (layer.units * kept + inputs)
    return total


def _cpu_bytes(network: NetworkConfig, batch: int, steps: int) -> int:
    """Tapes, tables of the connectome, and what goes in and out of layers."""
    total, segment = 0, 0
    for layer, inputs in zip(network.stack, network.layer_inputs, strict=True):
        c = layer.neuron
        total += 24 * layer.units * c.connectivity + 6 * _NUMBER * batch * steps * (inputs + layer.outputs)
        unit = c.branches + 2 * c.memory + sum(c.mlp_widths[1:-1]) + c.outputs
        tape = _NUMBER * layer.units * 8 * -(-batch // 8) * steps * unit  # eight sequences fill a register
        if tape <= TAPE_LIMIT:
            total += tape
        else:
            segment = TAPE_LIMIT  # one at a time, of one layer
    return total + segment


def spend(network: NetworkConfig, budget: int, vary: Knob = "units") -> NetworkConfig:
    """The network that spends `budget` parameters best, without exceeding it, when one number may vary.

    Args:
        network: fixes the others of N (`units`), d_m (`memory`) and k_c = d_tree·d_s (`synapses` per branch).
        budget: P.
        vary: which number is found; it is set alike in every hidden layer.

    Raises:
        BudgetError: even the value 1 exceeds the budget; the message says the least possible P.
    """
    if vary not in ("units", "memory", "synapses"):
        raise ConfigError(f"vary must be 'units', 'memory' or 'synapses', got {vary!r}")
    if vary == "units" and network.readout == "none":
        raise ConfigError("without a read-out the outputs fix the number of units; vary memory or synapses")
    return largest(lambda value: network.with_hidden(**{vary: value}), budget, vary, parameters)


def paper_recipe(network: NetworkConfig, budget: int) -> NetworkConfig:
    """The paper's recipe along the Pareto front: d_m ∝ √N, d_mlp = 2·d_m, d_tree = 2·d_mlp.

    The constant of d_m ∝ √N is that of `network`'s first hidden layer; its synapses per branch are kept.

    Raises:
        BudgetError: one unit exceeds the budget.
        ConfigError: without a read-out the outputs fix the number of units.
    """
    if network.readout == "none":
        raise ConfigError("the recipe chooses the number of units, which without a read-out the outputs fix")
    first = network.layers[0]
    ratio = first.neuron.memory / math.sqrt(first.units)

    def build(units: int) -> NetworkConfig:
        memory = max(1, round(ratio * math.sqrt(units)))
        return network.with_hidden(units=units, memory=memory, hidden=2 * memory, branches=4 * memory)

    return largest(build, budget, "units", parameters)


def largest(
    build: Callable[[int], AnyConfig],
    limit: float,
    what: str,
    price: Callable[[AnyConfig], float],
    in_words: str = "parameters",
    floor: Callable[[AnyConfig], float] | None = None,
) -> AnyConfig:
    """The network of the largest value whose price fits.

    Args:
        build: the network of a value, 1 or more.
        limit: what the price may be.
        what: the value's name, for errors.
        price: grows with the value: where it does so evenly, as with N, a straight line finds the largest, else
            bisection.
        in_words: the price's unit, for errors.
        floor: of a price that also falls in places: what it is never below, and what grows with the value. The largest
            is then sought from the largest power of 2 that fits.

    Raises:
        BudgetError: the value 1 exceeds the limit, or the limit is no finite number.
        ConfigError: the price does not grow.
    """
    if not math.isfinite(limit):
        raise BudgetError(f"a budget must be a finite number of {in_words}, got {limit}")
    made = functools.cache(build)
    spent = functools.cache(lambda value: price(made(value)))
    least = spent(1)
    if least > limit:
        raise BudgetError(f"a budget of {limit:,.10g} {in_words} is too small: {what} = 1 already takes {least:,.10g}")
    grown = spent if floor is None else functools.cache(lambda value: floor(made(value)))
    if not grown(2) > grown(1):
        raise ConfigError(f"{in_words} do not grow with {what}, so that any number of it fits")
    low, high = 1, 2
    if floor is not None:
        value = 2
        while grown(value) <= limit:
            low, value = value if spent(value) <= limit else low, 2 * value
        high = 2 * low
    elif spent(high) <= limit:
        guess = 1 + int((limit - least) / (spent(high) - least))
        low, high = (guess, guess + 1) if spent(guess) <= limit else (high, guess)
    while spent(high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) <= limit else (low, middle)
    return made(low)
