"""Somebody's own sequences: numbers over time with a target each, from .npz, .h5, .parquet or .csv files or arrays.

.npz, .h5       `x` (n, T, channels) or (n, T); `lengths` (n,) if they differ; `y` (n,), (n, T), (n, k) or (n, T, k);
                `split` (n,) of `train`, `valid`, `test`, if it is decided already; `group` (n,): whose sequences must
                not be in two parts; `channels` and `values`: their names
.parquet, .csv  a long table: columns `sequence`, `step` (without it, rows are in order), `target` (or target columns
                `target.NAME`), `split` and `group` if any; every other column is a channel

Whole numbers, texts and booleans are classes, other numbers are values. A target per step or per sequence shows in the
shape of `y`; in a table, a target that never changes within a sequence is the sequence's.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elmnet import sql
from elmnet.data.hdf5 import read_hdf5
from elmnet.errors import DataError, one_line
from elmnet.files import BAD_ARCHIVE, ending, sha256

PARTS = ("train", "valid", "test")
Array = NDArray[Any]
Per = Literal["auto", "sequence", "step"]
_ARRAYS = ("x", "y", "lengths", "split", "group", "channels", "values")
_UNNAMED = re.compile(r"channel \d+$")  # what channels of arrays are called
_PANDAS_INDEX = re.compile(r"__index_level_\d+__$")  # a column that pandas writes unasked


@dataclass(frozen=True)
class Sequences:
    """Sequences and their targets, checked."""

    name: str
    sha256: str
    x: NDArray[Any]  # (n, T, channels), zeros past a sequence's length; float64 where float32 would lose what varies
    lengths: NDArray[np.int64]  # (n,)
    y: Array | None  # classes (n,) or (n, T); values (n, k) or (n, T, k), NaN past a sequence's length
    per_step: bool
    classes: bool
    """Whether targets are classes, not values."""
    ids: Array  # (n,), what the file calls them
    channels: tuple[str, ...]
    values: tuple[str, ...] = ()
    """Names of the values to tell, where the file has several."""
    steps: Array | None = None  # (n, T), what the file calls them
    split: NDArray[np.str_] | None = None
    group: Array | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.x)

    def place(self, i: int, t: int | None = None) -> str:
        """A sequence, or a step of it, as the file calls it."""
        return _place(self.ids, self.steps, i, t)

    def arranged(self, channels: Sequence[str], values: Sequence[str]) -> "Sequences":
        """The same with channels and values in the order of these names, if both have names.

        Raises:
            DataError: the names are others.
        """
        x = self.x[:, :, _order(self.name, "channel", self.channels, channels)]
        if self.y is None or self.classes:
            return replace(self, x=x, channels=tuple(channels))
        y = self.y[..., _order(self.name, "value", self.values, values)]
        return replace(self, x=x, y=y, channels=tuple(channels), values=tuple(values))


def _order(file: str, what: str, own: Sequence[str], wanted: Sequence[str]) -> Any:
    """Where each wanted name is; as it is where one side has no names.

    Raises:
        DataError: a name is on one side alone.
    """
    named = [names and not _UNNAMED.match(names[0]) for names in (own, wanted)]
    if not all(named) or tuple(own) == tuple(wanted):
        return slice(None)
    for name in wanted:
        if name not in own:
            raise DataError(f"{file}: has no {what} {name!r}, which the model was trained on; it has {', '.join(own)}")
    for name in own:
        if name not in wanted:
            raise DataError(f"{file}: the model was not trained on its {what} {name!r}, but on {', '.join(wanted)}")
    return [list(own).index(name) for name in wanted]


def _place(ids: Array, steps: Array | None, i: int, t: int | None = None) -> str:
    where = "" if t is None else f", step {t if steps is None else steps[i, t]}"
    return f"sequence {ids[i]}{where}"


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
            names = _plain(found.pop(name))
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


SEQUENCE_FILES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _table,
    ".csv": _table,
}
"""What reads a file, by its ending."""


def _dialect(path: Path) -> str:
    """Options of DuckDB's CSV reader, after a look at the names in the first line; types are those of all lines.

    Raises:
        DataError: they are no names.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(2**20)
    between = max(",;\t", key=first.count)
    names = next(csv.reader([first], delimiter=between), None) or [""]
    if not all(name.strip() for name in names):
        raise DataError(f"{path}: a column has no name (of pandas, an index: to_csv(index=False) leaves it out)")
    return f"header = true, delim = '{between}', quote = '\"', sample_size = -1"


def _is_target(column: str) -> bool:
    return column == "target" or column.startswith("target.")


def _from_table(path: Path, table: dict[str, Array]) -> dict[str, Any]:
    """A long table, sorted by sequence and step, as padded arrays."""
    sequence, step = table.pop("sequence"), table.pop("step", None)
    if not len(sequence):
        raise DataError(f"{path}: holds no rows")
    ids, starts, lengths = np.unique(_plain(sequence), return_index=True, return_counts=True)
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
    y = [_plain(table.pop(name)) for name in targets]
    bad = [name for name, column in table.items() if column.dtype.kind not in "iufb"]
    if bad or not table:
        words = (
            f"column {bad[0]!r} is not of numbers" if bad else "there is no column besides sequence, step and target"
        )
        raise DataError(f"{path}: {words}; every column but sequence, step, target, split and group is a channel")
    found: dict[str, Any] = {
        "steps": None if step is None else padded(step),
        "x": np.stack([padded(column.astype(np.float64)) for column in table.values()], 2),
        "lengths": lengths,
        "ids": ids,
        "channels": tuple(table),
    }
    for name, column in of_sequences.items():
        found[name] = _of_sequence(path, padded(_plain(column)), lengths, ids, name)
    if y:
        if len(y) > 1 and any(column.dtype.kind != "f" for column in y):
            raise DataError(f"{path}: several target columns must all hold values, not classes, as whole numbers are")
        found["y"] = padded(y[0]) if len(y) == 1 else np.stack([padded(column) for column in y], 2)
        found["constant"] = True
        found["value_names"] = [name.removeprefix("target.") for name in targets] if len(y) > 1 else ()
    return found


def _require_steps(path: Path, step: Array, row: Array, ids: Array) -> None:
    """Refuse steps that are none, come twice, or, where they are whole numbers, leave out others: time would be warped.

    Args:
        row: the number of the sequence of each.
    """
    if step.dtype.kind not in "iufM":
        raise DataError(f"{path}: column 'step' must hold numbers or times, got {step.dtype}")
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


def _plain(column: Array) -> Array:
    """A column without Python objects: texts as numpy strings, bytes as the text they are.

    Raises:
        DataError: they are none.
    """
    if column.dtype.kind == "O" and any(isinstance(one, bytes | bytearray) for one in column.flat):
        column = np.array([bytes(one) for one in column.flat]).reshape(column.shape)
    if column.dtype.kind == "S":
        try:
            return np.char.decode(column, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"bytes that are no text ({error}); use texts or whole numbers") from None
    return column.astype(np.str_) if column.dtype.kind == "O" else column


def checked(
    x: Array,
    y: Array | None = None,
    lengths: Array | None = None,
    split: Array | None = None,
    group: Array | None = None,
    *,
    name: str = "arrays",
    digest: str | None = None,
    per: Per = "auto",
    ids: Array | None = None,
    channels: Sequence[str] = (),
    value_names: Sequence[str] = (),
    steps: Array | None = None,
    constant: bool = False,
    values: bool = False,
    missing: bool = False,
) -> Sequences:
    """Arrays as sequences, or a DataError that says what is wrong and where.

    Args:
        values: whole numbers in y are values, too.
        constant: y comes from a long table, (n, T) or (n, T, k): where it never changes, it is the sequence's.
        missing: values of steps may be NaN, but not all of a sequence; where one of several is, all are.
    """
    x = _numbers(x, f"{name}: x")
    x = x[:, :, None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"{name}: x must be (n, T, channels) or (n, T), none of them 0, got {x.shape}")
    n, longest, width = x.shape
    lengths = _lengths(lengths, n, longest, name)
    inside = np.arange(longest) < lengths[:, None]
    ids = np.arange(n) if ids is None else ids
    channels = tuple(channels) or tuple(f"channel {i}" for i in range(width))
    if len(set(channels)) < len(channels) or len(channels) != width:
        raise DataError(f"{name}: channels must be {width} different names, got {', '.join(channels)}")
    bad = np.argwhere(~np.isfinite(x) & inside[:, :, None])
    if len(bad):
        i, t, c = bad[0]
        words = f"{name}: {_place(ids, steps, i, t)}, {channels[c]}: {x[i, t, c]}"
        raise DataError(f"{words} (in all {len(bad)} numbers not finite); fill or remove them first")
    x = _narrow(np.where(inside[:, :, None], x, 0), inside, name)
    per_step = classes = False
    if y is not None:
        y = _plain(np.asarray(y))
        y = y.astype(np.float64) if values and y.dtype.kind in "iub" else y
        y, per_step, classes = _targets(y, inside, per, constant, missing, name, lambda i, t: _place(ids, steps, i, t))
        told = 0 if classes else y.shape[-1]
        if value_names and (len(set(value_names)) < len(value_names) or len(value_names) != told):
            raise DataError(f"{name}: values must name the {told} values of y, got {', '.join(value_names)}")
    if split is not None:
        split = _plain(np.asarray(split))
        if split.shape != (n,) or not np.isin(split, PARTS).all():
            raise DataError(f"{name}: split must be {n} of train, valid, test, got {split.shape} of {set(split.flat)}")
        split = split.astype(np.str_)
    if group is not None:
        group = _plain(np.asarray(group))
        if group.shape != (n,) or group.dtype.kind not in "iubU":
            raise DataError(f"{name}: group must be {n} whole numbers or texts, got {group.shape} of {group.dtype}")
    digest = digest or _digest(x, y, lengths, split, group)
    names = tuple(value_names)
    return Sequences(name, digest, x, lengths, y, per_step, classes, ids, channels, names, steps, split, group)


def _digest(*arrays: Array | None) -> str:
    """Of everything the arrays hold."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _narrow(x: NDArray[np.float64], inside: Array, name: str) -> NDArray[Any]:
    """In float32, unless that would round away what varies: a small change of a large number, as of times."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = x.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise DataError(f"{name}: x holds numbers too large for float32")
    lost, varies = np.abs(narrow - x).max((0, 1)), x[inside].std(0)
    return narrow if (lost <= 1e-4 * varies).all() else x


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{what} must hold numbers, got {array.dtype}")
    return array.astype(np.float64)


def _lengths(lengths: Array | None, n: int, steps: int, name: str) -> NDArray[np.int64]:
    if lengths is None:
        return np.full(n, steps)
    lengths = np.asarray(lengths)
    if lengths.shape != (n,) or lengths.dtype.kind not in "iu":
        raise DataError(f"{name}: lengths must be {n} whole numbers, got {lengths.shape} of {lengths.dtype}")
    if lengths.min() < 1 or lengths.max() > steps:
        raise DataError(f"{name}: lengths must lie in 1..{steps}, got {lengths.min()}..{lengths.max()}")
    return lengths.astype(np.int64)


def _targets(
    y: Array,
    inside: Array,
    per: Per,
    constant: bool,
    missing: bool,
    name: str,
    place: Callable[[int, int | None], str],
) -> tuple[Array, bool, bool]:
    """Targets, whether each step has its own, whether they are classes."""
    n, steps = inside.shape
    if y.dtype.kind not in "iufbUS":
        raise DataError(f"{name}: y must hold numbers or texts, got {y.dtype}")
    classes = y.dtype.kind != "f"
    shapes = [(n,), (n, steps)] if classes else [(n,), (n, steps), (n, "k"), (n, steps, "k")]
    fits = y.shape[:1] == (n,) and (y.ndim == 1 or y.shape[:2] == (n, steps) or (y.ndim == 2 and not classes))
    if not fits or 0 in y.shape or y.ndim > (2 if classes else 3):
        words = " or ".join(str(shape).replace("'", "") for shape in shapes)
        whole = y.dtype.kind in "iu" and y.ndim > 1 and len(y) == n
        hint = "; whole numbers are classes, store values as floats" if whole else ""
        raise DataError(f"{name}: y of {'classes' if classes else 'values'} must be {words}, got {y.shape}{hint}")
    per_step = y.ndim > 1 and y.shape[1] == steps and (per == "step" or not (per == "sequence" and y.ndim == 2))
    if constant and per != "step":
        first = y[:, :1]
        never = bool(((y == first).reshape(n, steps, -1).all(2) | ~inside).all())
        if per == "sequence" and not never:
            raise DataError(f"{name}: the target changes within a sequence; options.per=step")
        if never:
            y, per_step = y[:, 0], False
    elif classes and per == "sequence" and y.ndim == 2:
        raise DataError(f"{name}: options.per=sequence needs a y of ({n},), got {y.shape}")
    elif per == "step" and not per_step:
        raise DataError(f"{name}: options.per=step needs a y of ({n}, {steps}), got {y.shape}")
    if not classes:
        y = y.astype(np.float64).reshape(*(y.shape[:2] if per_step else y.shape[:1]), -1)
        lost = np.isnan(y).any(-1) & inside if per_step else np.zeros(n, dtype=bool)
        bad = ~np.isfinite(y).all(-1) & (inside if per_step else True) & ~(lost & missing)
        if bad.any():
            i, *t = np.argwhere(bad)[0]
            where = place(i, t[0] if per_step else None)
            words = f"the target of {where} is not finite ({int(bad.sum())} in all)"
            raise DataError(f"{name}: {words}{'; options.missing=skip leaves such steps out' if lost.any() else ''}")
        if per_step:
            none = np.flatnonzero(~(inside & ~lost).any(1))
            if len(none):
                raise DataError(f"{name}: {place(none[0], None)} has no target at any step; leave it out")
            y = np.where((inside & ~lost)[:, :, None], y, np.nan)
    return y, per_step, classes
