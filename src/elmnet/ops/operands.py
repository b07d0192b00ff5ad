"""What the compiled backends' operators take, in the order of their signatures: tensors first, then numbers."""

from typing import NamedTuple

from torch import Tensor

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
