"""A sweep in a few lines of YAML: which runs there are, worked out before anything runs.

    name: enwik8-number-versus-complexity
    task: enwik8
    data: /data/enwik8.xz                       # default: the task's own
    preset: small                               # what every run starts from
    set: {training.learning_rate: 5e-3}         # settings of every run
    trials:                                     # groups of runs, one after the other
      - grid: {memory: [3, 6, 10], synapses: 15}     # every combination
        budget: 120000                               # N follows: the largest that fits
        of: hidden                                   # P' = N (k_e + k_c); or `parameters`: P
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

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from elmnet import budget, models
from elmnet.config import NetworkConfig
from elmnet.errors import BudgetError, ConfigError
from elmnet.models import ModelConfig
from elmnet.strict import Config, read_yaml
from elmnet.tasks import Task, find_task, open_task
from elmnet.train.config import RunConfig, amend, compose
from elmnet.train.identity import name_of

SHAPE = ("units", "memory", "branches", "synapses")


@dataclass(frozen=True, kw_only=True)
class Group(Config):
    """Some of a sweep's runs."""

    grid: Any = None
    list: Any = None
    random: Any = None
    seed: int = 0
    """Of the random draws."""
    budget: float | None = None
    of: Literal["hidden", "parameters"] = "parameters"
    seeds: tuple[int, ...] = (0,)
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
        self._require(
            rows is None or (isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows)),
            "list must be a list of settings",
        )
        self._require(self.set is None or isinstance(self.set, Mapping), "set must map settings to values")
        self._require(self.steps is None or self.flops is None, "steps or flops, not both")
        for name in ("budget", "flops"):
            value = getattr(self, name)
            self._require(value is None or value > 0, f"{name} must be positive, got {value}")
        empty = [name for name, values in (self.grid or {}).items() if values == []]
        self._require(not empty, f"grid.{', '.join(empty)} holds no values")
        self._require(len(self.seeds) > 0, "seeds must not be empty")

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
        self._require(isinstance(count, int) and count > 0, f"random.count must be a whole number, got {count!r}")
        rng = np.random.default_rng(self.seed)
        for name, ends in ranges.items():
            good = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
            self._require(good and 0 < ends[0] <= ends[1], f"random.{name} must be [least, most], got {ends!r}")
        for _ in range(count):
            yield {
                name: round(math.exp(rng.uniform(math.log(low), math.log(high))))
                for name, (low, high) in ranges.items()
            }


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

    def expand(self) -> "list[Trial]":
        """Every run, in order, each once.

        Raises:
            ConfigError: a setting is wrong; the message names the group.
        """
        start = amend(compose(self.task, preset=self.preset, data=self.data), settings=_settings(self.set))
        task = open_task(start.task, start.options, start.data, seed=start.seed)
        start, contents = start.replace(model=task.fit_model(start.model)), task.facts()["sha256"]
        found: dict[str, Trial] = {}
        for number, group in enumerate(self.trials, 1):
            try:
                for config in self._of(group, start, task):
                    name = name_of(config, contents)
                    found.setdefault(name, Trial(name, config))
            except (ConfigError, BudgetError) as error:
                raise ConfigError(f"{self.name}, group {number}: {error}") from error
        return list(found.values())

    def _of(self, group: Group, start: RunConfig, task: Task) -> Iterator[RunConfig]:
        base = amend(start, settings=_settings(group.set))
        for row in group.rows():
            seeds = [row["seed"]] if "seed" in row else group.seeds
            for seed in seeds:
                yield _configure(base, group, row, seed, task)


def shipped(path: Path) -> Path:
    """A recipe of this package by its name, unless there is such a file."""
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    here = Path(__file__).parent / "recipes"
    if (here / f"{path}.yaml").exists():
        return here / f"{path}.yaml"
    names = ", ".join(sorted(file.stem for file in here.glob("*.yaml")))
    raise ConfigError(f"no recipe {str(path)!r}: neither a file nor one of {names}")


def _settings(values: Mapping[str, Any] | None) -> list[str]:
    if "seed" in (values or {}):
        raise ConfigError("set: a seed is no setting here; name it in `seeds`, or as `seed` in a grid or list")
    return [f"{name}={json.dumps(value)}" for name, value in (values or {}).items()]


def _configure(base: RunConfig, group: Group, row: Mapping[str, Any], seed: Any, task: Task) -> RunConfig:
    """The run of a row: shape, budget, length, other settings."""
    rest = {name: value for name, value in row.items() if name not in (*SHAPE, "model", "recipe", "seed", "steps")}
    config = base
    if "model" in row:
        config = base.with_model(row["model"])
        config = config.replace(model=task.fit_model(config.model))
    config = amend(config, settings=_settings(rest), seed=seed)
    shape = {name: row[name] for name in (*SHAPE, "recipe") if name in row}
    if group.budget is not None and "units" in shape:
        raise ConfigError("a budget decides units; leave them out")
    model = config.model
    if isinstance(model, NetworkConfig):
        model = _shaped(model, group, shape)
        if row.get("model", "elm") != "elm" and models.kind_of(model) != row["model"]:
            raise ConfigError(f"{row['model']} units have a shape of their own; leave out {', '.join(shape)}")
    elif shape:
        raise ConfigError(f"{', '.join(shape)} belong to ELM neurons; a {model.kind} has model.width, or a budget")
    elif group.budget is not None:
        if group.of != "parameters":
            raise ConfigError("models of several kinds share a budget of `parameters` only")
        model = models.spend(model, int(group.budget))
    config = config.replace(model=model)
    steps = row.get("steps", group.steps)
    if group.flops is not None:
        steps = max(1, round(group.flops / training_flops(config, task.steps)))
    return config if steps is None else amend(config, settings=[f"training.steps={json.dumps(steps)}"])


def _shaped(model: NetworkConfig, group: Group, shape: Mapping[str, Any]) -> NetworkConfig:
    """The ELM network of a row: its shape, or the budget's."""
    shape = dict(shape)
    recipe = shape.pop("recipe", None)
    if recipe not in (None, "paper"):
        raise ConfigError(f"recipe must be 'paper', got {recipe!r}")
    if recipe is not None:
        shape["branches"] = 4 * shape.get("memory", model.layers[0].neuron.memory)
    model = model.with_hidden(**shape)
    if group.budget is None:
        return model
    return budget.largest(lambda units: model.with_hidden(units=units), group.budget, "N", _price(group), group.of)


def _price(group: Group) -> Callable[[NetworkConfig], float]:
    if group.of == "parameters":
        return budget.parameters
    return lambda network: budget.cost(network).hidden


def training_flops(config: RunConfig, time_steps: int) -> float:
    """Of one training step: three times the forward pass of all sequences and time steps."""
    options = config.options.to_dict()
    sequences = options.get("streams", options.get("batch", 1))
    return float(3 * models.counts(config.model).flops * sequences * time_steps)


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
        return training_flops(self.config, time_steps) * self.config.training.steps
