"""A run directory: the truth about one run.

config.yaml      the resolved configuration, what identifies the data, versions
metrics.jsonl    see `elmnet.train.journal`
checkpoints/     see `elmnet.train.checkpoint`
best/            the model to use, for `ELMNetwork.from_pretrained`, or `Baseline`'s
result.json      only when finished: final scores, counts, cost
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from elmnet import models
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, RunError, RunTakenError, TaskError, in_a_line
from elmnet.files import current_directory, write_atomic
from elmnet.models import Network
from elmnet.strict import read_yaml
from elmnet.train.config import RunConfig, devices

_RESULT = {"valid", "test", "baselines", "parameters", "steps", "wall_seconds"}
REPLICAS = "replicas.json"
"""In a directory of runs that differ in their seed: the seeds."""


class RunDirectory:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.result_file = self.path / "result.json"
        self.diverged_file = self.path / "diverged.txt"
        """Why it was left behind by those it was trained together with; until its next checkpoint."""

    def create(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        """Write the directory of a new run; who creates one holds its lock.

        Raises:
            RunTakenError: there is a run already.
            RunError: the directory cannot be written.
        """
        try:
            str(self.path.resolve()).encode()
        except UnicodeEncodeError:
            raise RunError(f"{str(self.path)!r} is not UTF-8, as safetensors needs it; choose another --out") from None
        if self.config_file.exists():
            words = f"continue it with --resume {self.path}, or choose another --out"
            raise RunTakenError(f"{self.path} already holds a run; {words}")
        document = {"config": config.to_dict(), "data": dict(facts), "environment": environment()}
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomic(self.config_file, yaml.safe_dump(document, sort_keys=False, width=120))
        except OSError as error:
            raise RunError(f"cannot write the run directory {self.path}: {error}") from error

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run.

        Raises:
            RunError: the directory holds none.
        """
        run = cls(path)
        if not run.config_file.is_file():
            hint = ""
            if run.path.is_dir() and (run.path.parent / "config.yaml").is_file():
                hint = f"; the run is {run.path.parent}"
            elif inside := sorted(run.path.glob("*/config.yaml")):
                hint = f"; it holds runs: name one, such as {inside[0].parent}"
            raise RunError(f"{path} is not a run directory: it has no config.yaml{hint}")
        return run

    def read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        """The configuration, and what identifies the data it was trained on.

        Raises:
            RunError: the file is damaged, does not describe a run, or its task is not known here.
        """
        try:
            document = read_yaml(self.config_file)
            return RunConfig.from_dict(document["config"]), dict(document["data"])
        except TaskError as error:
            raise RunError(f"{self.config_file}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            words = str(error) if isinstance(error, ConfigError) else in_a_line(error)
            raise RunError(f"{self.config_file}: damaged or not a run's configuration: {words}") from error

    def read_environment(self) -> dict[str, Any]:
        """Versions the run began with; empty where they were not recorded."""
        try:
            return dict(read_yaml(self.config_file)["environment"])
        except (KeyError, TypeError, ValueError):
            return {}

    def read_result(self) -> dict[str, Any] | None:
        """The final result, or None while the run is unfinished."""
        try:
            result = json.loads(self.result_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.result_file}: damaged: {error}") from error
        if not isinstance(result, dict) or not result.keys() >= _RESULT:
            raise RunError(f"{self.result_file}: damaged: it is not a run's result; delete it and resume")
        for split in ("valid", "test"):
            if not all(isinstance(value, int | float) for value in result[split].values()):
                raise RunError(f"{self.result_file}: damaged: a {split} score is no number; delete it and resume")
        return result

    def best_network(self, backend: str = "auto") -> Network:
        """The best network so far, on the CPU.

        Raises:
            RunError: no validation has happened yet.
            CheckpointError: its files are damaged.
        """
        best = current_directory(self.best)
        if best is None:
            raise RunError(f"{self.path} has no best network yet: its first validation has not happened")
        with torch.random.fork_rng([]):  # weights are drawn before they are replaced by what was saved
            return models.load(best, backend=backend)

    def network_where_it_was_trained(self, config: RunConfig) -> Network:
        """The best network so far on the device and backend of its run; on the CPU where there is no such device.

        Raises:
            RunError: no validation has happened yet.
            CheckpointError: its files are damaged.
        """
        here = config.device in devices()
        return self.best_network(config.backend if here else "auto").to(config.device if here else "cpu")

    def lock(self) -> FileLock:
        """Held while training; the directory is made if there is none.

        Raises:
            RunTakenError: another process trains here.
            RunError: the directory cannot be written.
        """
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunTakenError(f"{self.path} is being trained by another process") from None
        except OSError as error:
            raise RunError(f"cannot write the run directory {self.path}: {error}") from error
        return lock


def replicas_in(directory: Path) -> dict[Path, RunConfig]:
    """Run directories and configurations of what `elmnet train --replicas` keeps in a directory, by seed; none if it is
    anything else. One that a kill kept from being begun is among them."""
    found = sorted(directory.glob("seed-*/config.yaml"), key=lambda file: (len(file.parent.name), file))
    runs = {file.parent: RunDirectory(file.parent).read_config()[0] for file in found}
    if runs:
        first = next(iter(runs.values()))
        for seed in _planned_seeds(directory):
            runs.setdefault(directory / f"seed-{seed}", first.replace(seed=seed))
    return runs


def _planned_seeds(directory: Path) -> list[int]:
    """Empty where the file is missing or damaged: what was begun can be told without."""
    try:
        return list(json.loads((directory / REPLICAS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return []


def keeps_to_itself(config: RunConfig) -> str | None:
    """Why a run cannot be trained together with others; None: it can."""
    if not isinstance(config.model, NetworkConfig):
        return f"only ELM networks can be trained together, not a {models.kind_of(config.model)}"
    return (
        "training.patience ends runs one by one; train each alone, or set it to 0" if config.training.patience else None
    )


def create_replicas(directory: Path, config: RunConfig, count: int) -> dict[Path, RunConfig]:
    """Directories and configurations of new runs that differ in their seed; none is begun yet.

    Raises:
        ConfigError: its model cannot be trained together with others.
        RunError: the directory holds runs already or cannot be written.
    """
    if reason := keeps_to_itself(config):
        raise ConfigError(reason)
    if (directory / "config.yaml").exists() or replicas_in(directory):
        raise RunError(f"{directory} already holds runs; continue them with --resume, or choose another --out")
    seeds = list(range(config.seed, config.seed + count))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".replicas.lock"):
            planned = _planned_seeds(directory)
            if planned not in ([], seeds):  # what was planned and never begun may be begun now
                words = f"seeds {', '.join(map(str, planned))} are planned there; choose another --out"
                raise RunError(f"{directory} is another command's: {words}, or delete its {REPLICAS}")
            write_atomic(directory / REPLICAS, json.dumps(seeds) + "\n")
    except OSError as error:
        raise RunError(f"cannot write the run directory {directory}: {error}") from error
    return {directory / f"seed-{seed}": config.replace(seed=seed) for seed in seeds}


def environment() -> dict[str, Any]:
    """Versions that a result depends on."""
    packages = ("elmnet", "torch", "numpy", "h5py", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the checkout elmnet runs from; None for an installed package."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        listed = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", "run.py"],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and listed.returncode == 0 else None
