"""A sweep in a few lines of YAML: which runs there are, worked out before anything runs.

    name: enwik8-number-versus-complexity
    task: enwik8
    data: /data/enwik8.xz                       # default: the task's own
    preset: small                               # what every run starts from
    set: {training.learning_rate: 5e-3}         # settings of every run
    trials:                                     # groups of runs, one after the other
      - grid: {memory: [3, 6, 10], synapses: 15}     # every combination
        budget: 120000                               # N follows: the largest that fits
        of: hidden                                   # P' = N (k_e + k_c); default `parameters`: P
        seeds: [0, 1, 2]
        steps: 4000                                  # or `flops: 1e14`: steps follow, for the whole run
      - list: [{units: 64, memory: 5}, {model: lstm, model.width: 40}]
        set: {training.clip: 0.5}                    # of this group
      - random: {count: 20, units: [16, 4096], memory: [3, 60]}   # log-uniform whole numbers
        seed: 1

A name is one of `units`, `memory`, `branches`, `synapses` (of the hidden layer; d_mlp stays 2·d_m), `recipe` (`paper`:
d_tree = 4·d_m), `model` (`lstm` and the others of `elmnet.models.KINDS`), `seed`, `steps`, or the dotted path of any
setting.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from elmnet import budget, models
from elmnet.config import NetworkConfig
from elmnet.errors import BudgetError, ConfigError
from elmnet.files import write_atomic
from elmnet.models import ModelConfig
from elmnet.strict import Config, instead, read_yaml
from elmnet.tasks import OpenTasks, find_task
from elmnet.theory.limits import Limit
from elmnet.train.config import RunConfig, amend, compose
from elmnet.train.identity import name_of

SHAPE = ("units", "memory", "branches", "synapses")
NAMES = (*SHAPE, "recipe", "model", "seed", "steps")
"""Of a row; any other is the path of a setting."""


@dataclass(frozen=True, kw_only=True)
class Group(Config):
    """Some of a sweep's runs."""

    grid: Any = None
    list: Any = None
    random: Any = None
    seed: int | None = None
    """Of the random draws; None: 0."""
    budget: float | None = None
    of: Literal["hidden", "parameters"] | None = None
    """What the budget counts; None: `parameters`."""
    seeds: tuple[int, ...] | None = None
    """Of the runs; None: 0."""
    steps: int | None = None
    flops: float | None = None
    """Of a whole training run (three forward passes a step, all sequences): the steps follow."""
    set: Any = None
    """Settings of these runs, as in the recipe."""

    def _check(self) -> None:
        given = [name for name in ("grid", "list", "random") if getattr(self, name) is not None]
        self._require(len(given) <= 1, f"one of grid, list, random, got {', '.join(given)}")
        self._require(self.grid is None or isinstance(self.grid, Mapping), "grid must map names to lists of values")
        rows = self.list
        good = isinstance(rows, Sequence) and len(rows) > 0 and all(isinstance(row, Mapping) for row in rows)
        self._require(rows is None or good, "list must be a list of settings, at least one")
        self._require(self.set is None or isinstance(self.set, Mapping), "set must map settings to values")
        self._require(self.steps is None or self.flops is None, "steps or flops, not both")
        for name in ("budget", "flops"):
            value = getattr(self, name)
            self._require(value is None or value > 0, f"{name} must be positive, got {value}")
        names = [name for part in (self.grid, self.set, self.random, *(rows or ())) for name in part or ()]
        wrong = [name for name in names if not isinstance(name, str)]
        self._require(not wrong, f"names of settings must be text, got {wrong[:1]}")
        empty = [name for name, values in (self.grid or {}).items() if values == []]
        self._require(not empty, f"grid.{', '.join(empty)} holds no values")
        self._require(self.seeds != (), "seeds must not be empty")
        self._require(self.seed is None or self.random is not None, "seed is of random draws; runs have `seeds`")
        self._require(self.of is None or self.budget is not None, "of says what a budget counts; there is no budget")

    def rows(self) -> Iterator[dict[str, Any]]:
        """What varies in each run, seeds apart."""
        if self.list is not None:
            yield from (dict(row) for row in self.list)
        elif self.random is not None:
            yield from self._draws()
        else:
            grid = {name: value if isinstance(value, list) else [value] for name, value in (self.grid or {}).items()}
            for values in product(*grid.values()):
                yield dict(zip(grid, values, strict=True))

    def _draws(self) -> Iterator[dict[str, Any]]:
        ranges = dict(self.random) if isinstance(self.random, Mapping) else {}
        count = ranges.pop("count", None)
        good = type(count) is int and count > 0
        self._require(good, f"random.count must be a whole number, at least 1, got {count!r}")
        self._require(len(ranges) > 0, "random needs a range to draw from, such as memory: [3, 60]")
        rng = np.random.default_rng(self.seed or 0)
        for name, ends in ranges.items():
            good = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
            good = good and 0 < ends[0] <= ends[1] < math.inf
            self._require(good, f"random.{name} must be [least, most], got {ends!r}")
        whole = {name for name, ends in ranges.items() if all(isinstance(end, int) for end in ends)}
        for _ in range(count):
            drawn = {name: math.exp(rng.uniform(math.log(low), math.log(high))) for name, (low, high) in ranges.items()}
            yield {name: round(value) if name in whole else value for name, value in drawn.items()}


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """A whole sweep."""

    name: str
    task: str
    trials: tuple[Group, ...]
    data: str | None = None
    preset: str = "small"
    set: Any = None
    about: str = ""
    """What it is for."""

    def _check(self) -> None:
        self._require(len(self.trials) > 0, "trials must hold at least one group")
        self._require(self.set is None or isinstance(self.set, Mapping), "set must map settings to values")

    @classmethod
    def read(cls, path: Path, data: str | None = None) -> "Recipe":
        """From a YAML file, or the name of a shipped recipe.

        Raises:
            ConfigError: the file cannot be read, or something in it is wrong.
        """
        path = shipped(path)
        try:
            recipe = cls.from_dict(read_yaml(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return recipe if data is None else recipe.replace(data=data)

    @classmethod
    def like(
        cls, config: RunConfig, networks: Sequence[NetworkConfig], *, name: str, about: str = "", seed: int = 0
    ) -> "Recipe":
        """Runs like another one, with hidden layers of other shapes.

        Args:
            config: how they are trained, and on what.
            networks: whose N, d_m, d_tree and d_s the runs' first hidden layers have.
            name: of the sweep.
            about: what it is for.
            seed: of every network; one that stands there again gets the next.
        """
        preset = compose(config.task, preset=config.preset, data=config.data).to_dict()
        own = {key: value for key, value in config.to_dict().items() if value != preset[key]}
        settings = {key: value for key, value in own.items() if key not in ("seed", "init")}
        rows: list[dict[str, Any]] = []
        for layer in (network.layers[0] for network in networks):
            sizes = {"units": layer.units, **layer.neuron.sizes}
            row: dict[str, Any] = {**{name: sizes[name] for name in SHAPE}, "seed": seed}
            while row in rows:
                row["seed"] += 1
            rows.append(row)
        start = {"task": config.task, "preset": config.preset, "data": config.data}
        return cls(name=name, about=about, **start, set=settings or None, trials=(Group(list=rows),))

    def write(self, path: Path) -> None:
        """As a YAML file, without what it does not say."""

        def said(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in settings.items() if value not in (None, "")}

        document = self.to_dict()
        ordered = {key: document[key] for key in ("name", "about", "task", "data", "preset", "set")}
        document = {**said(ordered), "trials": [said(group) for group in document["trials"]]}
        write_atomic(path, yaml.safe_dump(document, sort_keys=False, width=120))

    def expand(self) -> "list[Trial]":
        """Every run, in order, each once.

        Raises:
            ConfigError: a setting is wrong; the message names the group.
        """
        start = amend(compose(self.task, preset=self.preset, data=self.data), settings=_settings(self.set))
        tasks = OpenTasks()
        start = start.fitted(start.open_task(tasks=tasks))
        found: dict[str, Trial] = {}
        for number, group in enumerate(self.trials, 1):
            try:
                for config in self._of(group, start, tasks):
                    name = name_of(config, config.open_task(tasks=tasks).facts())
                    found.setdefault(name, Trial(name, config))
            except (ConfigError, BudgetError) as error:
                raise ConfigError(f"{self.name}, group {number}: {error}") from error
        return list(found.values())

    def _of(self, group: Group, start: RunConfig, tasks: OpenTasks) -> Iterator[RunConfig]:
        base = _amended(start, group.set or {}, tasks)
        for row in group.rows():
            _refuse_twice(group, row)
            for seed in [row["seed"]] if "seed" in row else group.seeds or (0,):
                yield _configure(base, group, row, seed, tasks)


def shipped(path: Path) -> Path:
    """A recipe of this package by its name, unless there is such a file."""
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    here = Path(__file__).parent / "recipes"
    if (here / f"{path}.yaml").exists():
        return here / f"{path}.yaml"
    names = ", ".join(sorted(file.stem for file in here.glob("*.yaml")))
    raise ConfigError(f"no recipe {str(path)!r}: neither a file nor one of {names}")


def _settings(values: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Settings without a seed."""
    if "seed" in (values or {}):
        raise ConfigError("set: a seed is no setting here; name it in `seeds`, or as `seed` in a grid or list")
    return values or {}


def _amended(
    config: RunConfig, settings: Mapping[str, Any], tasks: OpenTasks, *, fit: bool = False, **changes: Any
) -> RunConfig:
    """The run with other settings. Where they change how the data are read, and with `fit`, the model has as many
    inputs and outputs as those need."""
    first = {name: value for name, value in settings.items() if name.startswith("options")}
    found = amend(config, settings=_settings(first))
    if fit or found.options != config.options:
        found = found.fitted(found.open_task(tasks=tasks))
    rest = {name: value for name, value in settings.items() if name not in first}
    return amend(found, settings=_settings(rest), **changes)


def _refuse_twice(group: Group, row: Mapping[str, Any]) -> None:
    """A row that says what the group, or another of its names, says, too."""
    settings = {*row, *(group.set or {})}
    steps = [name for name in ("steps", "training.steps") if name in settings]
    steps += [f"the group's {name}" for name in ("steps", "flops") if getattr(group, name) is not None]
    twice = (
        ("a budget decides units; leave them out", group.budget is not None and "units" in row),
        ("recipe decides branches (4 d_m); leave them out", "recipe" in row and "branches" in row),
        ("seed of a row or seeds of the group, not both", group.seeds is not None and "seed" in row),
        (f"{' and '.join(steps)} all say how long a run is; keep one", len(steps) > 1),
    )
    for words, wrong in twice:
        if wrong:
            raise ConfigError(words)


def _configure(base: RunConfig, group: Group, row: Mapping[str, Any], seed: Any, tasks: OpenTasks) -> RunConfig:
    """The run of a row: shape, budget, length, other settings."""
    rest = {name: value for name, value in row.items() if name not in NAMES}
    tree = base.to_dict()
    for name in rest:
        if name.split(".")[0] not in tree:
            raise ConfigError(f"no setting {name!r}; {instead(name, (*NAMES, *tree), tree)}")
    config = base.with_model(row["model"]) if "model" in row else base
    config = _amended(config, rest, tasks, fit="model" in row, seed=seed)
    shape = {name: row[name] for name in (*SHAPE, "recipe") if name in row}
    model = config.model
    if isinstance(model, NetworkConfig):
        model = _shaped(model, group, shape)
        if row.get("model", "elm") != "elm":
            models.require_kind(row["model"], model, shape)
    elif shape:
        raise ConfigError(f"{', '.join(shape)} belong to ELM neurons; a {model.kind} has model.width, or a budget")
    elif group.budget is not None:
        if group.of == "hidden":
            raise ConfigError("models of several kinds share a budget of `parameters` only")
        model = models.spend(model, int(group.budget))
    config = config.replace(model=model)
    steps = row.get("steps", group.steps)
    if group.flops is not None:
        steps = max(1, round(group.flops / _step_flops(config, config.open_task(tasks=tasks).steps)))
    return config if steps is None else amend(config, settings={"training.steps": steps})


def _shaped(model: NetworkConfig, group: Group, shape: Mapping[str, Any]) -> NetworkConfig:
    """The ELM network of a row: its shape, or the budget's."""
    shape = dict(shape)
    recipe = shape.pop("recipe", None)
    if recipe not in (None, "paper"):
        raise ConfigError(f"recipe must be 'paper', got {recipe!r}")
    if recipe is not None:
        shape |= {"branches": 4 * shape.get("memory", model.layers[0].neuron.memory), "hidden": None}  # d_mlp = 2 d_m
    model = model.with_hidden(**shape)
    if group.budget is None:
        return model
    limit = Limit.hidden(group.budget) if group.of == "hidden" else Limit(group.budget)
    return budget.largest(lambda units: model.with_hidden(units=units), limit.value, "N", limit.price, limit.kind)


def _step_flops(config: RunConfig, time_steps: int) -> float:
    """Of one training step."""
    sequences = find_task(config.task).sequences_of(config.options)
    return budget.training_flops(models.counts(config.model).flops, sequences, time_steps)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Hash of everything that decides the result, and nothing else: equal names, equal runs."""
    config: RunConfig

    @property
    def network(self) -> ModelConfig:
        """Its network."""
        return self.config.model

    @property
    def flops(self) -> float | None:
        """Of the whole training; None: the sequences' length is known by the data alone."""
        time_steps = find_task(self.config.task).steps_of(self.config.options)
        return None if time_steps is None else self._flops(time_steps)

    @property
    def work(self) -> float:
        """As `flops`, or that of sequences of one step: enough to compare trials of one task."""
        return self.flops or self._flops(1)

    def _flops(self, time_steps: int) -> float:
        return _step_flops(self.config, time_steps) * self.config.training.steps
