"""Several networks of equal shape in one: k seeds or settings run as one block-diagonal layer.

A small network fills a fraction of a machine, and most of what a step costs it is waiting. `Replicas` runs k of them as
one network of k times the units, in which nobody hears the others. The networks keep their own parameters: optimisers,
clipping and checkpoints are theirs, as if they ran alone.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from elmnet import ops
from elmnet.errors import ShapeError
from elmnet.layer import (
    Call,
    ELMLayer,
    Lengths,
    Signals,
    check_input,
    check_lengths,
    check_monitor,
    check_tensor,
    without_padding,
)
from elmnet.network import ELMNetwork, NetworkState
from elmnet.ops import LayerState, Masks, Signal, Weights
from elmnet.streaming import Remembered


class Replicas(nn.Module):
    """k networks of one configuration, run together:

        replicas = Replicas([ELMNetwork(config, seed=s) for s in range(4)])
        out, states = replicas(x)      # x (4, B, T, n_in) → out (4, B, T, n_out), four states
        for loss in losses(out): ...   # losses of different networks share no parameter: sum them, one backward

    Outputs and gradients equal those of the networks alone within rounding: a backend may add up in another order where
    a layer has other sizes.

    Args:
        networks: with equal configurations, dtypes, devices and demanded backends; kept, not copied. All must be in
            training, or all in evaluation mode, where they have dropout.
    """

    if TYPE_CHECKING:
        __call__: Call[Sequence[NetworkState], list[NetworkState], Sequence[Sequence[Masks]], list[tuple[Signals, ...]]]

    def __init__(self, networks: Sequence[ELMNetwork]) -> None:
        super().__init__()
        if not networks:
            raise ShapeError("replicas: at least one network is needed")
        common = _common(networks[0])
        for i, network in enumerate(networks):
            for what, own in _common(network).items():
                if own != common[what]:
                    raise ShapeError(f"replicas: network {i} has another {what} than network 0; they must be equal")
        self.networks = nn.ModuleList(networks)
        self._connectomes: dict[int, tuple[Remembered, Tensor]] = {}

    def _layers(self) -> list[list[ELMLayer]]:
        """Layer by layer, those of all networks."""
        stacks = (cast(ELMNetwork, network).layers for network in self.networks)
        return [list(cast(Sequence[ELMLayer], layers)) for layers in zip(*stacks, strict=True)]

    def forward(
        self,
        x: Tensor,
        states: Sequence[NetworkState] | None = None,
        lengths: Lengths | None = None,
        *,
        masks: Sequence[Sequence[Masks]] | None = None,
        monitor: Sequence[Signal] | None = None,
    ) -> Any:
        """Run a batch of sequences in every network.

        Args:
            x: (k, B, T, n_in), or (k, B, T) tokens: each network's own batch.
            states: where each network goes on; None: zeros.
            lengths: (B,) valid steps, the same in all networks; None: all T.
            masks: for each network, one per layer; None: drawn in turn from torch's default generator.
            monitor: as for `ELMNetwork`.

        Returns:
            out (k, B, T, n_out), k states, and with `monitor` for each network a tuple of signals per layer.

        Raises:
            ShapeError: an argument has the wrong shape, type or range.
            BackendError: the demanded backend refuses.
        """
        networks = cast(list[ELMNetwork], list(self.networks))
        k = len(networks)
        check_tensor(x)
        if x.dim() == 0 or len(x) != k:
            raise ShapeError(f"input must hold one batch for each of {k} networks, got {tuple(x.shape)}")
        dense = [network.dense_input(own) for network, own in zip(networks, x, strict=True)]
        check_input(dense[0], networks[0].config.inputs, networks[0].device)
        h = torch.cat(dense, 2)
        batch, valid = len(h), check_lengths(lengths, h)
        h = h if valid is None else without_padding(h, valid)
        wanted = check_monitor(monitor)
        for name, given in (("states", states), ("masks", masks)):
            if given is not None and len(given) != k:
                raise ShapeError(f"{name} must be one for each of {k} networks, got {len(given)}")
        for i, network in enumerate(networks):
            if states is not None:
                network.check_state(states[i])
            if masks is not None:
                network.check_layers("masks", masks[i])
        after: list[list[LayerState]] = [[] for _ in networks]
        seen: list[list[Signals]] = [[] for _ in networks]
        for place, layers in enumerate(self._layers()):
            if masks is None and len({layer.drops_out for layer in layers}) > 1:
                raise ShapeError("replicas: some networks are in training mode, some in evaluation mode")
            before = [
                layer.initial_state(batch) if states is None else layer.check_state(states[i].layers[place], batch)
                for i, layer in enumerate(layers)
            ]
            drawn = [
                layer.draw_masks(batch) if masks is None else layer.check_masks(masks[i][place], batch)
                for i, layer in enumerate(layers)
            ]
            h, state, signals = self._run(place, layers, h, before, drawn, valid, wanted)
            for i, own in enumerate(zip(*(tensor.chunk(k, 1) for tensor in state), strict=True)):
                after[i].append(LayerState(*own))
                seen[i].append({name: signal.chunk(k, 2)[i] for name, signal in signals.items()})
        out = torch.stack([self._affine(n, own, valid) for n, own in zip(networks, h.chunk(k, 2), strict=True)])
        result = [NetworkState(tuple(layers_)) for layers_ in after]
        return (out, result) if monitor is None else (out, result, [tuple(signals_) for signals_ in seen])

    def _run(
        self,
        place: int,
        layers: Sequence[ELMLayer],
        h: Tensor,
        before: Sequence[LayerState],
        masks: Sequence[Masks],
        lengths: Tensor | None,
        monitor: tuple[Signal, ...],
    ) -> tuple[Tensor, LayerState, Mapping[Signal, Tensor]]:
        """All networks' layers at a place as one layer."""
        first, weights = layers[0], _together([layer.neurons() for layer in layers])
        dtype = weights.synapse.dtype
        backend = ops.select(first.backend, h.device, dtype, first.dynamics)
        return backend.run(
            h.to(dtype),
            LayerState(*(torch.cat(tensors, 1) for tensors in zip(*before, strict=True))),
            self._connectome(place, layers),
            weights,
            first.dynamics,
            Masks(*map(_beside, zip(*masks, strict=True))),
            lengths,
            monitor,
        )

    def _connectome(self, place: int, layers: Sequence[ELMLayer]) -> Tensor:
        """That of all networks' layers at a place, made anew when one has changed."""
        own = [layer.connectome for layer in layers]
        if torch.compiler.is_compiling() or any(connectome.is_inference() for connectome in own):
            return _side_by_side(layers)  # nobody counts their changes
        if place not in self._connectomes or not self._connectomes[place][0].unchanged(own):
            self._connectomes[place] = Remembered.of(own), _side_by_side(layers)
        return self._connectomes[place][1]

    @staticmethod
    def _affine(network: ELMNetwork, h: Tensor, lengths: Tensor | None) -> Tensor:
        h = h.to(network.dtype)
        if network.affine is None:
            return h
        out = cast(Tensor, network.affine(h))
        return out if lengths is None else without_padding(out, lengths)


def _common(network: ELMNetwork) -> dict[str, Any]:
    """What must be equal of all networks."""
    demanded = [layer.backend for layer in cast(Sequence[ELMLayer], network.layers)]
    return {"config": network.config, "dtype": network.dtype, "device": network.device, "backend": demanded}


def _side_by_side(layers: Sequence[ELMLayer]) -> Tensor:
    """One connectome (k·N, k_c): all networks' inputs come first, then all activities."""
    inputs, own, k = layers[0].inputs, layers[0].config.outputs, len(layers)
    moved = []
    for i, layer in enumerate(layers):
        source = layer.connectome.long()  # of a saved network, loaded with assign=True, it is narrower
        from_layer = source + (k - 1) * inputs + i * own
        here = torch.where(source < inputs, source + i * inputs, from_layer)
        moved.append(torch.where(source < 0, -1, here))
    return torch.cat(moved)


def _beside(masks: Sequence[Tensor | None]) -> Tensor | None:
    """All networks' masks of one kind as one; where only some have one, the others keep everything."""
    given = [mask for mask in masks if mask is not None]
    return torch.cat([torch.ones_like(given[0]) if mask is None else mask for mask in masks], 1) if given else None


def _together(weights: Sequence[Weights]) -> Weights:
    """The units of all networks, one after another."""
    maps = [
        tuple(torch.cat(part) for part in zip(*maps, strict=True))
        for maps in zip(*(w.mlp for w in weights), strict=True)
    ]
    rest = {name: torch.cat([getattr(w, name) for w in weights]) for name in Weights._fields if name != "mlp"}
    return Weights(mlp=cast(Any, tuple(maps)), **rest)
