"""Writing files so that a reader sees the old content or the new, never half of either; and where to keep them."""

import hashlib
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import BadZipFile

from elmnet.errors import DataError

BAD_ARCHIVE = (OSError, EOFError, BadZipFile, zlib.error, AttributeError, TypeError, NotImplementedError)
"""What `numpy.load` raises for a damaged or foreign .npz, besides ValueError."""


def ending(path: Path) -> str:
    """A file's, in small letters: `.parquet`."""
    return path.suffix.lower()


def fsync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut (a no-op where directories cannot be opened)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Flush a file that another library wrote and closed."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk inside say which file: a full one does not by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write aside, flush to disk, rename into place; on any error the old file is untouched. Makes the directory."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):  # says which file, and not what it was called aside
            error.filename = str(path)
            del error.filename2
        raise
    fsync_directory(path.parent)


def replace_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a directory aside, then put it at `path`, replacing what stood there.

    A directory cannot be renamed over another, so the old one steps aside for an instant; a crash in that
    instant leaves it as `.NAME.old`, from which `recover_directory` brings it back.
    """
    path = Path(path)
    aside, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    recover_directory(path)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        fill(aside)
        for file in aside.iterdir():
            fsync_file(file)
        fsync_directory(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        recover_directory(path)
        raise
    fsync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Undo the half-done swap that a crash inside `replace_directory` can leave."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def current_directory(path: Path) -> Path | None:
    """Where a directory that `replace_directory` writes can be read now, changing nothing; None: it does not exist."""
    for _ in range(3):
        for place in (path, path.with_name(f".{path.name}.old")):
            if place.is_dir():
                return place
        time.sleep(0.02)  # between the two renames of a swap
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_directory() -> Path:
    """Where downloads and generated data live: $ELMNET_CACHE, else the system's cache folder.

    Raises:
        DataError: it cannot be created.
    """
    chosen = os.environ.get("ELMNET_CACHE")
    if not chosen:
        import pooch  # 0.2 s, and most who write files ask for no cache

        chosen = pooch.os_cache("elmnet")
    path = Path(chosen)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create the cache {path}: {error}; set ELMNET_CACHE to a writable folder") from error
    return path
