"""A run as an object: train one, score it, ask it."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmnet.data.text import Vocabulary
from elmnet.errors import ConfigError, RunError
from elmnet.models import Network, State
from elmnet.tasks import Scores, Split, Task, open_task
from elmnet.tasks.sequence import SequenceTask
from elmnet.tasks.standard import Standard
from elmnet.train import evaluate, loop
from elmnet.train.config import RunConfig
from elmnet.train.generate import generate
from elmnet.train.identity import same_data
from elmnet.train.journal import read_metrics, validations
from elmnet.train.predict import Predictions, mean, predict
from elmnet.train.process import borrowed
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory


class Run:
    """A run that was begun, its best network and its task:

        from elmnet.train.config import compose

        run = Run.train(compose("sequence", data="mine.csv"), "runs/mine")
        run.result["test"]                     # final scores
        run.evaluate("valid")                  # scores of a part, or of other data
        run.predict("new.csv").answer          # of a run of `sequence`
        net = run.network                      # to be used like an nn.LSTM

    Args:
        path: the run directory.

    Raises:
        RunError: there is no run, or its configuration is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.directory = RunDirectory.open(Path(path))
        self.config, self.facts = self.directory.read_config()

    @classmethod
    def train(
        cls,
        config: RunConfig,
        path: str | Path,
        *,
        reporter: Reporter | None = None,
        tensorboard: bool = False,
        cuda_graph: bool = False,
    ) -> "Run":
        """Train a new run to its end; the model gets as many inputs and outputs as the data need.

        Raises:
            DataError: the data are missing or damaged.
            Others: as `elmnet.train.loop.start`.
        """
        task = config.open_task()
        config = config.fitted(task)
        loop.start(config, Path(path), task, reporter=reporter, tensorboard=tensorboard, cuda_graph=cuda_graph)
        return cls(path)

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.directory.path

    @property
    def result(self) -> dict[str, Any] | None:
        """Final scores, counts and cost (result.json); None while it is unfinished."""
        return self.directory.read_result()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What it has logged, a dictionary for every line of metrics.jsonl."""
        return read_metrics(self.directory.metrics_file)

    @property
    def validations(self) -> list[dict[str, Any]]:
        """Steps and scores of its validations so far."""
        return validations(self.metrics)

    @cached_property
    def network(self) -> Network:
        """The best network, in evaluation mode, where it was trained, or on the CPU where there is no such device. Of a
        run on sequences it takes and gives standardised numbers; `step` and `predict` speak the data's units.

        Raises:
            RunError: no validation has happened yet.
            CheckpointError: its files are damaged.
        """
        return self.directory.network_where_it_was_trained(self.config)

    def task(self, data: str | None = None, *, targets: bool = True) -> Task:
        """Its task, on its own data or on others, which are read as those it was trained on: in their vocabulary,
        standardised by their numbers.

        Args:
            data: another source.
            targets: of sequences: whether to read them.

        Raises:
            DataError: the source is missing or damaged, or holds what the network does not know.
        """
        config = self.config
        return open_task(
            config.task, config.options, data or config.data, seed=config.seed, facts=self.facts, targets=targets
        )

    def same_data(self, task: Task) -> bool:
        """Whether a task's data are what it was trained on."""
        return same_data(task.facts(), self.facts)

    def part(self, split: str | None = None, data: str | None = None) -> tuple[Task, Split]:
        """What `evaluate` scores.

        Raises:
            ConfigError: the task has no such part.
            RunError: its own data have changed, so that a part may hold what was learned.
        """
        task = self.task(data)
        if split is None:
            undivided = data is not None and isinstance(task, SequenceTask) and task.data.split is None
            split = "all" if undivided else "test"
        if split not in task.splits:
            raise ConfigError(f"split must be one of {', '.join(task.splits)}, got {split!r}")
        if data is None and split != "all" and not self.same_data(task):
            raise RunError(
                f"{task.data_name} has changed since {self.path} was trained on it: its test part may hold what was "
                "learned; score other data, or, where the task allows that, all of it (split all)"
            )
        return task, split

    def evaluate(
        self, split: str | None = None, data: str | None = None, *, advance: Callable[[], None] = lambda: None
    ) -> Scores:
        """Scores of a part of its data, or of others.

        Args:
            split: `train`, `valid`, `test`, or `all` where the task allows that; None: the test part, and all of other
                sequences without a split of their own.
            data: another source.
            advance: called after every batch.

        Raises:
            ConfigError, RunError: as `part`.
            DataError: as `task`.
        """
        return self.score(*self.part(split, data), advance=advance)

    def score(
        self,
        task: Task,
        split: Split,
        *,
        advance: Callable[[], None] = lambda: None,
        confusion: NDArray[np.int64] | None = None,
        tallies: list[NDArray[np.float64]] | None = None,
    ) -> Scores:
        """Scores of a part of an opened task; `advance`, `confusion` and `tallies` as for
        `elmnet.train.evaluate.evaluate`."""
        more: dict[str, Any] = {"advance": advance, "confusion": confusion, "tallies": tallies}
        with borrowed(self.config), evaluate.precision(self.config, self.network):
            return evaluate.evaluate(self.network, task, split, whole=True, **more)

    def confusion(self, split: str | None = None, data: str | None = None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names of the classes, and how often each (rows) was taken for each (columns) in a part, as for `evaluate`.

        Raises:
            ConfigError: its task has no classes.
        """
        task, part = self.part(split, data)
        counts = no_confusion(task)
        self.score(task, part, confusion=counts)
        return task.labels, counts

    def by_value(self, split: str | None = None, data: str | None = None) -> dict[str, Scores]:
        """RMSE and R² of every value, by its name, in a part, as for `evaluate`.

        Raises:
            ConfigError: its task tells no values.
        """
        task, part = self.part(split, data)
        if not task.value_names:
            raise ConfigError(f"{task.data_name}: {task.name} tells no values here")
        tallies: list[NDArray[np.float64]] = []
        self.score(task, part, tallies=tallies)
        return task.by_value(np.sum(tallies, 0))

    def predict(self, data: str | None = None) -> Predictions:
        """What the network says of sequences, which need no targets; of its own data, or of others.

        Raises:
            ConfigError: its task is not `sequence`.
            DataError: as `task`.
        """
        task = self.task(data, targets=False)
        if not isinstance(task, SequenceTask):
            raise ConfigError(f"{self.path} was trained on {self.config.task}; predict is for the task sequence")
        with borrowed(self.config), evaluate.precision(self.config, self.network):
            return predict(self.network, task)

    @torch.no_grad()
    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step of a stream in the data's own units, as `predict` takes and gives them.

        Args:
            x: (B, n_in), or tokens (B,).
            state: as the step before returned it; None: zeros.

        Returns:
            Values in the data's units or logits of classes, (B, n_out), and the state.
        """
        x, standard = x.to(self.network.device), self._standard
        if standard is None:
            return self.network.step(x, state)
        ready = standard.before(x).to(next(self.network.parameters()).dtype)
        out, state = self.network.step(ready, state)
        return standard.after(out), state

    @cached_property
    def _standard(self) -> Standard | None:
        return Standard.of(self.facts)

    def generate(self, prompt: str, *, length: int = 400, temperature: float = 0.8, seed: int = 0) -> Iterator[str]:
        """Text that goes on from a prompt, in pieces (`elmnet.train.generate`).

        Raises:
            ConfigError: it was not trained on text.
            DataError: the prompt holds what the network does not know.
        """
        if "symbols" not in self.facts:
            raise ConfigError(f"{self.path} was trained on {self.config.task}, which is not text")
        pieces = generate(
            self.network,
            Vocabulary(self.facts["symbols"]),
            os.fsencode(prompt),
            convention=self.config.options.to_dict()["convention"],
            length=length,
            temperature=temperature,
            seed=seed,
        )
        return self._borrowing(pieces)

    def _borrowing(self, pieces: Iterator[str]) -> Iterator[str]:
        """Each made with the run's own threads, which are given back in between."""
        while True:
            with borrowed(self.config):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def no_confusion(task: Task) -> NDArray[np.int64]:
    """Zeros, to be counted into.

    Raises:
        ConfigError: the task has no classes.
    """
    if not task.labels:
        raise ConfigError(f"{task.data_name}: {task.name} tells no classes here")
    return np.zeros((task.outputs, task.outputs), dtype=np.int64)


def ensemble(runs: Sequence[Run], data: str) -> Predictions:
    """The mean of what several runs say: probabilities of classes, or values.

    Raises:
        ConfigError, DataError: as `Run.predict`, or they know different classes or values.
    """
    return mean([run.predict(data) for run in runs])
