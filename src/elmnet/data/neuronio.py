"""Input and output of a detailed cell model: the simulation files of Beniaguev, Segev, London 2021.

The files (Kaggle, selfishgene/single-neurons-as-deep-nets-nmda-train-data and -test-data) are pickles of 128
simulations of 6 s at 1 ms: spike times of excitatory and inhibitory synapses on every dendritic segment, output spikes,
soma voltage. They are read through `elmnet.data.unpickle`, and kept as lists of events.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elmnet.data.sequence_files import SEQUENCE_FILES
from elmnet.data.unpickle import ArrayBox, load_plain
from elmnet.errors import DataError
from elmnet.files import ending

MAX_BYTES = 1 << 33
"""Of one file, unpacked."""
MAX_STEPS = 1 << 24
_PEEK = 1 << 20
Part = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Simulations:
    """Simulations of equal length; of simulation i the events offsets[i]:offsets[i+1], ascending in time."""

    channels: int
    """Excitatory channels first, then as many inhibitory ones."""
    times: NDArray[np.int32]  # ms
    sources: NDArray[np.int16]  # channel
    offsets: NDArray[np.int64]  # (simulations + 1,)
    spikes: NDArray[np.bool_]  # (simulations, T)
    soma: NDArray[np.float32]  # (simulations, T), mV

    def __len__(self) -> int:
        return len(self.spikes)

    @property
    def steps(self) -> int:
        """T, ms."""
        return int(self.spikes.shape[1])

    def window(self, simulation: int, start: int, steps: int) -> NDArray[np.float32]:
        """(steps, channels): 1 at an excitatory spike, -1 at an inhibitory one; zeros past the end."""
        here = slice(self.offsets[simulation], self.offsets[simulation + 1])
        times = self.times[here]
        first, last = np.searchsorted(times, [start, start + steps])
        grid = np.zeros((steps, self.channels), dtype=np.float32)
        source = self.sources[here][first:last]
        grid[times[first:last] - start, source] = np.where(source < self.channels // 2, 1, -1)
        return grid

    def chosen(self, which: NDArray[np.int64]) -> "Simulations":
        """Some of them."""
        pieces = [slice(self.offsets[i], self.offsets[i + 1]) for i in which]
        sizes = [piece.stop - piece.start for piece in pieces]
        return Simulations(
            channels=self.channels,
            times=np.concatenate([self.times[piece] for piece in pieces]),
            sources=np.concatenate([self.sources[piece] for piece in pieces]),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            spikes=self.spikes[which],
            soma=self.soma[which],
        )


def find_files(source: Path) -> dict[Part, list[Path]]:
    """The simulation files of a folder (or one file) by part, from the names of the published folders.

    `test` in a path below the folder: test; `valid`, or the folder full_ergodic_train_batch_1: validation, as the first
    ELM paper split it; the others: training. Parts may be empty.

    Raises:
        DataError: there is no such place, or nothing to train on.
    """
    if ending(source) in SEQUENCE_FILES:
        raise DataError(
            f"{source}: neuronio reads the published simulations, pickles (.p, .pkl, .pickle, .gz) or a folder of "
            f"them; sequences of your own are for the task sequence: elmnet train sequence --data {source}"
        )
    if source.is_file():
        return {"train": [source], "valid": [], "test": []}
    if not source.is_dir():
        raise DataError(f"data {source}: no such file or folder of NeuronIO simulations")
    parts: dict[Part, list[Path]] = {"train": [], "valid": [], "test": []}
    for path in sorted(source.rglob("*")):
        if not path.is_file() or path.suffix not in (".p", ".pkl", ".pickle", ".gz"):
            continue
        words = [part.lower() for part in path.relative_to(source).parts]
        if any("test" in word for word in words):
            parts["test"].append(path)
        elif "full_ergodic_train_batch_1" in words or any("valid" in word for word in words):
            parts["valid"].append(path)
        else:
            parts["train"].append(path)
    if not parts["train"]:
        raise DataError(f"{source}: no simulation files (.p, .pkl, .pickle, .gz) to train on")
    return parts


def fingerprint(paths: Iterable[Path]) -> str:
    """Hash of the names, sizes, first and last MiB of files: all of 115 GB would take too long at every start."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PEEK))
            file.seek(max(size - _PEEK, 0))
            digest.update(file.read(_PEEK))
    return digest.hexdigest()


def load_simulations(path: Path) -> Simulations:
    """Read and check one file.

    Raises:
        DataError: it holds anything but data, is damaged, or lacks something; names the file and simulation.
    """
    document = load_plain(_read(path), str(path))
    parameters = _entry(document, "Params", path)
    results = _entry(_entry(document, "Results", path), "listOfSingleSimulationDicts", path)
    types = _plain(_entry(parameters, "allSegmentsType", path))
    segments = len(types) if isinstance(types, list | tuple) or np.ndim(types) else 0
    seconds = _plain(_entry(parameters, "totalSimDurationInSec", path))
    if not isinstance(seconds, int | float) or not 0 < seconds * 1000 <= MAX_STEPS:
        raise DataError(f"{path}: totalSimDurationInSec is {seconds!r}")
    if not isinstance(results, list) or not results:
        raise DataError(f"{path}: listOfSingleSimulationDicts holds no simulations")
    if not 0 < 2 * segments < 2**15:
        raise DataError(f"{path}: {segments} segments")
    steps = round(seconds * 1000)
    spikes = np.zeros((len(results), steps), dtype=bool)
    soma = np.zeros((len(results), steps), dtype=np.float32)
    times, sources = [], []
    for i, one in enumerate(results):
        where = f"{path}: simulation {i}"
        when, source = _events(one, segments, steps, where)
        times.append(when)
        sources.append(source)
        fired = _numbers(_entry(one, "outputSpikeTimes", where), where)
        place = (fired - 0.5).astype(np.int64)  # the bin of 1 ms that the published loaders use
        spikes[i, _inside(place, steps, "output spike", where)] = True
        voltage = _numbers(_entry(one, "somaVoltageLowRes", where), where)
        if len(voltage) != steps:
            raise DataError(f"{where}: {len(voltage)} soma voltages for {steps} ms")
        soma[i] = voltage
    return Simulations(
        channels=2 * segments,
        times=np.concatenate(times),
        sources=np.concatenate(sources),
        offsets=np.concatenate([[0], np.cumsum([len(t) for t in times])]).astype(np.int64),
        spikes=spikes,
        soma=soma,
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or unreadable: {error}") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES:,} bytes unpacked")
    return data


def _entry(mapping: Any, key: str, where: Any) -> Any:
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise DataError(f"{where}: has no {key!r}; not a NeuronIO simulation file")
    return mapping[key]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, ArrayBox) else value


def _numbers(value: Any, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(_plain(value), dtype=np.float64).reshape(-1)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: expected numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: holds a number that is not finite")
    return numbers


def _inside(place: NDArray[np.int64], steps: int, what: str, where: str) -> NDArray[np.int64]:
    wrong = place[(place < 0) | (place >= steps)]
    if len(wrong):
        raise DataError(f"{where}: {what} at {wrong[0]} ms, outside 0..{steps - 1}")
    return place


def _events(one: Any, segments: int, steps: int, where: str) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """All input spikes, ascending in time: when, and on which channel."""
    when, source = [], []
    for key, first in (("exInputSpikeTimes", 0), ("inhInputSpikeTimes", segments)):
        rows = _entry(one, key, where)
        if not isinstance(rows, Mapping):
            raise DataError(f"{where}: {key} must map segments to spike times")
        for segment, row in rows.items():
            segment = _plain(segment)
            if not isinstance(segment, int) or not 0 <= segment < segments:
                raise DataError(f"{where}: {key} names segment {segment!r}, outside 0..{segments - 1}")
            place = _inside(_numbers(row, where).astype(np.int64), steps, "input spike", where)
            when.append(place)
            source.append(np.full(len(place), first + segment))
    times = np.concatenate(when) if when else np.zeros(0)
    order = np.argsort(times, kind="stable")
    channels = np.concatenate(source) if source else np.zeros(0)
    return times[order].astype(np.int32), channels[order].astype(np.int16)
