"""Runs from tables of any origin: sizes, scores, what is refused."""

import csv

import numpy as np
import pytest

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, TheoryError
from elmnet.theory import published, runs_of_rows
from elmnet.theory.rows import network_of

START = NetworkConfig.preset("enwik8")
ROWS = [{"N": "64", "d_m": f"{d_m}", "valid_bpc": "2.5"} for d_m in (3, 5, 8)]


def test_the_authors_table_needs_no_translation(shared):
    file = shared / "data" / "published" / "shd_adding_fixed_budget.csv"
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    for score in ("valid_loss", "test_error"):
        want = published("shd-adding", score)
        got = runs_of_rows(rows, want.network, H0=want.H0, source="here", score=score)
        assert (got.y.tolist(), got.P.tolist(), got.unit) == (want.y.tolist(), want.P.tolist(), want.unit)
        assert (got.task, got.source) == (None, "here")
    assert runs_of_rows(rows, want.network, H0=2.8, source="here").score == "valid_loss"


def test_a_network_has_the_sizes_of_its_row():
    network = network_of({"N": "32", "d_m": 4.0, "d_tree": "", "d_s": 7, "other": "x"}, START)
    neuron = network.layers[0].neuron
    assert (network.layers[0].units, neuron.memory, neuron.branches, neuron.synapses) == (32, 4, 50, 7)
    assert network == network_of({"N": 32, "d_m": 4, "d_s": 7, "P": budget.parameters(network)}, START)
    wide = START.with_hidden(hidden=45)  # three times d_m
    assert network_of({"N": 32, "d_m": 4}, wide).layers[0].neuron.hidden == 12
    assert network_of({"N": 32, "d_m": 4, "d_mlp": 9}, wide).layers[0].neuron.hidden == 9


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"N": 32}, "has no d_m or num_memory"),
        ({"N": "many", "d_m": 4}, "N must be a whole number, got 'many'"),
        ({"N": 32, "d_m": 4.5}, "d_m must be a whole number, got 4.5"),
        ({"N": 32, "d_m": 0}, "memory"),
        ({"N": 32, "d_m": 4, "P": 1000}, "has P 1,000; a network of its sizes has"),
    ],
)
def test_impossible_networks(row, words):
    with pytest.raises(ConfigError, match=words):
        network_of(row, START)


def test_runs_of_rows():
    named = [{**row, "name": f"run {i}", "configuration": "one", "task": "mine"} for i, row in enumerate(ROWS)]
    runs = runs_of_rows(named, START, H0=5.0, source="here")
    assert (runs.names, runs.configurations) == (("run 0", "run 1", "run 2"), ("one",) * 3)
    assert (runs.task, runs.caution, runs.score, runs.H0) == ("mine", None, "valid_bpc", 5.0)
    assert np.array_equal(runs.d_m, [3, 5, 8])
    longer = [{**row, "steps": 1000 * (1 + i)} for i, row in enumerate(ROWS)]
    assert "1,000 to 3,000 steps" in runs_of_rows(longer, START, H0=5.0, source="here").caution
    other = [{**row, "steps": 1000, "setting": row["d_m"]} for row in ROWS]
    assert "1,000 steps, 3 training settings or data" in runs_of_rows(other, START, H0=5.0, source="here").caution


def test_every_run_has_a_name_of_its_own():
    sizes = ["d_m 3, N 64", "d_m 5, N 64", "d_m 8, N 64"]
    assert list(runs_of_rows(ROWS, START, H0=5.0, source="here").names) == sizes
    seeds = runs_of_rows([*ROWS, ROWS[0]], START, H0=5.0, source="here")
    assert (seeds.names[0], seeds.names[3]) == ("row 1: d_m 3, N 64", "row 4: d_m 3, N 64")
    named = [{**row, "name": "mine"} for row in ROWS]
    assert list(runs_of_rows(named, START, H0=5.0, source="here").names) == sizes


def test_an_error_is_no_percentage():
    rows = [{"N": 64, "d_m": 3, "valid_accuracy": 25}]
    with pytest.raises(TheoryError, match="valid_error must be a share from 0 to 1, not per cent, got -24"):
        runs_of_rows(rows, START, H0=0.9, source="here")
    with pytest.raises(TheoryError, match="H0 must be a share from 0 to 1, not per cent, got 90"):
        runs_of_rows(rows, START, H0=90, source="here")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "here: no runs"),
        ([*ROWS, {"N": 3, "d_m": 3}], "here: run 4: no score 'valid_bpc'; it has none that the model is of"),
        ([*ROWS, {**ROWS[0], "valid_bpc": "low"}], "here: run 4: valid_bpc is no number: 'low'"),
        ([{**ROWS[0], "N": "?"}], "here: run 1: N must be a whole number"),
        ([{**ROWS[0], "task": "a"}, ROWS[0], {**ROWS[0], "task": "b"}], "here: mixes a, b; fit one"),
        ([{**ROWS[0], "data": "txl"}, {**ROWS[0], "data": "bytes"}], "here: mixes bytes, txl; fit one"),
        ([{**ROWS[0], "valid_bpc": -1}], "run 1: valid_bpc must be finite and not negative, got -1"),
        ([{"N": 3, "d_m": 3, "valid_bpc": ""}, *ROWS], "run 1: no score 'valid_bpc'; it has none"),
        ([{**ROWS[0], "steps": "x"}], "run 1: steps must be a whole number, got 'x'"),
        ([{**ROWS[0], "num_hidden": 3}], "run 1: has both N and num_hidden; keep one"),
    ],
)
def test_bad_tables(rows, words):
    with pytest.raises(TheoryError, match=words):
        runs_of_rows(rows, START, H0=5.0, source="here")
