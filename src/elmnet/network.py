"""The ELM Network: a stack of layers, a read-out layer, an affine map."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from elmnet import ops
from elmnet.budget import cost
from elmnet.config import NetworkConfig
from elmnet.errors import CheckpointError, ShapeError
from elmnet.layer import (
    Call,
    ELMLayer,
    Lengths,
    Seed,
    Signals,
    check_monitor,
    check_tensor,
    generator_of,
    without_padding,
)
from elmnet.neuron import uniform
from elmnet.ops import LayerState, Masks, Signal, Stream
from elmnet.ops.operands import PLAIN, has_values, in_forward_mode, refuse_sources
from elmnet.ops.types import readable
from elmnet.pretrained import Pretrained
from elmnet.streaming import forget, stream_of


class NetworkState(NamedTuple):
    """The states of all layers of `NetworkConfig.stack`, read-out included."""

    layers: tuple[LayerState, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        return type(self)(tuple(layer.map(function) for layer in self.layers))

    def detach(self) -> Self:
        """The same values, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """`Tensor.to` on every tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def reset(self, mask: Tensor) -> Self:
        """Zero the sequences where `mask` (B,) is true, keep the others."""
        return type(self)(tuple(layer.reset(mask) for layer in self.layers))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name, for checkpoints."""
        return {f"{i}.{name}": value for i, layer in enumerate(self.layers) for name, value in layer._asdict().items()}


readable(NetworkState)


class ELMNetwork(Pretrained[NetworkState]):
    """A recurrent network of expressive neurons, used like a batch-first `nn.LSTM`:

        net = ELMNetwork(NetworkConfig.preset("enwik8"), seed=0)
        logits, state = net(tokens)            # (B, T) integers → (B, T, 204)
        logits_t, state = net.step(token, state)

    Args:
        config: the network.
        seed: draws connectomes and weights, as for `ELMLayer`.
        backend: `auto`, or the name of one that must run (see `elmnet.ops`).
    """

    Configuration = NetworkConfig
    State = NetworkState
    TYPICAL = "layers.0.neurons.w_s"
    config: NetworkConfig
    if TYPE_CHECKING:
        __call__: Call[NetworkState, NetworkState, Sequence[Masks], tuple[Signals, ...]]

    def __init__(self, config: NetworkConfig, *, seed: Seed = None, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        generator = generator_of(seed)
        self.layers = nn.ModuleList(
            ELMLayer(layer, inputs, seed=generator, backend=backend)
            for layer, inputs in zip(config.stack, config.layer_inputs, strict=True)
        )
        self.affine: nn.Linear | None = None
        if config.has_affine:
            n_in = config.stack[-1].outputs
            self.affine = nn.Linear(n_in, config.outputs)
            with torch.no_grad():
                for parameter in self.affine.parameters():
                    parameter.copy_(uniform(tuple(parameter.shape), n_in**-0.5, generator))

    def initial_state(self, batch: int) -> NetworkState:
        """All zeros, for `batch` sequences."""
        return NetworkState(tuple(layer.initial_state(batch) for layer in self.elm_layers))

    def draw_masks(self, batch: int) -> list[Masks]:
        """What `forward` draws where it gets no `masks`: fresh dropout masks of every layer."""
        return [layer.draw_masks(batch) for layer in self.elm_layers]

    @property
    def elm_layers(self) -> list[ELMLayer]:
        """Hidden layers, then the read-out layer; also those in a wrapper that hands on their attributes."""
        return cast(list[ELMLayer], list(self.layers))

    def forward(
        self,
        x: Tensor,
        state: NetworkState | None = None,
        lengths: Lengths | None = None,
        *,
        masks: Sequence[Masks] | None = None,
        monitor: Sequence[Signal] | None = None,
    ) -> Any:
        """Run a batch of sequences.

        Args:
            x: (B, T, n_in) floating point or bool, or (B, T) integer tokens if the network takes tokens.
            state: where to go on; None: zeros.
            lengths: (B,) valid steps of each sequence, 1 to T; None: all T.
            masks: one per layer, dropout masks to use instead of drawn ones.
            monitor: names of inner signals to return as well (`elmnet.ops.SIGNALS`).

        Returns:
            (out, state), or (out, state, signals) with `monitor`: out (B, T, n_out), zero past a sequence's length;
            the state after each sequence's last valid step; per layer a dictionary of signals (B, T, ...).

        Raises:
            ShapeError: an argument has the wrong shape, type or range.
            BackendError: the demanded backend refuses.
        """
        h = self.dense_input(x)
        layers, wanted = self.elm_layers, check_monitor(monitor)
        if state is not None:
            self.check_state(state)
        if masks is not None:
            self.check_layers("masks", masks)
        states: list[LayerState] = []
        signals: list[Signals] = []
        for i, layer in enumerate(layers):
            h, new, seen = layer(
                h,
                None if state is None else state.layers[i],
                lengths,
                masks=None if masks is None else masks[i],
                monitor=wanted,
            )
            states.append(new)
            signals.append(seen)
        if self.affine is not None:
            h = self.affine(h.to(self.dtype))
            if lengths is not None:
                h = without_padding(h, torch.as_tensor(lengths, device=h.device).long())
        result = NetworkState(tuple(states))
        return (h, result) if monitor is None else (h, result, tuple(signals))

    def check_state(self, state: NetworkState) -> None:
        """Refuse what is no state of as many layers.

        Raises:
            ShapeError: it is none.
        """
        super().check_state(state)
        self.check_layers("state", state.layers)

    def check_layers(self, name: str, given: Sequence[Any]) -> None:
        """Refuse what does not hold one for each layer."""
        if len(given) != len(self.layers):
            raise ShapeError(f"{name} must be one per layer, {len(self.layers)}, got {len(given)}")

    def train(self, mode: bool = True) -> Self:
        """As of every module; single steps are prepared anew, whatever has changed in the weights (`step`)."""
        forget(self)
        return super().train(mode)

    def step(self, x_t: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """One time step: x_t (B, n_in) or (B,) tokens → out (B, n_out); as inside a whole sequence, without dropout.

        A single sequence (B = 1) without gradients takes the backend's fast path, if it has one. It does not see
        weights that change behind autograd's back (`parameter.data`, NumPy): change them under `torch.no_grad()`, or
        call `eval()` or `train()` afterwards.
        """
        check_tensor(x_t)
        if x_t.dim() == 0:
            raise ShapeError("a step takes (B, n_in) or (B,) tokens, got a single number")
        plain = type(x_t) in PLAIN and not x_t.is_complex()
        differentiated = torch.is_grad_enabled() or in_forward_mode()
        alone = plain and has_values(x_t) and not differentiated and len(x_t) == 1
        if alone and (stream := stream_of(self, self._stream)) is not None:
            state = self.initial_state(1) if state is None else state
            self.check_state(state)
            layers = state.layers
            x = x_t if x_t.is_floating_point() else self.dense_input(x_t.unsqueeze(1)).squeeze(1)
            h, new = stream.step(x, layers)
            return (h.clone() if self.affine is None else self.affine(h)), NetworkState(new)  # h is part of the state
        out, state = self(x_t.unsqueeze(1), state)
        return out.squeeze(1), state

    def _stream(self) -> Stream | None:
        """The layers made ready for single steps; None: no backend can."""
        layers = self.elm_layers
        dtypes = {m.neurons.w_s.dtype for m in layers}
        backends = {ops.select(m.backend, self.device, dtype, m.dynamics).stream for m in layers for dtype in dtypes}
        prepare = backends.pop() if len(backends) == len(dtypes) == 1 else None
        if prepare is None or any(type(layer) is not ELMLayer or layer.drops_out for layer in layers):
            return None
        return prepare(self.config.inputs, [(m.connectome, m.neurons(), m.dynamics) for m in layers])

    def dense_input(self, x: Tensor) -> Tensor:
        """Input as (B, T, n_in): tokens become one-hot × scale."""
        check_tensor(x)
        integer = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
        scale, inputs = self.config.token_scale, self.config.inputs
        if scale is None:
            if integer:
                raise ShapeError(f"this network takes (B, T, {inputs}) floats or bools, got {x.dtype}")
            return x
        if not integer:
            return x  # an input already dense (soft tokens); the layer checks its shape
        if x.dim() != 2:
            raise ShapeError(f"tokens must be (B, T), got {tuple(x.shape)}")
        x = x.long()
        if x.numel() and has_values(x):
            least, most = torch.stack(torch.aminmax(x)).tolist()
            if not 0 <= least <= most < inputs:
                raise ShapeError(f"tokens must lie in 0..{inputs - 1}, got {least}..{most}")
        dense = torch.zeros(*x.shape, inputs, dtype=self.dtype, device=x.device)
        return dense.scatter(2, x.unsqueeze(2), scale)

    def backends(self) -> list[str]:
        """The backends that would run now, without repetition."""
        names = (ops.select(m.backend, self.device, self.dtype, m.dynamics).name for m in self.elm_layers)
        return list(dict.fromkeys(names))

    @staticmethod
    def expected_parameters(config: NetworkConfig) -> int:
        """P of a configuration (`elmnet.budget`)."""
        return cost(config).parameters

    def refuse_weights(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """A connectome must name sources that there are."""
        for i, layer in enumerate(self.elm_layers):
            try:
                refuse_sources(tensors[f"layers.{i}.connectome"], layer.inputs + layer.config.outputs)
            except ShapeError as error:
                raise CheckpointError(f"{path}: layer {i}: {error}") from None
