"""The benchmark tasks, by name."""

from collections.abc import Mapping
from typing import Any

from elmnet.data.sequences import load_sequences
from elmnet.data.spikes import load_spike_corpus
from elmnet.data.text import Vocabulary, load_corpus
from elmnet.errors import ConfigError, DataError
from elmnet.strict import Config
from elmnet.tasks.base import PRESETS, Batch, Scores, Split, Task, in_words
from elmnet.tasks.enwik8 import Enwik8, TextOptions
from elmnet.tasks.neuronio import NeuronIO, NeuronIOOptions, open_source
from elmnet.tasks.sequence import Sequence, SequenceOptions
from elmnet.tasks.shd import SHD, SHDAdding, SpikeOptions

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
]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Enwik8, SHDAdding, SHD, NeuronIO, Sequence)}


def find_task(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


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
    if isinstance(options, TextOptions):
        vocabulary = None if facts is None else Vocabulary(facts["symbols"])
        return Enwik8(options, load_corpus(source), seed=seed, vocabulary=vocabulary)
    if isinstance(options, NeuronIOOptions):
        opened = NeuronIO(options, open_source(source), seed=seed)
        if facts is not None and facts["channels"] != opened.inputs:
            raise DataError(f"{source}: has {opened.inputs} channels, the model was trained on {facts['channels']}")
        return opened
    if isinstance(options, SequenceOptions):
        kind: Any = {"per": options.per}
        if facts is not None:
            kind = {"per": "step" if facts["per_step"] else "sequence", "values": facts["classes"] is None}
        return Sequence(options, load_sequences(source, targets=targets, **kind), seed=seed, facts=facts)
    assert isinstance(options, SpikeOptions)
    corpus = load_spike_corpus(source)
    if name == SHD.name and facts is not None and facts["classes"] != corpus.train.classes:
        raise DataError(
            f"{corpus.name}: has {corpus.train.classes} classes, the model was trained on {facts['classes']}"
        )
    return (SHD if name == SHD.name else SHDAdding)(options, corpus, seed=seed)
