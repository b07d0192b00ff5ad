"""The benchmark tasks, by name."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from elmnet import scores
from elmnet.errors import ConfigError, TaskError, in_a_line
from elmnet.strict import Config
from elmnet.tasks.base import PRESETS, Batch, Scores, Split, Task, in_words
from elmnet.tasks.enwik8 import Enwik8
from elmnet.tasks.neuronio import NeuronIO
from elmnet.tasks.sequence import SequenceTask
from elmnet.tasks.shd import SHD, SHDAdding

__all__ = [
    "PRESETS",
    "TASKS",
    "Batch",
    "OpenTasks",
    "Scores",
    "Split",
    "Task",
    "find_task",
    "in_words",
    "open_task",
    "register",
]

OWN = "ELMNET_TASKS"
"""Environment variable that names modules or files with tasks of one's own, separated like those of PATH."""
TASKS: dict[str, type[Task]] = {task.name: task for task in (Enwik8, SHDAdding, SHD, NeuronIO, SequenceTask)}


def register(task: type[Task]) -> type[Task]:
    """Make a task of one's own known by its `name`, to `compose`, `Run` and recipes of this process; as a decorator.

    Other processes, as the command line's, find it by the entry point group `elmnet.tasks` or by `ELMNET_TASKS`.

    Raises:
        ConfigError: there is another one of this name, or nobody said whether more of its metric is better.
    """
    if hasattr(task, "metric"):
        scores.require_known(task.metric)
    if TASKS.setdefault(task.name, task) is not task:
        raise ConfigError(f"there is a task {task.name!r} already; give yours another name")
    return task


def find_task(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        TaskError: there is none, or one's own cannot be imported.
    """
    if name not in TASKS:
        _load_own(os.environ.get(OWN, ""))
    if name not in TASKS:
        own = f"your own are found by {OWN} (modules or files) or entry points of packages in elmnet.tasks"
        raise TaskError(f"no task {name!r}; known: {', '.join(TASKS)}; {own}")
    return TASKS[name]


@cache
def _load_own(places: str) -> None:
    """Register tasks of one's own: those that installed packages name, and what `ELMNET_TASKS` imports.

    Raises:
        TaskError: one cannot be imported.
    """
    for entry in entry_points(group="elmnet.tasks"):
        try:
            register(entry.load())
        except Exception as error:
            raise TaskError(f"the task of entry point {entry.name} cannot be used: {in_a_line(error)}") from error
    for place in filter(None, places.split(os.pathsep)):
        try:
            if place.endswith(".py"):
                spec = importlib.util.spec_from_file_location(f"elmnet_tasks_{Path(place).stem}", place)
                assert spec is not None and spec.loader is not None  # which a name in .py has
                module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            else:
                importlib.import_module(place)
        except Exception as error:
            raise TaskError(f"{OWN}: cannot import {place}: {in_a_line(error)}") from error


class OpenTasks:
    """Opens tasks that differ in their seed alone once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, Config, str, str], Task] = {}

    def of(
        self, name: str, options: Config, source: str, *, seed: int = 0, facts: Mapping[str, Any] | None = None
    ) -> Task:
        """As `open_task`."""
        key = (name, options, source, repr(facts))
        if key not in self._opened:
            self._opened[key] = open_task(name, options, source, seed=seed, facts=facts)
        return self._opened[key].with_seed(seed)


def open_task(
    name: str,
    options: Config,
    source: str,
    *,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    targets: bool = True,
) -> Task:
    """Load a task's data.

    Args:
        name: of the task.
        options: its `Options`.
        source: data source, as on the command line.
        seed: of the training batches.
        facts: of the data a model was trained on; its vocabulary and kind of targets are used instead of the source's
            own.
        targets: of a file of sequences: whether to read them; predictions need none.

    Raises:
        DataError: the source is missing or damaged, or holds symbols or classes the model does not know.
    """
    return find_task(name).open(options, source, seed=seed, facts=facts, targets=targets)
