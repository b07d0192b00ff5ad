"""What a network trained on `sequence` says of sequences, and how that is written."""

import csv
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elmnet import sql
from elmnet.errors import ConfigError, RunError
from elmnet.files import ending, write_atomic
from elmnet.models import Network
from elmnet.tasks.sequence import SequenceTask


class Predictions(NamedTuple):
    """Of n sequences, or of every step of them."""

    ids: NDArray[Any]  # (n,)
    lengths: NDArray[np.int64]  # (n,)
    per_step: bool
    classes: NDArray[Any] | None
    values: NDArray[np.float64]  # (n, k) or (n, T, k): probabilities of classes, or values; NaN past a length
    names: tuple[str, ...] = ()  # of the values; (): numbers
    steps: NDArray[Any] | None = None  # (n, T), what the file calls them; None: numbers from 0

    @property
    def answer(self) -> NDArray[Any]:
        """The likeliest class, (n,) or (n, T), or the values."""
        if self.classes is None:
            return self.values
        return np.asarray(self.classes[np.nan_to_num(self.values, nan=-1.0).argmax(-1)])


@torch.no_grad()
def predict(network: Network, task: SequenceTask) -> Predictions:
    """Run a network over all sequences of a task's data.

    Args:
        network: in evaluation mode.
        task: opened with the facts of the run, so that data are standardised as in training.
    """
    data = task.data
    shape = (len(data), data.x.shape[1], task.outputs) if task.per_step else (len(data), task.outputs)
    values = np.full(shape, np.nan)
    for pool in task.pools("all"):
        x, lengths = task.inputs_of(pool)
        out, _ = network(x.to(network.device), None, lengths)
        if task.classes is not None:
            told = out.double().softmax(-1).cpu().numpy()
        else:
            told = task.in_units(out.double().cpu().numpy())
        if task.per_step:
            told[np.arange(told.shape[1]) >= lengths.numpy()[:, None]] = np.nan
            values[pool, : told.shape[1]] = told
        else:
            values[pool] = told[np.arange(len(pool)), lengths.numpy() - 1]
    names = tuple(task.facts().get("values", ()))
    return Predictions(data.ids, data.lengths, task.per_step, task.classes, values, names, data.steps)


def mean(told: Iterable[Predictions]) -> Predictions:
    """What several networks say of the same sequences, averaged: probabilities of classes, or values.

    Raises:
        ConfigError: they know different classes or values.
    """
    first, *others = told
    for one in others:
        same = [(known.classes is None, list(known.names), known.values.shape) for known in (first, one)]
        if same[0] != same[1] or not np.array_equal(np.array(first.classes), np.array(one.classes)):
            raise ConfigError("predictions of networks with different classes or values have no mean")
    return first._replace(values=np.mean([one.values for one in (first, *others)], 0))


def require_ending(path: Path) -> None:
    """Refuse what `write` could not write."""
    if ending(path) not in (".csv", ".npz", ".parquet"):
        raise ConfigError(f"--out must end in .csv, .npz or .parquet, got {path}")


def write(told: Predictions, path: Path) -> None:
    """Write predictions: a row for every sequence or step in .csv and .parquet, arrays in .npz; replaces what is there.

    Raises:
        ConfigError: the ending is none of them, or DuckDB (extra `sweep`) is missing for .parquet.
        RunError: the file cannot be written.
    """
    require_ending(path)
    try:
        if ending(path) == ".csv":
            write_atomic(path, _csv(_table(told)))
        elif ending(path) == ".npz":
            arrays: dict[str, Any] = {"prediction": told.answer, "sequence": told.ids, "lengths": told.lengths}
            if told.classes is not None:
                arrays |= {"probability": told.values, "classes": told.classes}
            content = io.BytesIO()
            np.savez(content, **arrays)
            write_atomic(path, content.getvalue())
        else:
            write_atomic(path, _parquet(_table(told)))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def _table(told: Predictions) -> dict[str, NDArray[Any]]:
    """Predictions as columns."""
    answer, values = told.answer, told.values
    if told.per_step:
        inside = np.arange(values.shape[1]) < told.lengths[:, None]
        sequence, step = np.nonzero(inside)
        key = {"sequence": told.ids[sequence], "step": step if told.steps is None else told.steps[inside]}
        answer, values = answer[inside], values[inside]
    else:
        key = {"sequence": told.ids}
    if told.classes is not None:
        return {**key, "prediction": answer, **{f"p.{name}": values[:, i] for i, name in enumerate(told.classes)}}
    count = values.shape[-1]
    names = ["prediction"] if count == 1 else [f"prediction.{name}" for name in told.names or range(count)]
    return {**key, **{name: values[:, i] for i, name in enumerate(names)}}


def _csv(table: dict[str, NDArray[Any]]) -> str:
    table = {  # times as people write them, not as a number of nanoseconds
        name: column.astype("datetime64[us]") if column.dtype.kind == "M" else column for name, column in table.items()
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
    return text.getvalue()


def _parquet(table: dict[str, NDArray[Any]]) -> bytes:
    duckdb = sql.duckdb("Parquet needs DuckDB, --out FILE.csv does not")
    names = [name.lower() for name in table]
    if len(set(names)) < len(names):
        twice = ", ".join(name for name in table if names.count(name.lower()) > 1)
        raise ConfigError(f"columns {twice} differ in case alone, which DuckDB takes for equal; use --out FILE.csv")
    with tempfile.TemporaryDirectory() as place:
        aside = Path(place) / "rows.parquet"
        texts = {name: column.astype(object) for name, column in table.items() if column.dtype.kind == "U"}
        with duckdb.connect() as connection:
            connection.register("predictions", table | texts)  # numpy's own texts would become enumerations
            connection.table("predictions").write_parquet(str(aside))
        return aside.read_bytes()
