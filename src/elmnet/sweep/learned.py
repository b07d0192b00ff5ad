"""Runs to learn from, wherever they are: a directory, a table, the published ones; and how they were trained.

What needs torch is imported where it is needed: a plan from published runs needs none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError
from elmnet.files import ending
from elmnet.theory.fit import Fit
from elmnet.theory.rows import published
from elmnet.theory.runs import Runs

if TYPE_CHECKING:
    from elmnet.train.config import RunConfig


@dataclass(frozen=True)
class Learned:
    """Runs that a plan is made from, or, without any, a run that says how planned networks are trained."""

    runs: Runs | None
    """None where `like` was named instead of runs."""
    skipped: Mapping[str, str]
    """Why others were left out."""
    configs: "Mapping[str, RunConfig]"
    """How they were trained, by name; empty where that is not known."""
    data: str | None = None
    """What published ones were trained on, for `--data`."""
    like: "RunConfig | None" = None
    """A run that was named, for a table which does not tell, or instead of runs."""

    @property
    def tells_training(self) -> bool:
        """Whether it is known how they were trained, or like what run."""
        return bool(self.configs) or self.like is not None


def run_like(
    learned: Learned | None,
    known: Fit | None,
    *,
    task: str,
    preset: str | None = None,
    hidden: float | None = None,
) -> "tuple[RunConfig, str]":
    """A run to train planned networks like, and its name among the runs.

    That is the run whose P' is nearest, or the one that was named for a table; a preset where one is asked for, or
    where it is not known how the runs were trained.

    Args:
        learned: the runs.
        known: a fit to them.
        task: of the plan.
        preset: instead of a run; None: only where there is none, and then `paper`.
        hidden: P' of the planned network; None: the largest of the runs.
    """
    from elmnet.train.config import compose

    like, name = None if learned is None else learned.like, ""
    if learned is not None and learned.configs and known is not None:
        name = known.runs.nearest(float(known.runs.hidden.max()) if hidden is None else hidden)
        like = learned.configs[name]
    if like is None:
        return compose(task, preset=preset or "paper", data=None if learned is None else learned.data), ""
    return (like, name or "the run named") if preset is None else (compose(task, preset=preset, data=like.data), "")


def run_named(name: str) -> "RunConfig":
    """A run's configuration, by its directory or a YAML file.

    Raises:
        ConfigError: it is none, or not of an ELM network.
    """
    from elmnet.train.config import load_config

    if not Path(name).exists():
        raise ConfigError(f"--network: there is no run and no file {name}")
    path = Path(name) / "config.yaml" if Path(name).is_dir() else Path(name)
    config = load_config(path)
    if not isinstance(config.model, NetworkConfig):
        raise ConfigError(f"--network: {name} is of a {config.model.kind}; the model is of ELM networks")
    return config


def learn(
    sources: str | Path | Sequence[str], score: str | None = None, network: str | None = None, h0: float | None = None
) -> Learned:
    """Runs of directories, of a table or of `published:TASK`.

    Args:
        sources: of the runs; of several, each a directory.
        score: what is fitted; None: the validation's own.
        network: of a table that does not tell: a published network's name, a run or a YAML file.
        h0: the same, score of a network that knows nothing.

    Raises:
        RunError: the table is damaged.
        ConfigError: network and h0 are missing, or given though the source tells both.
        TheoryError: there is no finished run; runs of several tasks; a score they do not have.
    """
    several = [str(sources)] if isinstance(sources, str | Path) else list(sources)
    files = [one for one in several if not Path(one).is_dir()]
    if len(several) > 1 and files:
        raise ConfigError(f"runs from several places are of directories; {files[0]} is none")
    if files and ending(Path(files[0])) in (".csv", ".parquet"):
        return _of_table(Path(files[0]), score, network, h0)
    where = ", ".join(several)
    if network is not None or h0 is not None:
        raise ConfigError(f"--network and --h0 are for a .csv or .parquet table; {where} is none and tells both")
    if where.startswith("published:"):
        return Learned(published(where.removeprefix("published:"), score), {}, {}, data="official")
    from elmnet.train.results import as_runs, described, finished

    found, skipped = described(*finished(*map(Path, several)))
    return Learned(as_runs(found, where, score, skipped), skipped, {one.name: one.config for one in found})


def _of_table(path: Path, score: str | None, name: str | None, h0: float | None) -> Learned:
    """Runs of a table, whose network is a published one by name, or that of a run's YAML file, if it is not its own."""
    from elmnet.sweep.read import read_table

    like, task, network = None, name, None
    if name is not None and (name.endswith((".yaml", ".yml")) or Path(name).is_dir()):
        like = run_named(name)
        assert isinstance(like.model, NetworkConfig)  # see `run_named`
        task, network = like.task, like.model
    elif name is not None:
        network = NetworkConfig.preset(name)
    runs, skipped, found = read_table(path, score, network=network, H0=h0)
    if task is not None and runs.task not in (None, task):
        raise ConfigError(f"{path} is of {runs.task}, --network {name} of {task}")
    return Learned(replace(runs, task=runs.task or task), skipped, {one.name: one.config for one in found}, like=like)
