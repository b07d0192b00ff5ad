"""Recordings to spike files in SHD's layout: labels from names, many threads, one HDF5 file."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from elmnet.data.hdf5 import new_hdf5
from elmnet.data.sound import Recordings, parse_wav, resample
from elmnet.data.spikes import names_in
from elmnet.errors import ConfigError, DataError

LabelFrom = Literal["name", "folder"]
MAX_LABELS = 20  # what `elmnet.data.spikes` reads
HALF_SECONDS = 2.0
"""Recordings from here on have times in float32; SHD's own are in float16, which is exact to 1 ms until then."""


@dataclass(frozen=True)
class Encoded:
    """What `encode_recordings` did."""

    recordings: int
    seconds: float
    """Of sound."""
    spikes: int
    labels: tuple[str, ...]
    refused: tuple[str, ...]
    """Why recordings were left out; only with `skip_bad`."""


def encode_recordings(
    recordings: Recordings,
    out: Path,
    *,
    label_from: LabelFrom = "name",
    seed: int = 0,
    threads: int = 1,
    skip_bad: bool = False,
    like: Path | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Encoded:
    """Write the spikes of every WAV recording in a file, folder or zip archive.

    The same recordings and seed give the same spikes, whatever the order, the names and the number of threads: chance
    is drawn from the seed and the sound itself.

    Args:
        recordings: which.
        out: HDF5 file; written aside and renamed, so that it is whole or not there.
        label_from: `name`, what stands before the first underscore, or `folder`, the recording's folder.
        seed: of the nerve fibres.
        threads: recordings encoded at the same time.
        skip_bad: leave out recordings that cannot be used, instead of refusing them all.
        like: a file of spikes whose numbers of labels and speakers are kept: the training part's, for the test part.
        advance: called after each.

    Raises:
        DataError: a recording, the archive or the labels cannot be used; nothing was written.
        ConfigError: numba is not installed, the seed is out of range, or a file that is no HDF5 would be replaced.
    """
    if out.exists() and not h5py.is_hdf5(out):
        raise ConfigError(f"{out} exists and is no HDF5 file; name another, so that it is not lost")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must lie in 0..2^63-1, got {seed}")
    labels = _Labels(recordings, label_from, {} if like is None else names_in(like))
    sounds = list(_checked(recordings, skip_bad))  # all are looked at before the first is encoded
    refused = tuple(str(sound) for _, sound in sounds if isinstance(sound, DataError))
    lengths = {name: sound for name, sound in sounds if not isinstance(sound, DataError)}
    names = list(lengths)
    if not names:
        raise DataError(
            f"{recordings.source}: none of its {len(sounds)} recordings can be used; the first: {refused[0]}"
        )
    cochlea = _cochlea()
    out.parent.mkdir(parents=True, exist_ok=True)
    seconds, spikes = np.zeros(len(names)), 0
    with new_hdf5(out) as file:
        exact = np.float16 if max(lengths.values()) < HALF_SECONDS else np.float32
        times = file.create_dataset("spikes/times", (len(names),), h5py.vlen_dtype(exact))
        units = file.create_dataset("spikes/units", (len(names),), h5py.vlen_dtype(np.uint16))
        for i, (length, when, channel) in enumerate(_encoded(recordings, names, seed, threads)):
            times[i], units[i] = when.astype(exact), channel
            seconds[i], spikes = length, spikes + len(when)
            advance()
        labels.write(file, names)
        file["extra/duration"] = seconds.astype(np.float32)
        file.attrs["encoder"] = "elmnet; model of Cramer et al. 2020, doi 10.1109/TNNLS.2020.3044364"
        file.attrs["source"] = _bytes(recordings.source.name).decode()
        file.attrs["seed"] = seed
        file.attrs["sound_rate"] = cochlea.SOUND_RATE
    return Encoded(len(names), float(seconds.sum()), spikes, labels.keys, refused)


def _cochlea() -> Any:
    try:
        from elmnet.data import cochlea
    except ImportError as error:
        raise ConfigError(f"encoding sound needs numba ({error}); pip install 'elmnet[audio]'") from error
    return cochlea


def _checked(recordings: Recordings, skip_bad: bool) -> Iterator[tuple[str, DataError | float]]:
    """Every recording's name, and its seconds, or why it cannot be used."""
    for name, data in recordings.read():
        try:
            if isinstance(data, DataError):
                raise data
            rate, sound = parse_wav(data, recordings.where(name))
        except DataError as error:
            if not skip_bad:
                raise
            yield name, error
        else:
            yield name, len(sound) / rate


def _encoded(
    recordings: Recordings, names: Sequence[str], seed: int, threads: int
) -> Iterator[tuple[float, NDArray[np.float64], NDArray[np.uint16]]]:
    """Seconds, spike times and channels of the named recordings, in order; few are in memory at a time."""
    wanted = set(names)
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:  # the heavy parts release the interpreter's lock
        for name, data in recordings.read():
            if name not in wanted:
                continue
            if isinstance(data, DataError):  # it has changed since it was looked at
                raise data
            waiting.append(pool.submit(_encode, data, recordings.where(name), seed))
            while len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode(data: bytes, where: str, seed: int) -> tuple[float, NDArray[np.float64], NDArray[np.uint16]]:
    from elmnet.data import cochlea

    rate, sound = parse_wav(data, where)
    digest = hashlib.sha256(sound.tobytes()).digest()
    sound = resample(sound, rate, cochlea.SOUND_RATE)
    times, units = cochlea.encode(sound, [seed, int.from_bytes(digest[:16])])
    return len(sound) / cochlea.SOUND_RATE, times, units


def _bytes(name: str) -> bytes:
    """UTF-8, also of a file's name that is not."""
    return name.encode(errors="backslashreplace")


class _Labels:
    """Labels and speakers of recordings, from their paths.

    A label that is a whole number below 20 is itself; other labels are numbered in alphabetical order. Names that are
    known already (`elmnet.data.spikes.names_in`) keep their numbers.
    """

    def __init__(self, recordings: Recordings, label_from: LabelFrom, known: Mapping[str, Sequence[str]]) -> None:
        self._speakers = tuple(known.get("speaker", ()))
        paths = [PurePosixPath(name) for name in recordings.names]
        if label_from == "folder":
            top = recordings.source.resolve()
            words = {str(p): p.parent.name or (top.name if top.is_dir() else top.parent.name) for p in paths}
        else:
            words = {str(p): p.stem.split("_")[0] for p in paths}
        self._words = words
        distinct = sorted(set(words.values()))
        if "label" in known:
            self.keys = tuple(known["label"])
            self._number = {word: i for i, word in enumerate(self.keys)}
            if new := [word for word in distinct if word not in self._number]:
                raise DataError(f"{recordings.source}: label {new[0]!r} is none of those given: {', '.join(self.keys)}")
        elif all(word.isdecimal() and int(word) < MAX_LABELS for word in distinct):
            size = 10 if max(map(int, distinct)) < 10 else MAX_LABELS
            self.keys = tuple(map(str, range(size)))
            self._number = {word: int(word) for word in distinct}
        elif len(distinct) <= MAX_LABELS:
            self.keys = tuple(distinct)
            self._number = {word: i for i, word in enumerate(distinct)}
        else:
            few = ", ".join(distinct[:3])
            other = "name" if label_from == "folder" else "folder"
            raise DataError(
                f"{recordings.source}: {len(distinct):,} labels ({few}, ...) exceed {MAX_LABELS}; a label is "
                f"{'the folder' if label_from == 'folder' else 'what stands before the first _ in a name'}; "
                f"try --label-from {other}, or choose recordings with --match"
            )

    def write(self, file: h5py.File, names: Sequence[str]) -> None:
        """Labels, keys, names of recordings and, where every name has one after the first underscore, speakers."""
        file["labels"] = np.array([self._number[self._words[name]] for name in names], dtype=np.uint8)
        file["extra/keys"] = [_bytes(key) for key in self.keys]
        parts = [PurePosixPath(name).stem.split("_") for name in names]
        file["extra/recording"] = [_bytes("_".join(part)) for part in parts]
        if all(len(part) > 2 for part in parts):
            here = {part[1] for part in parts}
            speakers = [*self._speakers, *sorted(here.difference(self._speakers))]
            file["extra/speaker"] = np.array([speakers.index(part[1]) for part in parts], dtype=np.uint16)
            file["extra/meta_info/name"] = [_bytes(speaker) for speaker in speakers]
