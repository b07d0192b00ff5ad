"""Tables of runs: the published ones, and what is refused."""

import csv

import numpy as np
import pytest

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import TheoryError
from elmnet.theory import PUBLISHED, published, table
from elmnet.theory.rows import published_rows


@pytest.mark.parametrize(("task", "count"), [("enwik8", 14), ("shd-adding", 10), ("neuronio", 12)])
def test_shipped_figures_are_those_published(shared, task, count):
    rows = published_rows(task)
    assert len(rows) == count
    with (shared / "data" / "published" / PUBLISHED[task].file).open() as lines:
        assert rows == [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
def test_counts_are_those_published(task):
    runs, rows = published(task), published_rows(task)
    assert runs.P.tolist() == [row["trainable_params"] for row in rows]
    assert runs.d_m.tolist() == [row["num_memory"] for row in rows]
    assert runs.P[3] == runs.hidden[3] + runs.readout[3]
    assert budget.parameters(runs.network) in runs.P


def test_scores():
    runs = published("shd-adding", "test_error")
    assert runs.y[0] == pytest.approx(1 - 0.1463125)
    assert (runs.H0, runs.unit) == (0.9, 1.0)
    assert published("shd-adding").unit == pytest.approx(np.log(2))
    assert published("enwik8", "train_bpc").y[0] == pytest.approx(1.7544263815837244)
    assert "one seed each" in runs.source


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("imagenet",), "no published runs of 'imagenet'; there are enwik8, shd-adding, neuronio"),
        (("enwik8", "test_accuracy"), "no score 'test_accuracy'; it has valid_bpc, test_bpc, train_bpc"),
        (("neuronio",), "single neurons"),
    ],
)
def test_unknown_tables(arguments, words):
    with pytest.raises(TheoryError, match=words):
        published(*arguments)


def test_only_one_hidden_layer_fits():
    network = NetworkConfig.preset("enwik8")
    about = {"source": "here", "score": "valid_bpc", "H0": 5.0, "unit": 1.0}
    with pytest.raises(TheoryError, match="run 1 has 2 hidden layers"):
        table([network, network.replace(layers=network.layers * 2)], [1.0, 1.0], **about)
    with pytest.raises(TheoryError, match="here: no runs"):
        table([], [], **about)


def test_the_commonest_wiring_is_the_runs():
    start = NetworkConfig.preset("enwik8")
    networks = [start.with_hidden(memory=d_m, branches=20) for d_m in (3, 5, 9)]
    networks.insert(1, start)
    networks.insert(2, start)
    runs = table(networks, [1.0] * 5, source="here", score="valid_bpc", H0=5.0, unit=1.0)
    assert (runs.neuron.branches, runs.neuron.memory) == (20, 5)


def test_seeds_are_of_one_configuration():
    """Equal networks that were trained otherwise are no seeds of each other."""
    network, y = NetworkConfig.preset("enwik8"), [1.0, 1.01, 0.99, 1.02, 2.0, 2.01, 1.99, 2.02]
    about = {"source": "here", "score": "valid_bpc", "H0": 5.0, "unit": 1.0}
    mixed = table([network] * 8, y, **about)
    apart = table([network] * 8, y, configurations=["short"] * 4 + ["long"] * 4, **about)
    assert apart.seed_sd() == pytest.approx(1.4826 * 0.01 * np.sqrt(4 / 3), rel=1e-6)
    assert mixed.seed_sd() > 0.5
    assert apart.at(apart.y > 1.5).configurations == ("long",) * 4


def test_seed_noise_needs_repeats():
    runs = published("enwik8")
    assert runs.seed_sd() is None
    index = np.repeat(np.arange(14), 2)
    assert runs.at(index).seed_sd() is None  # copies, which say nothing
    noise = np.random.default_rng(0).normal(size=28)
    assert runs.at(index).with_scores(noise).seed_sd() == pytest.approx(1, rel=0.5)
    noise[:4] *= 50  # two configurations of fourteen
    assert runs.at(index).with_scores(noise).seed_sd() == pytest.approx(1, rel=0.5)
    many = np.repeat(np.arange(14), 300)
    drawn = np.random.default_rng(1).normal(0, 0.02, len(many))
    assert runs.at(many).with_scores(drawn).seed_sd() == pytest.approx(0.02, rel=0.03)
    threes = runs.at(np.repeat(np.arange(14), 3)).with_scores(drawn[:42])
    assert threes.seed_sd() == pytest.approx(0.02, rel=0.35)
    assert runs.at(runs.d_m > 50).names == ("d_m 60, N 153", "d_m 70, N 118", "d_m 85, N 85", "d_m 100, N 64")


def test_how_runs_were_trained_and_that_of_some_of_them():
    networks = [NetworkConfig.preset("enwik8").with_hidden(units=units) for units in (10, 20, 30)]
    about = {"source": "here", "score": "valid_bpc", "H0": 5.0, "unit": 1.0}
    runs = table(networks, [1.0] * 3, steps=[1000, 1000, 3000], settings=["a", None, "b"], **about)
    assert runs.trained == "1,000 to 3,000 steps, 2 training settings or data"
    assert runs.caution.startswith("trained differently (1,000 to 3,000 steps, 2 training settings or data)")
    alike = runs.at(np.array([0, 1]))
    assert (alike.trained, alike.caution) == ("1,000 steps", None)
    assert (table(networks, [1.0] * 3, **about).trained, table(networks, [1.0] * 3, **about).caution) == ("", None)
