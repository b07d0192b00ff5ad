"""One layer of ELM neurons, and the single neuron as its smallest case."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from elmnet import ops, wiring
from elmnet.config import LayerConfig, NeuronConfig, WiringConfig
from elmnet.errors import ShapeError
from elmnet.neuron import Neurons
from elmnet.ops import Dynamics, LayerState, Masks, Signal
from elmnet.ops.operands import refuse_lengths

Signals = dict[Signal, Tensor]
Lengths = Tensor | Sequence[int]
"""Valid steps of each sequence."""
Seed = int | torch.Generator | None
"""What draws: a new generator with this seed, a generator as it stands, torch's default one."""
Before = TypeVar("Before", contravariant=True)
After = TypeVar("After", covariant=True)
Given = TypeVar("Given", contravariant=True)
Seen = TypeVar("Seen", covariant=True)


class Call(Protocol[Before, After, Given, Seen]):
    """What calling a module takes and returns, for type checkers: `nn.Module` does not say.

    States that it goes on from and returns, masks it is given, signals that were seen.
    """

    @overload
    def __call__(
        self,
        x: Tensor,
        state: Before | None = None,
        lengths: Lengths | None = None,
        *,
        masks: Given | None = None,
        monitor: None = None,
    ) -> tuple[Tensor, After]: ...
    @overload
    def __call__(
        self,
        x: Tensor,
        state: Before | None = None,
        lengths: Lengths | None = None,
        *,
        masks: Given | None = None,
        monitor: Sequence[Signal],
    ) -> tuple[Tensor, After, Seen]: ...


class ELMLayer(nn.Module):
    """N neurons wired by a fixed connectome, used like a batch-first `nn.LSTM` layer:

        layer = ELMLayer(LayerConfig(units=96), inputs=700)
        out, state = layer(x)              # x (B, T, 700) → out (B, T, 96)
        out, state = layer(more, state)    # goes on where it stopped

    Args:
        config: the layer.
        inputs: n_in, input channels.
        seed: draws connectome and weights: a number, or a generator on the CPU; None: torch's default generator.
        backend: `auto`, or the name of one that must run (see `elmnet.ops`).
    """

    connectome: Tensor
    if TYPE_CHECKING:
        __call__: Call[LayerState, LayerState, Masks, Signals]

    def __init__(
        self,
        config: LayerConfig,
        inputs: int,
        *,
        seed: Seed = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.config = config
        self.inputs = inputs
        self.backend = backend
        self.dynamics = Dynamics.of(config.neuron)
        generator = generator_of(seed)
        with torch.device("cpu"):  # where the generator is
            connectome = wiring.draw(config, inputs, generator)
        self.register_buffer("connectome", connectome.to(torch.get_default_device()))
        self.neurons = Neurons(config.neuron, config.units, generator)

    def initial_state(self, batch: int) -> LayerState:
        """All zeros, for `batch` sequences."""
        n, c = self.config.units, self.config.neuron
        weight = self.neurons.w_s
        exact = torch.promote_types(weight.dtype, torch.float32)
        return LayerState(
            memory=weight.new_zeros(batch, n, c.memory, dtype=exact),
            branch=weight.new_zeros(batch, n, c.branches if c.tau_branch else 0, dtype=exact),
            highpass=weight.new_zeros(batch, n, c.outputs if c.tau_highpass else 0, dtype=exact),
            activity=weight.new_zeros(batch, n * c.outputs, dtype=exact),
        )

    @property
    def drops_out(self) -> bool:
        """Whether `forward` would draw dropout masks now."""
        layer, neuron = self.config, self.config.neuron
        shares = (layer.input_dropout, layer.recurrent_dropout, neuron.synapse_dropout, neuron.memory_dropout)
        return self.training and any(shares)

    def draw_masks(self, batch: int) -> Masks:
        """Fresh variational dropout masks from torch's default generator; none outside training."""
        if not self.training:
            return Masks()
        layer, neuron = self.config, self.config.neuron
        n = layer.units
        return Masks(
            input=self._mask(layer.input_dropout, 1.0, batch, self.inputs),
            recurrent=self._mask(layer.recurrent_dropout, 1.0, batch, layer.outputs),
            synapse=self._mask(neuron.synapse_dropout, 1.0, batch, n, neuron.branches, neuron.synapses),
            memory=self._mask(neuron.memory_dropout, 0.5, batch, n, neuron.memory),
        )

    def _mask(self, p: float, power: float, *shape: int) -> Tensor | None:
        if p == 0:
            return None
        weight = self.neurons.w_s
        kept = torch.rand(shape, device=weight.device) >= p
        scale: float = (1 - p) ** -power
        return kept.to(weight.dtype) * scale

    def forward(
        self,
        x: Tensor,
        state: LayerState | None = None,
        lengths: Lengths | None = None,
        *,
        masks: Masks | None = None,
        monitor: Sequence[Signal] | None = None,
    ) -> Any:
        """Run a batch of sequences.

        Args:
            x: (B, T, n_in), floating point or bool.
            state: where to go on; None: zeros.
            lengths: (B,) valid steps of each sequence, 1 to T; None: all T.
            masks: dropout masks to use instead of drawn ones.
            monitor: names of inner signals to return as well (`elmnet.ops.SIGNALS`).

        Returns:
            out (B, T, N·n_y) in the weights' dtype, zero past a sequence's length; the state after each sequence's last
            valid step; and with `monitor` a dictionary of signals (B, T, ...).

        Raises:
            ShapeError: an argument has the wrong shape or type.
            BackendError: the demanded backend refuses.
        """
        weights = self.neurons()
        dtype, device = weights.synapse.dtype, weights.synapse.device
        check_input(x, self.inputs, device)
        valid = check_lengths(lengths, x)
        x = x.to(dtype) if valid is None else without_padding(x.to(dtype), valid)
        batch = x.shape[0]  # `len` would fix a size that is to stay free
        state = self.initial_state(batch) if state is None else self.check_state(state, batch)
        masks = self.draw_masks(batch) if masks is None else self.check_masks(masks, batch)
        wanted = check_monitor(monitor)
        backend = ops.select(self.backend, device, dtype, self.dynamics)
        out, state, signals = backend.run(x, state, self.connectome, weights, self.dynamics, masks, valid, wanted)
        out = out.to(dtype)  # of a half type, too, whose state is float32
        return (out, state) if monitor is None else (out, state, signals)

    def step(self, x_t: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """One time step: x_t (B, n_in) → out (B, N·n_y); without dropout equal to the same step inside a sequence."""
        out, state = self(x_t.unsqueeze(1), state)
        return out.squeeze(1), state

    def check_state(self, state: LayerState, batch: int) -> LayerState:
        """The state, refused unless it is one of `batch` sequences.

        Raises:
            ShapeError: it is not.
        """
        check_kind("state", state, LayerState)
        wanted = self.initial_state(batch)
        check_carried(state._asdict(), wanted._asdict())
        pairs = zip(state, wanted, strict=True)  # in a narrower type, sums would be rounded
        return LayerState(*(got.to(torch.promote_types(got.dtype, want.dtype)) for got, want in pairs))

    def check_masks(self, masks: Masks, batch: int) -> Masks:
        """The masks in the weights' dtype and on their device, one for each of `batch` sequences.

        Raises:
            ShapeError: one cannot be broadcast to what it masks.
        """
        check_kind("masks", masks, Masks, "`draw_masks`")
        n, neuron = self.config.units, self.config.neuron
        shapes = {
            "input": (batch, self.inputs),
            "recurrent": (batch, self.config.outputs),
            "synapse": (batch, n, neuron.branches, neuron.synapses),
            "memory": (batch, n, neuron.memory),
        }
        ready: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            mask = getattr(masks, name)
            try:
                if mask is not None:
                    ready[name] = mask.to(self.neurons.w_s).expand(shape)
            except RuntimeError:
                raise ShapeError(f"masks.{name} must be {shape}, got {tuple(mask.shape)}") from None
        return Masks(**ready)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, wiring={self.config.wiring_name!r}, backend={self.backend!r}"


class ELM(nn.Module):
    """A single Expressive Leaky Memory neuron: x (B, T, n_in) → out (B, T, outputs).

        neuron = ELM(NetworkConfig.preset("neuronio").layers[0].neuron, inputs=1278)

    Args:
        config: the neuron.
        inputs: input channels.
        wiring: how they reach the synapses; the default is the NeuronIO routing, which is not random.
        seed: draws the weights (and the connectome, if random), as for `ELMLayer`.
        backend: as for `ELMLayer`.
    """

    if TYPE_CHECKING:
        __call__: Call[LayerState, LayerState, Masks, Signals]

    def __init__(
        self,
        config: NeuronConfig,
        inputs: int,
        *,
        wiring: str | WiringConfig = "neuronio",
        seed: Seed = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        layer = LayerConfig(units=1, neuron=config, recurrent_connect=0.0, wiring=wiring)
        self.layer = ELMLayer(layer, inputs, seed=seed, backend=backend)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `ELMLayer.forward`."""
        return self.layer(*args, **kwargs)

    def step(self, x_t: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """As `ELMLayer.step`."""
        return self.layer.step(x_t, state)


def generator_of(seed: Seed) -> torch.Generator | None:
    """The generator on the CPU that a seed stands for; None: torch's default one."""
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    return torch.Generator().manual_seed(seed)


def check_tensor(x: Any) -> None:
    """Refuse an input that is no tensor."""
    if not isinstance(x, Tensor):
        packed = isinstance(x, PackedSequence)
        advice = "pad sequences of unequal length and give their `lengths`" if packed else "torch.as_tensor makes one"
        raise ShapeError(f"input must be a tensor, got {type(x).__name__}: {advice}")
    if x.layout is not torch.strided or x.is_nested:
        kind = "a nested" if x.is_nested else f"a {str(x.layout).removeprefix('torch.')}"
        raise ShapeError(f"input must be a dense tensor, got {kind} one: to_dense() or to_padded_tensor() makes it one")


def check_input(x: Tensor, inputs: int, device: torch.device) -> None:
    """Refuse what is not (B, T, inputs) of floats or bools on the weights' device."""
    check_tensor(x)
    if x.dim() != 3 or x.shape[2] != inputs:
        raise ShapeError(f"input must be (B, T, {inputs}), got {tuple(x.shape)}")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ShapeError(f"input must hold at least one sequence and one step, got {tuple(x.shape)}")
    if not (x.is_floating_point() or x.dtype == torch.bool):
        raise ShapeError(f"input must be floating point or bool, got {x.dtype}")
    if x.device != device:
        raise ShapeError(f"input is on {x.device}, the weights are on {device}")


def check_kind(name: str, given: Any, kind: type, origin: str = "a call") -> None:
    """Refuse an argument that is no named tuple of this kind, as its origin returns it."""
    if not isinstance(given, kind):
        raise ShapeError(f"{name} must be a {kind.__name__}, as {origin} returns it, got {type(given).__name__}")


def check_carried(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a state's tensors that have other names or shapes than those wanted, or lie elsewhere."""
    if tensors.keys() != wanted.keys():
        raise ShapeError(f"state must hold {', '.join(wanted)}, got {', '.join(tensors)}")
    for name, want in wanted.items():
        got = tensors[name]
        if not isinstance(got, Tensor):
            raise ShapeError(f"state.{name} must be a tensor, got {type(got).__name__}")
        if got.shape != want.shape:
            raise ShapeError(f"state.{name} must be {tuple(want.shape)}, got {tuple(got.shape)}")
        if got.device != want.device:
            raise ShapeError(f"state.{name} is on {got.device}, the weights are on {want.device}")


def check_monitor(monitor: Sequence[Signal] | None) -> tuple[Signal, ...]:
    """The names of the signals, refused where there is none of that name."""
    names = tuple(monitor or ())  # once: a generator gives them no second time
    for name in names:
        if name not in ops.SIGNALS:
            raise ShapeError(f"monitor: no signal {name!r}; known: {', '.join(ops.SIGNALS)}")
    return names


def check_lengths(lengths: Lengths | None, x: Tensor) -> Tensor | None:
    """The lengths (B,) of x (B, T, ...) on its device, refused unless whole numbers in 1..T."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.shape != x.shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ShapeError(f"lengths must be {len(x)} integers, got {tuple(lengths.shape)} of {lengths.dtype}")
    lengths = lengths.long()  # steps are counted in them
    refuse_lengths(lengths, x.shape[1])
    return lengths


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Zeros past each length, so that not even NaN there reaches a gradient."""
    steps = torch.arange(x.shape[1], device=x.device)
    return x.masked_fill((steps >= lengths.unsqueeze(1)).unsqueeze(2), 0)
