"""Somebody's own sequences: name a class or tell a value, at the end of a sequence or at every step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from elmnet.chance import Draw
from elmnet.config import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.data.sequence_files import load_sequences
from elmnet.data.sequences import UNNAMED, Sequences
from elmnet.errors import DataError
from elmnet.models import ModelConfig
from elmnet.tasks.base import SPLITS, Batch, Scores, Split, Task
from elmnet.tasks.sequence_facts import Parts, SequenceOptions, learn, split

NOWHERE = -100
"""Class of a step that has none: cross entropy's own word for it."""


class SequenceTask(Task):
    """Classes or values of sequences from a file (`elmnet.data.sequence_files`)."""

    name = "sequence"
    default_data = "FILE.npz"
    unit = "steps"
    metric = "nats"
    picks = True
    Options = SequenceOptions
    splits = SPLITS

    def __init__(
        self,
        options: SequenceOptions,
        data: Sequences,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        parts: Parts | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        if facts is not None:
            data = data.arranged(facts["channels"], facts["values"])
        self.options, self.data, self.seed, self.data_name = options, data, seed, data.name
        self.weights = weights
        """Of classes in training, instead of those that `options.class_weights` says."""
        self.parts: dict[str, NDArray[np.int64]] = {"all": np.arange(len(data))}
        self._ragged = bool((data.lengths != self.steps).any())
        learning = facts is None
        if facts is None:
            self.parts |= split(data, options) if parts is None else parts
            facts = learn(data, self.parts, options)
        self._facts = {**facts, "sha256": {data.name: data.sha256}}  # of this data, whatever the model was trained on
        self.classes: NDArray[Any] | None = None if facts["classes"] is None else np.array(facts["classes"])
        self.inputs, self.per_step = len(facts["mean"]), bool(facts["per_step"])
        self.outputs = len(facts["target_mean"]) if self.classes is None else len(self.classes)
        if data.x.shape[2] != self.inputs:
            raise DataError(f"{data.name}: has {data.x.shape[2]} channels, the model was trained on {self.inputs}")
        if self.classes is None:
            self.metric, self.criterion = "rmse" if self.outputs == 1 else "nrmse", "squared_error"
        self.mean, self.scale = (np.array(facts[name], dtype=data.x.dtype) for name in ("mean", "scale"))
        self.target_mean, self.target_scale = (np.array(facts[f"target_{name}"]) for name in ("mean", "scale"))
        self.deviation = np.array(facts.get("target_deviation", facts["target_scale"]))
        """Standard deviation of every value in the training part."""
        if data.y is not None:
            if len(self.parts) == 1:
                self.parts |= split(data, options, must=False)
            self._y = self._encoded(data)
            self._count_classes()
            if learning:
                self._require_every_class()

    @classmethod
    def open(
        cls,
        options: SequenceOptions,
        source: str,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        targets: bool = True,
    ) -> Self:
        skip = options.missing == "skip"
        kind: dict[str, Any] = {"per": options.per}
        if facts is not None:
            kind = {"per": "step" if facts["per_step"] else "sequence", "values": facts["classes"] is None}
        return cls(options, load_sequences(source, targets=targets, missing=skip, **kind), seed=seed, facts=facts)

    def _encoded(self, data: Sequences) -> NDArray[Any]:
        """Targets at the steps that count: class numbers (n, T), NOWHERE elsewhere; values (n, T, k), NaN elsewhere."""
        assert data.y is not None
        if data.per_step != self.per_step or data.classes != (self.classes is not None):
            own, kind = (
                f"{'classes' if classes else 'values'} {_where(per_step)}"
                for classes, per_step in ((self.classes is not None, self.per_step), (data.classes, data.per_step))
            )
            raise DataError(f"{data.name}: its targets are {kind}; the model was trained on {own}")
        steps = data.x.shape[1]
        place = np.arange(steps)
        counts = place < data.lengths[:, None] if self.per_step else place == data.lengths[:, None] - 1
        y = data.y if self.per_step else np.repeat(data.y[:, None], steps, 1)
        if self.classes is None:
            if y.shape[2] != self.outputs:
                raise DataError(
                    f"{data.name}: has {y.shape[2]} values to tell, the model was trained on {self.outputs}"
                )
            return np.where(counts[:, :, None], (y - self.target_mean) / self.target_scale, np.nan)
        known = np.isin(y, self.classes) | ~counts
        if not known.all():
            i, t = np.argwhere(~known)[0]
            few = ", ".join(map(repr, self.classes[:20].tolist()))
            words = f"{data.place(i)} has class {y[i, t].item()!r}, which the model does not know: {few}"
            raise DataError(f"{data.name}: {words}")
        return np.where(counts, np.searchsorted(self.classes, np.where(counts, y, self.classes[0])), NOWHERE)

    def _count_classes(self) -> None:
        """How often each class occurs in the training part."""
        if self.classes is not None and "train" in self.parts:
            y = self._y[self.parts["train"]]
            self.frequency = np.bincount(y[y != NOWHERE], minlength=self.outputs)

    def _require_every_class(self) -> None:
        """All must be there to learn."""
        if self.classes is not None and len(self.parts.get("train", ())) and not self.frequency.all():
            lost = self.classes[int(np.argmin(self.frequency))]
            words = f"class {lost!s} is not in the training part; more of it, or a split of your own, is needed"
            if self.classes.dtype.kind in "iu":
                words += f". Whole numbers are classes: if these are values, store them as floats ({float(lost)})"
            raise DataError(f"{self.data.name}: {words}")

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return PRESETS[name]

    @property
    def steps(self) -> int:
        return int(self.data.x.shape[1])

    @classmethod
    def steps_of(cls, options: SequenceOptions) -> None:
        return None

    def facts(self) -> dict[str, Any]:
        return self._facts

    def fit_model(self, model: ModelConfig) -> ModelConfig:
        """Also the longest timescale: about a sequence's length."""
        fitted = super().fit_model(model)
        if not isinstance(fitted, NetworkConfig) or self.options.timescales == "model":
            return fitted
        length = float(self._facts["median_length"])
        return fitted.replace(layers=tuple(_as_long_as(layer, length) for layer in fitted.layers))

    def notes(self) -> list[str]:
        facts, what = self._facts, "values" if self.classes is None else f"{self.outputs} classes"
        counts = ", ".join(f"{count} {part}" for part, count in facts["sequences"].items())
        if "groups" in facts:
            counts += "; groups: " + ", ".join(f"{count} {part}" for part, count in facts["groups"].items())
        channels = f"{self.inputs} channels{_listed(self.data.channels)}"
        words = [f"{what} {_where(self.per_step)}; {channels}; sequences: {counts}"]
        if self.data.lengths.max() == 1:
            words.append(
                "every sequence has a single step, so that nothing happens in time; of a table each row is a step"
            )
        if self.options.missing == "skip" and self.per_step and self.classes is None:
            known, steps = int((~np.isnan(self._y).any(-1)).sum()), int(self.data.lengths.sum())
            words.append(f"{steps - known:,} of {steps:,} steps have no target and are left out")
        if self.options.standardise:
            whose = "channels" if self.classes is not None else "channels and values"
            words.append(f"{whose} are standardised by the training part; the run keeps the numbers")
        if self.options.timescales == "data":
            words.append(
                f"tau_max of ELM neurons with several memory units: {facts['median_length']:g} steps, the median length"
            )
        return words

    def training_batch(self, index: int) -> Batch:
        """Every sequence once an epoch, in a new order each time; what does not fill a batch sits out."""
        pool = self.parts["train"]
        batch = min(self.options.batch, len(pool))
        epoch, place = divmod(index, len(pool) // batch)
        order = np.random.default_rng([Draw.SEQUENCES, self.seed, epoch]).permutation(pool)
        return self._batch(order[place * batch : (place + 1) * batch])

    def _require_some(self) -> None:
        if self.data.y is None:
            raise DataError(f"{self.data.name}: has no targets to score by; `elmnet predict` needs none")

    def count_batches(self, split: Split, *, whole: bool) -> int:
        self._require_some()  # before a progress bar begins
        return -(-len(self.parts[split]) // self.options.batch)

    def evaluation_batches(self, split: Split, *, whole: bool) -> Iterator[Batch]:
        self._require_some()
        if not len(self.parts[split]):
            raise DataError(f"{self.data.name}: has no sequence in its {split} part; --split all scores every one")
        for pool in self.pools(split):
            yield self._batch(pool)

    def pools(self, split: Split) -> Iterator[NDArray[np.int64]]:
        """Numbers of the sequences of every batch, in order."""
        for start in range(0, len(self.parts[split]), self.options.batch):
            yield self.parts[split][start : start + self.options.batch]

    def inputs_of(self, pool: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Standardised x (B, T, channels), as long as the longest of these, and lengths (B,)."""
        lengths = self.data.lengths[pool]
        x = (self.data.x[pool, : lengths.max()] - self.mean) / self.scale
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(lengths)

    def _batch(self, pool: NDArray[np.int64]) -> Batch:
        x, lengths = self.inputs_of(pool)
        y = torch.from_numpy(self._y[pool, : x.shape[1]])
        return Batch(x, y, fresh=True, lengths=lengths if self._ragged else None)

    def scored(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        counts = y != NOWHERE if self.classes is not None else ~y.isnan().any(-1)
        return out[counts], y[counts]

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        got, wanted = self.scored(out, y)
        if self.classes is None:
            return F.mse_loss(got, wanted.to(got.dtype))
        weights = self._class_weights
        weights = None if weights is None else weights.to(got)
        return F.cross_entropy(got, wanted, weight=weights, label_smoothing=label_smoothing)

    def weight(self, y: Tensor) -> float:
        wanted, weights = self.scored(y, y)[1], self._class_weights
        return float(wanted.numel() if weights is None else weights[wanted.cpu()].sum())

    @property
    def _class_weights(self) -> Tensor | None:
        """Of each class; balanced: inversely to how often it occurs in the training data."""
        if self.weights is not None:
            return torch.from_numpy(self.weights)
        if self.classes is None or self.options.class_weights == "none":
            return None
        return torch.from_numpy(self.frequency.sum() / (self.outputs * self.frequency))

    def tally(self, out: Tensor, y: Tensor) -> NDArray[np.float64]:
        """Classes: nats, then how often each was taken for each; values, less the training mean: number, sums of y, y²
        and squared errors."""
        got, wanted = self.scored(out.double(), y)
        if self.classes is not None:
            nats = float(F.cross_entropy(got, wanted, reduction="sum"))
            return np.concatenate([[nats], self.confusion(out, y).flatten()])
        scale = self.target_scale  # about the training mean: far from zero, squares would swallow what varies
        truth, told = (tensor.cpu().numpy() * scale for tensor in (wanted, got))
        return np.concatenate([[len(truth)], truth.sum(0), (truth**2).sum(0), ((truth - told) ** 2).sum(0)])

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.classes is None else tuple(map(str, self.classes.tolist()))

    @property
    def value_names(self) -> tuple[str, ...]:
        if self.classes is not None:
            return ()
        return tuple(self._facts["values"]) or tuple(f"value {i}" for i in range(self.outputs))

    def in_units(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """What the network calls a value, in the data's unit."""
        return np.asarray(values * self.target_scale + self.target_mean)

    def summary(self, sums: NDArray[np.float64]) -> Scores:
        if self.classes is not None:
            confused = sums[1:].reshape(self.outputs, self.outputs)
            return _of_classes(float(sums[0]), confused)
        errors, r2 = _of_values(sums)
        pooled = {"rmse": float(np.sqrt(errors.mean())), "r2": float(r2.mean())}
        if self.outputs == 1:
            return pooled
        return {"nrmse": float(np.sqrt((errors / self.deviation**2).mean())), **pooled}

    def by_value(self, sums: NDArray[np.float64]) -> dict[str, Scores]:
        errors, r2 = _of_values(sums)
        each = zip(self.value_names, np.sqrt(errors).tolist(), r2.tolist(), strict=True)
        return {name: {"rmse": rmse, "r2": share} for name, rmse, share in each}

    def baselines(self) -> Mapping[str, Mapping[str, Scores]]:
        splits: tuple[Split, ...] = ("valid", "test")
        name = "training mean" if self.classes is None else "class prior"
        return {name: {part: self._trivial(part) for part in splits}}

    def _trivial(self, split: Split) -> Scores:
        """Of a predictor that knows only how often training has each class, or its mean value."""
        y = torch.from_numpy(self._y[self.parts[split]])
        if self.classes is None:
            train = self._y[self.parts["train"]]
            mean = train[~np.isnan(train).any(-1)].mean(0)
        else:
            mean = np.log(self.frequency / self.frequency.sum())
        return self.summary(self.tally(torch.from_numpy(np.broadcast_to(mean, (*y.shape[:2], self.outputs)).copy()), y))


def _where(per_step: bool) -> str:
    return "at every step" if per_step else "at the end of each sequence"


def _listed(channels: Sequence[str]) -> str:
    """The names that a file has for its channels, the first ones of many."""
    if UNNAMED.match(channels[0]):
        return ""
    return f" ({', '.join(channels[:6])}{', ...' if len(channels) > 6 else ''})"


def _as_long_as(layer: LayerConfig, length: float) -> LayerConfig:
    """The layer with its longest timescale at a sequence's length, if its neurons have several."""
    neuron = layer.neuron
    return layer if neuron.memory == 1 else layer.replace(neuron=neuron.replace(tau_max=max(length, neuron.tau_min)))


def _of_classes(nats: float, confused: NDArray[np.float64]) -> Scores:
    """Mean cross entropy, accuracy, and the F1 of every class that occurs or is named, averaged."""
    right, true, named = np.diag(confused), confused.sum(1), confused.sum(0)
    occurs = true + named > 0
    f1 = 2 * right[occurs] / (true + named)[occurs]
    count = confused.sum()
    return {"nats": nats / count, "accuracy": float(right.sum() / count), "macro_f1": float(f1.mean())}


def _of_values(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared error and R² of every value told."""
    count, (total, squares, errors) = sums[0], sums[1:].reshape(3, -1)
    spread = squares - total**2 / count
    r2 = np.where(spread > 1e-12 * np.maximum(squares, 1e-300), 1 - errors / np.maximum(spread, 1e-300), 0.0)
    return errors / count, r2


def _network(units: int, memory: int) -> NetworkConfig:
    """Inputs, outputs and tau_max follow from the data. Half of the synapses are recurrent however few channels there
    are; no high-pass, since a value to tell may be constant."""
    neuron = NeuronConfig(memory=memory, branches=20, synapses=8, tau_min=1.0, tau_max=100.0, input_scale=4.0)
    return NetworkConfig(inputs=1, outputs=1, layers=(LayerConfig(units=units, recurrent_connect=0.5, neuron=neuron),))


_TRAINING = {"optimizer": "adam", "learning_rate": 5e-3, "reset_to": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "model": _network(96, 5),
        "options": {},
        "training": {**_TRAINING, "steps": 20_000, "eval_every": 500, "warmup": 400},
    },
    "small": {
        "model": _network(64, 6),
        "options": {},
        "training": {**_TRAINING, "steps": 3000, "eval_every": 250, "warmup": 100},
    },
    "tiny": {
        "model": _network(24, 4),
        "options": {},
        "training": {**_TRAINING, "steps": 400, "eval_every": 50, "warmup": 40},
    },
}
