"""Sound recordings from WAV files, folders and zip archives, none of which are trusted.

Sizes that a header or an archive declares are compared with what is there before anything is allocated; members of an
archive are read in memory and never written anywhere.
"""

import io
import math
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmnet.errors import DataError, one_line

MAX_BYTES = 1 << 28
"""Of one WAV file."""
MAX_TOTAL_BYTES = 1 << 36
"""Of all recordings in an archive, unpacked."""
MAX_RECORDINGS = 1_000_000
MAX_RATIO = 100
"""Unpacked to packed size of an archive's member; sound seldom exceeds 3, digital silence is no recording."""
MAX_SECONDS = 600.0
MIN_SECONDS = 0.02  # two periods of the lowest channel
RATES = (4_000, 384_000)


class Recordings:
    """The WAV recordings of a file, a folder (with those below it), or a zip archive, in the order of their names.

    Attributes:
        names: their paths below the source, with forward slashes.

    Raises:
        DataError: there are none, or the archive is damaged, encrypted, too large, or names a place outside itself.
    """

    def __init__(self, source: Path, match: Sequence[str] = ()) -> None:
        self.source = source
        self._members: dict[str, zipfile.ZipInfo] = {}
        if source.is_dir():
            found = [p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()]
        elif zipfile.is_zipfile(source):
            self._members = _members(source)
            found = list(self._members)
        elif source.is_file():
            found = [source.name]
        else:
            raise DataError(f"{source}: no such file or folder")
        single = source.is_file() and not self._members
        sounds = [name for name in found if single or name.lower().endswith(".wav")]
        self.names = sorted(n for n in sounds if not match or any(fnmatch(PurePosixPath(n).name, m) for m in match))
        if not self.names:
            kept = f" that match {' or '.join(match)}" if match and sounds else ""
            raise DataError(f"{source}: holds no .wav recordings{kept}")

    def read(self) -> Iterator[tuple[str, bytes | DataError]]:
        """Names and bytes, one after the other; an error in the place of what cannot be read."""
        with _archive(self.source if self._members else None) as archive:
            for name in self.names:
                try:
                    yield name, self._bytes(archive, name)
                except DataError as error:
                    yield name, error

    def _bytes(self, archive: zipfile.ZipFile | None, name: str) -> bytes:
        where = self.where(name)
        if archive is None:
            path = self.source / name if self.source.is_dir() else self.source
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{where}: {path.stat().st_size:,} bytes exceed {MAX_BYTES:,}; cut it into pieces")
            return path.read_bytes()
        member = self._members[name]
        try:
            with archive.open(member) as file:
                data = file.read(member.file_size + 1)  # never more than was declared and found small enough
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
            raise DataError(f"{where}: cannot be unpacked: {error}") from error
        except Exception as error:  # zlib.error, lzma.LZMAError and others have no common base
            raise DataError(f"{where}: damaged: {error}") from error
        if len(data) != member.file_size:
            raise DataError(f"{where}: {len(data):,} bytes unpacked where {member.file_size:,} were declared")
        return data

    def where(self, name: str) -> str:
        """A recording as error messages call it."""
        return str(self.source) if self.source.is_file() and not self._members else f"{self.source}: {name}"


@contextmanager
def _archive(path: Path | None) -> Iterator[zipfile.ZipFile | None]:
    if path is None:
        yield None
        return
    with zipfile.ZipFile(path) as archive:
        yield archive


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The WAV members of an archive, by name, after looking at everything its directory declares."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path}: damaged zip archive: {error}") from error
    if len(members) > MAX_RECORDINGS:
        raise DataError(f"{path}: {len(members):,} members exceed {MAX_RECORDINGS:,}")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or (parts and (parts[0] == "/" or parts[0].endswith(":"))):
            raise DataError(f"{path}: member {member.filename!r} points outside the archive; it is not to be trusted")
    sounds = [m for m in members if m.filename.lower().endswith(".wav") and not m.is_dir()]
    for member in sounds:
        size, packed = member.file_size, member.compress_size
        if member.flag_bits & 1:
            raise DataError(f"{path}: member {member.filename!r} is encrypted; unpack it yourself")
        if size > MAX_BYTES or size > MAX_RATIO * max(packed, 1) + 4096:
            raise DataError(
                f"{path}: member {member.filename!r} declares {size:,} bytes from {packed:,} packed ones; "
                f"at most {MAX_BYTES:,} and {MAX_RATIO} times are unpacked"
            )
    if sum(m.file_size for m in sounds) > MAX_TOTAL_BYTES:
        raise DataError(f"{path}: its recordings exceed {MAX_TOTAL_BYTES:,} bytes unpacked")
    if len({m.filename for m in sounds}) < len(sounds):
        raise DataError(f"{path}: two members have the same name")
    return {member.filename: member for member in sounds}


def parse_wav(data: bytes, where: str) -> tuple[int, NDArray[np.float64]]:
    """Samples a second, and the sound (n,), full scale 1; several channels are averaged.

    SciPy reads the samples, once the header's sizes have been found to be true: it believes them.

    Raises:
        DataError: it is no WAV file, its header lies or names a format that is not PCM or floating point, or the sound
            is not finite, silent, too short or too long.
    """
    from scipy.io import wavfile

    _check_header(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks it does not know
            rate, samples = wavfile.read(io.BytesIO(data))
    except (ValueError, TypeError, struct.error, ZeroDivisionError, OverflowError, EOFError) as error:
        raise DataError(f"{where}: not a WAV file that can be read: {one_line(error)}") from error
    seconds = len(samples) / rate
    if seconds > MAX_SECONDS:
        raise DataError(f"{where}: lasts {seconds:,.0f} s, more than {MAX_SECONDS:.0f}; cut it into pieces")
    if seconds < MIN_SECONDS:
        raise DataError(f"{where}: lasts {seconds * 1000:.1f} ms, less than {MIN_SECONDS * 1000:.0f}")
    sound = _full_scale(samples)
    if sound.ndim == 2:
        sound = sound.mean(1)
    if not np.isfinite(sound).all():
        raise DataError(f"{where}: sample {int(np.argmin(np.isfinite(sound))):,} is not finite")
    if np.ptp(sound) < 1e-9:
        raise DataError(f"{where}: silence, every sample is the same")
    return int(rate), sound


def _check_header(data: bytes, where: str) -> None:
    """Walk through the chunks; every declared size must fit into what is there."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DataError(f"{where}: not a WAV file (RIFF, WAVE)")
    place, seen = 12, set()
    while place + 8 <= len(data):
        kind = data[place : place + 4]
        (size,) = struct.unpack_from("<I", data, place + 4)
        left = len(data) - place - 8
        if size > left:
            raise DataError(f"{where}: its header declares {size:,} bytes of {kind!r} where {left:,} follow")
        if kind == b"fmt ":
            _check_format(data[place + 8 : place + 8 + size], where)
        seen.add(kind)
        place += 8 + size + size % 2
    for kind in (b"fmt ", b"data"):
        if kind not in seen:
            raise DataError(f"{where}: has no {kind!r} chunk")


def _check_format(chunk: bytes, where: str) -> None:
    if len(chunk) < 16:
        raise DataError(f"{where}: its b'fmt ' chunk has {len(chunk)} bytes, at least 16 are needed")
    code, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", chunk)
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{where}: {rate:,} samples a second, outside {RATES[0]:,} to {RATES[1]:,}")
    if code == 0xFFFE and len(chunk) >= 26:  # extensible: the true code begins the sub-format
        (code,) = struct.unpack_from("<H", chunk, 24)
    known = {1: (8, 16, 24, 32), 3: (32, 64)}
    if code not in known or bits not in known[code]:
        raise DataError(f"{where}: format {code} with {bits} bits; PCM of 8 to 32 bits, floats of 32 or 64 can be read")
    if not 1 <= channels <= 64 or align != channels * bits // 8:
        raise DataError(f"{where}: {channels} channels of {bits} bits do not make frames of {align} bytes")


def _full_scale(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Whole numbers as fractions of full scale; 8-bit samples are unsigned, 24-bit ones come left-justified in 32."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    middle = 128.0 if samples.dtype == np.uint8 else 0.0
    return (samples.astype(np.float64) - middle) / 2.0 ** (8 * samples.dtype.itemsize - 1)


def resample(sound: NDArray[np.float64], rate: int, wanted: int) -> NDArray[np.float64]:
    """The sound at another number of samples a second, band-limited."""
    from scipy.signal import resample_poly

    if rate == wanted:
        return sound
    common = math.gcd(rate, wanted)
    result: NDArray[np.float64] = resample_poly(sound, wanted // common, rate // common)
    return result
