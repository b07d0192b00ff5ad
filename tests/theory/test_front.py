"""Synthetic sweeps: the front, read off without the model."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import simulated

from elmnet.errors import TheoryError
from elmnet.theory import fit
from elmnet.theory.front import PowerLaw, gaps, near_front, pinball, power_law, power_law_worlds, read_front

TRUTH = PowerLaw(1.2, 0.4, 5e3, 1e4, 1e7)


def sweep(count=120, noise=0.004, seed=0):
    """Synthetic runs on and above a power-law front."""
    rng = np.random.default_rng(seed)
    P = np.exp(rng.uniform(np.log(1e4), np.log(1e7), count))
    return P, TRUTH.loss(P) + rng.exponential(0.05, count) + noise * rng.standard_normal(count)


def test_near_front_keeps_what_nobody_clearly_beats():
    P = np.array([100, 104, 110, 1000, 1000])
    y = np.array([2.0, 1.9, 1.95, 1.8, 1.805])
    assert near_front(P, y, 0.01).tolist() == [False, True, False, True, True]
    assert near_front(P, y, 0.1).all()  # noise as large as the differences


def test_an_exact_power_law_is_recovered():
    P = np.geomspace(1e4, 1e7, 12)
    found = power_law(P, TRUTH.loss(P))
    assert (found.L_inf, found.alpha, found.P_c) == pytest.approx((1.2, 0.4, 5e3), rel=1e-3)
    assert (found.P_min, found.P_max) == (P[0], P[-1])


def test_an_exact_front_has_a_smaller_effective_exponent():
    """§5: L_inf + (P_c/P)^α fitted to an a = 1 front over 10^4…10^7 returns α = 0.34, not 0.5."""
    from elmnet.theory import SNRR

    law = SNRR(L_inf=1.0, D=0.9, kappa_e=400, N_r=70, H0=30.0)
    assert law.critical_budget == pytest.approx(28_000)
    P = np.geomspace(1e4, 1e7, 40)
    found = power_law(P, law.front(P))
    assert found.alpha == pytest.approx(0.34, abs=0.02)
    assert np.max(np.abs(found.loss(P) - law.front(P))) == pytest.approx(0.017, abs=0.005)
    far = np.array([10**7.5, 1e8])
    assert np.all(found.loss(far) - law.front(far) < -0.02)


def test_bootstrap_of_the_power_law():
    P, y = sweep()
    worlds = power_law_worlds(P, y, 0.004, draws=30)
    assert 20 <= len(worlds) <= 30
    alphas = np.array([world.alpha for world in worlds])
    assert alphas.std() > 0
    assert np.quantile(alphas, 0.02) < 0.8 and np.quantile(alphas, 0.98) > 0.25


def test_a_front_read_without_the_model():
    P, y = sweep()
    front = read_front(P, y, 0.004, draws=40)
    assert front.near.sum() >= 8
    low, high = front.alpha
    assert low <= front.law.alpha <= high
    assert 20 <= front.kept <= 40
    assert read_front(P, y, 0.004, draws=0).alpha is None
    few = read_front(P[front.near][:9], y[front.near][:9], 0.004, draws=40)  # most resampled sets have fewer than 8
    assert few.kept < 20 and few.alpha is None


def test_the_front_of_a_law_beside_the_runs():
    """Runs that undercut the law's best show where it is wrong."""
    runs = simulated([1e4, 1e5, 1e6, 1e7], [4, 15, 40], noise=0.02)
    found = gaps(fit(runs, draws=40), draws=30, budgets=3)
    assert [gap.hidden for gap in found] == pytest.approx(np.geomspace(runs.hidden.min(), runs.hidden.max(), 3))
    for gap in found:
        assert gap.model_interval[0] <= gap.model <= gap.model_interval[1]
        assert "lower" not in gap.verdict
    better = runs.with_scores(np.where(runs.hidden > 3e6, runs.y - 0.5, runs.y))
    known = fit(runs, draws=40)
    last = gaps(replace(known, runs=better), draws=30, budgets=3)[-1]
    assert last.verdict == "runs lie lower: SNRR is wrong here"
    worse = gaps(replace(known, runs=runs.with_scores(runs.y + 0.5)), draws=30, budgets=3)[0]
    assert worse.verdict.startswith("runs lie higher")
    with pytest.raises(TheoryError, match="no interval: no bootstrap was asked for"):
        gaps(fit(runs, draws=0))


def test_pinball_leaves_a_tenth_below():
    P, y = sweep()
    found = pinball(P, y)
    assert np.mean(y < found.loss(P)) == pytest.approx(0.1, abs=0.03)
    assert np.sqrt(np.mean((found.loss(P) - TRUTH.loss(P)) ** 2)) < 0.02


def test_too_little_for_a_law():
    with pytest.raises(TheoryError, match="at least 8 points"):
        power_law(np.geomspace(1e4, 1e7, 5), np.ones(5))
    with pytest.raises(TheoryError, match="two decades of P, the front spans a factor 10"):
        power_law(np.geomspace(1e4, 1e5, 9), np.linspace(2, 1, 9))
    with pytest.raises(TheoryError, match="losses that differ, all of the front are 1"):
        power_law(np.geomspace(1e4, 1e7, 9), np.ones(9))
    with pytest.raises(TheoryError, match="at least 8 runs, there are 3"):
        pinball(np.ones(3), np.ones(3))


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_pinball_curve_has_its_share_below_it(share):
    rng = np.random.default_rng(3)
    P = np.exp(rng.uniform(np.log(1e4), np.log(1e7), 400))
    y = TRUTH.loss(P) + rng.exponential(0.05, 400)
    found = pinball(P, y, share)
    assert np.mean(y < found.loss(P) - 1e-9) == pytest.approx(share, abs=3 / 400)  # three constants touch runs
    assert (found.P_min, found.P_max) == (P.min(), P.max())
