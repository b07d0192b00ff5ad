"""The recurrence and its gradient as two operators of `torch.library`, so that autograd and torch.compile know them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elmnet.budget import TAPE_LIMIT
from elmnet.ops.cpu.library import LIBRARY, MEMORY, Call, Library
from elmnet.ops.operands import (
    ACTIVATIONS,
    BACKWARD_SIGNATURE,
    COUNT,
    DIFFERENTIABLE,
    MLP_ACTIVATIONS,
    SEEN,
    SIGNATURE,
    STATE,
    TAPE_PLACE,
    Inputs,
    Numbers,
    fake_gradients,
    gradients,
    keep_for_backward,
    new_gradients,
    no_second_derivatives,
    refuse_lengths,
    refuse_sizes,
    refuse_sources,
)
from elmnet.ops.types import Dynamics

WORTH_A_WAIT, WORTH_A_THREAD = 2**14, 2**20
"""Multiplications of one step, and of a whole call, for which another thread is worth having."""


@dataclass(frozen=True)
class Plan:
    """How a layer's work is cut: sequences into tiles, time into blocks and segments, all of it among threads."""

    batch: int
    steps: int
    inputs: int
    units: int
    branches: int
    synapses: int
    memory: int
    hidden: int
    outputs: int
    itemsize: int

    @classmethod
    def of(cls, i: Inputs) -> "Plan":
        """The plan for these tensors."""
        batch, steps, inputs = i.x.shape
        units, branches, synapses = i.synapse.shape
        hidden = 0 if i.weight1 is None else i.weight1.shape[1]
        return cls(
            *(batch, steps, inputs, units, branches, synapses),
            *(i.decay.shape[1], hidden, i.readout.shape[1], i.x.dtype.itemsize),
        )

    @property
    def lanes(self) -> int:
        """Sequences side by side in a tile: whichever wastes least; wider tiles cost less a sequence."""
        if self.itemsize == 8:
            return 8
        cost = {8: 1.0, 16: 1.15, 32: 2.0}  # of one tile
        return min(cost, key=lambda lanes: -(-self.batch // lanes) * cost[lanes])

    @property
    def tiles(self) -> int:
        """Tiles that hold the batch."""
        return -(-self.batch // self.lanes)

    @property
    def rows(self) -> int:
        """Rows of a unit's record on the tape: whole registers of at most 64 bytes."""
        few = max(64 // (self.lanes * self.itemsize), 1)
        return -(-(self.branches + 2 * self.memory + self.hidden + self.outputs) // few) * few

    @property
    def step_bytes(self) -> int:
        """Tape per time step."""
        return self.units * self.tiles * self.lanes * self.rows * self.itemsize

    @property
    def block(self) -> int:
        """Steps whose weight gradients are taken together: few, so that what they need is still in a cache."""
        steps = min(128 // (self.tiles * self.lanes), 2**28 // self.step_bytes, self.steps)
        return max(2, steps // 2 * 2)  # even: two steps of eight sequences fill a register

    @property
    def segment(self) -> int:
        """Steps whose activations are kept at once: all, unless the tape were too long. Then only the first states of
        segments are kept, and the way back runs each segment forward once more."""
        return min(self.steps, max(self.block, TAPE_LIMIT // self.step_bytes))

    @property
    def segments(self) -> list[tuple[int, int]]:
        """First and end step of every segment."""
        return [(t, min(t + self.segment, self.steps)) for t in range(0, self.steps, self.segment)]

    def state_shapes(self, i: Inputs) -> list[tuple[int, ...]]:
        """Of memory, branch, highpass, activity."""
        return [tuple(tensor.shape) for tensor in i.state]

    def tape_values(self, i: Inputs) -> int:
        """Numbers on the tape, or in the states between segments where it would be too long."""
        if self.segment >= self.steps:
            return self.steps * self.step_bytes // self.itemsize
        states = sum(tensor.numel() for tensor in i.state)
        return (len(self.segments) - 1) * states

    def seen_shapes(self, see: str) -> list[tuple[int, ...]]:
        """Of the copied signals, as the kernels lay them: (T, N, tiles, rows, lanes); (0,) for one not asked for."""
        rows = {"branch": self.branches, "mlp": self.memory, "memory": self.memory, "readout": self.outputs}
        if not see:  # how many tiles is asked only if need be: a batch that stays free in a traced program stays so
            return [(0,)] * len(SEEN)
        wanted, layout = see.split(), (self.steps, self.units, self.tiles)
        return [(*layout, rows[name], self.lanes) if name in wanted else (0,) for name in SEEN]

    @property
    def threads(self) -> int:
        """Threads worth their making and their waiting for each other; at most torch's number."""
        per_unit = self.branches * self.synapses + (self.branches + 2 * self.memory) * max(self.hidden, self.memory)
        step = per_unit * self.units * self.tiles * self.lanes  # multiplications
        worth = min(step // WORTH_A_WAIT, step * self.steps // WORTH_A_THREAD, self.units * self.tiles)
        return max(1, min(torch.get_num_threads(), worth))


def _call(i: Inputs, n: Numbers, plan: Plan) -> tuple[Call, dict[str, Tensor]]:
    """A call with all sizes and inputs filled in, and the dense inputs by its names; they must outlive it."""
    call = Call()
    dense = {name: tensor.contiguous() for name, tensor in i._asdict().items() if tensor is not None}
    lengths = dense.pop("lengths", None)
    last = torch.full((plan.batch,), plan.steps, dtype=torch.int64) if lengths is None else lengths.to(torch.int64)
    dense["last"] = last - 1
    call.set(
        batch=plan.batch,
        steps=plan.steps,
        inputs=plan.inputs,
        units=plan.units,
        branches=plan.branches,
        synapses=plan.synapses,
        memory=plan.memory,
        hidden=plan.hidden,
        outputs=plan.outputs,
        threads=plan.threads,
        lanes=plan.lanes,
        block=plan.block,
        **equations(n),
        **dense,
    )
    return call, dense


def equations(of: Numbers | Dynamics) -> dict[str, float]:
    """The fields of a call that say which equations run."""
    return {
        "mlp_activation": MLP_ACTIVATIONS.index(of.mlp_activation),
        "activation": ACTIVATIONS.index(of.activation),
        "filtered": of.branch_decay is not None,
        "highpassed": of.highpass_decay is not None,
        "branch_decay": of.branch_decay or 0.0,
        "highpass_decay": of.highpass_decay or 0.0,
        "input_scale": of.input_scale,
        "surrogate_gain": of.surrogate_gain,
    }


def _library() -> Library:
    assert isinstance(LIBRARY, Library), LIBRARY
    return LIBRARY


def _split_state(values: Tensor, shapes: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """A flat state as the fields of a call, without their digit."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    pieces = torch.split(values, sizes)
    return dict(zip(("memory", "branch", "highpass", "activity"), pieces, strict=True))


# defined the plain way, not by torch.library.custom_op, whose first call imports the whole of torch._dynamo
torch.library.define("elmnet::cpu_recurrence", f"({SIGNATURE}) -> Tensor[]")
torch.library.define("elmnet::cpu_recurrence_backward", f"({BACKWARD_SIGNATURE}) -> Tensor[]")


@torch.library.impl("elmnet::cpu_recurrence", "CPU")
def forward(*arguments: Any) -> list[Tensor]:
    """One layer over a whole sequence.

    Returns out (B, T, N·n_y), the four tensors of the state after each sequence's last step, the tape, and the
    signals in the order of `SEEN`.
    """
    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:])
    _refuse(i, n)
    plan = Plan.of(i)
    call, given = _call(i, n, plan)
    dtype = i.x.dtype
    outputs = [torch.empty(shape, dtype=dtype) for shape in _shapes(i, n, plan)]
    out, memory1, branch1, highpass1, activity1, _, *seen = outputs
    tape = MEMORY.take(plan.tape_values(i) if n.keep else 0, dtype)
    call.set(out=out, memory1=memory1, branch1=branch1, highpass1=highpass1, activity1=activity1)
    call.set(**{f"see_{name}": signal for name, signal in zip(SEEN, seen, strict=True)})
    if not n.keep or plan.segment >= plan.steps:
        call.set(begin=0, end=plan.steps, keep=n.keep, tape=tape)
        _library().run("forward", call, dtype)
    else:
        states = tape.view(len(plan.segments) - 1, -1)
        for k, (begin, end) in enumerate(plan.segments):
            call.set(begin=begin, end=end, keep=False)
            for when, state in ((0, k - 1), (2, k)):
                if 0 <= state < len(states):
                    pieces = _split_state(states[state], plan.state_shapes(i))
                    call.set(**{f"{name}{when}": piece for name, piece in pieces.items()})
                elif when == 2:
                    call.set(memory2=None, branch2=None, highpass2=None, activity2=None)
            _library().run("forward", call, dtype)
    del given
    return [out, memory1, branch1, highpass1, activity1, tape, *seen]


def _refuse(i: Inputs, n: Numbers) -> None:
    refuse_sizes(i, n, [i.x.dtype])
    refuse_sources(i.connectome, i.x.shape[2] + i.activity0.shape[1])
    if i.lengths is not None:
        refuse_lengths(i.lengths, i.x.shape[1])


def _shapes(i: Inputs, n: Numbers, plan: Plan) -> list[tuple[int, ...]]:
    """Of every output but the tape, whose place holds (0,)."""
    out = (plan.batch, plan.steps, plan.units * plan.outputs)
    return [out, *plan.state_shapes(i), (0,), *plan.seen_shapes(n.see)]


@torch.library.register_fake("elmnet::cpu_recurrence")  # type: ignore[untyped-decorator]
def _(*arguments: Any) -> list[Tensor]:
    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:])
    plan = Plan.of(i)
    shapes = _shapes(i, n, plan)
    shapes[TAPE_PLACE] = (plan.tape_values(i) if n.keep else 0,)
    return [i.x.new_empty(shape) for shape in shapes]


@torch.library.impl("elmnet::cpu_recurrence_backward", "CPU")
def backward(*arguments: Any) -> list[Tensor]:
    """Gradients of the tensors in `DIFFERENTIABLE`; empty where not wanted."""
    i, n = Inputs(*arguments[:COUNT]), Numbers(*arguments[COUNT:-4])
    out, (tape,), grads, wanted = arguments[-4:]
    out, tape = out.contiguous(), _aligned(tape)
    plan = Plan.of(i)
    call, given = _call(i, n, plan)
    library, dtype = _library(), i.x.dtype
    result = new_gradients(i, wanted, _zeros)
    targets = dict(zip(DIFFERENTIABLE, result, strict=True))
    call.set(**{f"grad_{'readout_weight' if name == 'readout' else name}": grad for name, grad in targets.items()})
    names = ("out", "memory1", "branch1", "highpass1", "activity1", *SEEN)
    dense = [None if grad is None else _aligned(grad) for grad in grads]
    call.set(**{f"grad_{name}": grad for name, grad in zip(names, dense, strict=True)})
    carry = MEMORY.take(library.ask("carry_bytes", call, dtype) // dtype.itemsize, dtype)
    call.set(carry=carry)
    if plan.segment >= plan.steps:
        call.set(begin=0, end=plan.steps, keep=False, tape=tape, out=out)
        library.run("backward", call, dtype)
    else:
        states = tape.view(len(plan.segments) - 1, -1)
        piece = MEMORY.take(plan.segment * plan.step_bytes // plan.itemsize, dtype)
        final = torch.empty(sum(torch.Size(shape).numel() for shape in plan.state_shapes(i)), dtype=dtype)
        unused = _split_state(final, plan.state_shapes(i))
        call.set(**{f"{name}1": tensor for name, tensor in unused.items()})
        for k, (begin, end) in reversed(list(enumerate(plan.segments))):
            if k == 0:
                call.set(**{name: given[name] for name in STATE})
            else:
                start = _split_state(states[k - 1], plan.state_shapes(i))
                call.set(**{f"{name}0": tensor for name, tensor in start.items()})
            call.set(begin=begin, end=end, keep=True, tape=piece, out=None)
            library.run("forward", call, dtype)
            call.set(keep=end < plan.steps, out=out)
            library.run("backward", call, dtype)
    return result


def _aligned(tensor: Tensor) -> Tensor:
    """Dense, and where kernels may load whole registers: hooks on saved tensors bring these back wherever they like."""
    if tensor.is_contiguous() and tensor.data_ptr() % 64 == 0:
        return tensor
    return MEMORY.take(tensor.numel(), tensor.dtype).view(tensor.shape).copy_(tensor)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return MEMORY.take(math.prod(shape), dtype).zero_().view(shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    keep_for_backward(ctx, inputs, output[0], output[TAPE_PLACE : TAPE_PLACE + 1])


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    of_seen = grads[TAPE_PLACE + 1 :]
    return gradients(ctx, torch.ops.elmnet.cpu_recurrence_backward, [*grads[:TAPE_PLACE], *of_seen])


torch.library.register_fake("elmnet::cpu_recurrence_backward", fake_gradients)
torch.library.register_autograd("elmnet::cpu_recurrence", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("elmnet::cpu_recurrence_backward", no_second_derivatives)
