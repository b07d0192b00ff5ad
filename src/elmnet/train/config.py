"""Everything that decides a run, in one strict configuration; and how command-line settings become one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import yaml

from elmnet import models
from elmnet.baselines.config import BaselineConfig
from elmnet.errors import ConfigError
from elmnet.models import ModelConfig
from elmnet.strict import Config, instead, read_yaml
from elmnet.tasks import PRESETS, OpenTasks, Task, find_task

Settings = Sequence[str] | Mapping[str, Any]
"""Of a run: each `path.to.key=value`, as on a command line, or paths and their values."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a network is trained. Published values are in each task's `paper` preset."""

    steps: int
    optimizer: Literal["adam", "adamax", "adamw"] = "adam"
    weight_decay: float = 0.0
    """Of `adamw`, on synapses and matrices; biases and timescales do not decay."""
    learning_rate: float = 5e-4
    """Peak, reached after the warm-up."""
    warmup: int = 100
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does then: a cosine or a line to 0 at the last step, or nothing."""
    train_only: Literal["all", "readout"] = "all"
    """What learns: all, or what comes after the hidden layers."""
    clip: float = 1.0
    """Largest global norm of the gradient."""
    label_smoothing: float = 0.0
    mlp_penalty: float = 0.0
    """Weight of the mean over units of (mean over time and memory of the MLP output's size)², on the first layer."""
    activity_penalty: float = 0.0
    """Weight of mean ReLU(activity), on the first layer."""
    reset_from: float = 1.0
    """Probability, at the first step, that a step of a stream task begins with all state at zero..."""
    reset_to: float = 0.01
    """...falling by a cosine to this one..."""
    reset_steps: int = 0
    """...which is reached after so many steps; 0: at once."""
    eval_every: int = 400
    """Steps of a turn: after each one a validation, the best-model rule and a checkpoint."""
    patience: int = 0
    """Turns without a better validation after which training ends before `steps`; 0: never."""
    log_every: int = 20
    checkpoint_minutes: float = 5.0
    """Time after which a checkpoint is written in the middle of a turn, too."""
    keep: int = 2
    """Checkpoints kept."""

    def _check(self) -> None:
        for name in ("steps", "eval_every", "log_every", "learning_rate", "clip", "checkpoint_minutes"):
            self._require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "patience", "mlp_penalty", "activity_penalty", "reset_steps"):
            self._require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("reset_from", "reset_to"):
            self._require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], got {getattr(self, name)}")
        self._require(
            not self.weight_decay or self.optimizer == "adamw",
            f"weight_decay is of the optimizer adamw, got {self.weight_decay} with {self.optimizer}",
        )
        self._require(0 <= self.label_smoothing < 1, f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        self._require(self.keep >= 2, f"keep must be at least 2 (the newest may be damaged), got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """Weights that a run begins with (`elmnet.train.warm`)."""

    path: str
    """A saved network."""
    sha256: str
    """Of its weights."""
    symbols: tuple[int, ...] | None = None
    """Of text it was trained on: the new run's vocabulary, too."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One run: task, data, model, training. Two runs with equal configurations give equal weights, byte for byte,
    on one machine."""

    task: str
    data: str
    """Data source: a name the task knows, or an absolute path."""
    preset: str
    """What the other settings started from."""
    seed: int = 0
    """Draws weights, connectomes, batches, resets and dropout."""
    dtype: Literal["float32", "float64", "bfloat16", "bf16-mixed"] = "float32"
    """Of the weights; `bf16-mixed`: float32 weights, and `torch.autocast` to bfloat16 where products allow it."""
    device: str = "cpu"
    """cpu, cuda or cuda:N. Needed on the machine that trains the run, not to read or write its configuration."""
    backend: str = "auto"
    threads: int = 1
    """CPU threads. Results are equal bit by bit only for equal numbers of threads. The reference backend's many small
    steps gain little from more, and lose much when another process wants the same cores."""
    model: ModelConfig
    """An ELM network, or a baseline."""
    options: Config
    """Of the task, for example `TextOptions`: its class's `Options`."""
    training: TrainConfig
    init: InitConfig | None = None
    """Weights to begin with; None: they are drawn."""

    def _check(self) -> None:
        self._require(0 <= self.seed < 2**63, f"seed must lie in 0..2^63-1, got {self.seed}")
        self._require(1 <= self.threads <= 4096, f"threads must lie in 1..4096, got {self.threads}")
        known = re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None
        self._require(known, f"device must be cpu, cuda or cuda:N, got {self.device!r}")
        penalties = self.training.mlp_penalty or self.training.activity_penalty
        self._require(
            not (penalties and isinstance(self.model, BaselineConfig)),
            "mlp_penalty and activity_penalty are of signals of ELM neurons, which a baseline has not; leave them 0",
        )

    def require_device(self) -> None:
        """To be asked before training; a run that was trained elsewhere can be read without.

        Raises:
            ConfigError: there is no such device here.
        """
        here = devices()
        self._require(self.device in here, f"device must be one of {', '.join(here)} here, got {self.device!r}")

    def open_task(self, data: str | None = None, *, tasks: OpenTasks | None = None) -> Task:
        """Its task on its data, or on others.

        Args:
            data: another source.
            tasks: those that are open already.

        Raises:
            DataError: the source is missing or damaged.
        """
        symbols = None if self.init is None else self.init.symbols
        known = None if symbols is None else {"symbols": symbols}
        tasks = OpenTasks() if tasks is None else tasks
        return tasks.of(self.task, self.options, data or self.data, seed=self.seed, facts=known)

    def fitted(self, task: Task, budget: int | None = None) -> Self:
        """The run with the inputs and outputs that its open task needs, and as many units as a budget P allows.

        Raises:
            BudgetError: one unit exceeds the budget.
        """
        model = task.fit_model(self.model)
        return self.replace(model=model if budget is None else models.spend(model, budget))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        if not isinstance(data, Mapping):
            raise ConfigError(f"RunConfig: expected a mapping of settings, got {data!r:.60}")
        options = find_task(str(data.get("task"))).Options.from_dict(data.get("options", {}))
        model = {"model": models.read(data["model"])} if "model" in data else {}
        return super().from_dict({**data, **model, "options": options})

    def with_model(self, model: str | ModelConfig) -> Self:
        """The run with another model, or one of another kind (`elmnet.models.choose`); a baseline without the penalties
        on signals of ELM neurons.

        Raises:
            ConfigError: there is no such kind.
        """
        model = models.choose(model, self.model) if isinstance(model, str) else model
        training = self.training
        if isinstance(model, BaselineConfig):
            training = training.replace(mlp_penalty=0.0, activity_penalty=0.0)
        return self.replace(model=model, training=training)


def compose(
    task: str,
    *,
    preset: str = "tiny",
    data: str | None = None,
    model: str | ModelConfig | None = None,
    budget: int | None = None,
    settings: Settings = (),
    **changes: Any,
) -> RunConfig:
    """A run from a task's preset and the settings of a command line, later ones winning.

    Args:
        task: name of the task.
        preset: `tiny`, `small` or `paper`.
        data: source; None: the task's embedded default.
        model: its kind (`elmnet.models.KINDS`), or all of it; None: the preset's.
        budget: P, for which as many units are taken as fit. The data are opened, for inputs and outputs cost, too.
        settings: `path.to.key=value`, for example `training.steps=100`, `model.layers.0.neuron.memory=8`; or a mapping
            from paths to values, which are taken as they are.
        changes: top-level fields of `RunConfig`.

    The number of inputs and outputs follows from the data: `RunConfig.fitted` comes next.

    Raises:
        ConfigError: a name or value is wrong.
        BudgetError: one unit exceeds the budget.
        DataError: there is a budget, and the data are missing or damaged.
    """
    kind = find_task(task)
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; known: {', '.join(PRESETS)}")
    start = kind.preset(preset)
    whole = RunConfig(
        task=task,
        data=kind.default_data,
        preset=preset,
        model=start["model"],
        options=kind.Options.from_dict(start["options"]),
        training=TrainConfig.from_dict(start["training"]),
    )
    whole = whole if model is None else whole.with_model(model)
    config = amend(whole, data=data, settings=settings, **changes)
    return config if budget is None else config.fitted(config.open_task(), budget)


def devices() -> list[str]:
    """Names of the devices that torch can train on here."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *(["cuda"] if gpus else []), *gpus]


def load_config(path: Path) -> RunConfig:
    """A run's configuration from YAML: the `config` of a run's config.yaml, or a file that holds it alone.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    try:
        document = read_yaml(path)
        config = RunConfig.from_dict(document.get("config", document) if isinstance(document, dict) else document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config.replace(data=_located(config.task, config.data))


def _located(task: str, data: str) -> str:
    """A data source for a run that may be resumed from another folder: a path as an absolute one."""
    known = data in (find_task(task).default_data, "official") or not Path(data).exists()
    return data if known else str(Path(data).resolve())


def amend(config: RunConfig, *, data: str | None = None, settings: Settings = (), **changes: Any) -> RunConfig:
    """The configuration with another data source, other top-level fields, and settings as for `compose`.

    Raises:
        ConfigError: a name or value is wrong.
    """
    tree = {**config.to_dict(), **changes}
    if data is not None:
        tree["data"] = _located(config.task, data)
    longest = ""
    for words, path, value in _each(settings):
        _set(tree, path, value, words)
        longest = longest or (words if path.endswith(".tau_max") else "")
    config = RunConfig.from_dict(tree)
    if longest and getattr(config.options, "timescales", "model") == "data":
        raise ConfigError(f"{longest}: the data decide tau_max here; add --set options.timescales=model to decide it")
    return config


def _each(settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """Every setting's name in words, its path and its value."""
    if isinstance(settings, Mapping):
        for path, value in settings.items():
            yield f"setting {path}", str(path), value.item() if isinstance(value, np.generic) else deepcopy(value)
        return
    for setting in settings:
        words = f"--set {setting}"
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{words}: expected path.to.key=value")
        yield words, path.strip(), _value(text, words)


_ELSEWHERE = {
    "task": "name another TASK",
    "preset": "use --preset",
    "data": "use --data",
    "model.inputs": "it follows from the data",
    "model.outputs": "it follows from the data",
}


def _set(tree: dict[str, Any], path: str, value: Any, words: str) -> None:
    """Apply one setting."""
    if path in _ELSEWHERE:
        raise ConfigError(f"{words}: {path} cannot be set; {_ELSEWHERE[path]}")
    *parents, last = path.split(".")
    here: Any = tree
    for depth, key in enumerate([*parents, last]):
        where = ".".join([*parents, last][:depth]) or "the run"
        index: Any = key
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                raise ConfigError(f"{words}: {where} is a list of {len(here)}, it has no {key!r}")
            index = int(key)
        elif not isinstance(here, dict):
            raise ConfigError(f"{words}: {where} holds no settings of its own")
        elif key not in here:
            raise ConfigError(f"{words}: {where} has no setting {key!r}; {instead(key, here, tree)}")
        if depth == len(parents):
            here[index] = value
        else:
            here = here[index]


def _value(text: str, words: str) -> Any:
    """Read as YAML; numbers may be written as 1e-3."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date that is none
        raise ConfigError(f"{words}: the value is not valid YAML") from error
