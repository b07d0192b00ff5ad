"""The recurrence and its gradient on a GPU as two operators of `torch.library`.

Same tensors, numbers and order as the CPU's (`elmnet.ops.operands`). Kernels, and Triton with them, are imported
when the first layer runs.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from elmnet.ops.cuda.plan import A100, GPUS, H100, Limits
from elmnet.ops.operands import COUNT, DIFFERENTIABLE, SIGNATURE, Inputs, Numbers

TAPE = ("branch", "hidden", "mlp", "memory", "readout", "drive")
"""What the way back reads, each (B, T, N, ·)."""

SEEN = ("branch", "mlp", "memory", "readout")
"""Those of them that are signals, too."""

_STATE = 5  # out and the four tensors of the state come before the tape

torch.library.define("elmnet::cuda_recurrence", f"({SIGNATURE}) -> Tensor[]")
torch.library.define(
    "elmnet::cuda_recurrence_backward",
    f"({SIGNATURE}, Tensor out, Tensor[] tape, Tensor?[] grads, bool[] wanted) -> Tensor[]",
)


@lru_cache
def limits(device: torch.device) -> Limits:
    """Of a GPU; where kernels are interpreted, of an H100 on which programs cannot wait for each other."""
    if device.type != "cuda":
        return replace(H100, waits=False)
    found = torch.cuda.get_device_properties(device)
    fallback = GPUS.get(10 * found.major + found.minor, A100).shared_bytes
    shared = getattr(found, "shared_memory_per_block_optin", fallback)
    return Limits(found.name, found.multi_processor_count, shared)


def forward(*arguments: Any) -> list[Tensor]:
    """Returns out (B, T, N·n_y), the state's four tensors, and six tensors over time (the tape), empty unless the way
    back or a monitor wants them."""
    from elmnet.ops.cuda.launch import Layer

    i = Inputs(*arguments[:COUNT])
    with torch.cuda.device_of(i.x):  # type: ignore[no-untyped-call]
        return Layer(i, Numbers(*arguments[COUNT:]), limits(i.x.device)).forward()


def backward(*arguments: Any) -> list[Tensor]:
    """Gradients of the tensors in `DIFFERENTIABLE`; empty where not wanted."""
    from elmnet.ops.cuda.launch import Layer

    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:-4])
    with torch.cuda.device_of(i.x):  # type: ignore[no-untyped-call]
        return Layer(i, n, limits(i.x.device)).backward(*arguments[-4:])


@torch.library.register_fake("elmnet::cuda_recurrence")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:])
    batch, steps, _ = i.x.shape
    units, branches, _ = i.synapse.shape
    memory, outputs = i.decay.shape[1], i.readout.shape[1]
    hidden = 0 if i.weight1 is None else i.weight1.shape[1]
    state = [i.memory0, i.branch0, i.highpass0, i.activity0]
    tape = [i.x.new_empty(0) for _ in TAPE]
    if n.keep or n.see:
        rows = (branches, hidden, memory, memory, outputs, outputs)
        tape = [i.x.new_empty(batch, steps, units, count) for count in rows]
    return [i.x.new_empty(batch, steps, units * outputs), *map(torch.empty_like, state), *tape]


@torch.library.register_fake("elmnet::cuda_recurrence_backward")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    i = Inputs(*arguments[:COUNT])
    pairs = zip(i[: len(DIFFERENTIABLE)], arguments[-1], strict=True)
    return [i.x.new_empty(0) if tensor is None or not want else torch.empty_like(tensor) for tensor, want in pairs]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:COUNT], output[0], *output[_STATE:])
    ctx.numbers = inputs[COUNT:]


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    inputs, out, tape = ctx.saved_tensors[:COUNT], ctx.saved_tensors[COUNT], ctx.saved_tensors[COUNT + 1 :]
    wanted = list(ctx.needs_input_grad[: len(DIFFERENTIABLE)])
    over_time = dict(zip(TAPE, grads[_STATE:], strict=True))
    result = torch.ops.elmnet.cuda_recurrence_backward(
        *inputs, *ctx.numbers, out, list(tape), [*grads[:_STATE], *(over_time[name] for name in SEEN)], wanted
    )
    found = [grad if want else None for grad, want in zip(result, wanted, strict=True)]
    return (*found, *[None] * (COUNT - len(found) + len(ctx.numbers)))


torch.library.register_autograd("elmnet::cuda_recurrence", _differentiate, setup_context=_setup_context)
torch.library.impl("elmnet::cuda_recurrence", "CUDA")(forward)
torch.library.impl("elmnet::cuda_recurrence_backward", "CUDA")(backward)
