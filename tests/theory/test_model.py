"""The closed forms: published vectors, limits, monotonicity, optimality; brute force agrees."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elmnet.config import NeuronConfig
from elmnet.errors import TheoryError
from elmnet.theory import SNRR, memory_of
from elmnet.theory.model import NATS, ends

UNIT = NeuronConfig(branches=50)
THETA = SNRR(L_inf=1.63, D=0.2, kappa_e=250, N_r=65, H0=5.05)

laws = st.builds(
    SNRR,
    L_inf=st.floats(0, 2),
    D=st.floats(0.05, 3),
    kappa_e=st.floats(5, 5000),
    N_r=st.floats(1, 1000),
    kappa_c=st.sampled_from([0.0, 5.0, 200.0]),
    a=st.sampled_from([0.5, 0.8, 1.0, 1.6]),
    H0=st.just(5.0),
    unit=st.sampled_from([1.0, NATS]),
)
sizes = st.tuples(st.floats(1, 1e5), st.floats(2, 1e5), st.floats(1, 1e4))


def vectors(shared, start):
    document = json.loads((shared / "golden" / "theory_vectors.json").read_text())
    laws = {name: SNRR.from_dict(values) for name, values in document["theta"].items()}
    chosen = [vector for vector in document["vectors"] if vector["name"].startswith(start)]
    assert chosen
    for vector in chosen:
        inputs = dict(vector["inputs"])
        yield laws.get(inputs.pop("theta", "")), inputs, vector["outputs"]


@pytest.mark.parametrize("name", ["V1 ", "V2 ", "V3 ", "V4 "])
def test_golden_losses(shared, name):
    for law, size, want in vectors(shared, name):
        got = {"X": law.lost_bits(**size), "I": law.information(**size), "L": law.loss(**size)}
        assert got == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "neuron"),
    [("V5 ", UNIT), ("V6 ", None), ("V6b ", None), ("V7 ", NeuronConfig(branches=30))],
)
def test_golden_optima(shared, name, neuron):
    for law, inputs, want in vectors(shared, name):
        best = law.optimum(inputs["Pp"], inputs["k_c"]) if "k_c" in inputs else law.optimum_free(inputs["Pp"])
        got = {"N": best.units, "k_e": best.complexity, "k_c": best.connectivity, "L": best.loss}
        got["d_m"] = memory_of(best.complexity, neuron)
        assert {key: float(got[key]) for key in want} == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_golden_interval(shared):
    for law, inputs, want in vectors(shared, "V8 "):
        low, high = law.near_optimal(inputs["Pp"], inputs["k_c"], inputs["delta"])
        best = law.optimum(inputs["Pp"], inputs["k_c"]).complexity
        got = {"u": np.log(high / best), "k_lo": low, "k_hi": high}
        got |= {"d_lo": float(memory_of(low, UNIT)), "d_hi": float(memory_of(high, UNIT))}
        assert got == pytest.approx(want, rel=1e-6)


@given(law=laws, size=sizes, factor=st.floats(1.01, 100))
def test_more_of_anything_never_hurts(law, size, factor):
    loss = law.loss(*size)
    for i in range(3):
        more = [value * (factor if i == j else 1) for j, value in enumerate(size)]
        assert law.loss(*more) <= loss + 1e-12
    assert law.L_inf - 1e-9 <= loss <= law.H0


@given(law=laws, size=sizes)
def test_elasticities_are_the_slopes_of_the_signal_to_noise(law, size):
    step = 1e-5
    for i, got in enumerate(law.elasticities(*size).values()):
        ends = [law.log2_snr(*[v * np.exp(s * (i == j)) for j, v in enumerate(size)]) for s in (-step, step)]
        assert got == pytest.approx((ends[1] - ends[0]) * NATS / (2 * step), rel=1e-4, abs=1e-6)


def test_no_synapses():
    """Nothing where synapses do not limit; all of the signal where they do."""
    free, bound = (
        SNRR(L_inf=1, D=0.5, kappa_e=200, N_r=60, H0=5),
        SNRR(L_inf=1, D=0.5, kappa_e=200, N_r=60, kappa_c=40, H0=5),
    )
    assert free.elasticities(100, 100, 0)["k_e"] == pytest.approx(2 / 3)
    assert free.elasticities(100, 100, 0)["k_c"] == 0
    assert bound.elasticities(100, 100, 0)["k_c"] == pytest.approx(1)
    low, high = bound.near_optimal(1e6, 0, 0.002)
    assert 0 <= low <= high


@given(law=laws, size=sizes)
def test_limits(law, size):
    N, k_e, k_c = size
    huge, tiny = 1e60, 1e-120 ** (1 / law.a)
    assert law.loss(huge, huge, huge) == pytest.approx(law.L_inf, abs=1e-6)
    assert law.lost_bits(huge, k_e, k_c) == pytest.approx(law.saturation_bits(k_e, k_c))
    assert law.lost_bits(N, huge, huge) == pytest.approx(law.redundancy_bits(N))
    assert law.loss(tiny, k_e, k_c) == pytest.approx(law.H0)
    assert law.loss(N, tiny, k_c) == pytest.approx(law.H0)


@given(law=laws, budget=st.floats(1e3, 1e8), k_c=st.floats(2, 500))
def test_the_optimum_equals_brute_force(law, budget, k_c):
    best = law.optimum(budget, k_c)
    assert best.units * (best.complexity + best.connectivity) == pytest.approx(budget)
    k_e = np.geomspace(best.complexity / 30, best.complexity * 30, 4001)
    losses = law.lost_bits(budget / (k_e + k_c), k_e, k_c)
    assert best.lost_bits <= losses.min() + 1e-9
    assert best.lost_bits == pytest.approx(losses.min(), abs=1e-4)


@given(law=laws, budget=st.floats(1e3, 1e8))
def test_the_free_optimum_equals_brute_force(law, budget):
    law = replace(law, kappa_c=law.kappa_c or 30.0)
    best = law.optimum_free(budget)
    near = np.geomspace(1 / 3, 3, 201)
    k_e, k_c = best.complexity * near[:, None], best.connectivity * near[None, :]
    losses = law.lost_bits(budget / (k_e + k_c), k_e, k_c)
    assert best.lost_bits <= losses.min() + 1e-9
    assert best.loss == pytest.approx(law.front(budget), abs=1e-9)
    e = law.a / (1 + law.a)
    assert best.complexity / best.connectivity == pytest.approx((law.kappa_e / law.kappa_c) ** e)
    kappa = law.critical_budget / law.N_r
    assert best.units == pytest.approx(np.sqrt(law.N_r * budget / kappa))


@given(budget=st.floats(1e4, 1e8), k_c=st.floats(2, 500))
def test_first_order_condition(budget, k_c):
    best = THETA.optimum(budget, k_c)
    k_e, kappa = best.complexity, THETA.kappa_e
    assert 1 + best.units / THETA.N_r == pytest.approx(k_e * (k_e + kappa) / (kappa * (k_e + k_c)))
    closed = np.log2((np.sqrt(1 + THETA.N_r * k_c / budget) + np.sqrt(THETA.N_r * kappa / budget)) ** 2)
    assert best.lost_bits == pytest.approx(closed)


@given(law=laws, budget=st.floats(1e4, 1e7), delta=st.floats(1e-4, 0.05))
def test_the_near_optimal_interval_ends_where_the_loss_says(law, budget, delta):
    k_c, law = 100.0, replace(law, L_inf=0.0, D=0.3)  # high signal-to-noise, where the closed form is exact
    low, high = law.near_optimal(budget, k_c, delta)
    best = law.optimum(budget, k_c)
    for k_e in (low, high):
        N = budget / (k_e + k_c)
        excess = law.unit * law.D / 2 * (law.lost_bits(N, k_e, k_c) - best.lost_bits)
        assert excess <= delta * (1 + 1e-3) + 1e-9
    assert low < best.complexity < high


@settings(max_examples=20)
@given(law=laws)
def test_local_exponent_rises_to_half_of_a(law):
    budget = law.critical_budget * np.geomspace(1e-3, 1e9, 13)
    exponents = law.front_exponent(budget)
    assert np.all(np.diff(exponents) > 0)
    assert exponents[-1] == pytest.approx(law.a / 2, rel=0.02)


def test_without_redundancy_more_budget_wants_no_more_complexity():
    """§2: private noise alone makes k_e* a constant, √(κ_e k_c); a large N_r is that case."""
    private = replace(THETA, N_r=1e12)
    best = private.optimum(np.array([2e4, 2e7]), 240.0)
    assert best.complexity == pytest.approx(np.sqrt(250 * 240.0), rel=1e-4)


def test_many_models_at_once():
    many = replace(THETA, kappa_e=np.array([[100.0], [250.0]]), D=np.array([[0.1], [0.2]]))
    assert len(many) == 2
    losses = many.loss(np.array([10, 100, 1000]), 500, 750)
    assert losses.shape == (2, 3)
    assert losses[1] == pytest.approx(THETA.loss(np.array([10, 100, 1000]), 500, 750))
    slow = replace(many, a=np.array([[0.7], [0.9]]))
    assert slow.optimum(1e5, 100).loss.shape == (2, 1)
    assert slow.optimum(1e5, 100).loss[1, 0] == pytest.approx(
        float(replace(THETA, a=0.9).optimum(1e5, 100).loss), abs=1e-9
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"D": 0.0}, "D must be positive, got 0"),
        ({"kappa_e": -1.0}, "kappa_e must be positive"),
        ({"kappa_c": -1.0}, "kappa_c must not be negative"),
        ({"a": float("nan")}, "a must be positive, got nan"),
        ({"L_inf": 6.0}, "exceeds H0"),
    ],
)
def test_constants_that_make_no_sense(change, words):
    with pytest.raises(TheoryError, match=words):
        replace(THETA, **change)


def test_unknown_constant():
    with pytest.raises(TheoryError, match="no constant kappa; it has"):
        SNRR.from_dict({**THETA.to_dict(), "kappa": 1})
    assert SNRR.from_dict(THETA.to_dict()) == THETA


def test_delta_must_be_positive():
    with pytest.raises(TheoryError, match="delta must be positive"):
        THETA.near_optimal(1e6, 100, 0.0)


@pytest.mark.parametrize("a", [1.0, 0.7])
def test_all_is_near_optimal_where_nothing_is_to_lose(a):
    assert replace(THETA, D=1e-4, a=a).near_optimal(1e6, 100, 1.0) == (0.0, float("inf"))


@pytest.mark.parametrize("unit", [1.0, math.log(2)])
@pytest.mark.parametrize("a", [1.0, 1.2])
def test_near_optimal_ends_lie_where_the_loss_has_risen(unit, a):
    """By the law's own loss at high signal-to-noise, in bits and in nats."""
    law = SNRR(L_inf=1.0, D=0.02, kappa_e=300.0, N_r=60.0, a=a, H0=30.0, unit=unit)
    budget, k_c, delta = 2e6, 100.0, 1e-4
    best = law.optimum(budget, k_c)
    loss = law.loss_high_snr if a == 1 else law.loss
    at = [float(loss(budget / (k_e + k_c), k_e, k_c)) for k_e in law.near_optimal(budget, k_c, delta)]
    least = float(loss(best.units, best.complexity, k_c))
    assert at == pytest.approx([least + delta] * 2, abs=2e-6)


def test_ends_leave_as_much_out_on_either_side():
    draws = np.stack([np.arange(1001.0), np.arange(1001.0)[::-1] * 2], axis=1)
    assert ends(draws) == pytest.approx(np.array([[25, 50], [975, 1950]]))
    assert ends([0, 1, 2, 3], 0.5) == pytest.approx([0.75, 2.25])
    assert list(ends([0, 1, 2, 3], 0.5, "nearest")) == [1, 2]
