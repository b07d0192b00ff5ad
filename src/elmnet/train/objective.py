"""What training minimises, and the schedules it follows: pure functions."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elmnet.chance import Draw
from elmnet.ops import Signal
from elmnet.train.config import TrainConfig


def mlp_magnitude(mlp: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean over units (and samples) of (mean over time and memory of |MLP output|)².

    Args:
        mlp: (B, T, N, d_m), zero past a sequence's length.
        lengths: (B,) steps over which each sequence's mean goes; None: all T.
    """
    size = mlp.abs()
    means = size.mean((1, 3)) if lengths is None else _over_time(size.mean(3), lengths)
    return means.square().mean()


def population_activity(activity: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean of ReLU(activity) over each sequence's steps, then over sequences and units.

    The gradient at exactly 0 is ½, as in the published code (JAX's maximum), which matters for silent spiking units.

    Args:
        activity: (B, T, N), zero past a sequence's length.
        lengths: as for `mlp_magnitude`.
    """
    positive = torch.maximum(activity, torch.zeros_like(activity))
    return positive.mean() if lengths is None else _over_time(positive, lengths).mean()


def _over_time(signal: Tensor, lengths: Tensor) -> Tensor:
    """Mean of (B, T, N) over each sequence's own steps; (B, N)."""
    return signal.sum(1) / lengths.to(signal.device).unsqueeze(1)


def monitored(config: TrainConfig) -> tuple[Signal, ...]:
    """The signals the regularisers need."""
    signals: list[Signal] = []
    if config.mlp_penalty:
        signals.append("mlp")
    if config.activity_penalty:
        signals.append("activity")
    return tuple(signals)


def penalty(signals: dict[Signal, Tensor], config: TrainConfig, lengths: Tensor | None = None) -> Tensor | float:
    """Weighted regularisers of the first layer, of sequences (B,) of these lengths."""
    total: Any = 0.0
    if config.mlp_penalty:
        total = total + config.mlp_penalty * mlp_magnitude(signals["mlp"], lengths)
    if config.activity_penalty:
        total = total + config.activity_penalty * population_activity(signals["activity"], lengths)
    return total  # type: ignore[no-any-return]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then as `schedule` says."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = min((step - config.warmup) / max(config.steps - config.warmup, 1), 1.0)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def reset_probability(step: int, config: TrainConfig) -> float:
    """Falls by a cosine from `reset_from` to `reset_to` over `reset_steps`."""
    if step >= config.reset_steps:
        return config.reset_to
    fall = 0.5 * (1 + math.cos(math.pi * step / config.reset_steps))
    return config.reset_to + (config.reset_from - config.reset_to) * fall


def resets(step: int, config: TrainConfig, seed: int) -> bool:
    """Whether a stream task's state is reset before this step: a function of seed and step, so nothing to save."""
    return float(np.random.default_rng([Draw.RESETS, seed, step]).random()) < reset_probability(step, config)
