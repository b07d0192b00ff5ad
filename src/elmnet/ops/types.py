"""What every backend takes and returns: tensors in named tuples, and the few numbers that never change.

Sizes: B sequences, T steps, n_in input channels, N units, n_y outputs per unit, d_tree branches, d_s synapses per
branch, k_c = d_tree·d_s, d_m memory units.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self, get_args

from torch import Tensor
from torch.serialization import add_safe_globals
from torch.utils._pytree import _register_namedtuple as register_named_tuple

from elmnet.config import MlpActivation, NeuronConfig, OutputActivation

Signal = Literal["branch", "mlp", "memory", "readout", "activity"]
"""Inner signals a recurrence can return: branch (B, T, N, d_tree), mlp (B, T, N, d_m) before memory dropout and
compression, memory (B, T, N, d_m), readout (B, T, N, n_y) before high-pass, bias and activation, activity
(B, T, N·n_y)."""

SIGNALS: tuple[Signal, ...] = get_args(Signal)


def readable(state: type) -> None:
    """Let programs of `torch.export` that hold such named tuples be saved, and files of them be read with
    `torch.load(weights_only=True)`."""
    register_named_tuple(state, serialized_type_name=f"elmnet.{state.__name__}")
    add_safe_globals([state])


class LayerState(NamedTuple):
    """All a layer remembers between steps. Immutable: every step returns a new one."""

    memory: Tensor  # (B, N, d_m), float32 or wider
    branch: Tensor  # (B, N, d_tree) with the branch filter, else (B, N, 0)
    highpass: Tensor  # (B, N, n_y) with the high-pass, else (B, N, 0)
    activity: Tensor  # (B, N·n_y), the layer's output at the previous step

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        return type(self)(*map(function, self))

    def detach(self) -> Self:
        """The same values, cut from the graph: the border of truncated back-propagation through time."""
        return self.map(Tensor.detach)

    def to(self, *args: object, **kwargs: object) -> Self:
        """`Tensor.to` on every tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))  # type: ignore[call-overload]

    def reset(self, mask: Tensor) -> Self:
        """Zero the sequences where `mask` (B,) is true, keep the others."""
        return self.map(lambda tensor: tensor.masked_fill(per_sequence(mask, tensor), 0))


readable(LayerState)


class Weights(NamedTuple):
    """A layer's effective parameters: what the equations use, whatever they were stored as."""

    synapse: Tensor  # (N, d_tree, d_s), after ReLU where synapses are non-negative
    mlp: tuple[tuple[Tensor, Tensor], ...]  # per affine map: weight (N, out, in), bias (N, out)
    readout: Tensor  # (N, n_y, d_m)
    bias: Tensor  # (N, n_y)
    decay: Tensor  # (N, d_m) κ_m, float32 or wider
    gain: Tensor  # (N, d_m) 1-κ_λ or λ(1-κ_m), float32 or wider


class Masks(NamedTuple):
    """Variational dropout masks, one per sample and sequence, already scaled; None: keep everything."""

    input: Tensor | None = None  # (B, n_in)
    recurrent: Tensor | None = None  # (B, N·n_y)
    synapse: Tensor | None = None  # (B, N, d_tree, d_s)
    memory: Tensor | None = None  # (B, N, d_m)


NO_MASKS = Masks()


@dataclass(frozen=True)
class Dynamics:
    """The fixed numbers and names of one layer's equations, and the sizes of its neurons."""

    branch_decay: float | None  # κ_b
    highpass_decay: float | None  # κ_r
    input_scale: float
    mlp_activation: MlpActivation
    activation: OutputActivation
    surrogate_gain: float
    mlp_widths: tuple[int, ...]  # of the neurons' MLP, from its input to its output
    outputs: int  # n_y

    @property
    def mlp_layers(self) -> int:
        """Hidden layers of the neurons' MLP."""
        return len(self.mlp_widths) - 2

    @classmethod
    def of(cls, neuron: NeuronConfig) -> "Dynamics":
        """The dynamics a neuron configuration describes."""

        def decay(tau: float | None) -> float | None:
            return None if tau is None else math.exp(-neuron.dt / tau)

        return cls(
            branch_decay=decay(neuron.tau_branch),
            highpass_decay=decay(neuron.tau_highpass),
            input_scale=neuron.input_scale,
            mlp_activation=neuron.mlp_activation,
            activation=neuron.activation,
            surrogate_gain=neuron.surrogate_gain,
            mlp_widths=neuron.mlp_widths,
            outputs=neuron.outputs,
        )


class Recurrence(Protocol):
    """One layer over a whole sequence: the signature every backend shares."""

    def __call__(
        self,
        x: Tensor,  # (B, T, n_in)
        state: LayerState,
        connectome: Tensor,  # (N, k_c) integer sources in [input, own activity], -1: none
        weights: Weights,
        dynamics: Dynamics,
        masks: Masks = NO_MASKS,
        lengths: Tensor | None = None,  # (B,) valid steps per sequence
        monitor: tuple[Signal, ...] = (),
    ) -> tuple[Tensor, LayerState, Mapping[Signal, Tensor]]:
        """Return activity (B, T, N·n_y), the state after each sequence's last valid step, monitored signals.

        Past a sequence's length the output and the signals are zero and its state stands still.
        """
        ...


class Stream(Protocol):
    """A stack of layers prepared for single steps of one sequence."""

    def step(self, x: Tensor, states: Sequence[LayerState]) -> tuple[Tensor, tuple[LayerState, ...]]:
        """x (1, n_in) and every layer's state → the last layer's activity (1, N·n_y) and the new states."""
        ...


def per_sequence(mask: Tensor, like: Tensor) -> Tensor:
    """View (B,) so that it broadcasts over the other dimensions of `like` (B, ...)."""
    return mask.view(-1, *[1] * (like.dim() - 1))
