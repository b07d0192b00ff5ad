"""Kinds of score that the model is of: their unit, and where a table has them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elmnet.errors import TheoryError
from elmnet.theory.model import NATS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of score, less is better."""

    unit: float
    """u of the model (§1): 1 for bits (and shares, where the link is empirical), ln 2 for nats."""
    measure: str
    """What it is measured in, for people."""
    columns: Mapping[str, Callable[[float], float]]
    """Columns that may tell it, the most direct first, and the score of the figure that stands there."""
    floor: float = 0.0
    """Least score there can be."""
    share: bool = False
    """Whether it lies between 0 and 1."""


def _root(of: str, measured_in: str) -> Kind:
    """The logarithm of a root mean square error: a Gaussian channel halves the error with every bit per value."""
    return Kind(1.0, f"log2, {measured_in}", {f"log2_{of}": float, of: math.log2}, floor=-math.inf)


KINDS = {
    "bpc": Kind(1.0, "bits per character", {"bpc": float}),
    "loss": Kind(NATS, "nats", {"loss": float, "nats": float, "loss_nats": float}),
    "error": Kind(1.0, "share wrong", {"error": float, "accuracy": lambda right: 1 - right}, share=True),
    "log2_nrmse": _root("nrmse", "in standard deviations of the training part"),
    "log2_rmse": _root("rmse", "in the data's unit"),
    "log2_soma_rmse": _root("soma_rmse", "in mV"),
}
SCORES = tuple(f"{split}_{kind}" for split in ("valid", "test", "train") for kind in KINDS)
"""Every score that a fit can be of, validation first."""


def kind_of(score: str) -> Kind:
    """What a score measures.

    Raises:
        TheoryError: the model is of no such score.
    """
    name = score.partition("_")[2]
    if name not in KINDS:
        raise TheoryError(f"no score {score!r}: the model is of {', '.join(KINDS)}, as in valid_bpc or test_error")
    return KINDS[name]


def score_of(row: Row, score: str) -> float:
    """A score of a row, less is better.

    Args:
        row: figures by name; a loss in nats may also be called `valid_nats` or `valid_loss_nats`, an error may be
            given by `valid_accuracy`, and the logarithm of an RMSE by `valid_rmse`.
        score: `valid_bpc`, `test_loss`, `valid_error`, `valid_log2_rmse`, ...

    Raises:
        TheoryError: the row does not have it, or has what it cannot be.
    """
    kind, columns = kind_of(score), _columns(score)
    name = next((name for name in columns if given(row, name)), None)
    if name is None:
        has = ", ".join(scores_of(row)) or f"none that the model is of, which are {', '.join(KINDS)}"
        raise TheoryError(f"no score {score!r}; it has {has}")
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise TheoryError(f"{name} is no number: {row[name]!r}") from None
    try:
        found = columns[name](value)
    except ValueError:
        raise TheoryError(f"{name} must be positive, got {value:g}: the model is of its logarithm") from None
    require_possible(score, found, kind)
    return found


def require_possible(name: str, value: float, kind: Kind) -> None:
    """Refuse what no score can be; NaN, of a run that diverged, can.

    Raises:
        TheoryError: it is such a one.
    """
    if kind.share and not (0 <= value <= 1 or math.isnan(value)):
        raise TheoryError(f"{name} must be a share from 0 to 1, not per cent, got {value:g}")
    if value < kind.floor or math.isinf(value):
        sign = " and not negative" if kind.floor == 0 else ""
        raise TheoryError(f"{name} must be finite{sign}, got {value:g}")


def scores_of(row: Row) -> list[str]:
    """Every score of a row that a fit can be of, validation first."""
    return [score for score in SCORES if any(given(row, name) for name in _columns(score))]


def _columns(score: str) -> dict[str, Callable[[float], float]]:
    """Columns that may hold a score."""
    split = score.partition("_")[0]
    return {f"{split}_{name}": read for name, read in kind_of(score).columns.items()}


def given(row: Row, name: str) -> bool:
    """Whether a row has something in a column."""
    return row.get(name) not in (None, "")
