"""NeuronIO: predict the spikes and the soma voltage of a detailed cell from its input (Beniaguev et al. 2021).

Protocol of the first ELM paper (Spieler et al. 2024, arXiv:2306.16922) and its public code: windows of 500 ms drawn
uniformly from simulations, the first 500 ms of each simulation left out; soma clipped at -55 mV, bias -67.7 mV, scale
1/10; loss half binary cross entropy of the spike, half squared error of the soma; scores over windows whose first
150 ms are run for the state alone, from simulations of at most 24 spikes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from elmnet.chance import Draw
from elmnet.config import NetworkConfig
from elmnet.data.neuronio import Part, Simulations, find_files, fingerprint, load_simulations
from elmnet.errors import DataError
from elmnet.strict import Config
from elmnet.tasks.base import Batch, Scores, Split, Task
from elmnet.tasks.cell import Cell, synthetic_cell

SYNTHETIC = "synthetic-cell"
_SPLIT = 8
"""Every eighth simulation is validation, the one before it test, where files name no such parts."""


@dataclass(frozen=True, kw_only=True)
class NeuronIOOptions(Config):
    """How simulations become batches and scores."""

    batch: int = 8
    window_ms: int = 500
    ignore_ms: int = 500
    """Start of every simulation that is never used as a target."""
    burn_in_ms: int = 150
    """Start of every scored window that brings the state up to date and is not scored."""
    file_batches: int = 57
    """Batches drawn from one file before another is taken: 0.3 of a published file at batch 8."""
    soma_threshold: float = -55.0
    """mV; higher voltages, those of spikes, are clipped."""
    soma_bias: float = -67.7
    soma_scale: float = 0.1
    max_spikes: int = 24
    """Simulations with more spikes are not scored."""
    valid_simulations: int = 128
    """Scored at every turn's validation."""
    eval_batch: int = 16
    align_soma: bool = False
    """Give the predicted soma the mean and spread of the true one before scoring, as published (docs/signals.md)."""
    cached_files: int = 32
    """Files kept in memory, some 20 MB each."""

    def _check(self) -> None:
        for name in ("batch", "window_ms", "file_batches", "soma_scale", "valid_simulations", "eval_batch"):
            self._require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("ignore_ms", "burn_in_ms", "max_spikes"):
            self._require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        self._require(self.cached_files >= 1, f"cached_files must be at least 1, got {self.cached_files}")
        self._require(
            self.burn_in_ms < self.window_ms and self.burn_in_ms <= self.ignore_ms,
            f"burn_in_ms {self.burn_in_ms} must be below window_ms {self.window_ms} and not exceed ignore_ms "
            f"{self.ignore_ms}",
        )


@dataclass(frozen=True)
class Source:
    """Files of a part that come one at a time; a file may hold simulations of several parts."""

    name: str
    sha256: dict[str, str]
    parts: dict[Part, list[Path]]
    shared: bool
    """Whether the parts are the same files, and every simulation is dealt to one of them."""
    cell: Cell | None = None

    def load(self, part: Part, place: int) -> Simulations:
        """File `place` of a part."""
        if self.cell is not None:
            return self.cell.data[part]
        simulations = load_simulations(self.parts[part][place])
        return simulations.chosen(deal(len(simulations), part)) if self.shared else simulations

    def count(self, part: Part) -> int:
        """Files of a part."""
        return 1 if self.cell is not None else len(self.parts[part])


def open_source(source: str) -> Source:
    """The simulations named by `source`: `synthetic-cell`, a folder of published files, or one file.

    Raises:
        DataError: there are none, or only some of validation and test.
    """
    if source == SYNTHETIC:
        cell = synthetic_cell()
        digest = hashlib.sha256(b"".join(d.times.tobytes() + d.soma.tobytes() for d in cell.data.values())).hexdigest()
        return Source("synthetic cell (an ELM neuron, not NeuronIO)", {SYNTHETIC: digest}, {}, False, cell)
    if source == "official":
        raise DataError(
            "NeuronIO (115 GB) is fetched by hand: Kaggle, selfishgene/single-neurons-as-deep-nets-nmda-train-data and "
            "-test-data; then name the folder that holds both with --data"
        )
    place = Path(source)
    parts = find_files(place)
    shared = not parts["valid"] and not parts["test"]
    if not shared:
        for part, paths in parts.items():
            if not paths:
                raise DataError(f"{source}: no files of the {part} part; a folder of them has {part!r} in its name")
    else:
        parts = dict.fromkeys(("train", "valid", "test"), parts["train"])
    hashes: dict[str, str] = {part: fingerprint(paths) for part, paths in parts.items()}
    return Source(f"NeuronIO simulations in {place.resolve().name}", hashes, parts, shared)


def deal(count: int, part: Part) -> NDArray[np.int64]:
    """Which of a file's simulations belong to a part, where files name no parts."""
    rest = np.arange(count) % _SPLIT
    return np.flatnonzero({"valid": rest == _SPLIT - 1, "test": rest == _SPLIT - 2, "train": rest < _SPLIT - 2}[part])


class NeuronIO(Task):
    """Spike and soma of a cell, from 639 excitatory and 639 inhibitory inputs."""

    name = "neuronio"
    metric = "soma_rmse"
    criterion = "error"
    default_data = SYNTHETIC
    unit = "targets"
    Options = NeuronIOOptions

    def __init__(self, options: NeuronIOOptions, source: Source, *, seed: int = 0) -> None:
        self.options = options
        self.source = source
        self.seed = seed
        self.data_name = source.name
        self._keep_files()
        first = self._file("train", 0)
        self.inputs, self.outputs = first.channels, 2

    @classmethod
    def open(
        cls,
        options: NeuronIOOptions,
        source: str,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        targets: bool = True,
    ) -> Self:
        opened = cls(options, open_source(source), seed=seed)
        if facts is not None and facts["channels"] != opened.inputs:
            raise DataError(f"{source}: has {opened.inputs} channels, the model was trained on {facts['channels']}")
        return opened

    def _keep_files(self) -> None:
        self._load = lru_cache(self.options.cached_files)(self.source.load)

    def with_seed(self, seed: int) -> Self:
        other = super().with_seed(seed)
        other._keep_files()  # of its own: other batches are of other files
        return other

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return PRESETS[name]

    @property
    def steps(self) -> int:
        """Time steps of a training batch."""
        return self.steps_of(self.options)

    @classmethod
    def steps_of(cls, options: NeuronIOOptions) -> int:
        return options.window_ms

    def facts(self) -> dict[str, Any]:
        parts: tuple[Part, ...] = ("train", "valid", "test")
        return {
            "name": self.data_name,
            "sha256": self.source.sha256,
            "files": {part: self.source.count(part) for part in parts},
            "channels": self.inputs,
        }

    def _file(self, part: Part, place: int) -> Simulations:
        simulations = self._load(part, place)
        if not len(simulations):
            raise DataError(f"{self.source.name}: file {place} of the {part} part has no simulations for it")
        if hasattr(self, "inputs") and simulations.channels != self.inputs:
            raise DataError(f"{self.source.name}: files of {self.inputs} and {simulations.channels} channels")
        have, least = simulations.steps, self.options.ignore_ms + self.options.window_ms
        if have < least:
            words = f"file {place} of the {part} part has simulations of {have} ms; ignore_ms + window_ms need {least}"
            raise DataError(f"{self.source.name}: {words}")
        return simulations

    def training_batch(self, index: int) -> Batch:
        o = self.options
        block = index // o.file_batches
        place = int(np.random.default_rng([Draw.FILES, self.seed, block]).integers(self.source.count("train")))
        data = self._file("train", place)
        rng = np.random.default_rng([Draw.WINDOWS, self.seed, index])
        chosen = rng.choice(len(data), size=o.batch, replace=len(data) < o.batch)
        starts = rng.integers(o.ignore_ms, data.steps - o.window_ms, size=o.batch, endpoint=True)
        return self._windows(data, list(zip(chosen.tolist(), starts.tolist(), strict=True)))

    def evaluation_batches(self, split: Split, *, whole: bool) -> Iterator[Batch]:
        for data, simulations, start in self._scored_windows(split, whole):
            yield self._windows(data, [(i, start) for i in simulations])

    def count_batches(self, split: Split, *, whole: bool) -> int:
        return sum(1 for _ in self._scored_windows(split, whole))

    def _scored_windows(self, split: Split, whole: bool) -> Iterator[tuple[Simulations, list[int], int]]:
        """Simulations and starts of windows whose ends, past the burn-in, cover everything once."""
        o = self.options
        assert split != "all"
        left = o.valid_simulations
        for place in range(self.source.count(split)):
            data = self._file(split, place)
            calm = np.flatnonzero(data.spikes.sum(1) <= o.max_spikes)
            if not whole:
                calm, left = calm[:left], left - len(calm[:left])
            for first in range(0, len(calm), o.eval_batch):
                for start in range(o.ignore_ms - o.burn_in_ms, data.steps - o.burn_in_ms, o.window_ms - o.burn_in_ms):
                    yield data, calm[first : first + o.eval_batch].tolist(), start
            if not whole and not left:
                return

    def _windows(self, data: Simulations, places: list[tuple[int, int]]) -> Batch:
        """Windows (simulation, start); shorter together where the first would pass the end."""
        o = self.options
        steps = min(o.window_ms, data.steps - places[0][1])
        x = np.stack([data.window(i, start, steps) for i, start in places])
        spikes = np.stack([data.spikes[i, start : start + steps] for i, start in places])
        soma = np.stack([data.soma[i, start : start + steps] for i, start in places])
        scaled = (np.minimum(soma, o.soma_threshold) - o.soma_bias) * o.soma_scale
        y = np.stack([spikes.astype(np.float32), scaled.astype(np.float32)], -1)
        return Batch(torch.from_numpy(x), torch.from_numpy(y), fresh=True)

    def scored(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return out[:, self.options.burn_in_ms :], y[:, self.options.burn_in_ms :]

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Half the cross entropy of the spike, half the squared error of the scaled soma, over whole windows."""
        spike = F.binary_cross_entropy_with_logits(out[..., 0], y[..., 0].to(out.dtype))
        return 0.5 * spike + 0.5 * F.mse_loss(out[..., 1], y[..., 1].to(out.dtype))

    def measure(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> Scores:
        """ROC AUC of the spike; RMSE (mV) and explained variance of the soma; mean loss."""
        scored = [self.scored(out, y) for out, y in outputs]
        if not scored:
            raise DataError(f"{self.data_name}: no simulation has at most {self.options.max_spikes} spikes; raise it")
        predicted, true = (torch.cat([pair[i].flatten(0, 1) for pair in scored]).double().cpu() for i in (0, 1))
        return {**self._score(predicted.numpy(), true.numpy()), "loss": float(self.loss(predicted, true))}

    def _score(self, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Scores:
        """From spike logit and scaled soma, (M, 2) each."""
        soma, wanted = (values[:, 1] / self.options.soma_scale for values in (predicted, true))
        if self.options.align_soma and soma.std() > 1e-9 * np.abs(soma).max():
            soma = (soma - soma.mean()) / soma.std() * wanted.std() + wanted.mean()
        error = soma - wanted
        return {
            "auc": roc_auc(predicted[:, 0], true[:, 0] > 0.5),
            "soma_rmse": float(np.sqrt(np.square(error).mean())),
            "soma_ev": float(1 - error.var() / wanted.var()),
        }

    def baselines(self) -> Mapping[str, Mapping[str, Scores]]:
        """A constant (AUC 0.5); of the synthetic cell also what it knew itself, which nothing can beat but by luck."""
        constant: dict[str, Scores] = {}
        knew: dict[str, Scores] = {}
        splits: tuple[Part, ...] = ("valid", "test")
        for part in splits:
            mean, true = self._training_mean, self._targets(part)
            constant[part] = self._score(np.broadcast_to(mean, true.shape), true)
            if self.source.cell is not None:
                knew[part] = self._score(self._targets(part, self.source.cell.known[part]), true)
        result: dict[str, Mapping[str, Scores]] = {"constant": constant}
        return {**result, "hidden cell itself": knew} if knew else result

    @property
    def _training_mean(self) -> NDArray[np.float64]:
        data = self._file("train", 0)
        start = self.options.ignore_ms
        soma = np.minimum(data.soma[:, start:], self.options.soma_threshold)
        return np.array([0.0, (soma.mean(dtype=np.float64) - self.options.soma_bias) * self.options.soma_scale])

    def _targets(self, part: Part, known: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """(M, 2), everything the final evaluation scores: spike and scaled soma, or with `known` what the cell knew."""
        o, pieces = self.options, []
        for place in range(self.source.count(part)):
            data = self._file(part, place)
            calm = data.spikes.sum(1) <= o.max_spikes
            spike, soma = (data.spikes, data.soma) if known is None else (known[..., 0], known[..., 1])
            scaled = (np.minimum(soma, o.soma_threshold) - o.soma_bias) * o.soma_scale
            pieces.append(np.stack([spike, scaled], -1)[calm, o.ignore_ms :].reshape(-1, 2))
        return np.concatenate(pieces).astype(np.float64)


def roc_auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the probability that a positive outranks a negative, ties counting half.

    Raises:
        DataError: there are no positives, or nothing else.
    """
    from scipy.stats import rankdata

    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        raise DataError(f"{yes} spikes and {no} bins without one: the AUC is not defined")
    return float((rankdata(score)[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


_PAPER = NetworkConfig.preset("neuronio")
_TRAINING = {"optimizer": "adam", "learning_rate": 5e-4, "warmup": 0, "clip": 1e6}  # published: no clipping
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "model": _PAPER,
        "options": {"align_soma": True},
        "training": {**_TRAINING, "steps": 350_000, "eval_every": 10_000},
    },
    "small": {
        "model": _PAPER.with_hidden(memory=10),
        "options": {"batch": 16, "window_ms": 300, "ignore_ms": 150, "max_spikes": 1000},
        "training": {**_TRAINING, "steps": 3000, "learning_rate": 5e-3, "clip": 1.0, "warmup": 100, "eval_every": 500},
    },
    "tiny": {
        "model": _PAPER.with_hidden(memory=4),
        "options": {"window_ms": 250, "ignore_ms": 100, "burn_in_ms": 100, "max_spikes": 1000},
        "training": {**_TRAINING, "steps": 400, "learning_rate": 1e-2, "clip": 1.0, "warmup": 20, "eval_every": 100},
    },
}
