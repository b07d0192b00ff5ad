"""The training loop: exact to the byte when it is interrupted and resumed; for one run, or several step by step."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from elmnet.errors import ConfigError, DivergedError, RunError
from elmnet.network import ELMNetwork, NetworkState
from elmnet.replicas import Replicas
from elmnet.tasks import OpenTasks, Task
from elmnet.train.capture import Captured, Given, Pull, Pulled
from elmnet.train.config import RunConfig, amend
from elmnet.train.identity import same_data
from elmnet.train.learner import enough_memory
from elmnet.train.objective import monitored
from elmnet.train.parallel import Team
from elmnet.train.process import borrowed
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory, keeps_to_itself
from elmnet.train.signals import Interrupted, StopRequested, StopSignals
from elmnet.train.trainer import Trainer

__all__ = ["Interrupted", "Lockstep", "resume", "start", "together"]

Result = dict[str, Any]
_GO, _SAVE = 0, 1  # what processes agree on after a step; larger: how much is the signal that stops them


def start(
    config: RunConfig,
    path: str | Path,
    task: Task,
    *,
    reporter: Reporter | None = None,
    tensorboard: bool = False,
    cuda_graph: bool = False,
    team: Team | None = None,
) -> Result:
    """Train from the beginning in a new run directory; returns the result (also in result.json).

    Raises:
        RunTakenError: the directory holds a run already.
        RunError: it cannot be written.
        ConfigError: its steps cannot be captured.
        ShapeError: a batch cannot be shared equally by the processes of the team.
        DivergedError: the loss or gradient is no longer finite.
        CheckpointError: a checkpoint could not be written.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written first.
    """
    run = RunDirectory(Path(path))
    with borrowed(config):
        trainer = Trainer(  # refuses what cannot run
            run, config, task, reporter or Reporter(), tensorboard=tensorboard, cuda_graph=cuda_graph, team=team
        )
        return cast(Result, Lockstep([trainer]).train()[0])


def resume(
    path: str | Path,
    *,
    data: str | None = None,
    reporter: Reporter | None = None,
    tensorboard: bool = False,
    cuda_graph: bool = False,
    team: Team | None = None,
) -> Result:
    """Continue an interrupted run exactly; a finished one returns its result.

    Args:
        path: the run directory.
        data: where its data lies now, if it has moved; the hashes must be the same.
        reporter: whom to tell.
        tensorboard: write its events, too.
        cuda_graph: capture the forward and backward pass (on a GPU; see `elmnet.train.capture`).
        team: the processes that share its batches; as many as before, or the sums differ by rounding.

    Raises:
        RunTakenError: another process trains it.
        RunError: there is no run, its configuration is damaged, or the data is not what it was trained on.
    """
    run = RunDirectory.open(Path(path))
    reporter = reporter or Reporter()
    config, facts = run.read_config()
    result = run.read_result()
    if result is not None:
        reporter.note(f"{path} is finished")
        return result
    task = _open_again(run, amend(config, data=data), facts, OpenTasks())
    with borrowed(config):
        trainer = Trainer(run, config, task, reporter, tensorboard=tensorboard, cuda_graph=cuda_graph, team=team)
        return cast(Result, Lockstep([trainer]).train(resuming=True)[0])


def together(
    runs: dict[Path, RunConfig],
    *,
    data: str | None = None,
    reporter: Reporter | None = None,
    cuda_graph: bool = False,
) -> dict[Path, Result | DivergedError]:
    """Train runs of equal shape step by step together, from the beginning or from where they are.

    They end as each would alone, within rounding, in a directory each; to the byte when interrupted and continued
    together. One that diverges is left behind, the others go on.

    Args:
        runs: directory and configuration of each; what `shape_of` gives must be equal.
        data: where the data lies now, if it has moved; the hashes must be those of the runs that were begun.
        reporter: whom to tell.
        cuda_graph: capture the forward and backward pass of all.

    Raises:
        ConfigError: the runs' shapes differ, or their steps cannot be captured.
        RunError: as `start` and `resume`.
        Interrupted: SIGINT or SIGTERM arrived; checkpoints were written first.
    """
    if not runs:
        return {}
    with borrowed(next(iter(runs.values()))):
        return _together(runs, data, reporter or Reporter(), cuda_graph)


def _together(
    runs: dict[Path, RunConfig], data: str | None, reporter: Reporter, cuda_graph: bool
) -> dict[Path, Result | DivergedError]:
    stop = StopSignals()
    outcomes: dict[Path, Result | DivergedError] = {}
    trainers: list[Trainer] = []
    tasks = OpenTasks()
    begun = next((run for run in map(RunDirectory, runs) if run.config_file.exists()), None)
    for path, config in runs.items():
        run = RunDirectory(path)
        if run.config_file.exists():
            config, facts = run.read_config()
            done = run.read_result()
            if done is not None:
                outcomes[path] = done
                continue
            task = _open_again(run, amend(config, data=data), facts, tasks)
        else:
            config = amend(config, data=data)
            task = _open_again(begun, config, begun.read_config()[1], tasks) if begun else config.open_task(tasks=tasks)
        own = reporter.named(path.name, first=not trainers)
        trainers.append(Trainer(run, config, task, own, stop=stop, cuda_graph=cuda_graph))
        trainers[-1].keep_generators()
        _require_equal(trainers[0], trainers[-1])
    while trainers:
        steps = {trainer: trainer.intact() for trainer in trainers}
        deciding = [steps[t] for t in trainers if not t.run.diverged_file.exists()] or list(steps.values())
        at = max(set().union(*deciding), key=lambda step: (sum(step in own for own in deciding), step))
        here = [trainer for trainer in trainers if at in steps[trainer]]
        trainers = [trainer for trainer in trainers if at not in steps[trainer]]  # left behind long ago
        try:
            ends = Lockstep(here).train(resuming=True, at=at)
        except DivergedError as reason:  # of a single one
            ends = [reason]
        outcomes |= {trainer.run.path: end for trainer, end in zip(here, ends, strict=True)}
    return {path: outcomes[path] for path in runs}


def shape_of(config: RunConfig) -> dict[str, Any]:
    """What must be equal of runs that are trained together: all but seeds and how steps are taken."""
    shape = config.replace(seed=0).to_dict()
    return {**shape, "training": {"steps": config.training.steps}}


def _require_equal(first: Trainer, other: Trainer) -> None:
    path = other.run.path
    if reason := keeps_to_itself(other.config):
        raise ConfigError(f"{path}: {reason}")
    alike = same_data(first.task.facts(), other.task.facts())
    config = other.config.replace(data=first.config.data) if alike else other.config
    if shape_of(first.config) != shape_of(config):
        words = "only seeds and training settings may differ"
        raise ConfigError(f"{path}: has another shape than {first.run.path}: {words}")
    if other.task.training_batch(0).lengths is not None:
        raise ConfigError(f"{path}: sequences of different lengths cannot be trained together; train each run alone")


def _open_again(run: RunDirectory, config: RunConfig, facts: dict[str, Any], tasks: OpenTasks) -> Task:
    """The task of a run that was begun, or of one like it, if its data is still the same."""
    task = config.open_task(tasks=tasks)
    if not same_data(task.facts(), facts):
        raise RunError(
            f"{config.data} is not the data this run was trained on (hashes differ from {run.config_file}); "
            "name the original with --data"
        )
    return task


class Lockstep:
    """One run, or several of equal shape, from where they are to their ends."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        self.company = len(trainers)
        self.stop, self.team = trainers[0].stop, trainers[0].team
        self._reporter = trainers[0].reporter
        self._diverged: dict[Trainer, DivergedError] = {}
        self._pull: Pull | None = None

    def train(self, *, resuming: bool = False, at: int | None = None) -> list[Result | DivergedError]:
        """Run to the end; see `start` for errors. Of several runs, a diverged one's error is returned in its place.

        Args:
            resuming: go on from checkpoints.
            at: from those of this step, 0 for the beginning; None: the newest.
        """
        everybody = list(self.trainers)
        with ExitStack() as opened:
            for trainer in everybody:
                opened.enter_context(trainer.opened())
            for trainer in everybody:
                trainer.company = self.company
                trainer.begin(resuming=resuming, at=at)
            opened.enter_context(self.stop)
            results = self._run()
        return [self._diverged.get(trainer) or results[trainer] for trainer in everybody]

    def _run(self) -> dict[Trainer, Result]:
        steps = self.trainers[0].config.training.steps
        try:
            with ExitStack() as bars:
                for trainer in self.trainers:
                    bars.enter_context(trainer.reporter.training(trainer.step, steps))
                while True:
                    for trainer in self.trainers:
                        if trainer.validation_is_due:
                            trainer.end_turn()
                    if not self.trainers or self.trainers[0].step >= steps:
                        break
                    if self.trainers[0].patience_is_over:
                        self._reporter.note("no better validation for as long as training.patience: training ends")
                        break
                    started = time.monotonic()
                    self._step()
                    for trainer in self.trainers:
                        trainer.journal.training_seconds += time.monotonic() - started
                    self._save_or_stop()
            return {trainer: trainer.first_alone(trainer.finish) or {} for trainer in self.trainers}
        except StopRequested:
            number = self.team.most(self.stop.asked)
            self._reporter.note("stopping: saving first")
            raise Interrupted(number, [trainer.save() for trainer in self.trainers]) from None

    def _save_or_stop(self) -> None:
        """As the first process's clock says, or any process's signal."""
        due = self.team.first and any(trainer.saving_is_due for trainer in self.trainers)
        signal = self.stop.asked
        agreed = self.team.most(_SAVE + signal if signal else (_SAVE if due else _GO))
        if agreed > _SAVE:
            raise StopRequested
        if agreed == _SAVE:
            for trainer in self.trainers:
                trainer.save()

    def _step(self) -> None:
        given = [trainer.take() for trainer in self.trainers]
        if self._pull is None:
            self._pull = self._made()
        with enough_memory("a training step; make the batch, its steps or the number of replicas smaller"):
            found = self._pull(given)
        for trainer, own, pulled in zip(list(self.trainers), given, found, strict=True):
            try:
                trainer.learn(own, pulled)
            except DivergedError as reason:
                if self.company == 1:
                    raise
                trainer.reporter.warn(str(reason))
                trainer.run.diverged_file.write_text(f"{reason}\n", encoding="utf-8")
                self._diverged[trainer] = reason
                self.trainers.remove(trainer)
                self._pull = None

    def _made(self) -> Pull:
        """The forward and backward pass of all runs."""
        pull: Pull = self._pull_alone
        if self.company > 1:
            networks = [cast(ELMNetwork, trainer.network) for trainer in self.trainers]
            pull = partial(self._pull_together, Replicas(networks))
        if not self.trainers[0].cuda_graph:
            return pull
        return Captured(pull, [p for trainer in self.trainers for p in trainer.network.parameters()])

    def _pull_alone(self, given: list[Given]) -> list[Pulled]:
        return [self.trainers[0].pull(given[0])]

    def _pull_together(self, replicas: Replicas, given: list[Given]) -> list[Pulled]:
        states = [cast(NetworkState, own.state) for own in given]
        wanted = {name: None for trainer in self.trainers for name in monitored(trainer.config.training)}
        x, masks = torch.stack([own.x for own in given]), [own.masks or [] for own in given]
        with self.trainers[0].precision():
            out, after, signals = replicas(x, states, masks=masks, monitor=tuple(wanted))
        losses = [
            trainer.objective(own, o, s[0])
            for trainer, own, o, s in zip(self.trainers, given, out, signals, strict=True)
        ]
        torch.stack([loss for loss, _ in losses]).sum().backward()  # type: ignore[no-untyped-call]
        return [Pulled(state, loss, error) for state, (loss, error) in zip(after, losses, strict=True)]
