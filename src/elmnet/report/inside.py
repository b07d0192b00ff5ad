"""What goes on inside a network: quantities of a network and a batch, which `elmnet.report.figures` draws.

B sequences, T steps, N units of a layer (of `NetworkConfig.stack`; the first hidden one unless another is named), n_y
outputs per unit.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from elmnet.errors import ShapeError
from elmnet.layer import ELMLayer
from elmnet.network import ELMNetwork

Array = NDArray[np.float64]
ROOM = 2**28
"""Bytes of memory and branch traces that a recording may take; longer sequences are cut."""


class Recording(NamedTuple):
    """What a layer did, and what the network said."""

    activity: Array  # (B, T, N·n_y)
    memory: Array  # (T', N, d_m), of the first sequence; T' at most its length
    branch: Array  # (T', N, d_tree), of the first sequence
    outputs: Array  # (B, T, n_out)
    lengths: NDArray[np.int64]  # (B,) steps of each sequence; past them activity and outputs are zeros

    @property
    def valid(self) -> Array:
        """Activity (ΣT, N·n_y) of all steps that there are."""
        return np.concatenate([one[:steps] for one, steps in zip(self.activity, self.lengths, strict=True)])


@torch.no_grad()
def record(
    network: ELMNetwork, x: Tensor, lengths: Tensor | None = None, *, layer: int = 0, room: int = ROOM
) -> Recording:
    """Let a network read a batch from zero state, without dropout.

    Args:
        network: as trained; its mode is left as it was.
        x: (B, T, n_in) or tokens (B, T).
        lengths: (B,) steps of each sequence; None: all T.
        layer: whose activity.
        room: bytes that the traces of the first sequence may take.
    """
    units, neuron = layer_of(network, layer).config.units, layer_of(network, layer).config.neuron
    was_training = network.training
    network.eval()
    try:
        x = x.to(network.device)
        outputs, _, signals = network(x, lengths=lengths, monitor=("activity",))
        per_step = 4 * units * (neuron.memory + neuron.branches)
        steps = max(1, min(x.shape[1] if lengths is None else int(lengths[0]), room // per_step))
        _, _, traces = network(x[:1, :steps], monitor=("memory", "branch"))
    finally:
        network.train(was_training)
    kept = traces[layer]
    whole = torch.full((len(x),), x.shape[1]) if lengths is None else lengths.long().cpu()
    shown = (signals[layer]["activity"], kept["memory"][0], kept["branch"][0], outputs)
    activity, memory, branch, said = (tensor.double().cpu().numpy() for tensor in shown)
    return Recording(activity, memory, branch, said, whole.numpy())


def layer_of(network: ELMNetwork, number: int) -> ELMLayer:
    """A layer of the network by its number.

    Raises:
        ShapeError: there is none.
    """
    layers = network.elm_layers
    if not 0 <= number < len(layers):
        raise ShapeError(f"layer must lie in 0..{len(layers) - 1}, got {number}")
    return layers[number]


def lesion(network: ELMNetwork, units: Sequence[int], layer: int = 0) -> ELMNetwork:
    """A copy in which nobody hears some units: synapses on them, of their own layer and of the next, are cut, and the
    affine map's weights on them are zero.

    Args:
        network: stays as it is.
        units: numbers in 0..N-1.
        layer: where they are.

    Raises:
        ShapeError: there is no such unit or layer, or its activity is the network's output.
    """
    hurt = deepcopy(network)
    own, layers = layer_of(hurt, layer), hurt.elm_layers
    if wrong := [unit for unit in units if not 0 <= unit < own.config.units]:
        raise ShapeError(f"units must lie in 0..{own.config.units - 1}, got {wrong[0]}")
    following = layers[layer + 1 : layer + 2]
    if not following and hurt.affine is None:
        raise ShapeError(f"layer {layer} is the network's output: nobody else hears its units")
    outputs = torch.arange(own.config.outputs).view(own.config.units, -1)[list(units)].flatten().to(network.device)
    with torch.no_grad():
        for listener, first in ((own, own.inputs), *((one, 0) for one in following)):
            cut = torch.isin(listener.connectome, outputs + first)
            listener.connectome.masked_fill_(cut, -1)
        if not following and hurt.affine is not None:
            hurt.affine.weight[:, outputs] = 0
    return hurt


def count_silent(activity: Array) -> int:
    """Units of activity (..., N) that are zero all the time, to a millionth."""
    return int((np.abs(activity).reshape(-1, activity.shape[-1]).max(0) < 1e-6).sum())


def participation_ratio(activity: Array) -> float:
    """Effective dimension of activity (..., N): (Σλ)²/Σλ², λ the eigenvalues of the covariance over all samples.

    1 if all units move as one, N if they move independently and alike; 0 for activity that never changes. Formula:
    Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262.
    """
    gram = _gram(activity)
    total = float(np.sum(gram**2))
    return float(np.trace(gram)) ** 2 / total if total > 0 else 0.0


def variance_spectrum(activity: Array) -> Array:
    """Shares of the variance of activity (..., N) along its principal axes, largest first."""
    values = np.clip(np.linalg.eigvalsh(_gram(activity))[::-1], 0.0, None)
    total = values.sum()
    return np.asarray(values / total if total > 0 else values)


def _gram(activity: Array) -> Array:
    """The smaller of centred XᵀX and XXᵀ, which share their eigenvalues."""
    x = activity.reshape(-1, activity.shape[-1])
    x = x - x.mean(0)
    return np.asarray(x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T)


def autocorrelation_times(activity: Array, lengths: NDArray[np.int64] | None = None) -> Array:
    """Steps (N,) after which the autocorrelation of each unit's activity (B, T, N) has fallen to 1/e.

    Interpolated between lags; NaN for units that never change, and for those that stay above 1/e to lag T/2. Steps past
    a sequence's length (B,) do not count.
    """
    count, steps = activity.shape[:2]
    lengths = np.full(count, steps) if lengths is None else lengths
    there = (np.arange(steps) < lengths[:, None])[:, :, None]
    centred = np.where(there, activity - activity.mean((0, 1), where=there), 0.0)
    power = np.abs(np.fft.rfft(centred, 2 * steps, axis=1)) ** 2
    sums = np.fft.irfft(power.sum(0), axis=0)[: lengths.max() // 2 + 1]
    pairs = np.clip(lengths[:, None] - np.arange(len(sums)), 0, None).sum(0)  # of a lag
    sums /= pairs[:, None]
    alive = sums[0] > 1e-12 * max(float(sums[0].max()), 1e-300)
    correlation = sums / np.where(alive, sums[0], 1.0)
    times = np.full(activity.shape[2], np.nan)
    for unit in np.flatnonzero(alive):
        below = np.flatnonzero(correlation[:, unit] < np.exp(-1))
        if len(below):
            after = int(below[0])
            high, low = correlation[after - 1, unit], correlation[after, unit]
            times[unit] = after - 1 + (high - np.exp(-1)) / (high - low)
    return times


class Degrees(NamedTuple):
    """Synapses of a connectome, counted."""

    from_inputs: NDArray[np.int64]  # (N,), synapses of each unit that read an input channel
    from_units: NDArray[np.int64]  # (N,), synapses of each unit that read the layer
    of_inputs: NDArray[np.int64]  # (n_in,), synapses that read each channel
    of_units: NDArray[np.int64]  # (N·n_y,), synapses that read each of the layer's outputs


def degrees(network: ELMNetwork, layer: int = 0) -> Degrees:
    """In- and out-degrees of a layer; unconnected synapses count nowhere."""
    own = layer_of(network, layer)
    sources, inputs, outputs = own.connectome.cpu().numpy(), own.inputs, own.config.outputs
    counted = np.bincount(sources[sources >= 0], minlength=inputs + outputs)
    recurrent = (sources >= inputs).sum(1)
    return Degrees((sources >= 0).sum(1) - recurrent, recurrent, counted[:inputs], counted[inputs:])


def timescales(network: ELMNetwork, layer: int = 0) -> Array:
    """τ_m (N, d_m) of a layer, in time steps."""
    neurons = layer_of(network, layer).neurons
    return np.asarray(neurons.timescales().detach().double().cpu().numpy() / neurons.config.dt)


class ReadoutNorms(NamedTuple):
    """How strongly units speak, and are listened to."""

    own: Array  # (N,), Euclidean norm of each unit's W_y
    next: Array | None  # (N,), of the weights with which the next layer's synapses read it; None: there is none


def readout_norms(network: ELMNetwork, layer: int = 0) -> ReadoutNorms:
    """Norms of the read-out W_y of each unit, and of the next layer's synaptic weights on it."""
    speaker, listeners = layer_of(network, layer), network.elm_layers[layer + 1 : layer + 2]
    own = speaker.neurons.readout.detach().double().flatten(1).norm(dim=1).cpu().numpy()
    if not listeners:
        return ReadoutNorms(own, None)
    sources = listeners[0].connectome.flatten().cpu()
    weights = listeners[0].neurons.w_s.detach().double().flatten().cpu()
    units, outputs = speaker.config.units, speaker.config.outputs
    read = (sources >= 0) & (sources < outputs)  # the rest is recurrent
    squares = torch.zeros(outputs, dtype=torch.float64).index_add_(0, sources[read], weights[read].square())
    return ReadoutNorms(own, squares.view(units, -1).sum(1).sqrt().numpy())


def surprise(outputs: Array, targets: NDArray[np.int64]) -> Array:
    """Bits -log2 p(target) of logits (..., n_out) and class numbers (...)."""
    if outputs.shape[:-1] != targets.shape:
        raise ShapeError(f"targets must be {outputs.shape[:-1]}, got {targets.shape}")
    nats = -np.take_along_axis(log_softmax(outputs, -1), targets[..., None], -1)[..., 0]
    return np.asarray(nats / np.log(2))
