"""Wirings: how a layer's connectome is drawn.

A connectome (N, k_c) names one source for every synapse (index = branch·d_s + position) in the concatenation [input
channels, the layer's own activity]; -1 leaves a synapse unconnected. It is drawn once, saved with the weights, and
never trained. docs/wirings.md shows a picture of each.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elmnet.config import LayerConfig, ModularWiring, SmallWorldWiring, TopographicWiring
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
    if layer.wiring_name not in WIRINGS:
        raise ConfigError(f"no wiring {layer.wiring_name!r}; known: {', '.join(sorted(WIRINGS))}")
    return WIRINGS[layer.wiring_name](layer, inputs, generator)


@register("random")
def random(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """The published wiring: every synapse draws its source independently, with replacement.

    With probability ρ a uniformly random channel of the layer's own activity, else a uniformly random input channel.
    """
    recurrent = _recurrent(layer, inputs, generator)
    from_input = torch.randint(inputs, recurrent.shape, generator=generator)
    from_layer = torch.randint(layer.outputs, recurrent.shape, generator=generator) + inputs
    return torch.where(recurrent, from_layer, from_input)


@register("topographic")
def topographic(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Input synapses read the unit's receptive field, recurrent ones any unit; ρ as in `random`."""
    recurrent = _recurrent(layer, inputs, generator)
    from_input = _from_field(layer, inputs, generator)
    from_layer = torch.randint(layer.outputs, recurrent.shape, generator=generator) + inputs
    return torch.where(recurrent, from_layer, from_input)


@register("modular")
def modular(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Recurrent synapses read any unit of their own module or, with probability `outside`, of the others."""
    assert isinstance(layer.wiring, ModularWiring)
    modules, units = layer.wiring.modules, layer.units
    if modules > units:
        raise ConfigError(f"wiring 'modular' cannot make {modules} modules of {units} units; use fewer modules")
    recurrent = _recurrent(layer, inputs, generator)
    from_input = _from_field(layer, inputs, generator)
    module = torch.arange(units).unsqueeze(1) * modules // units  # (N, 1)
    first, size = -(-module * units // modules), torch.bincount(module.flatten())[module]
    within = first + _below(size, recurrent, generator)
    other = _below(units - size, recurrent, generator)
    other = torch.where(other < first, other, other + size)
    leaves = torch.rand(recurrent.shape, generator=generator, dtype=torch.float64) < layer.wiring.outside
    source = _activity(layer, torch.where(leaves, other, within), generator)
    return torch.where(recurrent, source + inputs, from_input)


@register("small-world")
def small_world(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Recurrent synapses read one of the 2·k nearest units of a ring or, rewired, any unit; none reads itself."""
    assert isinstance(layer.wiring, SmallWorldWiring)
    near, units = layer.wiring.neighbours, layer.units
    if 2 * near >= units:
        raise ConfigError(
            f"wiring 'small-world' with {near} neighbours on either side needs at least {2 * near + 1} units, "
            f"got {units}"
        )
    recurrent = _recurrent(layer, inputs, generator)
    from_input = _from_field(layer, inputs, generator)
    step = torch.randint(2 * near, recurrent.shape, generator=generator) - near
    step = torch.where(step < 0, step, step + 1)  # -k..-1, 1..k
    anywhere = torch.randint(1, units, recurrent.shape, generator=generator)
    rewired = torch.rand(recurrent.shape, generator=generator, dtype=torch.float64) < layer.wiring.rewire
    unit = (torch.arange(units).unsqueeze(1) + torch.where(rewired, anywhere, step)) % units
    return torch.where(recurrent, _activity(layer, unit, generator) + inputs, from_input)


@register("full")
def full(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Every unit reads every source once (inputs alone where ρ = 0), in an order of its own; spare synapses rest."""
    count = inputs if layer.recurrent_connect == 0 else inputs + layer.outputs
    room = _room(layer, count, "sources")
    connectome = torch.full((layer.units, room), -1)
    for unit in range(layer.units):
        connectome[unit, :count] = torch.randperm(count, generator=generator)
    return connectome


@register("full-input")
def full_input(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Every unit reads every input channel once; all further synapses read the layer's own activity at random."""
    if layer.recurrent_connect is not None:
        raise ConfigError(
            "wiring 'full-input' makes all synapses recurrent that the inputs leave over: "
            f"set recurrent_connect to null, got {layer.recurrent_connect:g}"
        )
    room = _room(layer, inputs, "input channels")
    shape = (layer.units, room - inputs)
    from_layer = torch.randint(layer.outputs, shape, generator=generator) + inputs
    connectome = torch.cat([torch.arange(inputs).expand(layer.units, -1), from_layer], 1)
    order = torch.rand(connectome.shape, generator=generator, dtype=torch.float64).argsort(1)
    return connectome.gather(1, order)  # else the first branches would hold the inputs, the last the units


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


@register("given")
def given(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Nothing is connected until a connectome is loaded with the weights or copied into `ELMLayer.connectome`."""
    return torch.full((layer.units, layer.neuron.connectivity), -1)


def receptive_fields(inputs: int, fields: int, overlap: float) -> Tensor:
    """First channel and number of channels of each receptive field: (F, 2).

    Equally wide but for rounding, the first begins at channel 0, the last ends at the last channel, and each shares
    `overlap` of its width with the next: width w = n_in/((F-1)·(1-overlap)+1), field j begins at j·w·(1-overlap).

    Raises:
        ConfigError: there are fewer channels than fields.
    """
    if fields > inputs:
        raise ConfigError(
            f"{inputs} input channels cannot be shared out to {fields} receptive fields; use fewer fields"
        )
    width = inputs / ((fields - 1) * (1 - overlap) + 1)
    start = torch.arange(fields, dtype=torch.float64) * (width * (1 - overlap))
    first = torch.floor(start + 0.5)
    past = torch.floor(start + width + 0.5).clamp(max=inputs)
    return torch.stack([first, past - first], 1).long()


def _recurrent(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """Which synapses (N, k_c) read the layer's own activity: each with probability ρ."""
    rho = layer.recurrent_connect
    if rho is None:
        rho = layer.outputs / (inputs + layer.outputs)
    shape = (layer.units, layer.neuron.connectivity)
    return torch.rand(shape, generator=generator, dtype=torch.float64) < rho


def _from_field(layer: LayerConfig, inputs: int, generator: torch.Generator | None) -> Tensor:
    """A uniformly random input channel (N, k_c) of each unit's receptive field."""
    assert isinstance(layer.wiring, TopographicWiring)
    shape = (layer.units, layer.neuron.connectivity)
    fields = layer.wiring.fields
    if fields is None:
        return torch.randint(inputs, shape, generator=generator)
    if fields > layer.units:
        raise ConfigError(f"{fields} receptive fields need as many units, got {layer.units}; use fewer fields")
    of_unit = torch.arange(layer.units) * fields // layer.units
    first, width = receptive_fields(inputs, fields, layer.wiring.overlap)[of_unit].unsqueeze(2).unbind(1)
    return first + _below(width, torch.empty(shape), generator)


def _below(limit: Tensor, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniformly random whole numbers in the shape of `like`, below a limit for each row (N, 1)."""
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64) * limit).long()


def _activity(layer: LayerConfig, unit: Tensor, generator: torch.Generator | None) -> Tensor:
    """A channel of the layer's activity that belongs to each unit: any of its outputs."""
    each = layer.neuron.outputs
    return unit if each == 1 else unit * each + torch.randint(each, unit.shape, generator=generator)


def _room(layer: LayerConfig, count: int, what: str) -> int:
    """Synapses of a unit, if they are enough for `count` sources."""
    room = layer.neuron.connectivity
    if room < count:
        raise ConfigError(
            f"wiring {layer.wiring_name!r} needs branches · synapses ≥ {count} {what}, got {room}; "
            f"use synapses = {math.ceil(count / layer.neuron.branches)} or wiring 'random'"
        )
    return room
