"""Naive alternatives to the law: each learns what it describes, and is judged by hand-made numbers."""

import math

import numpy as np
import pytest

from elmnet.errors import TheoryError
from elmnet.theory import published
from elmnet.theory.compare import FORMS, _judge, aicc, judge, lowest, predict, profile
from elmnet.theory.unit import complexity_of

RUNS = published("enwik8", "valid_bpc")
LOW, HIGH = 20.0, 60.0


def of_ln(*constants):
    return lambda N, k_e, d_m: sum(c * np.log(d_m) ** i for i, c in enumerate(constants))


def link(N, k_e, d_m):
    gamma = 30 / ((1 + 250 / k_e) * (1 + 60 / N))
    return 1.5 + (RUNS.H0 - 1.5) / (1 + gamma)


def law(N, k_e, d_m):
    return 1.6 + 0.1 * (np.log2(1 + 250 / k_e) + np.log2(1 + 60 / N))


TRUTHS = {
    "SNRR, a = 1": law,
    "A/N + B/k_e": lambda N, k_e, d_m: 1.6 + 7 / N + 30 / k_e,
    "A N^-b + B k_e^-b": lambda N, k_e, d_m: 1.5 + 2 * N**-0.7 + 5 * k_e**-0.7,
    "A N^-b + B k_e^-c": lambda N, k_e, d_m: 1.5 + 1.2 * N**-0.5 + 9 * k_e**-0.8,
    "quadratic in ln d_m": of_ln(2.0, -0.2, 0.035),
    "cubic in ln d_m": of_ln(2.0, -0.3, 0.06, 0.002),
    "distortion link": link,
}


def made_by(form):
    return RUNS.with_scores(TRUTHS[form.name](RUNS.N, RUNS.k_e, RUNS.d_m))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_learns_what_it_describes(form):
    runs = made_by(form)
    tolerance = 2e-4 if form.name in ("SNRR, a = 1", "distortion link") else 1e-5
    learned = form.learn(runs)
    assert predict(learned, runs) == pytest.approx(runs.y, abs=tolerance)
    d_m = np.linspace(3, 100, 5000)
    k_e = complexity_of(d_m, runs.neuron)
    N = np.median(runs.hidden) / (k_e + 750)
    best = float(d_m[np.argmin(TRUTHS[form.name](N, k_e, d_m))])
    assert lowest(learned, runs) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_is_judged_by_what_it_misses(form):
    """Its own data: nothing in the whole, with one run left out, and between the ends; the right d_m from the ends."""
    runs = made_by(form)
    own = _judge(form, runs, (runs.d_m <= LOW) | (runs.d_m >= HIGH))
    assert own.constants == form.constants
    assert max(own.rmse, own.left_out_rmse, own.ends_rmse) < 1e-3
    assert own.ends_best_d_m == pytest.approx(own.best_d_m, rel=0.05)


def test_errors_are_root_mean_squares():
    """A constant outlier moves a quadratic's residuals as least squares says."""
    runs = made_by(FORMS[4])
    y = runs.y.copy()
    y[3] += 0.1
    row = _judge(FORMS[4], runs.with_scores(y), (runs.d_m <= LOW) | (runs.d_m >= HIGH))
    design = np.stack([np.log(runs.d_m) ** i for i in range(3)], 1)
    hat = design @ np.linalg.solve(design.T @ design, design.T)
    residuals = y - hat @ y
    rss = float(np.sum(residuals**2))
    assert row.rmse == pytest.approx(math.sqrt(rss / len(y)))
    assert row.left_out_rmse == pytest.approx(math.sqrt(np.mean((residuals / (1 - np.diag(hat))) ** 2)))
    k = 4  # three constants and the variance
    expected = len(y) * math.log(rss / len(y)) + 2 * k + 2 * k * (k + 1) / (len(y) - k - 1)
    assert row.aicc == pytest.approx(expected)


def test_the_criterion_has_no_value_for_too_few_runs():
    assert math.isnan(aicc(1.0, 5, 3)) and not math.isnan(aicc(1.0, 6, 3))


def test_ends_must_hold_five_runs_and_leave_some():
    with pytest.raises(TheoryError, match="the ends must hold at least 5 of the 14 runs"):
        judge(RUNS, 5, 100)
    with pytest.raises(TheoryError, match="leave some, got 14"):
        judge(RUNS, 100, 1)
    assert len(judge(RUNS, 15, 85)) == len(FORMS)


def test_the_profile_is_flat_where_the_truth_is():
    rows = profile(made_by(FORMS[0]), [0.5, 1.0, 2.0])
    assert [row.a for row in rows] == [0.5, 1.0, 2.0]
    assert rows[1].rmse < 1e-4 < min(rows[0].rmse, rows[2].rmse)
    assert rows[1].d_m_tenfold > rows[1].d_m and rows[1].loss_tenfold < RUNS.y.min()
