"""The recurrence as a pure function, and the registry that says which backend runs it and why.

`reference` (plain torch, the definition) is always there; a faster backend registers itself with `register` and is
chosen automatically when it supports what is asked. `backend="name"` is obeyed or refused in words, never replaced.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from elmnet.config import NeuronConfig
from elmnet.errors import BackendError
from elmnet.ops import cpu, cuda, reference
from elmnet.ops.types import SIGNALS, Dynamics, LayerState, Masks, Recurrence, Signal, Stream, Weights

__all__ = [
    "BACKENDS",
    "SIGNALS",
    "Backend",
    "Dynamics",
    "LayerState",
    "Masks",
    "Recurrence",
    "Signal",
    "Stream",
    "Weights",
    "register",
    "select",
    "usable",
]


logger = logging.getLogger("elmnet")


@dataclass(frozen=True)
class Backend:
    """One implementation of the recurrence."""

    name: str
    run: Recurrence
    unsupported: Callable[[torch.device, torch.dtype, Dynamics], str | None]
    """What of a layer of these dynamics with weights of a dtype it cannot run on a device of its own; None: nothing."""
    about: str
    devices: tuple[str, ...] = ()
    """Types of device it runs on; empty: all."""
    stream: Callable[[int, Sequence[tuple[Tensor, Weights, Dynamics]]], Stream] | None = None
    """Prepares a stack of layers (given n_in, then each one's connectome, weights, dynamics) for single steps of one
    sequence without gradients; None: it has no faster way than a sequence of length one."""

    def refuses(self, device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> str | None:
        """Why this backend cannot run a layer that lies on a device; None: it can."""
        if self.devices and device.type not in self.devices:
            return f"the weights are on {device}, it runs on {', '.join(self.devices)}"
        return self.unsupported(device, dtype, dynamics)


BACKENDS: dict[str, Backend] = {}
"""Every registered backend, best first: the order in which `auto` asks them."""


def register(backend: Backend) -> None:
    """Add a backend in front of those already registered."""
    others = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS.update({backend.name: backend, **others})


def select(name: str, device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> Backend:
    """The backend called `name`, or for "auto" the first that can run this.

    Where "auto" passes over a backend made for the device, the log says so, once for every reason.

    Raises:
        BackendError: the name is unknown, or the named backend refuses (its reason is in the message).
    """
    if name == "auto":
        for backend in BACKENDS.values():
            reason = backend.refuses(device, dtype, dynamics)
            if reason is None:
                return backend
            if device.type in backend.devices and not torch.compiler.is_compiling():
                _passed_over(backend.name, reason)
        raise BackendError(f"no backend can run weights of {dtype} on {device}")
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}; this installation has: {', '.join(BACKENDS)}")
    reason = BACKENDS[name].refuses(device, dtype, dynamics)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot run this: {reason}; use backend='auto'")
    return BACKENDS[name]


def usable(device: torch.device) -> list[str]:
    """Names of the backends that run an ordinary float32 layer on a device, best first."""
    ordinary = Dynamics.of(NeuronConfig())
    return [name for name, backend in BACKENDS.items() if backend.refuses(device, torch.float32, ordinary) is None]


@lru_cache
def _passed_over(name: str, reason: str) -> None:
    logger.warning("elmnet: backend %r is not used: %s", name, reason)


def _refuses_integers(device: torch.device, dtype: torch.dtype, dynamics: Dynamics) -> str | None:
    return None if dtype.is_floating_point else f"weights are {dtype}, not floating point"


register(Backend("reference", reference.recurrence, _refuses_integers, "plain torch, any device, the definition"))
register(Backend("cpu", cpu.recurrence, cpu.refuses, cpu.ABOUT, ("cpu",), cpu.Stream))
register(Backend("cuda", cuda.recurrence, cuda.refuses, cuda.ABOUT, cuda.DEVICES))
