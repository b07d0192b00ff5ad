"""The `cpu` backend: the whole recurrence and its gradient as compiled, vectorised, threaded code."""

from collections.abc import Mapping

import torch
from torch import Tensor

from elmnet.ops.cpu import operator  # noqa: F401, for it defines the operators
from elmnet.ops.cpu.library import LIBRARY, Library
from elmnet.ops.cpu.stream import Stream
from elmnet.ops.operands import SEEN, operands, too_deep, valid
from elmnet.ops.types import NO_MASKS, Dynamics, LayerState, Masks, Signal, Weights

__all__ = ["ABOUT", "Stream", "recurrence", "refuses"]

ABOUT = f"compiled for {LIBRARY.name}, threaded" if isinstance(LIBRARY, Library) else "not available"


def refuses(device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> str | None:
    """Why this backend cannot run such a layer; None: it can."""
    if not isinstance(LIBRARY, Library):
        return LIBRARY
    if dtype not in (torch.float32, torch.float64):
        return f"weights are {dtype}, it computes in float32 and float64"
    return too_deep(dynamics)


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
    """Shapes and meaning as in `elmnet.ops.Recurrence`."""
    see = [name for name in SEEN if name in monitor]
    inputs, numbers = operands(x, state, connectome, weights, dynamics, masks, lengths, see, weights.synapse.dtype)
    out, memory, branch, highpass, activity, _, *seen = torch.ops.elmnet.cpu_recurrence(*inputs, *numbers)
    copies = dict(zip(SEEN, seen, strict=True))
    signals: dict[Signal, Tensor] = {
        name: out.clone() if name == "activity" else _per_sequence(copies[name], len(x), lengths) for name in monitor
    }
    return out, LayerState(memory, branch, highpass, activity), signals


def _per_sequence(copy: Tensor, batch: int, lengths: Tensor | None) -> Tensor:
    """(T, N, tiles, rows, lanes) → (B, T, N, rows), zero past a sequence's length."""
    return valid(copy.permute(2, 4, 0, 1, 3).flatten(0, 1)[:batch], lengths)
