"""One run's training, in pieces: `elmnet.train.loop` decides which comes when."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from elmnet import models, tables
from elmnet.errors import CheckpointError, DivergedError, in_a_line
from elmnet.files import current_directory, recover_directory, replace_directory, write_atomic
from elmnet.models import Network
from elmnet.scores import larger_is_better, leading
from elmnet.tasks import Scores, Split, Task, in_words
from elmnet.train import warm
from elmnet.train.capture import Given, Pulled
from elmnet.train.checkpoint import (
    Checkpoint,
    clean_up,
    go_back_to,
    intact_steps,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    path_of,
    save_checkpoint,
)
from elmnet.train.config import RunConfig
from elmnet.train.evaluate import evaluate
from elmnet.train.journal import Journal, peak_memory
from elmnet.train.learner import Learner, Lesson
from elmnet.train.parallel import Team
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory
from elmnet.train.signals import StopRequested, StopSignals

T = TypeVar("T")


class Trainer(Learner):
    """A learner with a run directory: it is scored, writes down how it goes, and can go on after an interruption.

    Args:
        run: where it is written.
        config: what to do.
        task: the opened task of that configuration.
        reporter: whom to tell.
        stop: the signals to heed, shared by runs that are trained together.
        team: the processes that train this network together. All take part in steps and checkpoints; only the first
            one scores and writes.
        tensorboard: write its events, too.
        cuda_graph: capture the forward and backward pass.

    Raises:
        ConfigError, ShapeError: as for `Learner`.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        task: Task,
        reporter: Reporter,
        *,
        stop: StopSignals | None = None,
        team: Team | None = None,
        tensorboard: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__(config, task, team=team, cuda_graph=cuda_graph)
        self.run, self.reporter, self.stop = run, reporter, stop or StopSignals()
        self.journal = Journal(run, tensorboard=tensorboard and self.team.first)
        self.evaluated = 0  # the step after which the last validation ran
        self.best: dict[str, Any] | None = None  # {"step", scores of that validation}
        self.company = 1  # runs trained together in this process

    # From the beginning to the end

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Around everything: nobody else trains here.

        Raises:
            RunTakenError: another process does.
            RunError: the directory cannot be written.
        """
        lock = self.run.lock() if self.team.first else None
        try:
            yield
        finally:
            try:
                self.journal.close()
            finally:  # a full disk lets nothing be closed
                if lock is not None:
                    lock.release()

    def intact(self) -> set[int]:
        """Steps with an undamaged checkpoint; step 0 is one as long as none was pruned."""
        lock = self.run.lock()
        try:
            clean_up(self.run.checkpoints)
        finally:
            lock.release()
        steps = intact_steps(self.run.checkpoints)
        return steps if len(steps) >= self.config.training.keep else {*steps, 0}

    def begin(self, *, resuming: bool, at: int | None = None) -> None:
        """Before the first step, once opened.

        Args:
            resuming: go on from a checkpoint, if the run was begun; otherwise it must not have been.
            at: from this one, an intact one or 0; None: from the newest that is intact.

        Raises:
            RunTakenError: it was begun.
        """
        if resuming and self.run.config_file.exists():
            self._restore(at)
        elif self.team.first:
            self.run.create(self.config, self.task.facts())
        if self.step == 0 and self.config.init is not None:
            left = warm.take(self.network, self.config.init)
            drawn = f"; drawn anew: {', '.join(left)}" if left else ""
            self.reporter.note(f"beginning with the weights of {self.config.init.path}{drawn}")
        self.journal.start_clocks()
        self._saved = time.monotonic()
        if self.team.first:
            self.journal.open(self.step)
            self._describe()

    def _describe(self) -> None:
        price = models.counts(self.config.model)
        backend = ", ".join(self.network.backends())
        unit = "" if price.complexity is None else f", k_e {price.complexity}, k_c {price.connectivity}"
        kind = models.kind_of(self.config.model)
        team = "" if self.team.size == 1 else f", {self.team.size} processes"
        self.reporter.note(
            f"{self.task.name} on {self.task.data_name}: {kind}, {price.units} units{unit}, "
            f"P {price.parameters:,}; backend {backend}, {self.config.threads} threads{team}"
        )
        settings = self.config.training
        if settings.steps <= settings.warmup:
            words = f"the learning rate only rises, over training.warmup={settings.warmup} steps of {settings.steps}"
            self.reporter.note(f"{words}: it will not fall to 0 at the end")
        if self.step:
            self.reporter.note(f"continuing at step {self.step} of {self.config.training.steps}")

    @property
    def saving_is_due(self) -> bool:
        """Whether the last checkpoint was long enough ago."""
        return time.monotonic() - self._saved > 60 * self.config.training.checkpoint_minutes

    @property
    def validation_is_due(self) -> bool:
        """Whether a turn has just ended."""
        settings = self.config.training
        turn = self.step > 0 and (self.step % settings.eval_every == 0 or self.step == settings.steps)
        return turn and self.evaluated != self.step

    @property
    def patience_is_over(self) -> bool:
        """Whether no validation has been better for as many turns as the settings allow; everybody in the team asks."""
        settings = self.config.training
        if not settings.patience or self.evaluated != self.step:
            return False
        since = 0 if self.best is None else self.step - self.best["step"]
        return bool(self.team.tell(int(since >= settings.patience * settings.eval_every)))

    # After a training step

    def learn(self, given: Given, pulled: Pulled) -> Lesson:
        try:
            lesson = super().learn(given, pulled)
        except DivergedError as error:
            good = list_checkpoints(self.run.checkpoints)
            raise DivergedError(
                f"{error}. Last good checkpoint: {good[0] if good else 'none yet'}. "
                f"Try a learning rate below {self.config.training.learning_rate:g}"
            ) from None
        self._record(lesson)
        return lesson

    def _record(self, lesson: Lesson) -> None:
        means = self.journal.count(
            {"loss": lesson.loss, self.task.criterion: lesson.error, "gradient_norm": lesson.gradient_norm}
        )
        score = self.task.scores(means[self.task.criterion], math.nan).get("bpc")
        words = f"loss {means['loss']:.4f}" + (f"  bpc {score:.3f}" if score is not None else "")
        if self.best is not None:
            metric = self._metric(self.best)
            words += f"  best {metric} {tables.score(self.best[metric])}"
        self.reporter.step(self.step, words, lesson.items, self.task.unit)
        if self.step % self.config.training.log_every == 0:
            rate = lesson.learning_rate
            self._log({"event": "train", "step": self.step, **means, "learning_rate": rate})
            self.journal.forget()

    def _log(self, record: dict[str, Any]) -> None:
        self.journal.write(record)
        self.reporter.logged(record)

    # Scores

    def end_turn(self) -> None:
        """Score, keep the network if it is the best so far, and save."""
        self.first_alone(self._validate)
        self.evaluated = self.step
        self.save()

    def first_alone(self, work: Callable[[], T]) -> T | None:
        """Let the team's first process do this while the others wait.

        Raises:
            StopRequested: everywhere, if a signal kept it from its end.
        """
        done, stopped = None, False
        if self.team.first:
            try:
                done = work()
            except StopRequested:
                stopped = True
        if self.team.most(int(stopped)):
            raise StopRequested
        return done

    def _validate(self) -> None:
        scores = self._evaluate("valid", whole=False)
        better = self.best is None or self._better(scores, self.best)
        if better:
            self.best = {"step": self.step, **scores}
            replace_directory(self.run.best, self.network.save_pretrained)
        self._log({"event": "valid", "step": self.step, **scores, "best": better})
        self.reporter.note(f"step {self.step}: validation {in_words(scores)}{'  (best)' if better else ''}")
        self.reporter.validated(self.step, scores[self.task.metric])

    def _metric(self, best: dict[str, Any]) -> str:
        """What chooses the best; a run of older elmnet may have none of the task's own."""
        return self.task.metric if self.task.metric in best else leading(best)

    def _better(self, new: Scores, old: dict[str, Any]) -> bool:
        metric = self._metric(old)
        if not math.isfinite(old[metric]):
            return math.isfinite(new[metric])
        return bool(new[metric] > old[metric] if larger_is_better(metric) else new[metric] < old[metric])

    def _evaluate(self, split: Split, *, whole: bool, network: Network | None = None) -> Scores:
        batches = self.task.count_batches(split, whole=whole)
        with self.reporter.phase(f"scoring {split}", batches) as advance:

            def after_batch() -> None:
                advance()
                self.stop.check()

            with self.precision():
                return evaluate(network or self.network, self.task, split, whole=whole, advance=after_batch)

    def finish(self) -> dict[str, Any]:
        """Score the best model on whole splits and write result.json."""
        assert self.best is not None
        best = self.run.best_network(self.config.backend).to(self.network.device)
        splits: tuple[Split, ...] = ("valid", "test")
        final = {split: self._evaluate(split, whole=True, network=best) for split in splits}
        price, peak, seconds = models.counts(self.config.model), peak_memory(), self.journal.training_seconds
        result = {
            "task": self.task.name,
            "data": self.task.data_name,
            "steps": self.step,
            "best_step": self.best["step"],
            "valid": final["valid"],
            "test": final["test"],
            "baselines": self.task.baselines(),
            "model": models.kind_of(self.config.model),
            "parameters": price.parameters,
            "units": price.units,
            "complexity": price.complexity,
            "connectivity": price.connectivity,
            "flops_per_step": price.flops,
            "training_seconds": round(seconds, 1),
            **{name: round(value, 1) for name, value in self.journal.cost().items()},
            "steps_per_second": round(self.step / seconds, 3),
            "peak_memory_bytes": peak,
        }
        if self.company > 1:
            result["trained_together"] = self.company  # the seconds are of all of them
        if self.team.size > 1:
            result["processes"] = self.team.size
        write_atomic(self.run.result_file, json.dumps(result, indent=2) + "\n")
        return result

    # Checkpoints

    def save(self) -> Path:
        """Write a checkpoint; everybody in the team calls this."""
        tensors, path = self.tensors(), path_of(self.run.checkpoints, self.step)
        if self.team.first:
            own = {"step": self.step, "evaluated": self.evaluated, "best": self.best}
            checkpoint = Checkpoint(*tensors, own | self.journal.numbers())
            path = save_checkpoint(self.run.checkpoints, self.step, checkpoint, keep=self.config.training.keep)
            self.run.diverged_file.unlink(missing_ok=True)
        self._saved = time.monotonic()
        return path

    def _restore(self, at: int | None) -> None:
        """Load a checkpoint, if there is one."""
        checkpoint = None
        if self.team.first:
            recover_directory(self.run.best)
            clean_up(self.run.checkpoints)
            checkpoint = self._newest() if at is None else go_back_to(self.run.checkpoints, at)
        told = self.team.tell(0 if checkpoint is None else checkpoint.numbers["step"])
        if not self.team.first and told:
            checkpoint = load_checkpoint(path_of(self.run.checkpoints, told))
        if checkpoint is not None:
            self._load(checkpoint)

    def _newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact, or word that the run starts again."""
        some = list_checkpoints(self.run.checkpoints)
        found = load_newest(self.run.checkpoints, self.reporter.warn)
        if found is None:
            words = "no checkpoint is intact" if some else "there is no checkpoint yet"
            say = self.reporter.warn if some else self.reporter.note
            say(f"{self.run.path}: {words}; starting again from step 0")
        return found

    def _load(self, checkpoint: Checkpoint) -> None:
        numbers = checkpoint.numbers
        try:
            self.take_over(checkpoint.model, checkpoint.training, numbers["step"])
            self.evaluated, self.best = numbers["evaluated"], numbers["best"]
            self.journal.load(numbers)
            if self.best is not None and current_directory(self.run.best) is None:
                self.reporter.warn(f"{self.run.best} is gone; the next validation chooses anew")
                self.evaluated, self.best = 0, None
        except (KeyError, ValueError, RuntimeError) as error:
            words = f"{self.run.config_file} describes another network or optimiser than its checkpoints hold"
            raise CheckpointError(f"{words} ({in_a_line(error)}); was it edited?") from error
