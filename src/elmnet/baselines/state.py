"""What a baseline carries from step to step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

from torch import Tensor

from elmnet.ops.types import per_sequence

Carried = tuple[Tensor, ...]
"""Of one block: tensors (B, ...)."""


class BaselineState(NamedTuple):
    """What every block of a baseline carries from step to step: tensors (B, ...), zero at the beginning."""

    layers: tuple[Carried, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        return type(self)(tuple(tuple(map(function, layer)) for layer in self.layers))

    def detach(self) -> Self:
        """The same values, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """`Tensor.to` on every tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def reset(self, mask: Tensor) -> Self:
        """Zero the sequences where `mask` (B,) is true, keep the others."""
        return self.map(lambda tensor: tensor.masked_fill(per_sequence(mask, tensor), 0))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name, for checkpoints."""
        return {f"{i}.{j}": tensor for i, layer in enumerate(self.layers) for j, tensor in enumerate(layer)}
