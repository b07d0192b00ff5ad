"""What the trainer needs to know of a task: batches, which outputs count, how to score, published settings.

Batches are a pure function of (seed, index), so a run can go on at any batch without a loader state to save.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from elmnet import tables
from elmnet.baselines.config import BaselineConfig
from elmnet.config import LayerConfig, NetworkConfig
from elmnet.models import ModelConfig
from elmnet.strict import Config

Split = Literal["train", "valid", "test", "all"]
"""`all` is a whole text, unsplit: for scoring a model on somebody's own file."""
SPLITS: tuple[Split, ...] = get_args(Split)
Scores = dict[str, float]


class Batch(NamedTuple):
    """One batch of a task."""

    x: Tensor  # (B, T) tokens or (B, T, n_in)
    y: Tensor  # what the task's loss takes: (B, T) or (B,) class numbers, or values
    fresh: bool  # begins new sequences: state starts at zero instead of being carried over
    lengths: Tensor | None = None  # (B,), where sequences differ


class Task(ABC):
    """A benchmark: data, loss, metric and published defaults. Subclasses are final."""

    name: ClassVar[str]
    default_data: ClassVar[str]
    unit: ClassVar[str]
    """What one target is called when counted."""
    metric: str
    """Key of the score that chooses the best model; `elmnet.scores` knows whether more of it is better."""
    criterion: str = "cross_entropy"
    """What `loss` is."""
    picks: ClassVar[bool] = False
    """Whether the loss is of steps that the targets choose, of which there may be any number."""
    Options: ClassVar[type[Config]]
    splits: ClassVar[tuple[Split, ...]] = ("train", "valid", "test")
    """What can be scored."""

    seed: int
    inputs: int
    outputs: int
    data_name: str
    """The data's honest name, printed wherever a score is."""

    @classmethod
    @abstractmethod
    def open(
        cls,
        options: Any,
        source: str,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        targets: bool = True,
    ) -> Self:
        """The task on its data, as `elmnet.tasks.open_task`.

        Raises:
            DataError: the source is missing or damaged, or holds what the model does not know.
        """

    def with_seed(self, seed: int) -> Self:
        """The same task on the same data, which are in memory once, with other training batches."""
        other = copy(self)
        other.seed = seed
        return other

    @classmethod
    @abstractmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Settings `model` (NetworkConfig), `options` and `training` (dicts) of `tiny`, `small` or `paper`."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What identifies the data: name, hashes, vocabulary; stored with the run."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Time steps of a training batch."""

    @classmethod
    @abstractmethod
    def steps_of(cls, options: Any) -> int | None:
        """`steps` as the options say it; None: the data do."""

    @classmethod
    def sequences_of(cls, options: Any) -> int:
        """Sequences of a training batch, as the options say it."""
        return int(options.batch)

    def fit_model(self, model: ModelConfig) -> ModelConfig:
        """The model with the number of inputs and outputs this data needs; a transformer that sees a whole batch."""
        sizes: dict[str, Any] = {"inputs": self.inputs, "outputs": self.outputs}
        readout = model.readout if isinstance(model, NetworkConfig) else None
        if isinstance(readout, LayerConfig) and readout.outputs == readout.units == model.outputs:
            sizes["readout"] = readout.replace(units=self.outputs)  # as before, a neuron for each output
        fitted = model.replace(**sizes)
        if isinstance(fitted, BaselineConfig) and fitted.kind == "transformer" and fitted.context is None:
            return fitted.replace(context=self.steps)
        return fitted

    @abstractmethod
    def training_batch(self, index: int) -> Batch:
        """Batch `index` of training, any index at any time."""

    @abstractmethod
    def evaluation_batches(self, split: Split, *, whole: bool) -> Iterator[Batch]:
        """The validation of one turn, or with `whole` the final evaluation."""

    @abstractmethod
    def count_batches(self, split: Split, *, whole: bool) -> int:
        """How many batches `evaluation_batches` yields."""

    @abstractmethod
    def scored(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs that count: logits (M, n_out) and class numbers (M,)."""

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """What training minimises, regularisers apart."""
        return F.cross_entropy(*self.scored(out, y), label_smoothing=label_smoothing)

    def weight(self, y: Tensor) -> float:
        """What `loss` divides its sum over these targets by: parts of a batch are put together in this proportion."""
        return float(y.numel())

    def tally(self, out: Tensor, y: Tensor) -> NDArray[np.float64]:
        """Sums over a batch, which added up over batches give the scores: nats, correct, counted."""
        logits, targets = self.scored(out, y)
        nats = float(F.cross_entropy(logits.double(), targets, reduction="sum"))
        return np.array([nats, int((logits.argmax(-1) == targets).sum()), len(targets)])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes; none where it has no classes, or symbols of a text in their place."""
        return ()

    def confusion(self, out: Tensor, y: Tensor) -> NDArray[np.int64]:
        """How often a class (rows) was taken for each (columns); (n_out, n_out)."""
        logits, targets = self.scored(out, y)
        pairs = (targets * self.outputs + logits.argmax(-1)).cpu().numpy()
        return np.bincount(pairs, minlength=self.outputs**2).reshape(self.outputs, self.outputs)

    def summary(self, sums: NDArray[np.float64]) -> Scores:
        """The scores of added up tallies."""
        nats, correct, count = sums.tolist()
        return self.scores(nats / count, correct / count)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values that it tells; none where it tells classes, or scores of its own."""
        return ()

    def by_value(self, sums: NDArray[np.float64]) -> dict[str, Scores]:
        """The scores of added up tallies, for every value by its name."""
        return {}

    def measure(self, outputs: Iterable[tuple[Tensor, Tensor]]) -> Scores:
        """Scores from the outputs and targets of all batches of an evaluation."""
        sums: Any = 0.0
        for out, y in outputs:
            sums = sums + self.tally(out, y)
        return self.summary(sums)

    def notes(self) -> list[str]:
        """What a person should know before the training begins."""
        return []

    def scores(self, nats: float, accuracy: float) -> Scores:
        """Scores from the mean cross entropy and accuracy."""
        return {"accuracy": accuracy, "nats": nats}

    @abstractmethod
    def baselines(self) -> Mapping[str, Mapping[str, Scores]]:
        """Trivial predictors fitted to the training data: name → split → scores on the final evaluation."""


def in_words(scores: Scores) -> str:
    """Scores as a person reads them."""
    return "  ".join(f"{name} {tables.score(value)}" for name, value in scores.items())


PRESETS = ("tiny", "small", "paper")
