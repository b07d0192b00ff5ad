"""What is made of somebody's own sequences before any of them is a batch: parts, and the numbers that a model needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elmnet.data.sequences import PARTS, Sequences
from elmnet.errors import DataError
from elmnet.strict import Config

Parts = Mapping[str, NDArray[np.int64]]
"""Numbers of the sequences in each part."""


@dataclass(frozen=True, kw_only=True)
class SequenceOptions(Config):
    """How sequences become batches."""

    batch: int = 32
    per: Literal["auto", "sequence", "step"] = "auto"
    """Whether a target belongs to a sequence or to each of its steps, where the file does not say it."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: in training a class counts n / (classes · its number), so that rare ones are not ignored."""
    missing: Literal["refuse", "skip"] = "refuse"
    """`skip`: steps whose values are missing (NaN, or empty in a table) count neither in training nor in scores."""
    standardise: bool = True
    """Channels (and values to tell) to mean 0 and standard deviation 1 of the training part, stored with the run."""
    valid_fraction: float = 0.15
    test_fraction: float = 0.15
    """Parts of the sequences, or of their groups where the file has some, drawn once and for all, unless it has a split
    of its own."""
    timescales: Literal["data", "model"] = "data"
    """`data`: tau_max of neurons with several memory units is the median length of the training sequences, or their
    tau_min where that is larger; `model`: as the model's settings say."""

    def _check(self) -> None:
        self._require(self.batch >= 1, f"batch must be at least 1, got {self.batch}")
        for name in ("valid_fraction", "test_fraction"):
            self._require(0 < getattr(self, name) < 1, f"{name} must lie in (0, 1), got {getattr(self, name)}")
        self._require(self.valid_fraction + self.test_fraction < 1, "nothing would be left to train on")


def split(data: Sequences, options: SequenceOptions, *, must: bool = True) -> Parts:
    """Sequences of every part: the file's own, else those of the first groups of a fixed permutation, where each
    sequence is a group of its own unless the file has groups.

    Args:
        must: refuse parts without a sequence.

    Raises:
        DataError: that is so.
    """
    if data.split is not None:
        parts = {part: np.flatnonzero(data.split == part) for part in PARTS}
    else:
        group = np.arange(len(data)) if data.group is None else np.unique(data.group, return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(group.max() + 1)
        valid, test = (max(1, round(f * len(order))) for f in (options.valid_fraction, options.test_fraction))
        groups = {"valid": order[:valid], "test": order[valid : valid + test], "train": order[valid + test :]}
        parts = {part: np.flatnonzero(np.isin(group, groups[part])) for part in PARTS}
    for part in PARTS:
        if must and not len(parts[part]):
            among = "" if data.split is not None or data.group is None else f" in {len(order)} groups"
            raise DataError(f"{data.name}: {len(data)} sequences{among} leave none for the {part} part")
    return parts


def learn(data: Sequences, parts: Parts, options: SequenceOptions) -> dict[str, Any]:
    """What training needs of the data and predictions need again: classes, means and scales.

    Raises:
        DataError: there is nothing to tell, or nothing to tell apart.
    """
    train = parts["train"]
    if data.y is None:
        raise DataError(f"{data.name}: has no targets (y, or a column `target`) to train on")
    inside = np.arange(data.x.shape[1]) < data.lengths[train, None]
    mean, scale = _moments(data.x[train][inside].astype(np.float64), options.standardise)
    classes: list[Any] | None = None
    target_mean, target_scale = np.zeros(0), np.ones(0)
    more: dict[str, Any] = {}
    if data.classes:
        everywhere = np.arange(data.x.shape[1]) < data.lengths[:, None]
        classes = np.unique(data.y[everywhere] if data.per_step else data.y).tolist()
        if len(classes) < 2:
            raise DataError(f"{data.name}: all targets are {classes[0]!r}; there is nothing to tell apart")
    elif options.class_weights != "none":
        raise DataError(f"{data.name}: holds values; options.class_weights={options.class_weights} is of classes")
    else:
        y = data.y[train][inside] if data.per_step else data.y[train]
        y = y[~np.isnan(y).any(-1)]
        target_mean, target_scale = _moments(y, options.standardise)
        if y.shape[1] > 1 and not options.standardise:
            more["target_deviation"] = _moments(y, True)[1].tolist()
    if data.group is not None and data.split is None:
        more["groups"] = {part: len(np.unique(data.group[parts[part]])) for part in PARTS}
    return {
        "name": data.name,
        "sequences": {part: len(parts[part]) for part in PARTS},
        "channels": list(data.channels),
        "values": list(data.values),
        "median_length": float(np.median(data.lengths[train])),
        "per_step": data.per_step,
        "classes": classes,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "target_mean": target_mean.tolist(),
        "target_scale": target_scale.tolist(),
        **more,
    }


def _moments(values: NDArray[Any], standardise: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every column; what does not vary is left as it is."""
    if not standardise:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    deviation = values.std(0)
    return values.mean(0), np.where(deviation > 1e-12 * np.abs(values).max(0), deviation, 1.0)
