"""Wirings: how a layer's connectome is drawn.

A connectome (N, k_c) names one source for every synapse (index = branch·d_s + position) in the concatenation [input
channels, the layer's own activity]; -1 leaves a synapse unconnected. It is drawn once, saved with the weights, and
never trained.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elmnet.config import LayerConfig
from elmnet.errors import ConfigError

Wiring = Callable[[LayerConfig, int, torch.Generator | None], Tensor]

WIRINGS: dict[str, Wiring] = {}


def register(name: str) -> Callable[[Wiring], Wiring]:
    """Decorator that adds a wiring under a name `LayerConfig.wiring` can use."""

    def add(wiring: Wiring) -> Wiring:
        WIRINGS[name] = wiring
        return wiring

    return add


def draw(layer: LayerConfig, inputs: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the connectome (N, k_c), int64, of a layer that reads `inputs` channels."""
    if layer.wiring not in WIRINGS:
        raise ConfigError(f"no wiring {layer.wiring!r}; known: {', '.join(sorted(WIRINGS))}")
    return WIRINGS[layer.wiring](layer, inputs, generator)


@register("random")
def random(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """The published wiring: every synapse draws its source independently, with replacement.

    With probability ρ a uniformly random channel of the layer's own activity, else a uniformly random input channel.
    """
    shape = (layer.units, layer.neuron.connectivity)
    rho = layer.recurrent_connect
    if rho is None:
        rho = layer.outputs / (inputs + layer.outputs)
    recurrent = torch.rand(shape, generator=generator, dtype=torch.float64) < rho
    from_input = torch.randint(inputs, shape, generator=generator)
    from_layer = torch.randint(layer.outputs, shape, generator=generator) + inputs
    return torch.where(recurrent, from_layer, from_input)


@register("full")
def full(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Every unit reads every source once (inputs alone where ρ = 0), in an order of its own; spare synapses rest."""
    count = inputs if layer.recurrent_connect == 0 else inputs + layer.outputs
    room = layer.neuron.connectivity
    if room < count:
        raise ConfigError(
            f"wiring 'full' needs branches · synapses ≥ {count} sources, got {room}; "
            f"use synapses = {math.ceil(count / layer.neuron.branches)} or wiring 'random'"
        )
    connectome = torch.full((layer.units, room), -1)
    for unit in range(layer.units):
        connectome[unit, :count] = torch.randperm(count, generator=generator)
    return connectome


@register("neuronio")
def neuronio(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """The NeuronIO routing: neighbouring inputs share a branch, neighbouring branches overlap.

    Interleave excitatory i and inhibitory i (first and second half of the channels); branch j takes the d_s
    consecutive interleaved inputs that start at j·⌈n_in/d_tree⌉; positions past the end rest.
    """
    if inputs % 2:
        raise ConfigError(f"wiring 'neuronio' pairs excitatory with inhibitory inputs: {inputs} is odd")
    branches, synapses = layer.neuron.branches, layer.neuron.synapses
    start = torch.arange(branches).unsqueeze(1) * math.ceil(inputs / branches)
    place = start + torch.arange(synapses)  # (d_tree, d_s), positions in the interleaved order
    channel = place // 2 + (place % 2) * (inputs // 2)
    return torch.where(place < inputs, channel, -1).flatten().expand(layer.units, -1).clone()
