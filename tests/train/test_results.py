"""Finished runs as a fit takes them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from elmnet.errors import TheoryError
from elmnet.theory import fit
from elmnet.train.config import compose
from elmnet.train.results import Finished, as_runs

CONSTANT = {split: {"rmse": 0.5, "r2": 0.0} for split in ("valid", "test")}
KNEW = {split: {"rmse": 0.01, "r2": 0.99} for split in ("valid", "test")}


def of_values(memory, rmse, baselines=(CONSTANT, KNEW)):
    """A run on sequences that end in values."""
    config = compose("sequence", preset="tiny", data="mine.npz")
    config = config.replace(model=config.model.with_hidden(memory=memory))
    scores = {split: {"rmse": rmse, "r2": 1 - (rmse / 0.5) ** 2} for split in ("valid", "test")}
    return Finished(f"d{memory}", config, "mine", scores, list(baselines))


def test_errors_are_fitted_in_bits():
    found = [of_values(memory, 0.5 * 2 ** (-memory / 4)) for memory in (3, 4, 5, 6, 8)]
    runs = as_runs(found, Path("here"))
    assert (runs.score, runs.unit, runs.floor, runs.H0) == ("valid_log2_rmse", 1.0, -math.inf, -1.0)
    assert runs.y == pytest.approx([-1 - memory / 4 for memory in (3, 4, 5, 6, 8)])
    known = fit(runs, draws=0)
    assert known.law.loss(24, 1e9, 1e9) > known.law.L_inf >= -1 - 2 * 8 / 4
    assert as_runs(found, Path("here"), "test_log2_rmse").score == "test_log2_rmse"
    with pytest.raises(TheoryError, match="no score 'valid_r2'; they have valid_log2_rmse, test_log2_rmse"):
        as_runs(found, Path("here"), "valid_r2")


def test_runs_on_other_contents_of_the_data_are_not_seeds_of_one_configuration():
    found = [replace(of_values(3, 0.1 + i / 100), contents=f"hash {i // 2}") for i in range(4)]
    runs = as_runs(found, Path("here"))
    assert len(set(runs.configurations)) == 2
    assert "trained differently (400 steps, 2 training settings or data)" in runs.caution


def test_scores_that_the_model_is_not_of():
    baseline = {split: {"r2": 0.0} for split in ("valid", "test")}
    with pytest.raises(TheoryError, match=r"the model is of bpc, loss, error, .*, which none has"):
        as_runs([of_values(3, 0.1, [baseline])], Path("here"))
