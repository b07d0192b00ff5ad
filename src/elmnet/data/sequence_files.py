"""Reading somebody's own sequences from a file, or from a folder with a file for each (`elmnet.data.recordings`).

.npz, .h5       `x` (n, T, channels) or (n, T); `lengths` (n,) if they differ; `y` (n,), (n, T), (n, k) or (n, T, k);
                `split` (n,) of `train`, `valid`, `test`, if it is decided already; `group` (n,): whose sequences must
                not be in two parts; `channels` and `values`: their names
.parquet, .csv  a long table: columns `sequence`, `step` (without it, rows are in order), `target` (or target columns
                `target.NAME`), `split` and `group` if any; every other column is a channel
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elmnet.data.hdf5 import read_hdf5
from elmnet.data.recordings import read_folder
from elmnet.data.sequence_tables import read_table
from elmnet.data.sequences import Per, Sequences, checked, plain
from elmnet.errors import DataError
from elmnet.files import BAD_ARCHIVE, ending, sha256

ADVICE = "name an .npz, .h5, .parquet or .csv file of sequences, or a folder with a file for each"
_ARRAYS = ("x", "y", "lengths", "split", "group", "channels", "values")


def load_sequences(
    source: str, per: Per = "auto", *, values: bool = False, targets: bool = True, missing: bool = False
) -> Sequences:
    """Read a file or a folder.

    Args:
        source: a path that ends in .npz, .h5, .hdf5, .parquet or .csv, or a folder's.
        per: whether a target belongs to a step or to its sequence, where the shapes do not say it.
        values: take whole numbers for values, too.
        targets: whether to read them, if there are any.
        missing: as for `checked`.

    Raises:
        DataError: the file is missing or damaged, or what it holds is not what the format promises.
    """
    path = Path(source)
    if path.is_dir():
        arrays, digest = read_folder(path, targets)
    elif ending(path) not in SEQUENCE_FILES:
        raise DataError(f"data {source}: {ADVICE}")
    elif not path.is_file():
        raise DataError(f"data {source}: no such file; {ADVICE}")
    else:
        arrays, digest = SEQUENCE_FILES[ending(path)](path, targets), sha256(path)
    return checked(**arrays, name=path.absolute().name, digest=digest, per=per, values=values, missing=missing)


def _npz(path: Path, targets: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in _ARRAYS and (targets or name != "y")}
            others = [name for name in arrays.files if name not in _ARRAYS]
    except BAD_ARCHIVE as error:
        raise DataError(f"{path}: damaged or not an .npz archive: {error}") from error
    except ValueError as error:
        words = "an array of Python objects, which elmnet does not unpickle" if "allow_pickle" in str(error) else error
        raise DataError(f"{path}: holds {words}; save plain numbers, and texts as numpy strings") from error
    return _of_arrays(path, found, others)


def _hdf5(path: Path, targets: bool) -> dict[str, Any]:
    return _of_arrays(path, *read_hdf5(path, [name for name in _ARRAYS if targets or name != "y"], _ARRAYS))


def _of_arrays(path: Path, found: dict[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """What `checked` takes, of a file's arrays and the names of those that are none of its."""
    if "x" not in found or others:
        wrong = f"unknown array {others[0]!r}" if others else "no array 'x'"
        raise DataError(f"{path}: {wrong}; a file of sequences holds x, and {', '.join(_ARRAYS[1:])} if there are any")
    for name, called in (("channels", "channels"), ("values", "value_names")):
        if name in found:
            names = plain(found.pop(name))
            if names.ndim != 1 or names.dtype.kind != "U":
                raise DataError(f"{path}: {name} must be a list of texts, got {names.shape} of {names.dtype}")
            found[called] = names.tolist()
    return found


SEQUENCE_FILES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": read_table,
    ".csv": read_table,
}
"""What reads a file, by its ending."""
