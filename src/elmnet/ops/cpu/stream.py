"""Streaming: one sequence, one time step after another, without gradients; the way a network runs when deployed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from elmnet.errors import ShapeError
from elmnet.ops.cpu.library import LIBRARY, Call, Library
from elmnet.ops.cpu.operator import equations
from elmnet.ops.operands import DIFFERENTIABLE, in_place, operands, refuse_sizes, refuse_sources
from elmnet.ops.types import NO_MASKS, Dynamics, LayerState, Weights

_STATE = LayerState._fields
WORTH_A_THREAD = 2**17
"""Weights of a layer for which another thread is worth its waking at every step."""


class Stream:
    """A stack of layers prepared for single steps: sizes are looked up once, weights are packed (kernels/step.h).

    Who changes parameters prepares anew. Several threads may use one stream.

    Args:
        inputs: n_in of the first layer.
        layers: connectome, weights and dynamics of each layer, first to last; all in one dtype.

    Raises:
        ShapeError: a tensor has another shape or type than the others make it; a connectome names sources that there
            are not.
    """

    def __init__(self, inputs: int, layers: Sequence[tuple[Tensor, Weights, Dynamics]]) -> None:
        assert isinstance(LIBRARY, Library), LIBRARY
        self._library = LIBRARY
        self._inputs = inputs
        self._dtype = layers[0][1].synapse.dtype
        self._calls = (Call * len(layers))()
        self._packed: list[Tensor] = []  # what the calls point to
        self._blank: list[Tensor] = []  # of the shapes of all layers' states
        for call, layer in zip(self._calls, layers, strict=True):
            inputs = self._prepare(call, inputs, *layer)

    def _prepare(self, call: Call, inputs: int, connectome: Tensor, weights: Weights, dynamics: Dynamics) -> int:
        """Fill in what stays, pack the weights; returns the layer's outputs."""
        units, branches, synapses = weights.synapse.shape
        memory, outputs = weights.decay.shape[1], weights.readout.shape[1]
        shapes = [
            (1, 1, inputs),
            (1, units, memory),
            (1, units, 0 if dynamics.branch_decay is None else branches),
            (1, units, 0 if dynamics.highpass_decay is None else outputs),
            (1, units * outputs),
        ]
        silence = [torch.zeros(shape, dtype=self._dtype, device="cpu") for shape in shapes]
        i, n = operands(
            silence[0], LayerState(*silence[1:]), connectome, weights, dynamics, NO_MASKS, None, (), self._dtype
        )
        refuse_sizes(i, n, [self._dtype])
        refuse_sources(i.connectome, inputs + units * outputs)
        named = {name: getattr(i, name) for name in (*DIFFERENTIABLE[5:], "connectome")}
        dense = {name: tensor.detach().contiguous() for name, tensor in named.items() if tensor is not None}
        count = sum(tensor.numel() for tensor in dense.values())
        call.set(
            **dense,
            inputs=inputs,
            units=units,
            branches=branches,
            synapses=synapses,
            memory=memory,
            hidden=0 if i.weight1 is None else i.weight1.shape[1],
            outputs=outputs,
            threads=max(1, min(torch.get_num_threads(), count // WORTH_A_THREAD, units)),
            **equations(dynamics),
        )
        self._packed.append(self._library.pack(call, self._dtype))
        self._blank += silence[1:]
        return units * outputs

    def step(self, x: Tensor, states: Sequence[LayerState]) -> tuple[Tensor, tuple[LayerState, ...]]:
        """x (1, n_in) and the state of every layer → the last layer's activity (1, N·n_y) and the new states."""
        given = [tensor for state in states for tensor in state]
        for i, (tensor, blank) in enumerate(zip(given, self._blank, strict=True)):
            if tensor.shape != blank.shape or not tensor.is_cpu:
                name, elsewhere = f"layer {i // len(_STATE)}: state.{_STATE[i % len(_STATE)]}", _elsewhere(tensor)
                raise ShapeError(f"{name} must be {tuple(blank.shape)}, got {tuple(tensor.shape)}{elsewhere}")
            given[i] = in_place(tensor, self._dtype)
        if x.shape != (1, self._inputs) or not x.is_cpu:
            raise ShapeError(f"input must be (1, {self._inputs}), got {tuple(x.shape)}{_elsewhere(x)}")
        x = in_place(x, self._dtype)
        new = list(map(torch.empty_like, self._blank))  # in half the time of torch.empty
        calls = type(self._calls).from_buffer_copy(self._calls)
        source = x
        for i, call in enumerate(calls):
            k = 4 * i
            call.x = source.data_ptr()
            call.memory0, call.branch0, call.highpass0, call.activity0 = (t.data_ptr() for t in given[k : k + 4])
            call.memory1, call.branch1, call.highpass1, call.activity1 = (t.data_ptr() for t in new[k : k + 4])
            source = new[k + 3]
        self._library.step(calls, self._dtype)
        return source, tuple(LayerState(*new[k : k + 4]) for k in range(0, len(new), 4))


def _elsewhere(tensor: Tensor) -> str:
    """Where a tensor is, if that is wrong."""
    return "" if tensor.is_cpu else f" on {tensor.device}; the weights are on cpu"
