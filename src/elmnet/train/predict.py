"""What a network trained on `sequence` says of sequences, and how that is written."""

import csv
import io
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elmnet.errors import ConfigError, RunError
from elmnet.files import write_atomic
from elmnet.models import Network
from elmnet.tasks.sequence import Sequence


class Predictions(NamedTuple):
    """Of n sequences, or of every step of them."""

    ids: NDArray[Any]  # (n,)
    lengths: NDArray[np.int64]  # (n,)
    per_step: bool
    classes: NDArray[Any] | None
    values: NDArray[np.float64]  # (n, k) or (n, T, k): probabilities of classes, or values; NaN past a length

    @property
    def answer(self) -> NDArray[Any]:
        """The likeliest class, (n,) or (n, T), or the values."""
        if self.classes is None:
            return self.values
        return np.asarray(self.classes[np.nan_to_num(self.values, nan=-1.0).argmax(-1)])


@torch.no_grad()
def predict(network: Network, task: Sequence) -> Predictions:
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
        told = out.double().softmax(-1) if task.classes is not None else out.double()
        told = told.cpu().numpy() if task.classes is not None else task.in_units(told.cpu().numpy())
        if task.per_step:
            told[np.arange(told.shape[1]) >= lengths.numpy()[:, None]] = np.nan
            values[pool, : told.shape[1]] = told
        else:
            values[pool] = told[np.arange(len(pool)), lengths.numpy() - 1]
    return Predictions(data.ids, data.lengths, task.per_step, task.classes, values)


def write(told: Predictions, path: Path) -> None:
    """Write predictions: a row for every sequence or step in .csv and .parquet, arrays in .npz.

    Raises:
        ConfigError: the ending is none of them, or DuckDB (extra `sweep`) is missing for .parquet.
        RunError: the file cannot be written.
    """
    if path.suffix not in (".csv", ".npz", ".parquet"):
        raise ConfigError(f"--out must end in .csv, .npz or .parquet, got {path}")
    try:
        if path.suffix == ".csv":
            write_atomic(path, _rows(told))
        elif path.suffix == ".npz":
            arrays: dict[str, Any] = {"prediction": told.answer, "sequence": told.ids, "lengths": told.lengths}
            if told.classes is not None:
                arrays |= {"probability": told.values, "classes": told.classes}
            content = io.BytesIO()
            np.savez(content, **arrays)
            write_atomic(path, content.getvalue())
        else:
            _parquet(told, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def _rows(told: Predictions) -> str:
    """Predictions as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    key = ["sequence", "step"] if told.per_step else ["sequence"]
    if told.classes is None:
        names = (
            ["prediction"] if told.values.shape[-1] == 1 else [f"prediction.{i}" for i in range(told.values.shape[-1])]
        )
    else:
        names = ["prediction", *(f"p.{name}" for name in told.classes)]
    writer.writerow([*key, *names])
    for i, name in enumerate(told.ids.tolist()):
        for t in range(told.lengths[i]) if told.per_step else (None,):
            at = (i,) if t is None else (i, t)
            answer = told.answer[at].tolist()
            values = answer if told.classes is None else [answer, *told.values[at].tolist()]
            writer.writerow([name, *([] if t is None else [t]), *values])
    return text.getvalue()


def _parquet(told: Predictions, path: Path) -> None:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("Parquet needs DuckDB: pip install 'elmnet[sweep]'; or --out FILE.csv") from None
    with tempfile.TemporaryDirectory() as place:
        rows, aside = Path(place) / "rows.csv", Path(place) / "rows.parquet"
        rows.write_text(_rows(told))
        with duckdb.connect() as connection:
            connection.read_csv(str(rows), header=True).write_parquet(str(aside))
        write_atomic(path, aside.read_bytes())
