"""What the compiled backends' operators take, in the order of their signatures: tensors first, then numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from elmnet.errors import BackendError, ShapeError
from elmnet.ops.types import Dynamics, LayerState, Masks, Signal, Weights

MLP_ACTIVATIONS = ("relu2", "relu", "silu")
ACTIVATIONS = ("identity", "relu", "spike")
SEEN = ("branch", "mlp", "memory", "readout")
"""Signals that operators return besides their output, which is "activity"."""


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


PLAIN = (Tensor, nn.Parameter)
"""Types of tensors whose numbers lie where they say."""
STATE = Inputs._fields[1:5]
"""Names of the state's tensors."""
TAPE_PLACE = 1 + len(STATE)
"""Of what the way back reads, among an operator's outputs: after out and the state's tensors."""

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
BACKWARD_SIGNATURE = f"{SIGNATURE}, Tensor out, Tensor[] tape, Tensor?[] grads, bool[] wanted"
"""`grads` are of out, the state's four tensors and the signals in the order of `SEEN`; None: zero."""
COUNT = len(Inputs._fields)
INSTEAD = "use backend='reference'"


def too_deep(dynamics: Dynamics) -> str | None:
    """Why the compiled backends have no kernel for the neurons' MLP; None: they have one."""
    if dynamics.mlp_layers <= 1:
        return None
    return f"the neurons' MLP has {dynamics.mlp_layers} hidden layers, it has kernels for 0 and 1"


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
    """The arguments of `elmnet.ops.Recurrence` as an operator takes them; `dtype` is that of state and decay.

    Raises:
        BackendError: forward-mode derivatives are wanted, or a transform of `torch.func`, or gradients of masks.
    """
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
        connectome=connectome.long(),
        lengths=lengths,
    )
    if not torch.compiler.is_compiling():
        if any(map(_has_tangent, inputs)):
            raise BackendError(f"compiled backends have no forward-mode derivatives; {INSTEAD}")
        if torch._C._are_functorch_transforms_active():
            raise BackendError(f"compiled backends cannot be transformed by torch.func; {INSTEAD}")
        if torch.is_grad_enabled() and any(mask is not None and mask.requires_grad for mask in masks):
            raise BackendError(f"compiled backends have no gradients of masks; {INSTEAD}")
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


def in_forward_mode() -> bool:
    """Whether derivatives are taken forward now: tensors may have tangents, which gradient modes do not switch off."""
    return forward_ad._current_level >= 0


def _has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def refuse_sizes(i: Inputs, n: Numbers, matrices: Sequence[torch.dtype]) -> None:
    """Nothing may reach a kernel that it would read past the end of, or as what it is not.

    Args:
        i: the tensors.
        n: the numbers.
        matrices: dtypes that the MLPs' matrices may have; all other floats have that of x.

    Raises:
        ShapeError: a tensor has another shape or type than the others make it.
    """
    batch, _, inputs = i.x.shape
    units, branches, synapses = i.synapse.shape
    _, outputs, memory = i.readout.shape
    width, rows = branches + memory, None if i.weight1 is None else i.weight1.shape[1]
    shapes = {
        "memory0": (batch, units, memory),
        "branch0": (batch, units, 0 if n.branch_decay is None else branches),
        "highpass0": (batch, units, 0 if n.highpass_decay is None else outputs),
        "activity0": (batch, units * outputs),
        "weight1": (units, rows, width),
        "bias1": (units, rows),
        "weight2": (units, memory, width if rows is None else rows),
        "bias2": (units, memory),
        "readout": (units, outputs, memory),
        "bias": (units, outputs),
        "decay": (units, memory),
        "gain": (units, memory),
        "mask_input": (batch, inputs),
        "mask_recurrent": (batch, units * outputs),
        "mask_synapse": (batch, units, branches, synapses),
        "mask_memory": (batch, units, memory),
        "connectome": (units, branches * synapses),
        "lengths": (batch,),
    }
    for name, tensor in i._asdict().items():
        if tensor is None:
            continue
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            raise ShapeError(f"{name} must be {shapes[name]}, got {tuple(tensor.shape)}")
        dtypes = matrices if name in ("weight1", "weight2") else (i.x.dtype,)
        if name not in ("connectome", "lengths") and tensor.dtype not in dtypes:
            raise ShapeError(f"{name} must be {dtypes[0]}, got {tensor.dtype}")


def refuse_sources(connectome: Tensor, count: int) -> None:
    """A connectome must name sources that there are.

    Raises:
        ShapeError: it does not.
    """
    least, most = torch.aminmax(connectome)
    if not -1 <= int(least) <= int(most) < count:
        raise ShapeError(f"connectome must name sources in -1..{count - 1}, got {int(least)}..{int(most)}")


def has_values(tensor: Tensor) -> bool:
    """Whether anybody can look at its numbers now: not while it is traced, transformed or captured."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    nowhere = tensor.is_meta or isinstance(tensor, FakeTensor)
    return not (nowhere or (tensor.is_cuda and torch.cuda.is_current_stream_capturing()))


def in_place(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers as a kernel reads them: dense, of this type, where the tensor says that they lie."""
    lazy = tensor.is_neg() or tensor._is_zerotensor() or type(tensor) not in PLAIN
    if not lazy and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    return torch.empty(tensor.shape, dtype=dtype, device=tensor.device).copy_(tensor)


def refuse_lengths(lengths: Tensor, steps: int) -> None:
    """Sequences must be of 1 to `steps` steps. When a traced program runs, `cpu` asks again; a GPU would have to wait.

    Raises:
        ShapeError: one is not.
    """
    if has_values(lengths) and not bool(((lengths >= 1) & (lengths <= steps)).all()):
        raise ShapeError(f"lengths must lie in 1..{steps}, got {lengths.tolist()}")


def keep_for_backward(ctx: Any, inputs: Sequence[Any], out: Tensor, tape: Sequence[Tensor]) -> None:
    """What `gradients` needs of an operator's inputs and outputs, kept by autograd."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:COUNT], out, *tape)
    ctx.numbers = inputs[COUNT:]


def gradients(ctx: Any, backward: Callable[..., list[Tensor]], grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Of every argument of an operator, from the operator of its way back and `grads` in the order that this takes.

    Raises:
        BackendError: the way forward kept nothing, because it was exported or traced where no gradients were wanted.
    """
    if not Numbers(*ctx.numbers).keep:
        raise BackendError("this program was made without gradients (under torch.no_grad): export it with them enabled")
    saved = ctx.saved_tensors  # once: checkpointing hands them out no second time
    inputs, out, tape = saved[:COUNT], saved[COUNT], saved[COUNT + 1 :]
    wanted = list(ctx.needs_input_grad[: len(DIFFERENTIABLE)])
    with _one_gradient():
        result = backward(*inputs, *ctx.numbers, out, list(tape), grads, wanted)
    found = [grad if want else None for grad, want in zip(result, wanted, strict=True)]
    return (*found, *[None] * (COUNT - len(found) + len(ctx.numbers)))


def new_gradients(i: Inputs, wanted: Sequence[bool], new: Callable[..., Tensor] = torch.empty) -> list[Tensor]:
    """A place for the gradient of every tensor in `DIFFERENTIABLE`, empty where it is not wanted."""
    pairs = zip(i[: len(DIFFERENTIABLE)], wanted, strict=True)
    shapes = [tensor.shape if want and tensor is not None else (0,) for tensor, want in pairs]
    return [new(shape, dtype=i.x.dtype, device=i.x.device) for shape in shapes]


def fake_gradients(*arguments: Any) -> list[Tensor]:
    """For `torch.library.register_fake` of the operators of the way back."""
    return new_gradients(Inputs(*arguments[:COUNT]), arguments[-1])


@contextmanager
def _one_gradient() -> Iterator[None]:
    """Around the call of an operator of the way back.

    Raises:
        BackendError: many gradients are wanted at once, as by `torch.autograd.functional.jacobian(vectorize=True)`.
    """
    try:
        yield
    except RuntimeError as error:
        if "Batching rule" not in str(error):
            raise
        raise BackendError(f"compiled backends cannot take many gradients at once (vectorised); {INSTEAD}") from error


def no_second_derivatives(ctx: object, *grads: object) -> None:
    """For `torch.library.register_autograd` of the operators of the way back.

    Raises:
        BackendError: always; without it torch would take them for zero.
    """
    raise BackendError(f"compiled backends have no second derivatives; {INSTEAD}")


def valid(signal: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, N, rows), zero past a sequence's length."""
    if lengths is None:
        return signal
    steps = torch.arange(signal.shape[1], device=signal.device)
    return signal.masked_fill((steps >= lengths.unsqueeze(1))[:, :, None, None], 0)
