"""Text as bytes: corpora, the enwik8 conventions, and the vocabulary."""

import bz2
import gzip
import hashlib
import io
import lzma
import sysconfig
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from elmnet.data.download import fetch
from elmnet.errors import DataError

Convention = Literal["txl", "bytes"]
Tokens = NDArray[np.uint8]

STDLIB = "python-stdlib"
_NOT_TEXT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Raw bytes with an honest name."""

    name: str
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the raw bytes."""
        return hashlib.sha256(self.data).hexdigest()


def load_corpus(source: str) -> Corpus:
    """The text named by `source`: `python-stdlib`, `official` (enwik8), or a file: raw, xz, gz, bz2 or zip.

    Raises:
        DataError: the file is missing, damaged or empty.
    """
    if source == STDLIB:
        return Corpus(f"Python {sysconfig.get_python_version()} standard library sources", _stdlib())
    if source == "official":
        return Corpus("enwik8", _read(fetch("enwik8")[0]))
    path = Path(source)
    if not path.is_file():
        raise DataError(f"data {source}: no such file; name a text file, 'official' or '{STDLIB}'")
    return Corpus(path.name, _read(path))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        for magic, unpack in _PACKINGS.items():
            if data.startswith(magic):
                data = unpack(data)
                break
    except _DAMAGED as error:
        raise DataError(f"{path}: damaged or unreadable: {error}") from error
    if not data:
        raise DataError(f"{path}: holds no text")
    return data


def _unzip(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        if len(files) != 1:
            raise ValueError(f"must hold exactly one file, holds {len(files)}")
        return archive.read(files[0])


_PACKINGS = {
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"PK\x03\x04": _unzip,
}
# besides damage: an encrypted archive (RuntimeError) and an unknown compression (NotImplementedError)
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


def _stdlib() -> bytes:
    """Python's own library sources, sorted by path; tests and licence texts left out."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (p.relative_to(root) for p in root.rglob("*.py"))
    kept = sorted(
        (p.as_posix() for p in files if not _NOT_TEXT & set(p.parts) and "license" not in p.name.lower()),
    )
    data = b"".join((root / name).read_bytes() for name in kept)
    if not data:
        raise DataError(f"this Python has no library sources under {root}; name a text file with --data PATH")
    return data


def split(data: bytes) -> dict[Literal["train", "valid", "test"], bytes]:
    """90/5/5 split by bytes.

    Raises:
        DataError: there is too little text to split.
    """
    part = len(data) // 20
    if part < 100:
        raise DataError(f"{len(data):,} bytes of text are too few: at least 2,000 are needed")
    return {"train": data[: -2 * part], "valid": data[-2 * part : -part], "test": data[-part:]}


def prepare(text: bytes, convention: Convention) -> bytes:
    """Text as the convention counts it; `txl` removes newlines, after splitting, as Transformer-XL does."""
    return text.replace(b"\n", b"") if convention == "txl" else text


class Vocabulary:
    """The distinct bytes of a corpus, numbered by falling frequency, ties by byte value."""

    def __init__(self, symbols: Sequence[int]) -> None:
        self.symbols = tuple(symbols)
        if len(set(self.symbols)) != len(self.symbols) or not all(0 <= s <= 255 for s in self.symbols):
            raise DataError(f"a vocabulary needs distinct byte values, got {self.symbols}")
        self._bytes = np.array(self.symbols, dtype=np.uint8)
        self._numbers = np.full(256, -1, dtype=np.int16)
        self._numbers[self._bytes] = np.arange(len(self.symbols))

    def __len__(self) -> int:
        return len(self.symbols)

    @classmethod
    def of(cls, text: bytes) -> "Vocabulary":
        """Count a whole corpus."""
        counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
        return cls([int(s) for s in np.lexsort((np.arange(256), -counts)) if counts[s]])

    def check(self, text: bytes, convention: Convention, name: str) -> None:
        """Refuse raw text with symbols the vocabulary lacks; `txl` has no need of newlines.

        Raises:
            DataError: names the first such byte and its offset.
        """
        known = self._numbers >= 0
        known[ord("\n")] |= convention == "txl"
        unknown = np.flatnonzero(~known[np.frombuffer(text, np.uint8)])
        if len(unknown):
            offset = int(unknown[0])
            raise DataError(
                f"{name}: byte 0x{text[offset]:02x} at offset {offset:,} is not among the {len(self)} symbols of the "
                f"training corpus ({len(unknown):,} such bytes in all); the model cannot score this text"
            )

    def encode(self, text: bytes, convention: Convention, name: str = "text") -> Tokens:
        """Prepare raw text and number its symbols, uint8.

        Raises:
            DataError: as `check`; the offset is that in the raw text.
        """
        self.check(text, convention, name)
        return self._numbers[np.frombuffer(prepare(text, convention), np.uint8)].astype(np.uint8)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Bytes of symbol numbers."""
        return self._bytes[np.asarray(tokens, dtype=np.int64)].tobytes()
