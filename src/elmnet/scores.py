"""Scores: what they are measured in, which one stands for a run where there is room for one, and those of a run."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from elmnet import tables
from elmnet.errors import ConfigError
from elmnet.tables import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNITS = {
    "bpc": "bits per character",
    "accuracy": "share right",
    "nats": "nats",
    "macro_f1": "mean over classes",
    "nrmse": "in standard deviations of the training part",
    "rmse": "in the data's unit",
    "r2": "explained variance",
    "soma_rmse": "mV",
    "soma_ev": "explained variance",
    "auc": "area under the ROC curve",
    "loss": "as in training",
}
"""Every score of a task, and its unit."""
ALWAYS = ("bpc", "nats", "accuracy")
"""Those that a table of runs has columns for, whatever the task."""
_LEADING = ("bpc", "nats", "nrmse", "rmse", "soma_rmse")
_LARGER = {"accuracy", "macro_f1", "r2", "soma_ev", "auc"}
_OWN: list[str] = []


def register(name: str, unit: str = "", *, larger_is_better: bool = False) -> None:
    """Make a score of a task of one's own known: what it is measured in, and which way is up. It represents its runs
    in tables and figures.

    Raises:
        ConfigError: there is another one of this name.
    """
    if UNITS.setdefault(name, unit) != unit or (name not in _OWN and name in (*ALWAYS, *_LEADING, *_LARGER)):
        raise ConfigError(f"there is a score {name!r} already, {UNITS[name]}; give yours another name")
    if larger_is_better:
        _LARGER.add(name)
    if name not in _OWN:
        _OWN.append(name)


def require_known(name: str) -> None:
    """Refuse to choose by a score of which nobody said whether more is better.

    Raises:
        ConfigError: it is such a one.
    """
    if name not in UNITS:
        raise ConfigError(
            f"no score {name!r}: say whether more of it is better with elmnet.scores.register({name!r}, "
            "larger_is_better=...) before the task is registered"
        )


def leading(names: Collection[str]) -> str:
    """The one of these scores that represents a run where there is room for one."""
    known = (*_OWN, *_LEADING, *names)
    return next((name for name in known if name in names), ALWAYS[1])


def labelled(name: str) -> str:
    """A score and what it is measured in."""
    return f"{name} ({UNITS[name]})" if UNITS.get(name) else name


def larger_is_better(score: str) -> bool:
    """Whether it is; the name may begin with a split: `valid_accuracy`."""
    return score.removeprefix("valid_").removeprefix("test_") in _LARGER


def by_class(labels: Sequence[str], confusion: "NDArray[np.int64]", title: str) -> Table:
    """What became of every class.

    Args:
        labels: of the classes.
        confusion: how often a class (rows) was taken for each (columns).
        title: of the table.
    """
    right, true, named = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    rows = []
    for i, label in enumerate(labels):
        wrong = confusion[i].copy()
        wrong[i] = 0
        worst = int(wrong.argmax())
        rows.append(
            (
                label,
                tables.whole(int(true[i])),
                tables.score(right[i] / true[i] if true[i] else None),
                tables.score(right[i] / named[i] if named[i] else None),
                tables.score(2 * right[i] / (true[i] + named[i]) if true[i] + named[i] else None),
                f"{labels[worst]} ({wrong[worst]:,})" if wrong[worst] else "",
            )
        )
    return Table(title, ("class", "number", "recall", "precision", "F1", "most often taken for"), rows)


def by_value(scores: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """RMSE, each in its own unit, and R² of every value, by its name."""
    rows = [(name, f"{one['rmse']:.4g}", tables.score(one["r2"])) for name, one in scores.items()]
    return Table(title, ("value", "RMSE", "R²"), rows)


def final_scores(results: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Table:
    """Scores of a finished run, or of some that differ in their seed alone, by name, beside trivial predictors."""
    first = next(iter(results.values()))
    columns = list(product(("valid", "test"), first["test"]))
    trained = {"elm": "ELM network", "leaky": "leaky units"}.get(kind := first.get("model", "elm"), kind)
    words = f"{trained}, P {first['parameters']:,}"
    scored = {f"{words} {name}".strip(): row for name, row in results.items()} | first["baselines"]
    rows = [[name, *(tables.score(row[split].get(score)) for split, score in columns)] for name, row in scored.items()]
    if len(results) > 1:
        samples = [[row[split][score] for row in results.values()] for split, score in columns]
        root = len(results) ** 0.5
        means = [tables.score(fmean(sample), stdev(sample) / root) for sample in samples]
        rows.insert(len(results), ["mean ± s.e.", *means])
    names = [f"{split} {score}" for split, score in columns]
    return Table(title or f"{first['task']} on {first['data']}", ["", *names], rows)
