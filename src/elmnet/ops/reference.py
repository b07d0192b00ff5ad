"""The recurrence in plain torch: the definition that every other backend is measured against.

Read `step` beside "One neuron, one time step" of the paper (arXiv:2605.12049); it is the same text. Any floating
dtype; memory and its decay stay in float32 or wider, because a bfloat16 memory does not decay for τ ≥ 512.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from elmnet.ops.types import NO_MASKS, Dynamics, LayerState, Masks, Signal, Weights, per_sequence


def recurrence(
    x: Tensor,
    state: LayerState,
    connectome: Tensor,
    weights: Weights,
    dynamics: Dynamics,
    masks: Masks = NO_MASKS,
    lengths: Tensor | None = None,
    monitor: tuple[Signal, ...] = (),
) -> tuple[Tensor, LayerState, dict[Signal, Tensor]]:
    """Step through time; shapes and meaning as in `elmnet.ops.Recurrence`."""
    silence = x.shape[2] + state.activity.shape[1]  # unconnected synapses (-1) read a column of zeros
    sources = torch.where(connectome < 0, silence, connectome.long()).flatten()
    if masks.input is not None:
        x = x * masks.input.unsqueeze(1)
    outputs: list[Tensor] = []
    seen: dict[Signal, list[Tensor]] = {name: [] for name in monitor}
    for t, x_t in enumerate(x.unbind(1)):
        new, signals = step(x_t, state, sources, weights, dynamics, masks)
        if lengths is not None:
            valid = t < lengths
            new = LayerState(*(torch.where(per_sequence(valid, n), n, o) for n, o in zip(new, state, strict=True)))
            signals = {name: signal.masked_fill(~per_sequence(valid, signal), 0) for name, signal in signals.items()}
        state = new
        outputs.append(signals["activity"])
        for name in monitor:
            seen[name].append(signals[name])
    return torch.stack(outputs, 1), state, {name: torch.stack(list_, 1) for name, list_ in seen.items()}


def step(
    x_t: Tensor,  # (B, n_in), input dropout done
    state: LayerState,
    sources: Tensor,  # (N·k_c,)
    weights: Weights,
    dynamics: Dynamics,
    masks: Masks,
) -> tuple[LayerState, dict[Signal, Tensor]]:
    """One neuron, one time step, for all N neurons of B sequences."""
    dtype = weights.synapse.dtype
    activity = state.activity
    if masks.recurrent is not None:
        activity = activity * masks.recurrent

    silence = x_t.new_zeros(x_t.shape[0], 1, dtype=dtype)  # `len` would freeze B in an exported graph
    table = torch.cat([x_t.to(dtype), activity.to(dtype), silence], 1)  # (B, n_in + N·n_y + 1)
    synapses = table.index_select(1, sources).view(-1, *weights.synapse.shape)  # (B, N, d_tree, d_s)
    if masks.synapse is not None:
        synapses = synapses * masks.synapse
    branch = dynamics.input_scale * (synapses * weights.synapse).sum(-1)  # (B, N, d_tree)
    if dynamics.branch_decay is not None:
        branch = dynamics.branch_decay * state.branch + branch

    decayed = weights.decay * state.memory  # (B, N, d_m)
    update = mlp(torch.cat([branch.to(dtype), decayed.to(dtype)], -1), weights, dynamics)
    kept = update if masks.memory is None else update * masks.memory
    memory = decayed + weights.gain * compress(kept.to(decayed.dtype))

    readout = (weights.readout.to(memory.dtype) * memory.unsqueeze(-2)).sum(-1)  # (B, N, n_y)
    drive, highpass = readout + weights.bias, state.highpass
    if dynamics.highpass_decay is not None:
        highpass = dynamics.highpass_decay * highpass + (1 - dynamics.highpass_decay) * readout
        drive = drive - highpass
    activity = activate(drive, dynamics).flatten(1)  # (B, N·n_y)

    filtered = state.branch if dynamics.branch_decay is None else branch
    signals: dict[Signal, Tensor] = {
        "branch": branch,
        "mlp": update,
        "memory": memory,
        "readout": readout,
        "activity": activity,
    }
    return LayerState(memory, filtered, highpass, activity), signals


def mlp(x: Tensor, weights: Weights, dynamics: Dynamics) -> Tensor:
    """Each neuron's own MLP: (B, N, d_tree + d_m) → (B, N, d_m), linear output."""
    for i, (weight, bias) in enumerate(weights.mlp):
        if i > 0:
            x = MLP_ACTIVATIONS[dynamics.mlp_activation](x)
        x = torch.einsum("bni,noi->bno", x, weight) + bias
    return x


def compress(u: Tensor) -> Tensor:
    """c(u) = 1.7159·tanh(2u/3), LeCun's scaled tanh."""
    return 1.7159 * torch.tanh(u * (2 / 3))


def activate(u: Tensor, dynamics: Dynamics) -> Tensor:
    """φ: identity, ReLU, or a spike."""
    if dynamics.activation == "relu":
        return F.relu(u)
    if dynamics.activation == "spike":
        return _Spike.apply(u, dynamics.surrogate_gain)  # type: ignore[no-untyped-call, no-any-return]
    return u


MLP_ACTIVATIONS = {"relu2": lambda x: F.relu(x).square(), "relu": F.relu, "silu": F.silu}


class _Spike(torch.autograd.Function):
    """Heaviside at 0 with the fast-sigmoid surrogate gradient g/(100·|u|+1)²."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, gain: float) -> Tensor:
        return (u > 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        u, ctx.gain = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return grad * ctx.gain / (100 * u.abs() + 1).square(), None
