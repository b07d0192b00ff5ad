"""Reading somebody's own sequences from files.

.npz, .h5       `x` (n, T, channels) or (n, T); `lengths` (n,) if they differ; `y` (n,), (n, T), (n, k) or (n, T, k);
                `split` (n,) of `train`, `valid`, `test`, if it is decided already; `group` (n,): whose sequences must
                not be in two parts; `channels` and `values`: their names
.parquet, .csv  a long table: columns `sequence`, `step` (without it, rows are in order), `target` (or target columns
                `target.NAME`), `split` and `group` if any; every other column is a channel
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elmnet import sql
from elmnet.data.hdf5 import read_hdf5
from elmnet.data.sequences import Array, Per, Sequences, checked, plain
from elmnet.errors import DataError, one_line
from elmnet.files import BAD_ARCHIVE, ending, sha256

_ARRAYS = ("x", "y", "lengths", "split", "group", "channels", "values")
_PANDAS_INDEX = re.compile(r"__index_level_\d+__$")  # a column that pandas writes unasked
_FRACTION = re.compile(r"""(?:^|[;\t"])\s*[-+]?\d*([.,])\d+(?:[eE][-+]?\d+)?\s*(?:$|[;\t"])""")  # a cell of a table


def load_sequences(
    source: str, per: Per = "auto", *, values: bool = False, targets: bool = True, missing: bool = False
) -> Sequences:
    """Read a file.

    Args:
        source: a path that ends in .npz, .h5, .hdf5, .parquet or .csv.
        per: whether a target belongs to a step or to its sequence, where the shapes do not say it.
        values: take whole numbers for values, too.
        targets: whether to read them, if there are any.
        missing: as for `checked`.

    Raises:
        DataError: the file is missing or damaged, or what it holds is not what the format promises.
    """
    path = Path(source)
    if ending(path) not in SEQUENCE_FILES:
        raise DataError(f"data {source}: name an .npz, .h5, .parquet or .csv file of sequences")
    if not path.is_file():
        raise DataError(f"data {source}: no such file; name an .npz, .h5, .parquet or .csv file of sequences")
    read = SEQUENCE_FILES[ending(path)]
    more: dict[str, Any] = {"per": per, "values": values, "missing": missing}
    return checked(**read(path, targets), name=path.name, digest=sha256(path), **more)


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


def _table(path: Path, targets: bool) -> dict[str, Any]:
    duckdb = sql.duckdb(f"{path}: tables need DuckDB")
    parquet = ending(path) == ".parquet"
    reader = "read_parquet({}, hive_partitioning = false)" if parquet else f"read_csv({{}}, {_dialect(path)})"
    try:
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE rows AS FROM {reader.format(sql.one_file(path))}")
            connection.execute("SET enable_external_access = false")  # from here on the file's own words are read
            columns = {name: kind for name, kind, *_ in connection.execute("DESCRIBE rows").fetchall()}
            if "sequence" not in columns:
                raise DataError(f"{path}: has no column 'sequence'; it has {', '.join(columns)}")
            order = "step" if "step" in columns else "rowid"
            wanted = [name for name in columns if not _PANDAS_INDEX.match(name) and (targets or not _is_target(name))]
            quoted_names = ['"{}"'.format(name.replace('"', '""')) for name in wanted]
            nulls = ", ".join(f"count(*) - count({name})" for name in quoted_names)
            for name, count in zip(wanted, connection.execute(f"SELECT {nulls} FROM rows").fetchall()[0], strict=True):
                if count and not (_is_target(name) and columns[name].startswith(("DOUBLE", "FLOAT", "DECIMAL"))):
                    raise DataError(f"{path}: column {name!r} is empty in {count} rows")
            all_ = ", ".join(quoted_names)
            table = connection.execute(f"SELECT {all_} FROM rows ORDER BY sequence, {order}").fetchnumpy()
    except duckdb.Error as error:
        kind = "Parquet" if parquet else "CSV"
        raise DataError(f"{path}: damaged or not {kind}: {one_line(error)[:200]}") from error
    return _from_table(path, {name: _filled(column) for name, column in table.items()})


def _filled(column: Array) -> Array:
    """A column without a mask; values that are missing are NaN."""
    return np.ma.filled(column, np.nan) if column.dtype.kind == "f" else np.ma.getdata(column)


def _dialect(path: Path) -> str:
    """Options of DuckDB's CSV reader, after a look at the names in the first line; types are those of all lines.

    Commas are decimal where they do not separate columns and the first number with a fraction has one.

    Raises:
        DataError: they are no names.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(2**20)
        between = max(",;\t", key=first.count)
        fraction = None if between == "," else next(filter(None, map(_FRACTION.search, file)), None)
    if "\ufffd" in first or "\0" in first:
        raise DataError(f"{path}: its text is not UTF-8; save it as that (in Excel: CSV UTF-8)")
    names = [name.strip() for name in next(csv.reader([first], delimiter=between), [])]
    if not names:
        raise DataError(f"{path}: holds no rows")
    if not all(names):
        raise DataError(f"{path}: a column has no name (of pandas, an index: to_csv(index=False) leaves it out)")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: several columns are called {twice[0]!r}")
    decimal = "." if fraction is None else fraction[1]
    return f"header = true, delim = '{between}', decimal_separator = '{decimal}', quote = '\"', sample_size = -1"


def _is_target(column: str) -> bool:
    return column == "target" or column.startswith("target.")


def _from_table(path: Path, table: dict[str, Array]) -> dict[str, Any]:
    """A long table, sorted by sequence and step, as padded arrays."""
    sequence, step = table.pop("sequence"), table.pop("step", None)
    if not len(sequence):
        raise DataError(f"{path}: holds no rows")
    ids, starts, lengths = np.unique(plain(sequence), return_index=True, return_counts=True)
    order = np.argsort(starts)
    ids, starts, lengths = ids[order], starts[order], lengths[order]
    row = np.repeat(np.arange(len(ids)), lengths)
    place = np.arange(len(sequence)) - np.repeat(starts, lengths)
    if step is not None:
        _require_steps(path, step, row, ids)

    def padded(column: Array) -> Array:
        full = np.zeros((len(ids), int(lengths.max())), dtype=column.dtype)
        full[row, place] = column
        return full

    of_sequences = {name: table.pop(name) for name in ("split", "group") if name in table}
    targets = [name for name in table if _is_target(name)]
    y = [plain(table.pop(name)) for name in targets]
    bad = [name for name, column in table.items() if column.dtype.kind not in "iufb"]
    if bad or not table:
        words = "there is no column besides sequence, step and target"
        if bad:
            at = _no_number(table[bad[0]])
            where = f"sequence {sequence[at]}" + ("" if step is None else f", step {step[at]}")
            words = f"column {bad[0]!r} is not of numbers, but has {str(table[bad[0]][at])!r} ({where})"
        raise DataError(f"{path}: {words}; every column but sequence, step, target, split and group is a channel")
    found: dict[str, Any] = {
        "steps": None if step is None else padded(step),
        "x": np.stack([padded(column.astype(np.float64)) for column in table.values()], 2),
        "lengths": lengths,
        "ids": ids,
        "channels": tuple(table),
    }
    for name, column in of_sequences.items():
        found[name] = _of_sequence(path, padded(plain(column)), lengths, ids, name)
    if y:
        if len(y) > 1 and any(column.dtype.kind != "f" for column in y):
            raise DataError(f"{path}: several target columns must all hold values, not classes, as whole numbers are")
        found["y"] = padded(y[0]) if len(y) == 1 else np.stack([padded(column) for column in y], 2)
        found["constant"] = True
        found["value_names"] = [name.removeprefix("target.") for name in targets] if len(y) > 1 else ()
    return found


def _no_number(column: Array) -> int:
    """Where the first value of a column is that is none; 0 where all are texts of numbers."""
    for at, value in enumerate(column.tolist()):
        try:
            float(value)
        except (TypeError, ValueError):
            return at
    return 0


def _require_steps(path: Path, step: Array, row: Array, ids: Array) -> None:
    """Refuse steps that are none, come twice, or, where they are whole numbers, leave out others: time would be warped.

    Args:
        row: the number of the sequence of each.
    """
    if step.dtype.kind not in "iufM":
        raise DataError(
            f"{path}: column 'step' must hold numbers, or times with their dates, got {str(step[0])!r}; leave it out, "
            "and rows follow one another as they stand"
        )
    apart, within = np.diff(step), row[1:] == row[:-1]
    twice = np.flatnonzero(within & (apart == 0))
    if len(twice):
        raise DataError(f"{path}: sequence {ids[row[twice[0]]]} has step {step[twice[0]]} twice")
    if step.dtype.kind in "iu" and within.any():
        usual = apart[within].min()
        gaps = np.flatnonzero(within & (apart != usual))
        if len(gaps):
            at = gaps[0]
            jump = (
                f"sequence {ids[row[at]]} jumps from step {step[at]} to {step[at + 1]}, where others are {usual} apart"
            )
            raise DataError(
                f"{path}: {jump} ({len(gaps)} gaps in all); fill the rows in between, or leave out the column 'step', "
                "and rows follow one another as they stand"
            )


def _of_sequence(path: Path, padded: Array, lengths: Array, ids: Array, name: str) -> Array:
    """What a column says of whole sequences."""
    first = padded[:, 0]
    differs = (padded != first[:, None]) & (np.arange(padded.shape[1]) < lengths[:, None])
    if differs.any():
        i = int(np.flatnonzero(differs.any(1))[0])
        raise DataError(f"{path}: column {name!r} changes within sequence {ids[i]}")
    return first


SEQUENCE_FILES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _table,
    ".csv": _table,
}
"""What reads a file, by its ending."""
