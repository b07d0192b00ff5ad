"""The recurrence as a pure function, and the registry that says which backend runs it and why.

`reference` (plain torch, the definition) is always there; a faster backend registers itself with `register` and is
chosen automatically when it supports what is asked. `backend="name"` is obeyed or refused in words, never replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from elmnet.errors import BackendError
from elmnet.ops import reference
from elmnet.ops.types import SIGNALS, Dynamics, LayerState, Masks, Recurrence, Signal, Weights

__all__ = [
    "BACKENDS",
    "SIGNALS",
    "Backend",
    "Dynamics",
    "LayerState",
    "Masks",
    "Recurrence",
    "Signal",
    "Weights",
    "register",
    "select",
]


@dataclass(frozen=True)
class Backend:
    """One implementation of the recurrence."""

    name: str
    run: Recurrence
    refuses: Callable[[torch.device, torch.dtype, Dynamics], str | None]
    """Why this backend cannot run on a device, with weights of a dtype and these dynamics; None: it can."""
    about: str


BACKENDS: dict[str, Backend] = {}
"""Every registered backend, best first: the order in which `auto` asks them."""


def register(backend: Backend) -> None:
    """Add a backend in front of those already registered."""
    others = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS.update({backend.name: backend, **others})


def select(name: str, device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> Backend:
    """The backend called `name`, or for "auto" the first that does not refuse.

    Raises:
        BackendError: the name is unknown, or the named backend refuses (its reason is in the message).
    """
    if name == "auto":
        return next(b for b in BACKENDS.values() if b.refuses(device, dtype, dynamics) is None)
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}; this installation has: {', '.join(BACKENDS)}")
    reason = BACKENDS[name].refuses(device, dtype, dynamics)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot run this: {reason}; use backend='auto'")
    return BACKENDS[name]


def _refuses_integers(device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> str | None:
    return None if dtype.is_floating_point else f"weights are {dtype}, not floating point"


register(Backend("reference", reference.recurrence, _refuses_integers, "plain torch, any device, the definition"))
