"""Spoken digits as spikes: name the digit (`shd`), or add two of them (`shd-adding`)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmnet.chance import Draw
from elmnet.config import NetworkConfig
from elmnet.data.spikes import CHANNELS, SpikeCorpus, SpikeData, load_spike_corpus
from elmnet.data.synthetic import SYNTHETIC
from elmnet.errors import DataError
from elmnet.strict import Config
from elmnet.tasks.base import Batch, Scores, Split, Task

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SpikeOptions(Config):
    """How recordings become batches."""

    bin_ms: float = 2.0
    bins: int = 500
    """Bins of one digit; later spikes are dropped."""
    batch: int = 8
    valid_fraction: float = 0.2
    """Probability with which a training recording goes to validation."""
    valid_batches: int = 500
    """Validation batches of shd-adding."""
    test_batches: int = 2000
    """Test batches of shd-adding."""
    jitter_ms: float = 0.0
    """Augmentation: each training digit is moved in time by up to this much, either way."""
    jitter_channels: int = 0
    """Augmentation: each training digit is moved by up to this many channels, either way."""
    held_out_speakers: tuple[int, ...] = ()
    """Speakers kept out of training and validation; the test is then all of their recordings and no others."""

    def _check(self) -> None:
        for name in ("bin_ms", "bins", "batch", "valid_batches", "test_batches"):
            self._require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("jitter_ms", "jitter_channels"):
            self._require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        self._require(0 < self.valid_fraction < 1, f"valid_fraction must lie in (0, 1), got {self.valid_fraction}")


class _SpikeTask(Task):
    """What both tasks share: recordings, their split, and sequences of one or more digits."""

    metric = "accuracy"
    default_data = SYNTHETIC
    unit = "samples"
    Options = SpikeOptions
    DIGITS: ClassVar[int]

    def __init__(self, options: SpikeOptions, corpus: SpikeCorpus, *, seed: int = 0) -> None:
        self.options = options
        self.corpus = corpus
        self.seed = seed
        self.inputs = CHANNELS
        self.data_name = corpus.name
        self.pools = _split(corpus, options)
        for part, (data, pool) in self.pools.items():
            if not len(pool):
                raise DataError(f"{data.path}: no recordings are left for the {part} part")

    @classmethod
    def open(
        cls,
        options: SpikeOptions,
        source: str,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        targets: bool = True,
    ) -> Self:
        corpus = load_spike_corpus(source)
        classes = corpus.train.classes
        if facts is not None and cls.DIGITS == 1 and facts["classes"] != classes:  # sums are the same of any
            raise DataError(f"{corpus.name}: has {classes} classes, the model was trained on {facts['classes']}")
        return cls(options, corpus, seed=seed)

    @property
    def steps(self) -> int:
        return self.steps_of(self.options)

    @classmethod
    def steps_of(cls, options: SpikeOptions) -> int:
        return cls.DIGITS * options.bins

    def facts(self) -> dict[str, Any]:
        train, test = self.corpus.train, self.corpus.test
        return {
            "name": self.data_name,
            "sha256": {train.path.name: train.sha256, test.path.name: test.sha256},
            "recordings": {part: len(pool) for part, (_, pool) in self.pools.items()},
            "classes": train.classes,
        }

    def training_batch(self, index: int) -> Batch:
        drawn, o = self._draw_training(index), self.options
        rng = np.random.default_rng([Draw.JITTER, self.seed, index])
        return self._batch(
            "train",
            drawn,
            delays=rng.uniform(-o.jitter_ms, o.jitter_ms, drawn.size) / 1000,
            shifts=rng.integers(-o.jitter_channels, o.jitter_channels, drawn.size, endpoint=True),
        )

    def evaluation_batches(self, split: Split, *, whole: bool) -> Iterator[Batch]:
        for index in range(self.count_batches(split, whole=whole)):
            yield self._batch(split, self._draw(split, index))

    def scored(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return out[:, -1], y

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.outputs)))

    def baselines(self) -> Mapping[str, Mapping[str, Scores]]:
        prior = self._prior()
        guess = int(prior.argmax())
        result: dict[str, Scores] = {}
        splits: tuple[Split, ...] = ("valid", "test")
        for part in splits:
            drawn = (self._draw(part, i) for i in range(self.count_batches(part, whole=True)))
            targets = np.concatenate([self._targets(part, recordings) for recordings in drawn])
            nats = float(-np.log(prior[targets]).mean())
            result[part] = {"accuracy": float((targets == guess).mean()), "nats": nats}
        return {"class prior": result}

    @abstractmethod
    def _draw_training(self, index: int) -> Indices:
        """Recordings (B, DIGITS) of a training batch, as positions in the pool; depends on the run's seed."""

    @abstractmethod
    def _draw(self, split: Split, index: int) -> Indices:
        """The same of an evaluation's batch, always alike."""

    @abstractmethod
    def _targets(self, split: Split, drawn: Indices) -> Indices:
        """Class numbers (B,)."""

    @abstractmethod
    def _prior(self) -> NDArray[np.float64]:
        """Distribution of the classes, from the training recordings."""

    def _labels(self, split: Split, drawn: Indices) -> Indices:
        data, pool = self.pools[split]
        labels: Indices = data.labels[pool[drawn]]
        return labels

    def _batch(self, split: Split, drawn: Indices, **moved: Any) -> Batch:
        data, pool = self.pools[split]
        digits = data.dense(pool[drawn].flatten(), self.options.bin_ms / 1000, self.options.bins, **moved)
        x = digits.reshape(len(drawn), self.DIGITS * self.options.bins, CHANNELS)
        return Batch(torch.from_numpy(x), torch.from_numpy(self._targets(split, drawn)), fresh=True)


class SHDAdding(_SpikeTask):
    """Two digits one after the other; the class is their sum."""

    name = "shd-adding"
    DIGITS = 2

    def __init__(self, options: SpikeOptions, corpus: SpikeCorpus, *, seed: int = 0) -> None:
        super().__init__(options, corpus, seed=seed)
        self.outputs = 19

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return PRESETS[name]

    def count_batches(self, split: Split, *, whole: bool) -> int:
        return self.options.test_batches if split == "test" else self.options.valid_batches

    def _draw_training(self, index: int) -> Indices:
        return self._uniform("train", [Draw.PAIRS, self.seed, index])

    def _draw(self, split: Split, index: int) -> Indices:
        return self._uniform(split, [Draw.EVALUATED_PAIRS, self.splits.index(split), index])

    def _uniform(self, split: Split, seed: list[int]) -> Indices:
        """Uniformly, with replacement."""
        size = (self.options.batch, 2)
        drawn: Indices = np.random.default_rng(seed).integers(len(self.pools[split][1]), size=size)
        return drawn

    def _targets(self, split: Split, drawn: Indices) -> Indices:
        digits = self._labels(split, drawn) % 10  # German digits follow the English ones
        sums: Indices = digits.sum(1)
        return sums

    def _prior(self) -> NDArray[np.float64]:
        data, pool = self.pools["train"]
        digit = np.bincount(data.labels[pool] % 10, minlength=10) / len(pool)
        return np.maximum(np.convolve(digit, digit), 1e-9)


class SHD(_SpikeTask):
    """One digit; the class is its label (10 or 20 classes, as the file has)."""

    name = "shd"
    DIGITS = 1

    def __init__(self, options: SpikeOptions, corpus: SpikeCorpus, *, seed: int = 0) -> None:
        super().__init__(options, corpus, seed=seed)
        self.outputs = corpus.train.classes

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return PRESETS[name]

    def count_batches(self, split: Split, *, whole: bool) -> int:
        return -(-len(self.pools[split][1]) // self.options.batch)

    def _draw(self, split: Split, index: int) -> Indices:
        """Every recording once, in order."""
        size, batch = len(self.pools[split][1]), self.options.batch
        return np.arange(index * batch, min((index + 1) * batch, size))[:, None]

    def _draw_training(self, index: int) -> Indices:
        """Every recording once an epoch, in a new order each time; what does not fill a batch sits out."""
        size, batch = len(self.pools["train"][1]), self.options.batch
        epoch, place = divmod(index, max(size // batch, 1))
        order = np.random.default_rng([Draw.RECORDINGS, self.seed, epoch]).permutation(size)
        return order[place * batch : (place + 1) * batch, None]

    def _targets(self, split: Split, drawn: Indices) -> Indices:
        return self._labels(split, drawn)[:, 0]

    def _prior(self) -> NDArray[np.float64]:
        data, pool = self.pools["train"]
        return np.maximum(np.bincount(data.labels[pool], minlength=self.outputs) / len(pool), 1e-9)


def _split(corpus: SpikeCorpus, options: SpikeOptions) -> dict[Split, tuple[SpikeData, Indices]]:
    """Recordings of every split; the draw of the validation part never changes."""
    train, test, held = corpus.train, corpus.test, options.held_out_speakers
    usable = np.ones(len(train), dtype=bool)
    tested: tuple[SpikeData, Indices] = (test, np.arange(len(test)))
    if held:
        if train.speakers is None or test.speakers is None:
            raise DataError(f"{train.path}: has no extra/speaker, so held_out_speakers cannot be used")
        missing = sorted(set(held) - set(train.speakers.tolist()) - set(test.speakers.tolist()))
        if missing:
            known = sorted(set(train.speakers.tolist()) | set(test.speakers.tolist()))
            raise DataError(f"{train.path}: has no speaker {missing[0]}; its speakers are {known}")
        usable = ~np.isin(train.speakers, held)
        tested = _recordings_of(corpus, held)
    valid = np.random.default_rng(0).random(len(train)) < options.valid_fraction
    return {
        "train": (train, np.flatnonzero(usable & ~valid)),
        "valid": (train, np.flatnonzero(usable & valid)),
        "test": tested,
    }


def _recordings_of(corpus: SpikeCorpus, speakers: tuple[int, ...]) -> tuple[SpikeData, Indices]:
    """All recordings of some speakers, from both files."""
    both = corpus.train.joined(corpus.test)
    assert both.speakers is not None
    return both, np.flatnonzero(np.isin(both.speakers, speakers))


_PAPER = NetworkConfig.preset("shd-adding")
_TRAINING = {
    "optimizer": "adamax",
    "learning_rate": 5e-3,
    "warmup": 400,
    "label_smoothing": 0.01,
    "mlp_penalty": 0.002,
    "activity_penalty": 0.2,
}
_COARSE = _PAPER.replace(  # 20 ms bins: timescales up to 1 s again; jitter serves small data better than dropout
    layers=tuple(layer.replace(input_dropout=0.0, recurrent_dropout=0.0) for layer in _PAPER.layers)
).with_hidden(tau_max=50.0, branches=20, synapses=8)
_COARSE_OPTIONS = {"bin_ms": 20.0, "bins": 25, "jitter_ms": 40.0, "jitter_channels": 25}
_COARSE_TRAINING = {**_TRAINING, "optimizer": "adam", "warmup": 100}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"model": _PAPER, "options": {}, "training": {**_TRAINING, "steps": 140_000, "eval_every": 2000}},
    "small": {
        "model": _COARSE.with_hidden(units=64, memory=6),
        "options": {**_COARSE_OPTIONS, "batch": 32, "valid_batches": 32, "test_batches": 63},
        "training": {**_COARSE_TRAINING, "steps": 6000, "eval_every": 500},
    },
    "tiny": {
        "model": _COARSE.with_hidden(units=24, memory=4),
        "options": {**_COARSE_OPTIONS, "batch": 16, "valid_batches": 8, "test_batches": 16},
        "training": {**_COARSE_TRAINING, "steps": 400, "eval_every": 100},
    },
}
