"""Scores of every task have a unit, and one of them leads."""

import numpy as np
import pytest

from elmnet.report.figures.curves import learning_curve
from elmnet.scores import UNITS, by_class, by_value, larger_is_better, leading
from elmnet.sweep.table import leading_score
from elmnet.tasks import TASKS


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["accuracy", "nats", "bpc"], "bpc"),
        (["nats", "accuracy"], "nats"),
        (["rmse", "r2"], "rmse"),
        (["rmse", "r2", "nrmse"], "nrmse"),
        (["auc", "soma_rmse", "soma_ev", "loss"], "soma_rmse"),
    ],
)
def test_one_score_stands_for_a_run(names, best):
    assert leading(names) == best
    assert not larger_is_better(best)
    assert set(names) <= set(UNITS)
    rows = [{"valid_bpc": None, "d_m": 3}, {f"valid_{name}": 1.0 for name in names}]
    assert leading_score(rows) == f"valid_{best}"


def test_direction():
    assert {name: larger_is_better(task.metric) for name, task in TASKS.items()} == {
        "enwik8": False, "shd-adding": True, "shd": True, "neuronio": False, "sequence": False,
    }  # fmt: skip
    assert larger_is_better("valid_accuracy") and larger_is_better("test_r2") and larger_is_better("auc")


@pytest.mark.parametrize(
    ("criterion", "score", "words"),
    [("cross_entropy", "nats", "cross entropy (nats)"), ("error", "loss", "loss"), ("squared_error", "rmse", "rmse")],
)
def test_learning_is_drawn_whatever_was_minimised(criterion, score, words):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
    lines = [{"event": "train", "step": k, "loss": 1.0, criterion: 1.0} for k in (1, 2)]
    ax = learning_curve([*lines, {"event": "valid", "step": 2, score: 0.5}])
    assert words in ax.get_ylabel()
    assert [len(line.get_xdata()) for line in ax.lines] == ([1] if criterion == "squared_error" else [2, 1])


def test_what_became_of_every_class():
    confusion = np.array([[6, 2, 0], [0, 0, 0], [1, 3, 8]])
    table = by_class(["a", "b", "c"], confusion, "test")
    assert [tuple(row) for row in table.rows] == [
        ("a", "8", "0.7500", "0.8571", "0.8000", "b (2)"),
        ("b", "0", "", "0.0000", "0.0000", ""),
        ("c", "12", "0.6667", "1.0000", "0.8000", "b (3)"),
    ]


def test_scores_of_every_value():
    table = by_value({"speed": {"rmse": 12345.6, "r2": 0.5}, "drift": {"rmse": 1.5e-6, "r2": -1.0}}, "test")
    assert [tuple(row) for row in table.rows] == [("speed", "1.235e+04", "0.5000"), ("drift", "1.5e-06", "-1.0000")]
