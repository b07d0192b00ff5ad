"""The training loop: exact to the byte when it is interrupted and resumed.

Everything that influences the next step is either a pure function of (configuration, step) - batches, schedules,
resets - or part of a checkpoint: weights, optimiser, carried state, torch's random generator, the best score so far.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from elmnet import models
from elmnet.errors import CheckpointError, DivergedError, ElmnetError, RunError
from elmnet.files import recover_directory, replace_directory, write_atomic
from elmnet.models import Network, State
from elmnet.tasks import Batch, Scores, Split, Task, in_words, open_task
from elmnet.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    pack,
    save_checkpoint,
    set_aside,
    sweep,
    unpack,
)
from elmnet.train.config import RunConfig
from elmnet.train.evaluate import evaluate
from elmnet.train.objective import learning_rate, monitored, penalty, resets
from elmnet.train.progress import Reporter
from elmnet.train.run import MetricsLog, RunDirectory
from elmnet.train.signals import StopRequested, StopSignals

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax}


class Interrupted(Exception):
    """A signal asked to stop; everything is saved."""

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; saved {checkpoint}")
        self.number = number


def start(
    config: RunConfig, path: Path, task: Task, *, reporter: Reporter | None = None, tensorboard: bool = False
) -> dict[str, Any]:
    """Train from the beginning in a new run directory; returns the result (also in result.json).

    Raises:
        RunError: the directory holds a run already or cannot be written.
        DivergedError: the loss or gradient is no longer finite.
        CheckpointError: a checkpoint could not be written.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written first.
    """
    run = RunDirectory(path)
    trainer = Trainer(run, config, task, reporter or Reporter(), tensorboard=tensorboard)  # refuses what cannot run
    run.create(config, task.facts())
    return trainer.train()


def resume(
    path: Path, *, data: str | None = None, reporter: Reporter | None = None, tensorboard: bool = False
) -> dict[str, Any]:
    """Continue an interrupted run exactly; a finished one returns its result.

    Args:
        path: the run directory.
        data: where its data lies now, if it has moved; the hashes must be the same.

    Raises:
        RunError: there is no run, its configuration is damaged, or the data is not what it was trained on.
    """
    run = RunDirectory.open(path)
    config, facts = run.read_config()
    reporter = reporter or Reporter()
    result = run.read_result()
    if result is not None:
        reporter.note(f"{path} is finished")
        return result
    task = open_task(config.task, config.options, data or config.data, seed=config.seed)
    if task.facts()["sha256"] != facts["sha256"]:
        raise RunError(
            f"{data or config.data} is not the data this run was trained on (hashes differ from {run.config_file}); "
            "name the original with --data"
        )
    return Trainer(run, config, task, reporter, tensorboard=tensorboard).train(resuming=True)


class Trainer:
    """One process training one run."""

    def __init__(
        self, run: RunDirectory, config: RunConfig, task: Task, reporter: Reporter, *, tensorboard: bool = False
    ) -> None:
        self.run, self.config, self.task, self.reporter = run, config, task, reporter
        self._writer = _summary_writer() if tensorboard else None
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.network = _build(config)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = _OPTIMIZERS[config.training.optimizer](
            trained, lr=config.training.learning_rate
        )
        self.step = 0
        self.state: State | None = None
        self.evaluated = 0  # the step after which the last validation ran
        self.best: dict[str, Any] | None = None  # {"step", scores of that validation}
        self._window: dict[str, float] = {}  # sums since the last logged step
        self._training_seconds = 0.0  # spent in training steps alone
        self._earlier = {"wall_seconds": 0.0, "cpu_seconds": 0.0}  # spent by processes before this one
        self._stop = StopSignals()
        self._log: MetricsLog | None = None
        self._board: Any = None

    def train(self, *, resuming: bool = False) -> dict[str, Any]:
        """Run to the end; see `start` for errors."""
        lock = self.run.lock()
        try:
            size = self._restore() if resuming else 0
            self._log = MetricsLog(self.run.metrics_file, size)
            self._started, self._cpu_started = time.monotonic(), time.process_time()
            self._saved = self._started
            if self._writer is not None:
                self._board = self._writer(os.fspath(self.run.path / "tensorboard"), purge_step=self.step)
            self._describe()
            with self._stop:
                return self._run()
        finally:
            for file in (self._log, self._board):
                if file is not None:
                    file.close()
            lock.release()

    def _run(self) -> dict[str, Any]:
        settings = self.config.training
        try:
            with self.reporter.training(self.step, settings.steps):
                while True:
                    if self._validation_is_due():
                        self._validate()
                        self._save()
                    if self.step >= settings.steps:
                        break
                    started = time.monotonic()
                    self._train_step()
                    self._training_seconds += time.monotonic() - started
                    if time.monotonic() - self._saved > 60 * settings.checkpoint_minutes:
                        self._save()
                    self._stop.check()
            return self._finish()
        except StopRequested:
            assert self._stop.number is not None
            self.reporter.note("stopping: saving first")
            raise Interrupted(self._stop.number, self._save()) from None

    def _train_step(self) -> None:
        settings, task = self.config.training, self.task
        rate = learning_rate(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = task.training_batch(self.step)
        x, y = batch.x.to(self.network.device), batch.y.to(self.network.device)
        out, state, signals = self.network(x, self._carried(batch), batch.lengths, monitor=monitored(settings))
        error = task.loss(out, y, settings.label_smoothing)
        loss = error + penalty(signals[0], settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self._require_finite(loss.item(), norm.item())
        self.optimizer.step()
        self.state = state.detach()
        self.step += 1
        self._record(loss.item(), error.item(), norm.item(), rate, y.numel())

    def _carried(self, batch: Batch) -> State | None:
        if batch.fresh or resets(self.step, self.config.training, self.config.seed):
            return None
        return self.state

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        good = list_checkpoints(self.run.checkpoints)
        raise DivergedError(
            f"step {self.step}: loss {loss}, gradient norm {norm}; the weights were left as they were before it. "
            f"Last good checkpoint: {good[0] if good else 'none yet'}. "
            f"Try a learning rate below {self.config.training.learning_rate:g}"
        )

    def _record(self, loss: float, error: float, norm: float, rate: float, items: int) -> None:
        for name, value in (("loss", loss), (self.task.criterion, error), ("gradient_norm", norm), ("steps", 1.0)):
            self._window[name] = self._window.get(name, 0.0) + value
        steps = self._window["steps"]
        means = {name: total / steps for name, total in self._window.items() if name != "steps"}
        score = self.task.scores(means[self.task.criterion], math.nan).get("bpc")
        words = f"loss {means['loss']:.4f}" + (f"  bpc {score:.3f}" if score is not None else "")
        if self.best is not None:
            words += f"  best {self.task.metric} {self.best[self.task.metric]:.4f}"
        self.reporter.step(self.step, words, items, self.task.unit)
        if self.step % self.config.training.log_every == 0:
            self._write({"event": "train", "step": self.step, **means, "learning_rate": rate})
            self._window = {}

    def _validation_is_due(self) -> bool:
        settings = self.config.training
        turn = self.step > 0 and (self.step % settings.eval_every == 0 or self.step == settings.steps)
        return turn and self.evaluated != self.step

    def _validate(self) -> None:
        scores = self._evaluate("valid", whole=False)
        better = self.best is None or self._better(scores, self.best)
        if better:
            self.best = {"step": self.step, **scores}
            replace_directory(self.run.best, self.network.save_pretrained)
        self.evaluated = self.step
        self._write({"event": "valid", "step": self.step, **scores, "best": better})
        self.reporter.note(f"step {self.step}: validation {in_words(scores)}{'  (best)' if better else ''}")
        self.reporter.validated(self.step, scores[self.task.metric])

    def _better(self, new: Scores, old: dict[str, Any]) -> bool:
        metric = self.task.metric
        return bool(new[metric] > old[metric] if self.task.larger_is_better else new[metric] < old[metric])

    def _evaluate(self, split: Split, *, whole: bool, network: Network | None = None) -> Scores:
        batches = self.task.count_batches(split, whole=whole)
        with self.reporter.phase(f"scoring {split}", batches) as advance:

            def after_batch() -> None:
                advance()
                self._stop.check()

            return evaluate(network or self.network, self.task, split, whole=whole, advance=after_batch)

    def _finish(self) -> dict[str, Any]:
        """Score the best model on whole splits and write result.json."""
        assert self.best is not None
        best = self.run.best_network(self.config.backend).to(self.network.device)
        splits: tuple[Split, ...] = ("valid", "test")
        final = {split: self._evaluate(split, whole=True, network=best) for split in splits}
        price, peak = models.counts(self.config.model), _peak_memory()
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
            "training_seconds": round(self._training_seconds, 1),
            "wall_seconds": round(self._wall_seconds(), 1),
            "cpu_seconds": round(self._cpu_seconds(), 1),
            "steps_per_second": round(self.step / self._training_seconds, 3),
            "peak_memory_bytes": peak,
        }
        write_atomic(self.run.result_file, json.dumps(result, indent=2) + "\n")
        return result

    def _save(self) -> Path:
        assert self._log is not None
        numbers = {
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "window": self._window,
            "metrics_bytes": self._log.sync(),
            "training_seconds": self._training_seconds,
            "wall_seconds": self._wall_seconds(),
            "cpu_seconds": self._cpu_seconds(),
        }
        training = pack(self.network, self.optimizer, self.state)
        checkpoint = Checkpoint(self.network.state_dict(), training, numbers)
        path = save_checkpoint(self.run.checkpoints, self.step, checkpoint, keep=self.config.training.keep)
        self._saved = time.monotonic()
        return path

    def _wall_seconds(self) -> float:
        return self._earlier["wall_seconds"] + time.monotonic() - self._started

    def _cpu_seconds(self) -> float:
        return self._earlier["cpu_seconds"] + time.process_time() - self._cpu_started

    def _restore(self) -> int:
        """Load the newest undamaged checkpoint; returns how much of metrics.jsonl belongs to it."""
        recover_directory(self.run.best)
        sweep(self.run.checkpoints)
        paths = list_checkpoints(self.run.checkpoints)
        for path in paths:
            try:
                checkpoint = load_checkpoint(path)
            except CheckpointError as error:
                self.reporter.warn(f"{error}; kept as {set_aside(path).name}; using the previous checkpoint")
                continue
            return self._load(checkpoint)
        words = "no checkpoint is intact" if paths else "there is no checkpoint yet"
        self.reporter.note(f"{self.run.path}: {words}; starting again from step 0")
        return 0

    def _load(self, checkpoint: Checkpoint) -> int:
        numbers = checkpoint.numbers
        self.network.load_state_dict(checkpoint.model)
        self.state = unpack(checkpoint.training, self.network, self.optimizer)
        self.step, self.evaluated = numbers["step"], numbers["evaluated"]
        self.best, self._window = numbers["best"], numbers["window"]
        self._training_seconds = numbers["training_seconds"]
        self._earlier = {name: numbers[name] for name in self._earlier}
        return int(numbers["metrics_bytes"])

    def _describe(self) -> None:
        price = models.counts(self.config.model)
        backend = ", ".join(self.network.backends())
        unit = "" if price.complexity is None else f", k_e {price.complexity}, k_c {price.connectivity}"
        kind = models.kind_of(self.config.model)
        self.reporter.note(
            f"{self.task.name} on {self.task.data_name}: {kind}, {price.units} units{unit}, "
            f"P {price.parameters:,}; backend {backend}, {self.config.threads} threads"
        )
        if self.step:
            self.reporter.note(f"continuing at step {self.step} of {self.config.training.steps}")

    def _write(self, record: dict[str, Any]) -> None:
        assert self._log is not None
        self._log.write(record)
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{record['event']}/{name}", value, record["step"])


def _build(config: RunConfig) -> Network:
    """The untrained network, after asking whether a backend can run it."""
    try:
        network = models.build(config.model, seed=config.seed, backend=config.backend)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, ElmnetError) or "memory" not in str(error):
            raise
        words = f"not enough memory for {models.counts(config.model).parameters:,} parameters: {error}"
        raise RunError(words) from error
    network.to(device=torch.device(config.device), dtype=getattr(torch, config.dtype)).train()
    network.backends()
    return network


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard is not installed; pip install 'elmnet[tensorboard]'") from error
    return SummaryWriter


def _peak_memory() -> int | None:
    """Largest resident size of this process, bytes; None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
