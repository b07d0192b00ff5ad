"""Pictures of wirings: who reads what in a layer's connectome."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from elmnet.config import LayerConfig, NeuronConfig, WiringConfig
from elmnet.layer import generator_of
from elmnet.report.figures.style import BLUE, GREY, ORANGE, axis
from elmnet.wiring import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

UNITS, INPUTS = 48, 60


def examples(seed: int = 0) -> dict[str, Callable[[], "Axes"]]:
    """One figure for every wiring that has a structure to see, by file name: 48 units, 60 inputs, 120 synapses each."""
    chosen: dict[str, tuple[str | WiringConfig, float | None]] = {
        "random": ("random", 0.5),
        "topographic": (WiringConfig.from_dict({"name": "topographic", "fields": 8, "overlap": 0.25}), 0.5),
        "modular": (WiringConfig.from_dict({"name": "modular", "modules": 4, "outside": 0.1, "fields": 4}), 0.5),
        "small-world": (WiringConfig.from_dict({"name": "small-world", "neighbours": 4, "rewire": 0.1}), 0.5),
        "full-input": ("full-input", None),
    }

    def figure(wiring: str | WiringConfig, rho: float | None) -> "Axes":
        neuron = NeuronConfig(branches=12, synapses=10)
        layer = LayerConfig(units=UNITS, neuron=neuron, wiring=wiring, recurrent_connect=rho)
        return connectome(layer, INPUTS, draw(layer, INPUTS, generator_of(seed)))

    return {f"wiring-{name}": partial(figure, *choice) for name, choice in chosen.items()}


def connectome(layer: LayerConfig, inputs: int, sources: "Tensor", ax: "Axes | None" = None) -> "Axes":
    """Synapses between every unit (rows) and every source (columns), and above it how many read each source.

    Args:
        layer: whose connectome it is.
        inputs: n_in.
        sources: the connectome (N, k_c).
        ax: where to draw; None: a new figure.
    """
    ax = axis(ax)
    from matplotlib.colors import to_rgba_array

    count = inputs + layer.outputs
    table = np.zeros((layer.units, count), dtype=np.int64)
    for unit, row in enumerate(sources.numpy()):
        table[unit] = np.bincount(row[row >= 0], minlength=count)
    weight = np.where(table > 0, np.clip(table / max(np.quantile(table[table > 0], 0.9), 1), 0.25, 1), 0)
    colours = np.where(np.arange(count) < inputs, ORANGE, BLUE).tolist()
    picture = np.concatenate([np.tile(to_rgba_array(colours)[:, :3], (layer.units, 1, 1)), weight[..., None]], 2)
    ax.imshow(picture, aspect="auto", interpolation="nearest")  # a raster: 100,000 squares would be a huge file
    ax.axvline(inputs - 0.5, color=GREY, linewidth=0.8)
    ax.set_xlim(-0.5, count - 0.5)
    ax.set_ylim(layer.units - 0.5, -0.5)
    ax.set_xlabel(f"source: input channels 0..{inputs - 1} | activity 0..{layer.outputs - 1} of the step before")
    ticks = np.linspace(0, inputs, 4, endpoint=False).astype(int), np.linspace(0, layer.outputs, 4, False).astype(int)
    ax.set_xticks([*ticks[0], *(inputs + ticks[1])], [str(i) for part in ticks for i in part])
    ax.set_ylabel("unit that reads")

    read = table.sum(0)
    above = ax.inset_axes((0.0, 1.03, 1.0, 0.16), sharex=ax)
    above.bar(np.arange(count), read, width=1.0, color=colours)
    above.tick_params(labelbottom=False)
    above.set_ylabel("out-degree")
    degree = table.sum(1)
    above.set_title(
        f"{layer.wiring_name}: in-degree {degree.min()}{'' if degree.min() == degree.max() else f'..{degree.max()}'}, "
        f"{(table > 0).sum(1).mean():.0f} different sources a unit; out-degree {read.min()}..{read.max()}"
    )
    return ax
