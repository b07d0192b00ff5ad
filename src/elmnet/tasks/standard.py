"""How a run of the task `sequence` standardised its data, for what takes and gives the data's own units."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from elmnet.errors import CheckpointError

FAR = 1e4
"""Standard deviations between data and zero beyond which float32 keeps too little of them: its steps are 2⁻²⁴."""
_NUMBERS = ("mean", "scale", "target_mean", "target_scale")


@dataclass(frozen=True)
class Standard:
    """Means and standard deviations of the training part."""

    mean: Tensor
    scale: Tensor
    """Of every channel, (n_in,)."""
    target_mean: Tensor
    target_scale: Tensor
    """Of every predicted value, (n_out,); of none where the outputs are classes."""
    about: Mapping[str, Any]
    """Names: `channels`, and `classes` or `values`."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Standard | None":
        """From a run's facts of its data, in float64; None where they tell of no standardisation."""
        if "target_scale" not in facts:
            return None
        about = {name: facts[name] for name in ("channels", "classes", "values") if facts.get(name)}
        return cls(**{name: torch.tensor(facts[name], dtype=torch.float64) for name in _NUMBERS}, about=about)

    def before(self, x: Tensor) -> Tensor:
        """What the network takes, of x in the data's units."""
        return (x - self.mean.to(x)) / self.scale.to(x)

    def after(self, out: Tensor) -> Tensor:
        """Values in the data's units; logits of classes as they are."""
        return out * self.target_scale.to(out) + self.target_mean.to(out) if len(self.target_mean) else out

    def in_float32(self) -> "Standard":
        """The same in float32, in which graphs compute.

        Raises:
            CheckpointError: numbers lie so far from zero that float32 does not tell them apart.
        """
        for kind, mean, scale in (
            ("channel", self.mean, self.scale),
            ("value", self.target_mean, self.target_scale),
        ):
            names = self.about.get(f"{kind}s") or range(len(mean))
            for name, centre, spread in zip(names, mean.tolist(), scale.tolist(), strict=True):
                if abs(centre) > FAR * spread:
                    raise CheckpointError(
                        f"{kind} {name} has mean {centre:.9g} and standard deviation {spread:.3g}: graphs compute in "
                        "float32, which does not tell such numbers apart; subtract a constant and train again"
                    )
        return replace(self, **{name: getattr(self, name).float() for name in _NUMBERS})
