"""What training minimises, and the schedules it follows: pure functions."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elmnet.ops import Signal
from elmnet.train.config import TrainConfig

_RESET = 5  # distinguishes this stream of random numbers from those of the tasks


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy in nats; logits (M, classes), targets (M,)."""
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def mlp_magnitude(mlp: Tensor) -> Tensor:
    """Mean over units (and samples) of (mean over time and memory of |MLP output|)²; mlp (B, T, N, d_m)."""
    return mlp.abs().mean((1, 3)).square().mean()


def population_activity(activity: Tensor) -> Tensor:
    """Mean of ReLU(activity); activity (B, T, N).

    The gradient at exactly 0 is ½, as in the published code (JAX's maximum), which matters for silent spiking units.
    """
    return torch.maximum(activity, torch.zeros_like(activity)).mean()


def monitored(config: TrainConfig) -> tuple[Signal, ...]:
    """The signals the regularisers need."""
    signals: list[Signal] = []
    if config.mlp_penalty:
        signals.append("mlp")
    if config.activity_penalty:
        signals.append("activity")
    return tuple(signals)


def penalty(signals: dict[Signal, Tensor], config: TrainConfig) -> Tensor | float:
    """Weighted regularisers of the first layer."""
    total: Any = 0.0
    if config.mlp_penalty:
        total = total + config.mlp_penalty * mlp_magnitude(signals["mlp"])
    if config.activity_penalty:
        total = total + config.activity_penalty * population_activity(signals["activity"])
    return total  # type: ignore[no-any-return]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then a cosine to 0 at `steps`."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def reset_probability(step: int, config: TrainConfig) -> float:
    """Falls by a cosine from `reset_from` to `reset_to` over `reset_steps`."""
    if step >= config.reset_steps:
        return config.reset_to
    fall = 0.5 * (1 + math.cos(math.pi * step / config.reset_steps))
    return config.reset_to + (config.reset_from - config.reset_to) * fall


def resets(step: int, config: TrainConfig, seed: int) -> bool:
    """Whether a stream task's state is reset before this step: a function of seed and step, so nothing to save."""
    return float(np.random.default_rng([_RESET, seed, step]).random()) < reset_probability(step, config)
