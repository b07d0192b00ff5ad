"""The comparison of foretold and found losses, on a synthetic table."""

import csv

import pytest
from conftest import network_config

from elmnet import budget
from elmnet.theory.planner import Prediction

START = network_config()


@pytest.fixture
def foretold(benchmark_script):
    return benchmark_script("foretold")


def line(trial, d_m=3, state="done", steps=10, **changes):
    network = START.with_hidden(units=7, memory=d_m, branches=4, synapses=2)
    sizes = {"N": 7, "d_m": d_m, "d_tree": 4, "d_s": 2, "P": budget.parameters(network)}
    return {
        "trial": trial,
        "configuration": trial,
        "state": state,
        "steps": steps,
        "valid_bpc": 2.5,
        **sizes,
        **changes,
    }


def write(path, *lines):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_finished_runs_of_one_length_count_once(foretold, tmp_path):
    first = write(tmp_path / "a.csv", line("a"), line("b", state="failed"), line("c", steps=20))
    second = write(tmp_path / "b.csv", line("a"), line("d", d_m=4))
    rows = foretold.rows_of([first, second], 10)
    assert [(row["configuration"], row["d_m"]) for row in rows] == [("a", "3"), ("d", "4")]


def test_what_lies_outside_the_interval_says_how_far(foretold):
    predictions = [Prediction(START, 2.5, (2.4, 2.6), None)] * 3
    places = [text.rsplit("|", 2)[1].strip() for text in foretold.markdown(predictions, [2.45, 2.65, 2.3])[2:]]
    assert places == ["", "+50 mbpc", "-100 mbpc"]
