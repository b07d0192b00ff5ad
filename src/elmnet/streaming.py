"""A network made ready for single steps: once, and anew whenever something has changed.

A step takes microseconds, so what it needs of the weights is made beforehand. Nobody says when weights change; it shows
in the dictionaries of the network's modules, the version counters of tensors, and the steps of optimisers.
"""

import itertools
from collections.abc import Callable
from functools import cache
from operator import attrgetter, is_
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.optimizer import register_optimizer_step_post_hook

from elmnet.ops import Stream
from elmnet.ops.operands import PLAIN

_version = attrgetter("_version")


class _Parts(NamedTuple):
    """The dictionaries where a network's modules keep what a step depends on."""

    modules: list[Any]
    tensors: list[Any]
    hooks: list[Any]
    own: list[Any]
    parametrized: bool

    @classmethod
    def of(cls, network: nn.Module) -> Self:
        """Of all its modules."""
        found = list(network.modules())
        of_each = (table for module in found for table in (module._forward_hooks, module._forward_pre_hooks))
        return cls(
            [module._modules for module in found],
            [table for module in found for table in (module._parameters, module._buffers)],
            [*of_each, _global_forward_hooks, _global_forward_pre_hooks],
            [vars(module) for module in found],
            any(is_parametrized(module) for module in found),
        )

    def children(self) -> list[nn.Module]:
        """The modules below the network."""
        return [module for table in self.modules for module in table.values()]

    def want_calls(self) -> bool:
        """Whether a module must be called as it is: hooks, parametrisations and replaced `forward`s ask for it."""
        return self.parametrized or any(self.hooks) or any("forward" in table for table in self.own)

    def settings(self) -> list[Any]:
        """What else decides how layers run, by their attributes."""
        return [table.get(name) for table in self.own for name in ("backend", "dynamics")]


class Remembered(NamedTuple):
    """Tensors as they were when something was made of them. Who holds them keeps others from taking their place in
    memory; what changes them behind autograd's back (`tensor.data`) is not seen."""

    tensors: list[Tensor]
    versions: list[tuple[int, int]]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> "Remembered":
        """These, now."""
        return cls(tensors, _versions(tensors))

    def unchanged(self, tensors: list[Tensor]) -> bool:
        """Whether these are the same tensors, as they were."""
        same = len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))
        return same and _versions(tensors) == self.versions


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    return list(zip(map(Tensor.data_ptr, tensors), map(_version, tensors), strict=True))


class _Prepared(NamedTuple):
    """A network prepared for single steps."""

    parts: _Parts
    children: list[nn.Module]
    made_of: Remembered
    key: Any  # of the circumstances
    stream: Stream | None


_STREAMS: WeakKeyDictionary[nn.Module, _Prepared] = WeakKeyDictionary()
"""Kept apart from the networks, so that these can be copied and pickled."""
_UPDATES: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()
"""When optimisers last stepped since a stream was first prepared, in steps of all: fused ones change weights without
counting it in the tensor."""
_clock = itertools.count(1)
_forgotten = 0  # when the last optimiser died that had stepped: of what, nobody knows any more


def _note_update(optimizer: torch.optim.Optimizer, *_: object) -> None:
    if optimizer not in _UPDATES:
        finalize(optimizer, _note_death)
    _UPDATES[optimizer] = next(_clock)


def _note_death() -> None:
    global _forgotten
    _forgotten = next(_clock)


@cache
def _watch_optimizers() -> None:
    """From now on, note the steps of all optimisers of the process; nobody pays for it who never streams."""
    register_optimizer_step_post_hook(_note_update)


def _last_update(tensors: list[Tensor]) -> int:
    """When an optimiser that holds any of these, or has died since, made its last step; 0: none has."""
    if not _UPDATES:
        return _forgotten
    held = set(map(id, tensors))
    holding = (
        when
        for optimizer, when in list(_UPDATES.items())
        if any(id(parameter) in held for group in optimizer.param_groups for parameter in group["params"])
    )
    return max(_forgotten, max(holding, default=0))


def forget(network: nn.Module) -> None:
    """Make the network ready anew at its next step, whatever has changed."""
    _STREAMS.pop(network, None)


def stream_of(network: nn.Module, prepare: Callable[[], Stream | None]) -> Stream | None:
    """What `prepare` makes of the network as it is now; what it made last, if nothing has changed."""
    prepared = _STREAMS.get(network)
    if prepared is None or prepared.parts.children() != prepared.children:
        parts = _Parts.of(network)
        prepared = _Prepared(parts, parts.children(), Remembered([], []), None, None)
    tensors = [tensor for table in prepared.parts.tensors for tensor in table.values() if tensor is not None]
    if prepared.parts.want_calls():
        return None
    key = (_last_update(tensors), network.training, torch.get_num_threads(), prepared.parts.settings())
    if key == prepared.key and prepared.made_of.unchanged(tensors):
        return prepared.stream
    if any(tensor.is_inference() or type(tensor) not in PLAIN for tensor in tensors):
        return None  # nobody counts changes of inference tensors, others may lie elsewhere
    _watch_optimizers()
    made_of, stream = Remembered.of(tensors), prepare()
    _STREAMS[network] = prepared._replace(made_of=made_of, key=key, stream=stream)
    return stream
