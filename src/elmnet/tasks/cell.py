"""A synthetic cell in the place of NeuronIO's: an ELM neuron with hidden parameters, driven by Poisson spikes.

Everything about it is known, so that what a trained neuron could reach at best, and the parameters it should find, can
be looked up. No biophysics is in it: never report its scores as NeuronIO's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from elmnet.config import LayerConfig, NeuronConfig
from elmnet.data.neuronio import Part, Simulations
from elmnet.errors import DataError
from elmnet.files import BAD_ARCHIVE, cache_directory
from elmnet.layer import ELM, ELMLayer

CHANNELS = 1278
STEPS = 1500  # ms
COUNTS: dict[Part, int] = {"train": 48, "valid": 8, "test": 16}
NEURON = NeuronConfig(
    memory=4,
    branches=45,
    synapses=100,
    outputs=2,
    activation="identity",
    tau_max=60.0,
    tau_branch=5.0,
    nonnegative_synapses=True,
    synapse_init=2.0,
)
_RATES = (1.0, 6.0)  # spikes per second and channel, slowly changing between these
_SEGMENT = 100  # ms for which a rate holds
_SETTLING = 300  # ms that are run first and not kept
_SPREAD = 5.0  # mV, standard deviation of the soma
_NOISE = 0.5  # mV, of what no neuron can predict
_SPIKE_RATE = 0.006  # of 1 ms bins
_SHARPNESS = 3.0  # of the spike probability in the standardised output


@dataclass(frozen=True)
class Cell:
    """The hidden neuron, its simulations, and what it knew: outputs (simulations, T, 2) spike logit and soma, mV."""

    neuron: ELM
    data: dict[Part, Simulations]
    known: dict[Part, NDArray[np.float32]]


def hidden_neuron() -> ELM:
    """The cell's neuron: synapses uneven (exponential), MLP and read-out drawn as usual."""
    neuron = ELM(NEURON, CHANNELS, seed=11, backend="reference")
    strength = torch.from_numpy(np.random.default_rng(12).exponential(1.0, tuple(neuron.layer.neurons.w_s.shape)))
    with torch.no_grad():
        neuron.layer.neurons.w_s.mul_(strength)
    return neuron


def synthetic_cell() -> Cell:
    """The cell and its simulations, made on first use and kept in the cache."""
    directory = cache_directory() / "synthetic-cell-v1"
    path = directory / "simulations.npz"
    if not path.exists():  # else the cache may be another user's, and not to be written
        directory.mkdir(exist_ok=True)
        with FileLock(directory / ".lock"):
            if not path.exists():
                _write(path)
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (*BAD_ARCHIVE, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; delete it, and it is made again") from error
    fields = ("times", "sources", "offsets", "spikes", "soma")
    data = {part: Simulations(CHANNELS, *(arrays[f"{part}.{name}"] for name in fields)) for part in COUNTS}
    return Cell(hidden_neuron(), data, {part: arrays[f"{part}.known"] for part in COUNTS})


def _write(path: Path) -> None:
    from scipy.optimize import brentq
    from scipy.special import expit

    rng = np.random.default_rng(13)
    neuron = hidden_neuron()
    drawn = {part: _poisson(rng, count) for part, count in COUNTS.items()}
    outputs = {part: _run(neuron, inputs) for part, inputs in drawn.items()}
    drawn = {part: inputs[:, _SETTLING:] for part, inputs in drawn.items()}
    centre = outputs["train"].mean((0, 1))
    spread = outputs["train"].std((0, 1))
    drive = _SHARPNESS * (outputs["train"][..., 0] - centre[0]) / spread[0]
    offset = brentq(lambda b: expit(drive + b).mean() - _SPIKE_RATE, -30, 0)
    arrays: dict[str, Any] = {}
    for part, inputs in drawn.items():
        standard = (outputs[part] - centre) / spread
        logit = _SHARPNESS * standard[..., 0] + offset
        soma = -67.7 + _SPREAD * standard[..., 1]
        arrays[f"{part}.known"] = np.stack([logit, soma], -1).astype(np.float32)
        arrays[f"{part}.spikes"] = rng.random(logit.shape) < expit(logit)
        arrays[f"{part}.soma"] = (soma + rng.normal(0, _NOISE, soma.shape)).astype(np.float32)
        place = [np.nonzero(one) for one in inputs]
        arrays[f"{part}.times"] = np.concatenate([time for time, _ in place]).astype(np.int32)
        arrays[f"{part}.sources"] = np.concatenate([source for _, source in place]).astype(np.int16)
        arrays[f"{part}.offsets"] = np.concatenate([[0], np.cumsum([len(time) for time, _ in place])]).astype(np.int64)
    aside = path.with_suffix(".tmp.npz")
    np.savez_compressed(aside, **arrays)
    aside.replace(path)


def _poisson(rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
    """(count, settling + STEPS, CHANNELS): two halves, each with a common rate that changes in steps."""
    steps = _SETTLING + STEPS
    rates = rng.uniform(*_RATES, (count, -(-steps // _SEGMENT), 2)) / 1000
    chance = np.repeat(np.repeat(rates, _SEGMENT, 1)[:, :steps], CHANNELS // 2, 2)
    drawn: NDArray[np.bool_] = rng.random(chance.shape, dtype=np.float32) < chance
    return drawn


@torch.no_grad()
def _run(neuron: ELM, inputs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The neuron's outputs once it has settled.

    Its branches are summed by one matrix product, and drive a twin with one synapse each: the same, much faster.
    """
    weights = neuron.layer.neurons
    connectome = neuron.layer.connectome.reshape(NEURON.branches, NEURON.synapses)
    strength = torch.relu(weights.w_s[0]) * (connectome >= 0)
    drive = torch.zeros(NEURON.branches, CHANNELS)
    drive.scatter_add_(1, connectome.clamp(min=0), strength)
    drive[:, CHANNELS // 2 :] *= -1
    branches = torch.from_numpy(inputs.astype(np.float32)) @ drive.T
    layer = LayerConfig(units=1, neuron=NEURON.replace(synapses=1), recurrent_connect=0.0)
    twin = ELMLayer(layer, NEURON.branches, backend="reference")
    twin.neurons.load_state_dict({**weights.state_dict(), "w_s": torch.ones(1, NEURON.branches, 1)})
    twin.connectome.copy_(torch.arange(NEURON.branches)[None])
    out, _ = twin(branches)
    result: NDArray[np.float64] = out[:, _SETTLING:].double().numpy()
    return result
