"""The pure parts of benchmarks/growth.py: fits of synthetic laws, what is left out, the tables."""

import math

import numpy as np
import pytest

from elmnet.errors import ConfigError

X = [2.0**i for i in range(4, 13)]


@pytest.fixture
def growth(benchmark_script):
    return benchmark_script("growth")


@pytest.fixture
def laws(benchmark_script):
    return benchmark_script("powerlaws")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_a_power_law_has_one_exponent_and_no_knee(laws, exponent):
    found = laws.growth(X, [3.0 * x**exponent for x in X])
    assert found.small == pytest.approx(exponent, abs=1e-9)
    assert found.large == pytest.approx(exponent, abs=1e-9)
    assert found.knee is None


@pytest.mark.parametrize("knee", [100.0, 256.0, 700.0])
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_a_fixed_cost_below_a_power_law_has_its_knee_where_both_are_equal(laws, knee, exponent):
    x = [4.0**i for i in range(9)]
    found = laws.growth(x, [1 + (v / knee) ** exponent for v in x])
    assert found.small == pytest.approx(0, abs=0.1)
    assert found.large == pytest.approx(exponent, abs=0.1)
    assert math.log(found.knee) == pytest.approx(math.log(knee), abs=0.3)


def test_an_exponent_may_fall(laws):
    found = laws.growth(X, [x / (1 + x / 200) for x in X])
    assert found.large < 0.2 < 0.8 < found.small
    assert 100 < found.knee < 400


def test_few_points(laws):
    assert laws.growth([1, 2], [1, 4])[:2] == pytest.approx((2, 2))
    assert all(math.isnan(value) for value in laws.growth([1], [1])[:2])


def test_foretelling_lies_between_a_proportion_and_a_square(laws):
    assert laws.foretold([], [], 10) == 0
    assert laws.foretold([1], [3], 10) == pytest.approx(30)
    assert laws.foretold([1, 2], [3, 3], 4) == pytest.approx(6)
    assert laws.foretold([1, 2], [1, 1000], 4) == pytest.approx(4000)


def test_every_axis_passes_through_the_base(growth):
    for axis in growth.AXES:
        if axis.values:
            assert growth.BASE in [axis.at(growth.BASE, value) for value in axis.values], axis.name
    synapses = next(axis for axis in growth.AXES if axis.name == "k_c")
    assert synapses.position(growth.BASE) == 750


def test_threads_go_up_to_the_cores(growth):
    (axis,) = growth.chosen_axes("threads", 6, quick=False)
    assert axis.values == (1, 2, 4, 6)
    with pytest.raises(ConfigError, match="no axis 'n'"):
        growth.chosen_axes("N,n", 1, quick=True)


def test_a_survey_stops_at_the_limits_and_says_so(growth, monkeypatch):
    probed = []

    def proportional(point, backend):
        probed.append(point.units)
        return growth.Probe(peak=10 + point.units, seconds=point.units / 100)

    monkeypatch.setattr(growth, "apart", proportional)
    axis = growth.AXES[0]
    kept, skipped = growth.survey(axis, growth.BASE, "auto", growth.Probe(10_000, 5.0), 10, {})
    assert [point.units for point in kept] == probed == [16, 32, 64, 128, 256]
    assert len(skipped) == 1
    assert skipped[0].startswith("N 512, 1,024, 2,048, 4,096: N 512 would take about 5 s")


def test_a_killed_point_is_left_out(growth, monkeypatch):
    monkeypatch.setattr(growth, "apart", lambda point, backend: None)
    kept, skipped = growth.survey(growth.AXES[0], growth.BASE, "auto", growth.Probe(2**40, 9.0), 0, {})
    assert not kept
    assert "killed N 16" in skipped[0]


def test_rows_and_tables(growth, benchmark_script):
    axis = growth.AXES[3]
    points = [axis.at(growth.QUICK_BASE, value) for value in (10, 100, 1000)]
    times = {point: [growth.Times(point.steps * 1e-3, point.steps * 3e-3)] * 3 for point in points}
    rows = [growth.measured(axis, point, times[point], point.steps * 2**20) for point in points]
    assert [row.both_ms for row in rows] == pytest.approx([30, 300, 3000])
    text = growth.as_markdown(rows, growth.QUICK_BASE, "reference", 3, ["T 9,999: too long"])
    assert "| T | 10 … 1,000 | forward + backward, ms | 30 | 3,000 | 1.00 | 1.00 | none | 1.00, 1.00 |" in text
    assert "* T 9,999: too long" in text
    lines = benchmark_script("report").as_csv(rows).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("T,10,")


def test_a_point_runs(growth):
    run = growth.build(growth.SMALLEST, "reference")
    run(False)
    run(True)
    assert np.isfinite(growth._peak())
