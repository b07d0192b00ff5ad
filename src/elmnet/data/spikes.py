"""Spike recordings in the file layout of the Spiking Heidelberg Digits (Cramer et al. 2020).

`spikes/times` (seconds, variable length), `spikes/units` (channel), `labels`, and optionally `extra/keys`,
`extra/speaker`. A file is read once, checked, and closed: no HDF5 handle outlives `load_spikes`.
"""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from elmnet.data.download import OFFICIAL, fetch
from elmnet.data.hdf5 import BAD_HDF5
from elmnet.data.synthetic import SYNTHETIC, write_synthetic
from elmnet.errors import DataError
from elmnet.files import cache_directory, sha256

CHANNELS = 700
_NAMES = {"label": "extra/keys", "speaker": "extra/meta_info/name"}


@dataclass(frozen=True)
class SpikeData:
    """Recordings as flat arrays; recording i owns the spikes offsets[i]:offsets[i+1]."""

    path: Path
    times: NDArray[np.floating]  # seconds, as exact as the file has them: rounded, some would change their bin
    units: NDArray[np.uint16]  # channel, 0..CHANNELS-1
    offsets: NDArray[np.int64]  # (recordings + 1,)
    labels: NDArray[np.int64]
    speakers: NDArray[np.int64] | None
    classes: int  # 10 or 20
    sha256: str
    names: dict[str, list[str]]  # what labels and speakers are called, in order, where the file says it

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, other: "SpikeData") -> "SpikeData":
        """The recordings of both, these first."""
        speakers = None
        if self.speakers is not None and other.speakers is not None:
            speakers = np.concatenate([self.speakers, other.speakers])
        return SpikeData(
            path=self.path,
            times=np.concatenate([self.times, other.times]),
            units=np.concatenate([self.units, other.units]),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            labels=np.concatenate([self.labels, other.labels]),
            speakers=speakers,
            classes=self.classes,
            sha256=self.sha256 + other.sha256,
            names=self.names,
        )

    def dense(
        self,
        recordings: NDArray[np.int64],
        bin_seconds: float,
        bins: int,
        *,
        delays: NDArray[np.float64] | None = None,
        shifts: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """(len(recordings), bins, CHANNELS): whether a channel spiked in a bin; spikes outside are dropped.

        Args:
            recordings: which, by index.
            bin_seconds: length of a bin.
            bins: how many.
            delays: seconds by which each recording comes later (or earlier, if negative).
            shifts: channels by which each recording is moved.
        """
        grid = np.zeros((len(recordings), bins, CHANNELS), dtype=bool)
        for row, i in enumerate(recordings):
            chosen = slice(self.offsets[i], self.offsets[i + 1])
            times, units = self.times[chosen].astype(np.float64), self.units[chosen].astype(np.int64)
            if delays is not None:
                times = times + delays[row]
            if shifts is not None:
                units = units + shifts[row]
            place = np.floor(times / bin_seconds)
            inside = (place >= 0) & (place < bins) & (units >= 0) & (units < CHANNELS)
            grid[row, place[inside].astype(np.int64), units[inside]] = True
        return grid


@dataclass(frozen=True)
class SpikeCorpus:
    """A training and a test file with an honest name."""

    name: str
    train: SpikeData
    test: SpikeData


def load_spike_corpus(source: str) -> SpikeCorpus:
    """The recordings named by `source`: `synthetic`, `official` (SHD), or a directory with *train*.h5 and *test*.h5.

    Raises:
        DataError: a file is missing, damaged, or breaks the layout.
    """
    if source == SYNTHETIC:
        return _load_pair("synthetic spoken-digit-like spikes", synthetic_directory())
    if source == "official":
        return _load_pair("Spiking Heidelberg Digits", _official_directory())
    directory = Path(source)
    if not directory.is_dir():
        raise DataError(f"data {source}: no such directory; name one, 'official' or '{SYNTHETIC}'")
    corpus = _load_pair(f"spikes in {directory.resolve().name}/", directory)
    _require_same_names(corpus)
    return corpus


def synthetic_directory() -> Path:
    """Where the synthetic recordings lie, generated on first use."""
    directory = cache_directory() / f"{SYNTHETIC}-spikes-v1"
    files = {part: directory / f"{SYNTHETIC}_{part}.h5" for part in ("train", "test")}
    if all(path.exists() for path in files.values()):
        return directory  # which may be another user's, and not to be written
    directory.mkdir(exist_ok=True)
    with FileLock(directory / ".lock"):
        for part, path in files.items():
            if not path.exists():
                write_synthetic(path, part)
    return directory


def _official_directory() -> Path:
    directory = cache_directory() / "shd"
    if all((directory / Path(file.name).stem).exists() for file in OFFICIAL["shd"]):
        return directory
    directory.mkdir(exist_ok=True)
    with FileLock(directory / ".lock"):
        for archive in fetch("shd"):
            place = directory / archive.stem
            if not place.exists():
                aside = place.with_suffix(".tmp")
                with zipfile.ZipFile(archive) as file, file.open(archive.stem) as packed, aside.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                aside.replace(place)
    return directory


def _load_pair(name: str, directory: Path) -> SpikeCorpus:
    train, test = (load_spikes(_only(directory, part)) for part in ("train", "test"))
    if train.classes != test.classes:
        raise DataError(f"{test.path}: has {test.classes} classes, {train.path.name} has {train.classes}")
    return SpikeCorpus(name, train, test)


def _require_same_names(corpus: SpikeCorpus) -> None:
    """Both files must mean the same by a label and by a speaker's number."""
    train, test = corpus.train, corpus.test
    for what, names in test.names.items():
        for number, (here, there) in enumerate(zip(train.names.get(what, ()), names, strict=False)):
            if here != there:
                raise DataError(
                    f"{test.path}: {what} {number} is {there!r}, in {train.path.name} it is {here!r}; number both "
                    "alike (elmnet data encode-audio --like FILE)"
                )


def _only(directory: Path, part: str) -> Path:
    found = sorted(directory.glob(f"*{part}*.h5"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{directory}: needs exactly one *{part}*.h5 file, found {names}")
    return found[0]


def load_spikes(path: Path) -> SpikeData:
    """Read and check one file.

    Raises:
        DataError: the file is truncated, a group is missing, lengths differ, or a unit, time or label is out of range;
            names the file and the sample.
    """
    try:
        with h5py.File(path, "r") as file:
            times = _read_dataset(file, path, "spikes/times")
            units = _read_dataset(file, path, "spikes/units")
            labels = _read_dataset(file, path, "labels")
            names = _read_names(file, path)
            speakers = _read_dataset(file, path, "extra/speaker") if "extra/speaker" in file else None
    except BAD_HDF5 as error:
        raise DataError(f"{path}: damaged or truncated HDF5 file: {error}") from error
    for name, values in (("labels", labels), ("extra/speaker", speakers)):
        if values is not None and (values.ndim != 1 or values.dtype.kind not in "iu"):
            raise DataError(f"{path}: {name} must be one whole number a sample, got {values.dtype} {values.shape}")
    if not len(times) == len(units) == len(labels):
        raise DataError(f"{path}: {len(times)} times, {len(units)} units and {len(labels)} labels do not match")
    if len(labels) == 0:
        raise DataError(f"{path}: holds no recordings")
    if speakers is not None and len(speakers) != len(labels):
        raise DataError(f"{path}: {len(speakers)} entries in extra/speaker for {len(labels)} labels")
    classes = _classes(path, labels, len(names["label"]) if "label" in names else None)
    for i in range(len(labels)):
        _check_sample(path, i, times[i], units[i])
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in times])]).astype(np.int64)
    return SpikeData(
        path=path,
        times=np.concatenate([np.asarray(t) for t in times]),
        units=np.concatenate([np.asarray(u).astype(np.uint16) for u in units]),
        offsets=offsets,
        labels=labels.astype(np.int64),
        speakers=None if speakers is None else speakers.astype(np.int64),
        classes=classes,
        sha256=sha256(path),
        names=names,
    )


def names_in(path: Path) -> dict[str, list[str]]:
    """What a file calls its labels and speakers, in the order of their numbers, where it says it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read_names(file, path)
    except BAD_HDF5 as error:
        raise DataError(f"{path}: damaged or no HDF5 file of spikes: {error}") from error


def _read_dataset(file: h5py.File, path: Path, name: str) -> NDArray[Any]:
    if not isinstance(file.get(name), h5py.Dataset):
        raise DataError(f"{path}: has no dataset {name!r}; expected spikes/times, spikes/units and labels, as in SHD")
    return np.asarray(file[name][:])


def _read_names(file: h5py.File, path: Path) -> dict[str, list[str]]:
    return {
        what: [_text(name) for name in _read_dataset(file, path, place).tolist()]
        for what, place in _NAMES.items()
        if place in file
    }


def _text(name: Any) -> str:
    """What HDF5 holds as bytes, also where they are no UTF-8."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def _classes(path: Path, labels: NDArray[np.int64], keys: int | None) -> int:
    wrong = np.flatnonzero((labels < 0) | (labels >= 20))
    if len(wrong):
        raise DataError(f"{path}: sample {wrong[0]} has label {labels[wrong[0]]}, outside 0..19")
    classes = keys if keys in (10, 20) else 10 if labels.max() < 10 else 20
    if labels.max() >= classes:
        first = int(np.flatnonzero(labels >= classes)[0])
        raise DataError(f"{path}: sample {first} has label {labels[first]}, but the file names {classes} classes")
    return classes


def _check_sample(path: Path, i: int, times: NDArray[np.floating], units: NDArray[np.integer]) -> None:
    if np.ndim(times) != 1 or np.ndim(units) != 1 or times.dtype.kind != "f" or units.dtype.kind not in "iu":
        raise DataError(f"{path}: sample {i}: times must be a list of floats, units a list of whole numbers")
    if len(times) != len(units):
        raise DataError(f"{path}: sample {i} has {len(times)} times but {len(units)} units")
    if not len(times):
        return
    if not np.isfinite(times).all() or times.min() < 0:
        raise DataError(f"{path}: sample {i} has a spike time that is negative or not finite")
    if units.min() < 0 or units.max() >= CHANNELS:
        worst = units[(units < 0) | (units >= CHANNELS)][0]
        raise DataError(f"{path}: sample {i} has unit {worst}, outside 0..{CHANNELS - 1}")
