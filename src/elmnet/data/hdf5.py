"""HDF5 files that are whole or not there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from elmnet.errors import DataError
from elmnet.files import write_atomic

BAD_HDF5 = (OSError, KeyError, RuntimeError, TypeError, ValueError)
"""What h5py raises for a damaged file."""
_DEFLATES = 1100
"""Bytes that one of a compressed file can stand for."""


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file to fill in memory; it replaces what was there once it is whole.

    HDF5 itself must not meet a full disk: it then crashes the process, or leaves objects that do so later.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_atomic(path, image)


def read_hdf5(
    path: Path, wanted: Collection[str], known: Collection[str] = ()
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays of these names, as far as they are there, texts as bytes; and the names of what else is there.

    Args:
        path: the file, which is closed again.
        wanted: names at its top.
        known: names that are no others, wanted or not.

    Raises:
        DataError: it is damaged or no HDF5, or one of them is no array of numbers or texts.
    """
    try:
        with h5py.File(path, "r") as file:
            most = _DEFLATES * path.stat().st_size
            arrays = {name: _array(file[name], f"{path}: {name}", most) for name in wanted if name in file}
            return arrays, [name for name in file if name not in {*wanted, *known}]
    except BAD_HDF5 as error:
        raise DataError(f"{path}: damaged or not HDF5: {error}") from error


def _array(found: Any, where: str, most: int) -> NDArray[Any]:
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise DataError(f"{where} is no array")
    if found.dtype.kind == "O" and h5py.check_string_dtype(found.dtype) is None:
        raise DataError(f"{where} holds neither numbers nor texts of one shape; pad what differs in length")
    if found.nbytes > most:
        raise DataError(f"{where} declares {found.shape}, more than the file can hold")
    return np.asarray(found[()])
