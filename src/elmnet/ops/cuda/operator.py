"""The recurrence and its gradient on a GPU as two operators of `torch.library`.

Same tensors, numbers and order as the CPU's (`elmnet.ops.operands`). Kernels, and Triton with them, are imported
when the first layer runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from elmnet.ops.cuda.plan import A100, GPUS, H100, Limits
from elmnet.ops.operands import (
    BACKWARD_SIGNATURE,
    COUNT,
    SEEN,
    SIGNATURE,
    TAPE_PLACE,
    Inputs,
    Numbers,
    fake_gradients,
    gradients,
    keep_for_backward,
    no_second_derivatives,
    refuse_sizes,
)

TAPE = ("branch", "hidden", "mlp", "memory", "readout", "drive")
"""What the way back reads, each (B, T, N, ·); some of them are signals, too."""

TAPE_LIMIT = 2**33
"""Bytes of a tape. That of a longer sequence is kept in segments of this size, of which only the first states stay; the
way back then runs each segment forward once more."""

CHUNK_BYTES = 2**30
"""Of feed-forward drive computed at once where there is no tape."""

torch.library.define("elmnet::cuda_recurrence", f"({SIGNATURE}) -> Tensor[]")
torch.library.define("elmnet::cuda_recurrence_backward", f"({BACKWARD_SIGNATURE}) -> Tensor[]")


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
    back or a monitor wants them. Where the tape is cut, the first holds the states between segments."""
    from elmnet.ops.cuda.launch import Layer

    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:])
    refuse_sizes(i, n, [torch.float32, torch.bfloat16])
    with _around(i.x):
        return Layer(i, n, limits(i.x.device)).forward()


def backward(*arguments: Any) -> list[Tensor]:
    """Gradients of the tensors in `DIFFERENTIABLE`; empty where not wanted."""
    from elmnet.ops.cuda.launch import Layer

    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:-4])
    with _around(i.x):
        return Layer(i, n, limits(i.x.device)).backward(*arguments[-4:])


@contextmanager
def _around(x: Tensor) -> Iterator[None]:
    """On the tensor's GPU, and in the precision that is asked for: autocast acts inside of operators, too."""
    with torch.cuda.device_of(x), torch.autocast(x.device.type, enabled=False):  # type: ignore[no-untyped-call]
        yield


def tape_rows(i: Inputs) -> tuple[int, ...]:
    """Rows of the tape's tensors, in the order of `TAPE`."""
    hidden = 0 if i.weight1 is None else i.weight1.shape[1]
    memory, outputs = i.decay.shape[1], i.readout.shape[1]
    return i.synapse.shape[1], hidden, memory, memory, outputs, outputs


def segments(i: Inputs, n: Numbers) -> list[tuple[int, int]]:
    """First and end step of what is computed at once: everything, unless that takes too much memory. Monitored signals
    are as long as a tape, so they are never cut."""
    batch, steps, _ = i.x.shape
    rows = tape_rows(i)
    kept, limit = (sum(rows), TAPE_LIMIT) if n.keep else (rows[0], CHUNK_BYTES)
    segment = steps if n.see else max(1, limit // (4 * batch * i.synapse.shape[0] * kept))
    return [(t, min(t + segment, steps)) for t in range(0, steps, segment)]


@torch.library.register_fake("elmnet::cuda_recurrence")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:])
    batch, steps, _ = i.x.shape
    units, outputs = i.synapse.shape[0], i.readout.shape[1]
    tape = [i.x.new_empty(0) for _ in TAPE]
    cut = len(segments(i, n)) - 1
    if cut and n.keep:
        tape[0] = i.x.new_empty(cut, sum(tensor.numel() for tensor in i.state))
    elif n.keep or n.see:
        tape = [i.x.new_empty(batch, steps, units, count) for count in tape_rows(i)]
    return [i.x.new_empty(batch, steps, units * outputs), *(i.x.new_empty(s.shape) for s in i.state), *tape]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    keep_for_backward(ctx, inputs, output[0], output[TAPE_PLACE:])


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    over_time = dict(zip(TAPE, grads[TAPE_PLACE:], strict=True))
    of_seen = [over_time[name] for name in SEEN]
    return gradients(ctx, torch.ops.elmnet.cuda_recurrence_backward, [*grads[:TAPE_PLACE], *of_seen])


torch.library.register_fake("elmnet::cuda_recurrence_backward", fake_gradients)
torch.library.register_autograd("elmnet::cuda_recurrence", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("elmnet::cuda_recurrence_backward", no_second_derivatives)
torch.library.impl("elmnet::cuda_recurrence", "CUDA")(forward)
torch.library.impl("elmnet::cuda_recurrence_backward", "CUDA")(backward)
