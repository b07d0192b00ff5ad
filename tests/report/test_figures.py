"""Figures draw what they say, with axes and units, and write equal files twice."""

import numpy as np
import pytest
from conftest import simulated

from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError
from elmnet.report import figures
from elmnet.theory import Limit, Wiring, fit, plan, published

plt = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib (extra `report`)")


@pytest.fixture(scope="module")
def known():
    figures.without_a_screen()
    return fit(published("enwik8", "valid_bpc"), draws=20)


@pytest.mark.parametrize("name", ["budget_curve", "mechanisms", "surface", "front"])
def test_every_figure_has_axes_with_words(known, name):
    ax = figures.of_fit(known)[name]()
    assert len(ax.get_xlabel()) > 5
    assert "(" in ax.get_ylabel() or "," in ax.get_ylabel()
    assert ax.get_legend() is not None
    assert any(words in ax.get_title() for words in ("arXiv:2605.12049", "published:enwik8"))
    plt.close(ax.figure)


def test_a_figure_draws_into_an_axis_of_yours(known):
    own, ax = plt.subplots()
    assert figures.budget_curve(known, ax=ax) is ax
    points = next(line for line in ax.lines if line.get_label() == "runs")
    assert np.array_equal(points.get_xdata(), known.runs.d_m)
    assert np.array_equal(points.get_ydata(), known.runs.y)
    plt.close(own)


def test_the_front_shows_a_power_law_where_runs_span_two_decades():
    wide = fit(simulated([3e4, 1e5, 3e5, 1e6, 3e6, 1e7], [5, 15], noise=0.003), draws=20)
    labels = [text.get_text() for text in figures.front(wide).get_legend().get_texts()]
    assert any("α = " in label for label in labels)
    plt.close("all")


def test_the_plan_is_marked(known):
    chosen = plan(NetworkConfig.preset("enwik8"), Limit(3_516_748), Wiring(50, 15), known)
    ax = figures.plan_curve(known, chosen)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    d_m = chosen.network.layers[0].neuron.memory
    assert f"the plan: d_m = {d_m}" in labels
    assert "simple units, d_m = 3" in labels
    assert not any("synapses" in label for label in labels)
    plt.close(ax.figure)


def test_runs_of_other_wirings_are_told_apart():
    """Hollow, in every figure; the front is free in k_c, which these runs tell."""
    runs = simulated([1e6, 3e6, 9e6], [15, 5], noise=0.003)
    wide = fit(runs, draws=20)
    assert "kappa_c" in wide.free
    for name in ("budget_curve", "surface", "front"):
        ax = figures.of_fit(wide)[name]()
        filled, hollow = (
            next(line for line in ax.lines if line.get_label() == f"runs with {words}")
            for words in ("k_c = 750", "other k_c")
        )
        assert filled.get_markerfacecolor() != "none" == hollow.get_markerfacecolor()
        assert len(filled.get_xdata()) + len(hollow.get_xdata()) == (12 if name == "budget_curve" else len(runs))
    labels = [text.get_text() for text in figures.front(wide).get_legend().get_texts()]
    assert "best N, k_e, k_c of each budget, SNRR" in labels
    labels = [text.get_text() for text in figures.mechanisms(wide).get_legend().get_texts()]
    assert any("complexity cannot cure" in label for label in labels)
    plt.close("all")


def test_a_plan_for_a_budget_that_the_runs_wiring_cannot_have(known):
    """Four units of 50 × 15 synapses would exceed it."""
    chosen = plan(NetworkConfig.preset("enwik8"), Limit.hidden(3000), Wiring(10, 2), known)
    ax = figures.plan_curve(known, chosen)
    assert any("SNRR fit, 10 × 2" in line.get_label() for line in ax.lines)
    plt.close(ax.figure)


def test_a_plan_of_another_wiring_lies_on_its_own_curve(known):
    chosen = plan(NetworkConfig.preset("enwik8"), Limit(3_516_748), Wiring(50, 5), known)
    ax = figures.plan_curve(known, chosen)
    lines = {line.get_label(): line for line in ax.lines}
    neuron = chosen.network.layers[0].neuron
    curve, plan_ = lines["SNRR fit, 50 × 5 synapses"], lines[f"the plan: d_m = {neuron.memory}"]
    assert plan_.get_ydata()[0] == pytest.approx(np.interp(neuron.memory, *curve.get_data()), abs=2e-3)
    plt.close(ax.figure)


def test_saved_twice_is_saved_alike(known, tmp_path):
    drawn = {"curve": lambda: figures.budget_curve(known)}
    first = figures.save(drawn, tmp_path / "a")
    again = figures.save(drawn, tmp_path / "b")
    assert [path.name for path in first] == ["curve.png", "curve.svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    assert "d_m* =" in (tmp_path / "a" / "curve.svg").read_text()  # text stays text


def test_without_matplotlib(monkeypatch, known, tmp_path):
    import builtins

    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'elmnet\[report\]'"):
        figures.save(figures.of_fit(known), tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'elmnet\[report\]'"):
        figures.front(known)
