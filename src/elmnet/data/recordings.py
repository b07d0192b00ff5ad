"""A folder with a file for each sequence.

    [train|valid|test/][CLASS/]NAME.csv     a row for every step, a column for every channel; or .parquet
    [train|valid|test/][CLASS/]NAME.npy     (T, channels) or (T,)
    targets.csv                             what is to be told, where folders do not say it: columns `file`, `target` or
                                            several `target.NAME`; `split` and `group`, if any

Other files are left alone. Tables may have a `step`, and a `target` of every step.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from elmnet.data.sequence_tables import csv_columns, is_target, of_columns, read_columns
from elmnet.data.sequences import PARTS, Array, plain
from elmnet.errors import DataError
from elmnet.files import ending, sha256

TARGETS = "targets.csv"
ENDINGS = (".npy", ".parquet", ".csv")
AT_ONCE = 100
"""Tables that are read at once; DuckDB keeps all of them open, and a process may not have many."""


def read_folder(path: Path, targets: bool) -> tuple[dict[str, Any], str]:
    """What `checked` takes, and a digest of all files.

    Args:
        targets: whether to read what is to be told, and to which part a sequence belongs, if that stands there.

    Raises:
        DataError: there is no recording, one cannot be read, or they do not belong together.
    """
    files = _find(path)
    places = {_name(path, file): file.relative_to(path).parts[:-1] for file in files}
    if len(places) < len(files):
        raise DataError(f"{path}: two files differ in their endings alone; rename one")
    table = _arrays(files) if ending(files[0]) == ".npy" else _tables(path, files, targets)
    told = _told_by_folders(path, places) if targets else {}
    if targets and (path / TARGETS).is_file():
        files.append(path / TARGETS)
        by_table = _told_by_table(path / TARGETS, list(places))
        if twice := sorted(told.keys() & by_table.keys()):
            raise DataError(f"{path / TARGETS}: has a column {twice[0]!r}, but folder names say it, too")
        told |= by_table
    names, of = list(places), table["sequence"]
    columns = {column: np.array([values[name] for name in names])[of] for column, values in told.items()}
    for column in table:
        if column in columns or (is_target(column) and any(map(is_target, columns))):
            raise DataError(f"{path}: {column!r} is a column of the files, but given for whole files, too")
    lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files]
    return of_columns(path, table | columns, np.array(names)), hashlib.sha256("".join(lines).encode()).hexdigest()


def _find(path: Path) -> list[Path]:
    """The recordings below a folder, all of one kind; hidden files are none."""
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and ending(file) in ENDINGS
        and file != path / TARGETS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(f"{path}: no {', '.join(ENDINGS)} in this folder; name a folder with a file for each sequence")
    kinds = sorted({ending(file) for file in found})
    if len(kinds) > 1:
        raise DataError(f"{path}: holds {' and '.join(kinds)} files; a folder of sequences holds one kind")
    return found


def _name(path: Path, file: Path) -> str:
    """What a sequence is called: its file's place below the folder, without the ending."""
    return file.relative_to(path).with_suffix("").as_posix()


def _arrays(files: list[Path]) -> dict[str, Array]:
    """A table of arrays below each other; `sequence` is the number of the file."""
    arrays: list[Array] = []
    for file in files:
        try:
            array = np.array(np.lib.format.open_memmap(file, mode="r"))  # which knows how long the file is
        except (ValueError, EOFError) as error:
            raise DataError(f"{file}: damaged, or no plain array of NumPy: {error}") from error
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size:
            raise DataError(f"{file}: must be (T, channels) or (T,), none of them 0, got {array.shape}")
        if arrays and array.shape[1] != arrays[0].shape[1]:
            raise DataError(f"{file}: has {array.shape[1]} channels, {files[0].name} has {arrays[0].shape[1]}")
        arrays.append(array)
    whole = np.concatenate(arrays)
    table = {"sequence": np.repeat(np.arange(len(files)), [len(array) for array in arrays])}
    return table | {f"channel {i}": column for i, column in enumerate(whole.T)}


def _tables(path: Path, files: list[Path], targets: bool) -> dict[str, Array]:
    """All tables below each other; `sequence` is the number of the file."""
    number, pieces = {file: i for i, file in enumerate(files)}, list[dict[str, Array]]()
    for i in range(0, len(files), AT_ONCE):
        piece = read_columns(path, files[i : i + AT_ONCE], targets, "union_by_name = true, filename = 'sequence'")
        if pieces and piece.keys() != pieces[0].keys():
            raise DataError(f"{path}: column {min(piece.keys() ^ pieces[0].keys())!r} is not in all of the files")
        of = piece["sequence"]  # the rows of a file are together
        starts = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1]])[: len(of)])
        numbers = np.array([number[Path(file)] for file in of[starts]], dtype=int)
        pieces.append({**piece, "sequence": np.repeat(numbers, np.diff([*starts, len(of)]))})
    table = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    if empty := set(range(len(files))) - set(np.unique(table["sequence"]).tolist()):
        raise DataError(f"{files[min(empty)]}: holds no rows")
    return table


def _told_by_folders(path: Path, places: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Split and class of every sequence, where they lie in folders of such names."""
    told: dict[str, dict[str, Any]] = {}
    tops = {folders[0] if folders else "" for folders in places.values()}
    if tops & set(PARTS):
        if others := sorted(tops - set(PARTS)):
            beside = f"folder {others[0]!r}" if others[0] else next(name for name, at in places.items() if not at)
            part = min(tops & set(PARTS))
            raise DataError(f"{path}: {beside} lies beside {part}; parts are called {', '.join(PARTS)}")
        told["split"] = {name: folders[0] for name, folders in places.items()}
        places = {name: folders[1:] for name, folders in places.items()}
    for name, folders in places.items():
        if len(folders) > 1:
            raise DataError(f"{path}: {name} lies deeper than [train|valid|test/][CLASS/]")
    if len({len(folders) for folders in places.values()}) > 1:
        outside = next(name for name, folders in places.items() if not folders)
        raise DataError(f"{path}: {outside} is not in the folder of a class, but others are")
    if any(places.values()):
        told["target"] = {name: folders[0] for name, folders in places.items()}
    return told


def _told_by_table(file: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """What a table says of every sequence, by column."""
    found, _ = csv_columns(file)
    if "file" not in found:
        raise DataError(f"{file}: has no column 'file'; it has {', '.join(found)}")
    columns = read_columns(file, [file], True, "types = {'file': 'VARCHAR'}")
    table, known = {name: plain(column) for name, column in columns.items()}, set(names)
    rows = [name if name in known else Path(name).with_suffix("").as_posix() for name in table.pop("file").tolist()]
    if strange := set(rows) - known:
        raise DataError(f"{file}: there is no file {min(strange)}")
    if len(set(rows)) < len(rows):
        raise DataError(f"{file}: lists {next(name for name in rows if rows.count(name) > 1)} twice")
    if forgotten := known - set(rows):
        raise DataError(f"{file}: has no row for {min(forgotten)}")
    for column in table:
        if not is_target(column) and column not in ("split", "group"):
            raise DataError(f"{file}: unknown column {column!r}; known: file, target, target.NAME, split, group")
    return {column: dict(zip(rows, values, strict=True)) for column, values in table.items()}
