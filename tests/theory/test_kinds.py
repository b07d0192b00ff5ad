"""Kinds of score: where a table has them, what they can be, and the logarithm of an error."""

import math

import numpy as np
import pytest

from elmnet.config import NetworkConfig
from elmnet.errors import TheoryError
from elmnet.theory import runs_of_rows
from elmnet.theory.kinds import KINDS, SCORES, kind_of, score_of, scores_of

START = NetworkConfig.preset("enwik8")


def test_scores_by_any_of_their_names():
    row = {"valid_bpc": "2.5", "valid_nats": 1.7, "test_loss_nats": 1.8, "test_accuracy": "0.25", "train_bpc": ""}
    assert scores_of(row) == ["valid_bpc", "valid_loss", "test_loss", "test_error"]
    assert [score_of(row, score) for score in scores_of(row)] == [2.5, 1.7, 1.8, 0.75]
    for score, words in (
        ("train_bpc", "no score 'train_bpc'; it has valid_bpc, valid_loss, test_loss, test_error"),
        ("valid_accuracy", "no score 'valid_accuracy': the model is of bpc, loss, error"),
    ):
        with pytest.raises(TheoryError, match=words):
            score_of(row, score)


def test_an_rmse_is_measured_in_bits():
    row = {"valid_rmse": 0.25, "test_rmse": 4.0, "valid_log2_rmse": "", "valid_r2": 0.9, "test_soma_rmse": 0.5}
    assert scores_of(row) == ["valid_log2_rmse", "test_log2_rmse", "test_log2_soma_rmse"]
    assert [score_of(row, score) for score in scores_of(row)] == [-2.0, 2.0, -1.0]
    assert score_of({**row, "valid_log2_rmse": 3}, "valid_log2_rmse") == 3.0
    assert math.isnan(score_of({"valid_rmse": "nan"}, "valid_log2_rmse"))  # of a run that diverged
    for value in (0, -1):
        with pytest.raises(TheoryError, match=f"valid_rmse must be positive, got {value}: the model is of its log"):
            score_of({"valid_rmse": value}, "valid_log2_rmse")
    with pytest.raises(TheoryError, match="valid_log2_rmse must be finite, got inf"):
        score_of({"valid_rmse": math.inf}, "valid_log2_rmse")


def test_several_values_are_told_in_their_standard_deviations():
    row = {"valid_rmse": 4.0, "valid_nrmse": 0.25}
    assert scores_of(row) == ["valid_log2_nrmse", "valid_log2_rmse"]
    assert score_of(row, "valid_log2_nrmse") == -2.0


def test_runs_of_errors_have_no_floor():
    rows = [{"N": 64, "d_m": d_m, "valid_rmse": 2.0**-d_m} for d_m in (3, 5, 8)]
    runs = runs_of_rows(rows, START, H0=-1.0, source="here")
    assert (runs.score, runs.unit, runs.floor) == ("valid_log2_rmse", 1.0, -math.inf)
    assert runs.y.tolist() == [-3.0, -5.0, -8.0]
    rows = [{"N": 64, "d_m": 5, "valid_rmse": share} for share in (0.79, 0.81, math.nan)]
    (near, diverged) = runs_of_rows(rows, START, H0=0.0, source="here").collapsed().items()
    assert near == (1, "valid_log2_rmse -0.304 is within 20 % in the error itself of 0, that of knowing nothing")
    assert diverged == (2, "its valid_log2_rmse is nan")
    with pytest.raises(TheoryError, match="H0, the valid_bpc of knowing nothing, must be positive, got -1"):
        runs_of_rows([{"N": 64, "d_m": 5, "valid_bpc": 2}], START, H0=-1.0, source="here")


def test_every_score_is_of_a_kind():
    assert {score.partition("_")[2] for score in SCORES} == set(KINDS)
    assert all(kind_of(score).measure for score in SCORES)
    assert kind_of("test_loss").unit == np.log(2)
