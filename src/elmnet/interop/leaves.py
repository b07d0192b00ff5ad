"""Equinox's file format: the leaves of a tree, each one `.npy` record, one after the other, without a name.

`equinox.tree_serialise_leaves` writes arrays, and Python's numbers as arrays without dimensions, in the order of
`jax.tree_util`: depth first, a module's fields in the order of their declaration, those declared static left out. So a
reader must know names and shapes beforehand; here they are compared before a byte of data is read.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from elmnet.errors import CheckpointError

Leaves = Mapping[str, tuple[tuple[int, ...], str]]
"""Name → shape and kind (`f` floating point, `i` integer, `b` bool) of every leaf, in the order of the file."""

_KINDS = {"f": ("f", "floats"), "i": ("iu", "integers"), "b": ("b", "bools")}


def read_leaves(path: Path, leaves: Leaves) -> dict[str, NDArray[Any]]:
    """Read a file that must hold exactly these leaves.

    Raises:
        CheckpointError: the file is missing or damaged, or a leaf (which one is said) is not what was expected.
    """
    try:
        size = path.stat().st_size
        needed = sum(math.prod(shape) for shape, _ in leaves.values())  # at least a byte for each value
        if needed > size:
            raise CheckpointError(
                f"{path}: does not fit its configuration, which describes {needed:,} values; "
                f"the file has {size:,} bytes"
            )
        with path.open("rb") as file:
            arrays = {name: _read(file, path, name, *leaf, size=size) for name, leaf in leaves.items()}
            if file.read(1):
                raise CheckpointError(
                    f"{path}: goes on after {list(leaves)[-1]!r}, the last of the {len(leaves)} leaves "
                    "its configuration describes"
                )
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return arrays


def _read(file: BinaryIO, path: Path, name: str, shape: tuple[int, ...], kind: str, *, size: int) -> NDArray[Any]:
    where = f"{path}: leaf {name!r} at byte {file.tell():,}"
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise CheckpointError(f"{where}: .npy format {version[0]}.{version[1]} is not used for numbers")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        got, fortran, dtype = read_header(file, max_header_size=2048)
    except (ValueError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError, TypeError) as error:
        words = "the file ends here" if file.tell() >= size else f"no .npy record: {str(error).splitlines()[0]}"
        raise CheckpointError(f"{where}: {words}") from error
    allowed, in_words = _KINDS[kind]
    if got != shape or dtype.kind not in allowed or dtype.itemsize > 8:
        raise CheckpointError(f"{where}: is {got} of {dtype}, the configuration says {shape} {in_words}")
    count = math.prod(shape)
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise CheckpointError(f"{where}: the file ends in the middle of it")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


def write_leaves(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file that holds these leaves in this order."""
    file = io.BytesIO()
    for array in arrays.values():
        np.save(file, array, allow_pickle=False)
    return file.getvalue()
