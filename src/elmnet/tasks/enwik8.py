"""Next-character prediction on text streams, scored in bits per character."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmnet.config import NetworkConfig
from elmnet.data.text import STDLIB, Corpus, Tokens, Vocabulary, load_corpus, prepare, split
from elmnet.errors import DataError
from elmnet.strict import Config
from elmnet.tasks.base import SPLITS, Batch, Scores, Split, Task


@dataclass(frozen=True, kw_only=True)
class TextOptions(Config):
    """How text becomes batches."""

    convention: Literal["txl", "bytes"] = "txl"
    """`txl`: newlines removed, as the paper and Transformer-XL count; `bytes`: every byte. Never mix their scores."""
    streams: int = 8
    """Contiguous streams side by side in a batch."""
    chunk: int = 100
    """Steps of truncated back-propagation."""
    valid_chunks: int = 200
    """Chunks of the validation after each turn."""
    final_valid_streams: int = 8
    """Streams of the final validation; each starts at zero state, so fewer score a little better, and slower."""
    final_test_streams: int = 1
    """The same for the test."""

    def _check(self) -> None:
        for name in ("streams", "chunk", "valid_chunks", "final_valid_streams", "final_test_streams"):
            self._require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")


class Enwik8(Task):
    """Character prediction with carried state."""

    name = "enwik8"
    default_data = STDLIB
    unit = "characters"
    metric = "bpc"
    Options = TextOptions
    splits = SPLITS

    def __init__(
        self, options: TextOptions, corpus: Corpus, *, seed: int = 0, vocabulary: Vocabulary | None = None
    ) -> None:
        self.options = options
        self.corpus = corpus
        self.seed = seed
        self.data_name = f"{corpus.name} ({options.convention})"
        convention = options.convention
        self.vocabulary = Vocabulary.of(prepare(corpus.data, convention)) if vocabulary is None else vocabulary
        self.inputs = self.outputs = len(self.vocabulary)
        if vocabulary is None:
            self._require_enough_to_train()
        else:
            vocabulary.check(corpus.data, convention, corpus.name)

    @classmethod
    def open(
        cls,
        options: TextOptions,
        source: str,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        targets: bool = True,
    ) -> Self:
        vocabulary = None if facts is None else Vocabulary(facts["symbols"])
        return cls(options, load_corpus(source), seed=seed, vocabulary=vocabulary)

    @cached_property
    def parts(self) -> dict[str, Tokens]:
        """The symbols of `train`, `valid` and `test`."""
        pieces = split(self.corpus.data).items()
        return {part: self.vocabulary.encode(text, self.options.convention) for part, text in pieces}

    @cached_property
    def _whole(self) -> Tokens:
        return self.vocabulary.encode(self.corpus.data, self.options.convention)

    @cached_property
    def _training(self) -> tuple[Tokens, Tokens]:
        return _streams(self.parts["train"], self.options.streams)

    def _require_enough_to_train(self) -> None:
        streams, chunk = self.options.streams, self.options.chunk
        if len(self.parts["train"]) <= streams * chunk:
            raise DataError(
                f"{self.corpus.name}: {len(self.corpus.data):,} bytes are too few for {streams} streams of {chunk} "
                "steps; use a longer text or a smaller options.streams"
            )

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return PRESETS[name]

    @property
    def steps(self) -> int:
        return self.steps_of(self.options)

    @classmethod
    def steps_of(cls, options: TextOptions) -> int:
        return options.chunk

    @classmethod
    def sequences_of(cls, options: TextOptions) -> int:
        return options.streams

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.data_name,
            "sha256": self.corpus.sha256,
            "bytes": len(self.corpus.data),
            "symbols": list(self.vocabulary.symbols),
        }

    def training_batch(self, index: int) -> Batch:
        chunk = self.options.chunk
        place = index % (self._training[0].shape[1] // chunk)
        x, y = (stream[:, place * chunk : (place + 1) * chunk] for stream in self._training)
        return Batch(_tensor(x), _tensor(y), fresh=place == 0)

    def evaluation_batches(self, split: Split, *, whole: bool) -> Iterator[Batch]:
        x, y = self._evaluation(split, whole)
        chunk = self.options.chunk
        for place in range(self.count_batches(split, whole=whole)):
            here = slice(place * chunk, (place + 1) * chunk)
            yield Batch(_tensor(x[:, here]), _tensor(y[:, here]), fresh=place == 0)

    def count_batches(self, split: Split, *, whole: bool) -> int:
        available: int = -(-self._evaluation(split, whole)[0].shape[1] // self.options.chunk)
        return available if whole else min(available, self.options.valid_chunks)

    def _evaluation(self, split: Split, whole: bool) -> tuple[Tokens, Tokens]:
        """Streams of an evaluation; fewer where a text is too short to fill a chunk in each."""
        tokens = self._whole if split == "all" else self.parts[split]
        if len(tokens) < 2:
            raise DataError(f"{self.corpus.name}, {split}: holds {len(tokens)} symbols; at least 2 are needed")
        final = self.options.final_valid_streams if split in ("train", "valid") else self.options.final_test_streams
        wanted = final if whole else self.options.streams
        return _streams(tokens, max(1, min(wanted, (len(tokens) - 1) // self.options.chunk)))

    def scored(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return out.flatten(0, 1), y.flatten()

    def scores(self, nats: float, accuracy: float) -> Scores:
        return {"bpc": nats / math.log(2), "nats": nats, "accuracy": accuracy}

    def baselines(self) -> Mapping[str, Mapping[str, Scores]]:
        counts = _context_counts(self.parts["train"], len(self.vocabulary))
        result: dict[str, dict[str, Scores]] = {"unigram": {}, "order-2 context": {}}
        for part in ("valid", "test"):
            for name, bits in _context_bits(counts, self.parts[part]).items():
                result[name][part] = {"bpc": float(bits)}
        return result


def _streams(tokens: Tokens, streams: int) -> tuple[Tokens, Tokens]:
    """Inputs and targets (streams, L): contiguous pieces, target = next symbol."""
    length = (len(tokens) - 1) // streams
    x, y = tokens[: length * streams], tokens[1 : length * streams + 1]
    return x.reshape(streams, length), y.reshape(streams, length)


def _tensor(tokens: Tokens) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64))


_BLOCK = 2**21  # symbols whose contexts are held at a time


def _contexts(tokens: Tokens, symbols: int) -> Iterator[tuple[list[NDArray[np.int64]], NDArray[np.int64]]]:
    """Blocks of (the context of 0, 1 and 2 symbols as a number, the symbol that follows), from the third symbol on."""
    for start in range(2, len(tokens), _BLOCK):
        stop = min(start + _BLOCK, len(tokens))
        last, before = (tokens[start - back : stop - back].astype(np.int64) for back in (1, 2))
        yield [np.zeros_like(last), last, last + before * symbols], tokens[start:stop].astype(np.int64)


def _context_counts(tokens: Tokens, symbols: int) -> list[NDArray[np.int64]]:
    """How often every symbol follows every context of 0, 1 and 2 symbols: arrays (contexts, symbols)."""
    counts = [np.zeros(symbols ** (order + 1), dtype=np.int64) for order in range(3)]
    for contexts, following in _contexts(tokens, symbols):
        for table, context in zip(counts, contexts, strict=True):
            table += np.bincount(context * symbols + following, minlength=len(table))
    return [table.reshape(-1, symbols) for table in counts]


def _context_bits(counts: list[NDArray[np.int64]], tokens: Tokens) -> dict[str, float]:
    """Mean bits a symbol of the unigram and the order-2 model, Witten-Bell interpolation of the shorter contexts."""
    symbols = counts[0].shape[1]
    totals = [(table.sum(1), (table > 0).sum(1)) for table in counts]
    bits = np.zeros(3)
    for contexts, following in _contexts(tokens, symbols):
        probability = np.full(len(following), 1 / symbols)
        for order, context in enumerate(contexts):
            total, distinct = (column[context] for column in totals[order])
            seen = counts[order][context, following]
            mixed = (seen + distinct * probability) / np.maximum(total + distinct, 1)
            probability = np.where(total > 0, mixed, probability)
            bits[order] -= np.log2(probability).sum()
    return {"unigram": bits[0] / (len(tokens) - 2), "order-2 context": bits[2] / (len(tokens) - 2)}


_PAPER = NetworkConfig.preset("enwik8")
_TRAINING = {"optimizer": "adam", "label_smoothing": 1e-4, "mlp_penalty": 0.01, "activity_penalty": 1.0, "warmup": 100}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "model": _PAPER,
        "options": {},
        "training": {
            **_TRAINING,
            "steps": 300_000,
            "learning_rate": 5e-4,
            "eval_every": 400,
            "reset_steps": 40_000,
        },
    },
    "small": {
        "model": _PAPER.with_hidden(units=160, memory=6, branches=20, synapses=10),
        "options": {},
        "training": {**_TRAINING, "steps": 4000, "learning_rate": 5e-3, "eval_every": 400, "reset_steps": 500},
    },
    "tiny": {
        "model": _PAPER.with_hidden(units=80, memory=5, branches=12, synapses=8),
        "options": {
            "streams": 32,
            "chunk": 50,
            "valid_chunks": 10,
            "final_valid_streams": 64,
            "final_test_streams": 64,
        },
        "training": {**_TRAINING, "steps": 600, "learning_rate": 1e-2, "eval_every": 200, "reset_steps": 100},
    },
}
