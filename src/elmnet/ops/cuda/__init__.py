"""The `cuda` backend: the recurrence and its gradient as Triton kernels. Not measured on a GPU yet."""

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from elmnet.ops.cuda import check, operator, plan
from elmnet.ops.operands import SEEN, operands, too_deep, valid
from elmnet.ops.types import NO_MASKS, Dynamics, LayerState, Masks, Signal, Weights

__all__ = ["ABOUT", "DEVICES", "recurrence", "refuses"]

ABOUT = "Triton kernels, not measured on a GPU yet"
DEVICES: tuple[str, ...] = ("cuda",)

if os.environ.get("TRITON_INTERPRET") == "1":  # kernels run on the CPU, for tests
    DEVICES = ("cuda", "cpu")
    torch.library.impl("elmnet::cuda_recurrence", "CPU")(operator.forward)
    torch.library.impl("elmnet::cuda_recurrence_backward", "CPU")(operator.backward)


def rounded(weights: Weights) -> Weights:
    """With the MLPs' matrices in bfloat16."""
    return weights._replace(mlp=tuple((matrix.bfloat16(), offset) for matrix, offset in weights.mlp))


def refuses(device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> str | None:
    """Why this backend cannot run such a layer; None: it can."""
    if find_spec("triton") is None:
        return "Triton is not installed; pip install 'elmnet[cuda]'"
    if dtype != torch.float32:
        return f"weights are {dtype}, it computes in float32"
    if reason := too_deep(dynamics):
        return reason
    here = torch.cuda.is_available()
    if here and device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    too_large = _too_large(device if here else torch.device("cpu"), dynamics)
    if too_large is None and here and not torch.compiler.is_compiling():
        return check.disagreement(recurrence, device)
    return too_large


@lru_cache
def _too_large(device: torch.device, dynamics: Dynamics) -> str | None:
    first, *hidden, memory = dynamics.mlp_widths
    return plan.refuses(first - memory, memory, hidden[0] if hidden else 0, dynamics.outputs, operator.limits(device))


def recurrence(
    x: Tensor,
    state: LayerState,
    connectome: Tensor,
    weights: Weights,
    dynamics: Dynamics,
    masks: Masks = NO_MASKS,
    lengths: Tensor | None = None,
    monitor: tuple[Signal, ...] = (),
) -> tuple[Tensor, LayerState, Mapping[Signal, Tensor]]:
    """Shapes and meaning as in `elmnet.ops.Recurrence`. Under `torch.autocast` to bfloat16 the MLPs' matrices and what
    they multiply are rounded to it; sums, memory, κ and everything else stay float32."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
        weights = rounded(weights)
    see = [name for name in SEEN if name in monitor]
    inputs, numbers = operands(x, state, connectome, weights, dynamics, masks, lengths, see, torch.float32)
    out, memory, branch, highpass, activity, *tape = torch.ops.elmnet.cuda_recurrence(*inputs, *numbers)
    over_time = dict(zip(operator.TAPE, tape, strict=True))
    signals: dict[Signal, Tensor] = {
        name: out.clone() if name == "activity" else valid(over_time[name], lengths) for name in monitor
    }
    return out, LayerState(memory, branch, highpass, activity), signals
