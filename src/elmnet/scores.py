"""The names of scores: what they are measured in, and which one stands for a run where there is room for one."""

from collections.abc import Iterable

UNITS = {
    "bpc": "bits per character",
    "accuracy": "share right",
    "nats": "nats",
    "macro_f1": "mean over classes",
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
_LEADING = ("bpc", "nats", "rmse", "soma_rmse")
_LARGER = {"accuracy", "macro_f1", "r2", "soma_ev", "auc"}


def leading(names: Iterable[str]) -> str:
    """The score that stands for a run which has these."""
    return next((name for name in _LEADING if name in names), _LEADING[1])


def larger_is_better(score: str) -> bool:
    """Whether it is; the name may begin with a split: `valid_accuracy`."""
    return score.removeprefix("valid_").removeprefix("test_") in _LARGER
