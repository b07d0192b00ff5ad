"""Fits: the published runs' figures, the solver against SciPy's, what data cannot tell, coverage."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import TRUTH, simulated
from scipy.optimize import least_squares

from elmnet.config import NetworkConfig, NeuronConfig
from elmnet.errors import TheoryError
from elmnet.theory import fit, fit_plain, fit_unit, memory_of, published
from elmnet.theory.compare import judge, profile
from elmnet.theory.fit import open_worlds
from elmnet.theory.model import NATS
from elmnet.theory.rows import published_rows
from elmnet.theory.solve import PRIOR, Problem


def best_memory(law, runs):
    hidden = float(np.median(runs.hidden))
    return memory_of(law.optimum(hidden, float(np.median(runs.k_c))).complexity, runs.neuron)


@pytest.mark.parametrize("score", ["train_bpc", "valid_bpc"])
def test_golden_plain_fits(shared, score):
    import json

    document = json.loads((shared / "golden" / "theory_vectors.json").read_text())
    (want,) = [v["outputs"] for v in document["vectors"] if v["name"].endswith(score)]
    found = fit_plain(published("enwik8", score))
    got = {name: getattr(found.law, name) for name in ("kappa_e", "N_r", "D", "L_inf")} | {"rmse": found.rmse}
    assert got == pytest.approx(want, rel=1e-3)
    assert found.r2 >= {"train_bpc": 0.998, "valid_bpc": 0.99}[score]


def test_golden_neurons():
    rows = published_rows("neuronio")
    explained = np.array([row["test_soma_explained_variance_percent"] for row in rows]) / 100
    k_e = np.array([row["trainable_params"] for row in rows]) - 4500
    found = fit_unit(k_e, explained / (1 - explained))
    assert (found.eta_inf, found.kappa_e, found.rms) == pytest.approx((26.1790, 488.708, 0.032563), rel=1e-4)
    free = fit_unit(k_e, explained / (1 - explained), free_exponent=True)
    assert free.a == pytest.approx(1.11, abs=0.005)
    assert free.error["a"] == pytest.approx(0.06, abs=0.005)


@pytest.mark.parametrize(
    ("score", "low", "high", "r2"),
    [("train_bpc", 17, 18, 0.998), ("valid_bpc", 19, 21, 0.99), ("test_bpc", 18, 21, 0.96)],
)
def test_published_optimum(score, low, high, r2):
    found = fit(published("enwik8", score), draws=0)
    assert low <= best_memory(found.law, found.runs) <= high
    assert found.r2 >= r2


@pytest.mark.parametrize(
    ("score", "rmse", "memory"),
    [("valid_loss", 0.060, 6), ("test_loss", 0.165, 9), ("valid_error", 0.021, 7), ("test_error", 0.029, 9)],
)
def test_published_shd(score, rmse, memory):
    found = fit(published("shd-adding", score), draws=0)
    assert found.rmse == pytest.approx(rmse, rel=0.05)
    assert abs(best_memory(found.law, found.runs) - memory) <= 0.75
    assert list(found.excluded) == ["d_m 2, N 155"]


@pytest.mark.parametrize(("score", "limit"), [("train_bpc", 1.6), ("valid_bpc", 3.0), ("test_bpc", 6.5)])
def test_prediction_from_the_ends_only(score, limit):
    ours, *others = judge(published("enwik8", score), 10, 60)
    assert ours.ends_rmse * 1000 <= limit
    quadratic = next(row for row in others if row.name.startswith("quadratic"))
    assert ours.aicc < quadratic.aicc
    assert ours.left_out_rmse < quadratic.left_out_rmse


def test_one_budget_does_not_tell_the_exponent():
    rows = profile(published("enwik8", "valid_bpc"), [0.4, 1.0, 2.0])
    assert 1.9e-3 < min(row.rmse for row in rows) < max(row.rmse for row in rows) < 2.25e-3
    assert all(19.2 < row.d_m < 20.0 and 39.4 < row.d_m_tenfold < 42.1 for row in rows)
    losses = [row.loss_tenfold for row in rows]
    assert (min(losses), max(losses)) == pytest.approx((1.599, 1.648), abs=4e-3)


def test_the_solver_finds_what_scipy_finds():
    runs = published("enwik8", "valid_bpc")
    problem = Problem(runs, ("L_inf", "D", "kappa_e", "N_r"), {"kappa_c": 0.0, "a": 1.0})
    start, sd = problem.start(30.0, 700.0)
    z, cost = problem.minimise(start[None], runs.y[None], np.ones((1, len(runs))), sd)

    def residuals(z):
        loss, _ = problem.loss_and_slopes(z[None])
        median, prior_sd = problem.prior
        return np.concatenate([(loss[0] - runs.y) / sd, ((z - median) / prior_sd)[1:]])

    found = least_squares(residuals, np.clip(start, 0.01, None), bounds=problem.bounds, x_scale="jac", xtol=1e-12)
    assert cost[0] == pytest.approx(found.cost, rel=1e-6)
    assert z[0] == pytest.approx(found.x, abs=1e-3)


@pytest.mark.parametrize("free", [("L_inf", "D", "kappa_e", "N_r", "kappa_c", "a"), ("L_inf", "D", "kappa_e", "N_r")])
def test_slopes(free):
    runs = simulated([1e4, 1e6], [5, 15])
    problem = Problem(runs, free, {"kappa_c": 40.0, "a": 0.7})
    rng = np.random.default_rng(0)
    z = np.array([0.4, *(np.log([0.5, 200.0, 50.0, 30.0, 0.8])[: len(free) - 1] + rng.normal(0, 0.3, len(free) - 1))])
    _, slopes = problem.loss_and_slopes(z[None])
    for i in range(len(z)):
        step = np.zeros_like(z)
        step[i] = 1e-5
        ends = [problem.loss_and_slopes((z + s * step)[None])[0][0] for s in (-1, 1)]
        assert slopes[0, :, i] == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-4, abs=1e-8)


def test_the_truth_is_recovered_where_the_design_allows():
    runs = simulated([1e5, 1e6, 1e7], [4, 15, 40], noise=0.001)
    found = fit(runs, draws=0)
    assert set(found.free) == {"L_inf", "D", "kappa_e", "N_r", "kappa_c", "a"}
    assert found.law.a == pytest.approx(TRUTH.a, abs=0.08)
    assert found.law.L_inf == pytest.approx(TRUTH.L_inf, abs=0.02)
    assert found.sd == pytest.approx(0.001, rel=0.4)


def test_a_law_of_errors_is_that_of_any_loss_but_for_where_it_begins():
    """Logarithms of errors may be negative: the same runs 20 bits lower have the same constants."""
    runs = simulated([1e5, 1e6, 1e7], [4, 15, 40], noise=0.001)
    lower = replace(runs, y=runs.y - 20, H0=runs.H0 - 20, floor=-np.inf, score="valid_log2_rmse")
    law, shifted = fit(runs, draws=0).law, fit(lower, draws=30)
    for name in ("D", "kappa_e", "N_r", "kappa_c", "a"):
        assert getattr(shifted.law, name) == pytest.approx(getattr(law, name), rel=0.03)
    assert shifted.law.L_inf == pytest.approx(law.L_inf - 20, abs=0.01)
    low, high = shifted.interval(lambda law: law.L_inf)
    assert low < TRUTH.L_inf - 20 < high
    assert fit_plain(lower).rmse == pytest.approx(fit_plain(runs).rmse, rel=1e-3)


def test_an_infinite_network_knows_at_most_twice_what_the_best_run_does():
    """Where nothing else says what the least error is."""
    runs = replace(simulated([1e6], [15]), floor=-np.inf)
    least, most = Problem(runs, ("L_inf", "D", "kappa_e", "N_r"), {"kappa_c": 0.0, "a": 1.0}).limits
    best = runs.y.min()
    assert runs.H0 - least == pytest.approx(2 * (runs.H0 - best))
    assert most == pytest.approx(best + (runs.H0 - best) / 4)


def test_a_fit_that_explains_nothing_says_so():
    runs = simulated([1e5, 1e6], [4, 15], noise=0.002)
    assert fit(runs, draws=0).cautions == []
    shuffled = runs.with_scores(np.random.default_rng(1).permutation(runs.y))
    (words,) = fit(shuffled, draws=0).cautions
    assert words.endswith("the law explains little of how these runs differ")
    y = np.where(np.arange(len(runs)) % 2 == 0, 4.9, runs.y)
    assert "runs are left out of the law" in " ".join(fit(runs.with_scores(y), draws=0).cautions)


def test_outputs_that_fix_the_units_leave_nothing_to_fit():
    runs = replace(simulated([1e6], [15]), network=NetworkConfig.preset("neuronio"))
    with pytest.raises(
        TheoryError, match="synthetic: these networks have no read-out, so that their outputs fix the nu"
    ):
        fit(runs)


def test_what_a_design_cannot_tell_is_held_and_said():
    found = fit(simulated([1e6], [15], noise=0.002), draws=0)
    assert set(found.fixed) == {"kappa_c", "a"}
    assert "k_c varies by a factor 1" in found.fixed["kappa_c"]
    assert "one budget" in found.fixed["a"]
    assert fit(simulated([1e6], [15]), fixed={"a": 0.8}, draws=0).fixed["a"] == "0.8, as asked"


def test_an_outlier_does_not_decide():
    runs = simulated([1e6], [15], noise=0.001, memories=(3, 4, 6, 8, 10, 13, 16, 20, 25, 32, 40))
    y = runs.y.copy()
    y[4] += 0.2
    clean, spoilt = (best_memory(fit(r, draws=0).law, runs) for r in (runs, runs.with_scores(y)))
    assert spoilt == pytest.approx(clean, rel=0.02)


def test_seeds_give_the_noise():
    runs = simulated([1e6], [15], noise=0.003, repeats=4)
    found = fit(runs, draws=0)
    assert found.sd == runs.seed_sd() == pytest.approx(0.003, rel=0.4)


def test_collapsed_runs_are_left_out_and_named():
    runs = simulated([1e6], [15], memories=(2, 3, 4, 6, 8, 10, 16, 25, 40))
    y = runs.y.copy()
    y[3], y[4] = 4.9, float("nan")
    found = fit(runs.with_scores(y), draws=0)
    assert len(found.runs) == len(runs) - 3
    words = " ".join(found.excluded.values())
    assert "below 3" in words
    assert "knowing nothing" in words
    assert "is nan" in words


def test_the_least_memory_can_be_said():
    """Where simple units learn, they may be fitted; the reason for leaving them out says so."""
    runs = simulated([1e6], [15], memories=(1, 2, 3, 4, 6, 8, 10, 16, 25))
    known = fit(runs, draws=0)
    assert len(known.runs) == 7
    assert known.excluded[runs.names[1]].endswith("may not start (it did here: --least-memory 2 takes it in)")
    simple = fit(runs, draws=0, least_memory=1)
    assert (len(simple.runs), simple.excluded, simple.least_memory) == (9, {}, 1)
    y = np.where(runs.d_m == 2, 4.9, runs.y)
    (unlearned,) = (why for name, why in fit(runs.with_scores(y), draws=0).excluded.items() if name == runs.names[1])
    assert unlearned.endswith("may not start")
    with pytest.raises(TheoryError, match="least_memory must be at least 1, got 0"):
        fit(runs, least_memory=0)


def test_a_run_is_not_left_out_for_sharing_a_name():
    runs = simulated([1e6], [15], noise=0.003, repeats=2)
    y = runs.y.copy()
    y[0] = float("nan")
    found = fit(runs.with_scores(y), draws=0)
    assert runs.names[0] == runs.names[1]
    assert len(found.runs) == len(runs) - 1


def test_intervals_need_enough_runs():
    found = fit(simulated([1e6], [15], memories=(3, 6, 10, 16, 25)))
    assert found.worlds is None
    assert "at least 7 runs" in found.no_intervals
    assert found.interval(lambda law: law.D) is None
    _, low, high = found.predict(100, 100, 100)
    assert np.isnan(low).all() and np.isnan(high).all()
    with pytest.raises(TheoryError, match="4 usable runs, a fit needs at least 5"):
        fit(simulated([1e6], [15], memories=(3, 6, 10, 16)))


def test_intervals_shrink_with_less_noise_and_repeat_with_the_seed():
    memories = (3, 4, 6, 8, 10, 16, 25, 40)
    wide, narrow = (fit(simulated([1e6], [15], noise=noise, memories=memories), draws=60) for noise in (0.01, 0.001))
    spans = [float(np.subtract(*found.interval(lambda law: law.L_inf)[::-1])) for found in (wide, narrow)]
    assert spans[1] < spans[0]
    again = fit(simulated([1e6], [15], noise=0.01, memories=memories), draws=60)
    assert np.array_equal(again.worlds.D, wide.worlds.D)
    _, low, high = narrow.predict(narrow.runs.N, narrow.runs.k_e, narrow.runs.k_c)
    assert np.all(low <= high)


def test_worlds_differ_in_what_the_runs_cannot_tell():
    """Of runs that say nothing, their noise being far larger than they differ, worlds are draws from the priors."""
    runs = simulated([1e6], [15])
    problem = Problem(runs, ("L_inf", "D", "kappa_e", "N_r"), {"kappa_c": 0.0, "a": 1.0})
    z = np.array([0.5, *problem.prior[0][1:]])
    worlds = problem.worlds(z, problem.loss_and_slopes(z[None])[0][0], 50.0, 200, np.random.default_rng(0))
    for name in ("D", "kappa_e", "N_r"):
        drawn, (median, sd) = np.log(getattr(worlds, name)), PRIOR[name]
        assert drawn.mean() == pytest.approx(np.log(median), abs=0.2 * sd)
        assert drawn.std() == pytest.approx(sd, rel=0.15)


def test_open_worlds_vary_what_is_held():
    found = fit(simulated([1e6], [15], noise=0.002), draws=0)
    worlds = open_worlds(found, draws=40)
    assert worlds.a.std() > 0.1
    assert worlds.kappa_c.std() > 10
    errors = worlds.loss(found.runs.N, found.runs.k_e, found.runs.k_c) - found.runs.y
    assert np.sqrt(np.mean(errors**2)) < 0.01  # all of them describe the runs


def test_constants_that_cannot_be_held():
    with pytest.raises(TheoryError, match="only kappa_c and a can be held, got D"):
        fit(published("enwik8"), fixed={"D": 1.0})
    for name, value, words in (
        ("a", 1e6, r"a must lie in 0\.2\.\.3, got 1e\+06"),
        ("a", float("nan"), "got nan"),
        ("kappa_c", -1, r"kappa_c must lie in 0\.01\.\.1e\+06, or be 0 .*, got -1"),
    ):
        with pytest.raises(TheoryError, match=words):
            fit(published("enwik8"), fixed={name: value})
    assert fit(published("enwik8"), fixed={"kappa_c": 0}, draws=0).law.kappa_c == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "score", "noise"), [("enwik8", "valid_bpc", 0.003), ("shd-adding", "valid_loss", 0.06)]
)
def test_coverage_of_the_best_memory(task, score, noise):
    """Synthetic: nominal 95 % intervals of d_m* hold the truth in at least 88 % of 200 simulated sweeps."""
    runs = published(task, score)
    runs = runs.at(runs.d_m >= 3)
    truth = fit(runs, draws=0).law
    exact, want = truth.loss(runs.N, runs.k_e, runs.k_c), float(best_memory(truth, runs))
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        found = fit(runs.with_scores(exact + noise * rng.standard_normal(len(runs))), draws=200)
        low, high = found.interval(lambda law: best_memory(law, runs))
        hits += low <= want <= high
    print(f"synthetic coverage, {task}: {hits / 200:.3f}")
    assert hits / 200 >= 0.88


@pytest.mark.slow
def test_coverage_in_a_sweep_whose_small_networks_scatter():
    """Synthetic: three budgets, two wirings, three seeds, noise that grows for few units, as in our Enwik8 sweep."""
    runs = simulated([3e4, 1.2e5, 4.8e5], [4, 15], memories=(3, 5, 8, 12, 18, 28), repeats=3)
    noise = np.select([runs.N < 6, runs.N < 12, runs.N < 20], [0.1, 0.045, 0.03], 0.012)
    budgets, unit, rng, hits = [1.2e5, 4.8e5], NeuronConfig(branches=50), np.random.default_rng(2), {}
    asked = {f"d_m* at {b:,.0f}": (lambda law, b=b: memory_of(law.optimum(b, 750).complexity, unit)) for b in budgets}
    asked |= {name: (lambda law, name=name: getattr(law, name)) for name in ("kappa_e", "kappa_c", "a")}
    for _ in range(60):
        found = fit(runs.with_scores(runs.y + noise * rng.standard_normal(len(runs))), draws=100)
        assert 0.01 < found.sd < 0.025
        for name, value in asked.items():
            low, high = found.interval(value)
            hits[name] = hits.get(name, 0) + (low <= float(value(TRUTH)) <= high)
    print("synthetic coverage:", {name: round(count / 60, 2) for name, count in hits.items()})
    assert all(count / 60 >= 0.88 for count in hits.values())


def test_units():
    bits = simulated([3e5, 1e6], [15], noise=0.002)
    nats = replace(bits, y=bits.y * NATS, H0=bits.H0 * NATS, unit=NATS)
    a, b = fit(bits, draws=0).law, fit(nats, draws=0).law
    assert (a.D, a.kappa_e, a.N_r) == pytest.approx((b.D, b.kappa_e, b.N_r), rel=1e-3)
    assert b.L_inf == pytest.approx(a.L_inf * NATS, rel=1e-4)
    ours, theirs = (fit(runs, draws=40).predict([500], [400], [15]) for runs in (bits, nats))
    assert np.array(theirs) == pytest.approx(NATS * np.array(ours), rel=1e-3)  # the loss, and both its ends
