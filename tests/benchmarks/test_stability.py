"""benchmarks/stability.py: sizes near the budgets, what is cut, and a tiny run that goes on where it was killed."""

import dataclasses
import json
import math

import pytest

from elmnet import NetworkConfig, budget
from elmnet.errors import BudgetError, ConfigError, DivergedError
from elmnet.tasks import open_task
from elmnet.train.config import compose
from elmnet.train.loop import Interrupted
from elmnet.train.progress import Reporter


@pytest.fixture
def stability(benchmark_script):
    return benchmark_script("stability")


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
@pytest.mark.parametrize("size", [10**3, 10**4, 10**5, 10**6, 10**7])
def test_sizes_are_near_the_budgets_and_follow_the_recipe(stability, task, size):
    network = stability.network_of(NetworkConfig.preset(task), size)
    price, neuron = budget.cost(network), network.layers[0].neuron
    assert 0.9 * size <= price.parameters <= size
    assert 2 * price.readout <= 1.2 * size
    assert (neuron.hidden, neuron.branches) == (2 * neuron.memory, 4 * neuron.memory)
    assert network.stack[-1].neuron.memory == 3
    assert network.stack[-1].recurrent_connect == 0


def test_a_budget_can_be_too_small(stability):
    with pytest.raises(BudgetError, match="too small"):
        stability.network_of(NetworkConfig.preset("enwik8"), 400)


def test_long_runs_are_cut_in_time_steps_first(stability):
    config = compose("shd-adding", preset="paper", settings=["training.steps=100"])
    full = stability.work(config)
    assert stability.shortened(config, full).options.bins == 500
    coarse = stability.shortened(config, full / 4)
    assert (coarse.options.bin_ms, coarse.options.bins, coarse.training.steps) == (10.0, 100, 100)
    assert stability.differences(coarse, 100) == "bins of 10 ms, so T 200"
    both = stability.shortened(config, full / 15)
    assert (both.options.bins, both.training.steps) == (50, 66)
    assert "66 steps" in stability.differences(both, 100)
    text = compose("enwik8", preset="paper", settings=["training.steps=100"])
    assert stability.shortened(text, stability.work(text) / 2).training.steps == 50


def test_ends_are_means_of_windows_that_never_overlap(stability):
    assert stability.ends([1.0] * 30 + [3.0] * 30) == (1, 3)
    assert stability.ends([1.0, 2.0, 4.0]) == (1, 4)
    assert stability.ends([5.0]) == (5, 5)
    assert all(map(math.isnan, stability.ends([])))


@pytest.fixture
def small(text_file):
    settings = ["training.steps=6", "training.eval_every=6", "training.log_every=1", "options.valid_chunks=2"]
    settings += ["options.streams=2", "options.chunk=5"]
    config = compose("enwik8", preset="paper", data=str(text_file), settings=settings)
    task = open_task("enwik8", config.options, config.data, seed=0)
    model = task.fit_model(config.model).with_hidden(units=4, memory=1, branches=2, synapses=2)
    return config.replace(model=model), task


def test_a_run_becomes_a_row_and_a_table(stability, small, tmp_path):
    config, task = small
    row = stability.measure(config, task, 1000, 6, tmp_path / "run", Reporter(quiet=True))
    assert row.finite
    assert (row.done, row.parameters) == (6, budget.parameters(config.model))
    assert not dataclasses.replace(row, activity_end=math.nan).finite
    assert not dataclasses.replace(row, done=5).finite
    (tmp_path / "run" / "row.json").write_text(json.dumps(dataclasses.asdict(row)))
    assert stability.collect(tmp_path) == [row]
    text = " ".join(stability.as_markdown([row]).split())  # wherever its lines end
    assert f"| enwik8 | {row.parameters:,} | 4 | 1 | 2 × 2 |" in text
    assert "Finite at every step: 1 of 1 runs" in text


def test_a_stopped_run_goes_on_and_other_settings_are_refused(stability, small, tmp_path, monkeypatch):
    config, task = small
    straight = stability.measure(config, task, 1000, 6, tmp_path / "straight", Reporter(quiet=True))

    def stop_after_three(trainer, *args):
        recorded(trainer, *args)
        if trainer.step == 3:
            trainer.stop.number = 15

    recorded = stability.Sprint._record
    with monkeypatch.context() as patch:
        patch.setattr(stability.Sprint, "_record", stop_after_three)
        with pytest.raises(Interrupted):
            stability.train(config, task, tmp_path / "stopped", Reporter(quiet=True))
    resumed = stability.measure(config, task, 1000, 6, tmp_path / "stopped", Reporter(quiet=True))
    assert dataclasses.replace(resumed, training_seconds=0.0) == dataclasses.replace(straight, training_seconds=0.0)
    with pytest.raises(ConfigError, match="other settings"):
        stability.train(config.replace(seed=1), task, tmp_path / "stopped", Reporter(quiet=True))


def test_divergence_is_a_row_that_is_not_finite(stability, small, tmp_path, monkeypatch):
    config, task = small
    monkeypatch.setattr(stability.Sprint, "learn", diverging(stability.Sprint.learn))
    row = stability.measure(config, task, 1000, 6, tmp_path / "run", Reporter(quiet=True))
    assert not row.finite
    assert row.done == 2
    assert "2, then diverged" in stability.as_markdown([row])


def diverging(learn):
    def learn_twice(trainer, *args):
        if trainer.step == 2:
            raise DivergedError("made up")
        return learn(trainer, *args)

    return learn_twice
