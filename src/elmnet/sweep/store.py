"""A sweep's directory, and what can be read from it.

sweep.json       what was asked: name, and the configuration of every trial by its name
trials/NAME/     a run directory each: the truth
table.parquet    written by `collect`
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from elmnet import models
from elmnet.errors import ConfigError, RunError
from elmnet.files import current_directory, sha256, write_atomic
from elmnet.scores import ALWAYS
from elmnet.sweep import halving
from elmnet.sweep.recipe import Recipe, Trial
from elmnet.sweep.trials import read_failure
from elmnet.train.config import RunConfig
from elmnet.train.identity import configuration_of, setting_of
from elmnet.train.run import RunDirectory

State = Literal["done", "begun", "waiting", "failed", "damaged", "stopped early"]
STATES: tuple[State, ...] = get_args(State)
"""All, as they are shown."""
UNFINISHED: tuple[State, ...] = ("waiting", "begun", "damaged")
"""What a sweep that runs goes on with; where a result is damaged, from the last checkpoint."""
LOST: tuple[State, ...] = ("failed", "damaged", "stopped early")
"""What has no scores, and a reason."""
VERSIONS = ("elmnet", "torch", "git")
"""Of the software a run began with."""


@dataclass(frozen=True)
class Seen:
    """A trial as its directory shows it."""

    trial: Trial
    state: State
    step: int
    reason: str | None = None
    result: Mapping[str, Any] | None = None


class Sweep:
    """A directory of trials."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.file = self.path / "sweep.json"
        self.table_file = self.path / "table.parquet"

    @classmethod
    def create(cls, path: Path, recipe: Recipe, trials: list[Trial]) -> "Sweep":
        """A new sweep, or an old one with this recipe's trials added; several drivers may do so at once.

        What decides no result, such as the place of the data, is the recipe's also in trials that were there and have
        not ended.

        Raises:
            RunError: the directory cannot be written, or what it holds is damaged.
        """
        sweep = cls(path)
        try:
            sweep.path.mkdir(parents=True, exist_ok=True)
            with FileLock(sweep.path / ".sweep.lock", timeout=60):
                known: dict[str, Any] = {"name": recipe.name, "trials": {}}
                known = sweep._read() if sweep.file.exists() else known
                asked = {trial.name: trial.config.to_dict() for trial in trials}
                fresh = {
                    name: config
                    for name, config in asked.items()
                    if known["trials"].get(name) != config
                    and not RunDirectory(sweep.path / "trials" / name).result_file.exists()
                }
                if fresh or not sweep.file.exists():
                    known["trials"] |= fresh
                    write_atomic(sweep.file, json.dumps(known, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"cannot write the sweep directory {path}: {error}") from error
        return sweep

    @classmethod
    def open(cls, path: Path) -> "Sweep":
        """An existing sweep.

        Raises:
            RunError: the directory holds none.
        """
        sweep = cls(path)
        if not sweep.file.is_file():
            raise RunError(f"{path} is not a sweep: it has no {sweep.file.name}")
        return sweep

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            if not isinstance(document["trials"], dict):
                raise TypeError("trials is no mapping")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.file}: damaged: {error}; run the recipe into another directory") from error
        return dict(document)

    @property
    def name(self) -> str:
        """What the first recipe called it."""
        return str(self._read().get("name", self.path.name))

    def trials(self) -> list[Trial]:
        """All trials, in the order in which they were asked for.

        Raises:
            RunError: a configuration is damaged.
        """
        try:
            return [Trial(name, RunConfig.from_dict(config)) for name, config in self._read()["trials"].items()]
        except ConfigError as error:
            raise RunError(f"{self.file}: {error}") from error

    def directory(self, trial: Trial) -> Path:
        """Where a trial runs."""
        return self.path / "trials" / trial.name

    def look(self) -> Iterator[Seen]:
        """Every trial's state, in order; reads only."""
        for trial in self.trials():
            yield self._look(trial)

    def _look(self, trial: Trial) -> Seen:
        directory = self.directory(trial)
        run = RunDirectory(directory)
        try:
            result = run.read_result()
        except RunError as error:
            return Seen(trial, "damaged", 0, str(error))
        if result is not None:
            return Seen(trial, "done", int(result.get("steps", 0)), result=result)
        reason = read_failure(directory)
        step = _last_step(run.metrics_file)
        if reason is not None:
            return Seen(trial, "failed", step, reason)
        reason = halving.reason_of(directory)
        if reason is not None:
            return Seen(trial, "stopped early", step, reason)
        return Seen(trial, "begun" if run.config_file.exists() else "waiting", step)


def _last_step(file: Path) -> int:
    """The step of the last whole line of a metrics file; 0 without any."""
    try:
        with file.open("rb") as lines:
            lines.seek(0, 2)
            lines.seek(max(0, lines.tell() - 4096))
            for line in reversed(lines.read().split(b"\n")):
                try:
                    return int(json.loads(line)["step"])
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        pass
    return 0


def columns(scores: Sequence[str] = ALWAYS) -> dict[str, str]:
    """Names and SQL types of what `row` gives, in order."""
    sizes = ("N", "d_m", "d_tree", "d_s", "k_e", "k_c", "P", "hidden", "readout", "flops_per_step")
    reached = (f"{part}_{kind}" for part in ("valid", "test") for kind in scores)
    return {
        **dict.fromkeys(("trial", "configuration", "setting", "state", "reason", "task", "data"), "VARCHAR"),
        "seed": "BIGINT",
        "model": "VARCHAR",
        **dict.fromkeys(sizes, "BIGINT"),
        "training_flops": "DOUBLE",
        "steps": "BIGINT",
        "learning_rate": "DOUBLE",
        "best_step": "BIGINT",
        **dict.fromkeys((*reached, "wall_seconds", "cpu_seconds", "training_seconds"), "DOUBLE"),
        "trained_together": "BIGINT",
        **dict.fromkeys(("config", "baselines", "weights_sha256", *VERSIONS), "VARCHAR"),
    }


def row(sweep: Sweep, seen: Seen, scores: Sequence[str] = ALWAYS) -> dict[str, Any]:
    """A trial as a row of the table, with columns for these scores of validation and test."""
    config, network = seen.trial.config, seen.trial.network
    cost = models.counts(network)
    result = seen.result or {}
    environment = RunDirectory(sweep.directory(seen.trial)).read_environment()
    return {
        "trial": seen.trial.name,
        "configuration": configuration_of(config),
        "setting": setting_of(config),
        "state": seen.state,
        "reason": seen.reason,
        "task": config.task,
        "data": result.get("data", Path(config.data).name),
        "seed": config.seed,
        "model": models.kind_of(network),
        **cost.by_symbol,
        "hidden": cost.hidden,
        "readout": cost.readout,
        "flops_per_step": cost.flops,
        "training_flops": seen.trial.flops,
        "steps": config.training.steps,
        "learning_rate": config.training.learning_rate,
        "best_step": result.get("best_step"),
        **{f"{part}_{kind}": _score(result.get(part, {}), kind) for part in ("valid", "test") for kind in scores},
        "wall_seconds": result.get("wall_seconds"),
        "cpu_seconds": result.get("cpu_seconds"),
        "training_seconds": result.get("training_seconds"),
        "trained_together": result.get("trained_together"),
        "config": json.dumps(config.to_dict()),
        "baselines": json.dumps(result["baselines"]) if result else None,
        "weights_sha256": _weights_hash(sweep.directory(seen.trial)) if seen.state == "done" else None,
        **{name: environment.get(name) for name in VERSIONS},
    }


def own_seconds(result: Mapping[str, Any]) -> float:
    """A run's wall time, of its result or its row of the table; replicas share what they took together."""
    return (result.get("wall_seconds") or 0.0) / (result.get("trained_together") or 1)


def _score(scores: Mapping[str, Any], kind: str) -> float | None:
    value = scores.get(kind)
    return None if value is None else float(value)


def _weights_hash(directory: Path) -> str | None:
    best = current_directory(directory / "best")
    try:
        return None if best is None else sha256(best / "model.safetensors")
    except OSError:
        return None
