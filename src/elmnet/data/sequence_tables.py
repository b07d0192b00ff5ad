"""Long tables of sequences: a row for every step; columns `sequence`, `step`, `target`, `split`, `group`, channels."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elmnet import sql
from elmnet.data.sequences import Array, plain
from elmnet.errors import DataError, one_line
from elmnet.files import ending

_PANDAS_INDEX = re.compile(r"(__index_level_\d+__|Unnamed: \d+)$")  # a column that pandas writes unasked
_FRACTION = re.compile(r"""(?:^|[;\t"])\s*[-+]?\d*([.,])\d+(?:[eE][-+]?\d+)?\s*(?:$|[;\t"])""")  # a cell of a table


def read_table(path: Path, targets: bool) -> dict[str, Any]:
    """What `checked` takes, of one table.

    Args:
        targets: whether to read them, if there are any.

    Raises:
        DataError: it is damaged, or no long table.
    """
    return of_columns(path, read_columns(path, [path], targets))


def read_columns(path: Path, files: Sequence[Path], targets: bool, options: str = "") -> dict[str, Array]:
    """Columns of files that have the same, sorted by `sequence` and `step` where there are such, else in order.

    Args:
        path: what errors name.
        files: all Parquet or all CSV.
        targets: whether to read them, if there are any.
        options: more of them for DuckDB's reader.

    Raises:
        DataError: one is damaged, or has an empty place.
    """
    duckdb = sql.duckdb(f"{path}: tables need DuckDB")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE rows AS FROM {_reader(files, options)}")
            connection.execute("SET enable_external_access = false")  # from here on the file's own words are read
            kinds = {name: kind for name, kind, *_ in connection.execute("DESCRIBE rows").fetchall()}
            wanted = [name for name in kinds if not _PANDAS_INDEX.match(name) and (targets or not is_target(name))]
            quoted = {name: '"{}"'.format(name.replace('"', '""')) for name in wanted}
            nulls = ", ".join(f"count(*) - count({name})" for name in quoted.values())
            for name, count in zip(wanted, connection.execute(f"SELECT {nulls} FROM rows").fetchall()[0], strict=True):
                if count and not (is_target(name) and kinds[name].startswith(("DOUBLE", "FLOAT", "DECIMAL"))):
                    first = f"SELECT min(sequence) FROM rows WHERE {quoted[name]} IS NULL"
                    where = f", first of {connection.execute(first).fetchall()[0][0]}" if "sequence" in kinds else ""
                    raise DataError(f"{path}: column {name!r} is empty in {count} rows{where}")
            order = [name for name in ("sequence", "step") if name in kinds] + ["rowid"]
            select = f"SELECT {', '.join(quoted.values())} FROM rows ORDER BY {', '.join(order)}"
            table = connection.execute(select).fetchnumpy()
    except duckdb.Error as error:
        kind = "Parquet" if ending(files[0]) == ".parquet" else "CSV"
        raise DataError(f"{path}: damaged or not {kind}: {one_line(error)[:200]}") from error
    return {name: _filled(column) for name, column in table.items()}


def _reader(files: Sequence[Path], options: str) -> str:
    """SQL that reads files; types of CSV files are those of all lines."""
    paths, known = ", ".join(map(sql.one_file, files)), [options, "hive_partitioning = false"]
    if ending(files[0]) == ".parquet":
        return f"read_parquet([{paths}], {', '.join(filter(None, known))})"
    between = csv_columns(files[0])[1]
    known += ["header = true", f"delim = '{between}'", f"decimal_separator = '{_decimal(files, between)}'"]
    return f"read_csv([{paths}], {', '.join(filter(None, known))}, quote = '\"', sample_size = -1)"


def _filled(column: Array) -> Array:
    """A column without a mask; values that are missing are NaN."""
    return np.ma.filled(column, np.nan) if column.dtype.kind == "f" else np.ma.getdata(column)


def csv_columns(path: Path) -> tuple[list[str], str]:
    """Names in the first line of a CSV file, and what stands between them.

    Raises:
        DataError: they are no names.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(2**20)
    if "\ufffd" in first or "\0" in first:
        raise DataError(f"{path}: its text is not UTF-8; save it as that (in Excel: CSV UTF-8)")
    between = max(",;\t", key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=between), [])]
    if not names:
        raise DataError(f"{path}: holds no rows")
    if not all(names):
        raise DataError(f"{path}: a column has no name (of pandas, an index: to_csv(index=False) leaves it out)")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: several columns are called {twice[0]!r}")
    return names, between


def _decimal(files: Sequence[Path], between: str) -> str:
    """A comma where that does not separate columns and the first number with a fraction has one; else a point."""
    for path in files if between != "," else ():
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            file.readline(2**20)
            if fraction := next(filter(None, map(_FRACTION.search, file)), None):
                return fraction[1]
    return "."


def is_target(column: str) -> bool:
    """Whether a column of this name is what is to be told."""
    return column == "target" or column.startswith("target.")


def of_columns(path: Path, table: dict[str, Array], names: Array | None = None) -> dict[str, Any]:
    """What `checked` takes, of a long table's columns, rows of a sequence together: padded arrays.

    Args:
        names: of the sequences, where these are numbered from 0; None: they are called what they are.

    Raises:
        DataError: they are not those of a long table, or change where they may not.
    """
    if "sequence" not in table:
        raise DataError(f"{path}: has no column 'sequence'; it has {', '.join(table)}")
    sequence, step = table.pop("sequence"), table.pop("step", None)
    if not len(sequence):
        raise DataError(f"{path}: holds no rows")
    ids, starts, lengths = np.unique(plain(sequence), return_index=True, return_counts=True)
    order = np.argsort(starts)
    ids, starts, lengths = ids[order], starts[order], lengths[order]
    row = np.repeat(np.arange(len(ids)), lengths)
    place = np.arange(len(sequence)) - np.repeat(starts, lengths)
    ids = ids if names is None else names[ids]
    if step is not None:
        _require_steps(path, step, row, ids)

    def padded(column: Array) -> Array:
        full = np.zeros((len(ids), int(lengths.max())), dtype=column.dtype)
        full[row, place] = column
        return full

    of_sequences = {name: table.pop(name) for name in ("split", "group") if name in table}
    targets = [name for name in table if is_target(name)]
    y = [plain(table.pop(name)) for name in targets]
    bad = [name for name, column in table.items() if column.dtype.kind not in "iufb"]
    if bad or not table:
        words = "there is no column besides sequence, step and target"
        if bad:
            at = _no_number(table[bad[0]])
            where = f"sequence {ids[row[at]]}" + ("" if step is None else f", step {step[at]}")
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
