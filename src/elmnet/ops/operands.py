"""What the compiled backends' operators take, in the order of their signatures: tensors first, then numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from elmnet.ops.types import Dynamics, LayerState, Masks, Signal, Weights

MLP_ACTIVATIONS = ("relu2", "relu", "silu")
ACTIVATIONS = ("identity", "relu", "spike")


class Inputs(NamedTuple):
    """The operators' tensors, in the order of their signatures; shapes as in `elmnet.ops`."""

    x: Tensor
    memory0: Tensor
    branch0: Tensor
    highpass0: Tensor
    activity0: Tensor
    synapse: Tensor
    weight1: Tensor | None
    bias1: Tensor | None
    weight2: Tensor
    bias2: Tensor
    readout: Tensor
    bias: Tensor
    decay: Tensor
    gain: Tensor
    mask_input: Tensor | None
    mask_recurrent: Tensor | None
    mask_synapse: Tensor | None
    mask_memory: Tensor | None
    connectome: Tensor
    lengths: Tensor | None

    @property
    def state(self) -> tuple[Tensor, ...]:
        """Before the first step: memory, branch, highpass, activity."""
        return self.memory0, self.branch0, self.highpass0, self.activity0


STATE = Inputs._fields[1:5]
"""Names of the state's tensors."""

DIFFERENTIABLE = Inputs._fields[:14]
"""Those that may get a gradient."""


class Numbers(NamedTuple):
    """The operators' other arguments."""

    branch_decay: float | None
    highpass_decay: float | None
    input_scale: float
    surrogate_gain: float
    mlp_activation: str
    activation: str
    see: str  # names of signals, joined by spaces
    keep: bool  # whether a way back may follow


SIGNATURE = (
    ", ".join(f"Tensor{'?' if 'None' in str(Inputs.__annotations__[name]) else ''} {name}" for name in Inputs._fields)
    + ", float? branch_decay, float? highpass_decay, float input_scale, float surrogate_gain, str mlp_activation, "
    "str activation, str see, bool keep"
)
"""As `torch.library` writes it."""
COUNT = len(Inputs._fields)


def operands(
    x: Tensor,
    state: LayerState,
    connectome: Tensor,
    weights: Weights,
    dynamics: Dynamics,
    masks: Masks,
    lengths: Tensor | None,
    see: Sequence[Signal],
    dtype: torch.dtype,
) -> tuple[Inputs, Numbers]:
    """The arguments of `elmnet.ops.Recurrence` as an operator takes them; `dtype` is that of state and decay."""
    *hidden, (weight2, bias2) = weights.mlp
    weight1, bias1 = hidden[0] if hidden else (None, None)
    memory, branch, highpass, activity = (tensor.to(dtype) for tensor in state)
    inputs = Inputs(
        x=x.to(dtype),
        memory0=memory,
        branch0=branch,
        highpass0=highpass,
        activity0=activity,
        synapse=weights.synapse,
        weight1=weight1,
        bias1=bias1,
        weight2=weight2,
        bias2=bias2,
        readout=weights.readout,
        bias=weights.bias,
        decay=weights.decay.to(dtype),
        gain=weights.gain.to(dtype),
        mask_input=masks.input,
        mask_recurrent=masks.recurrent,
        mask_synapse=masks.synapse,
        mask_memory=masks.memory,
        connectome=connectome,
        lengths=lengths,
    )
    numbers = Numbers(
        dynamics.branch_decay,
        dynamics.highpass_decay,
        dynamics.input_scale,
        dynamics.surrogate_gain,
        dynamics.mlp_activation,
        dynamics.activation,
        " ".join(see),
        torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs),
    )
    return inputs, numbers


def valid(signal: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, N, rows), zero past a sequence's length."""
    if lengths is None:
        return signal
    steps = torch.arange(signal.shape[1], device=signal.device)
    return signal.masked_fill((steps >= lengths.unsqueeze(1))[:, :, None, None], 0)
