"""A captured pass, with a recorder that repeats the work itself in place of a CUDA graph: there is no GPU here.

It shows that the pass reads nothing but the graph's own tensors, and that its results reach optimiser and state.
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from training import clockless, config_of, what_remains

from elmnet.errors import ConfigError
from elmnet.train import capture, loop
from elmnet.train.parallel import Team
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory
from elmnet.train.trainer import Trainer

QUIET = Reporter(quiet=True)


@pytest.fixture
def recorded(monkeypatch):
    """How often work was recorded; it is repeated as a graph would, on the memory of the first time."""
    recordings = []

    def record(work):
        work()
        recordings.append(work)
        return work

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(capture, "refuses", lambda trainer: None)
    return recordings


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
def test_a_captured_run_ends_like_an_ordinary_one(tmp_path, recorded, text_file, spike_directory, task):
    """With dropout, resets, carried state and penalties."""
    extra = ["training.mlp_penalty=0.01", "training.activity_penalty=0.1"]
    config, opened = config_of(task, text_file if task == "enwik8" else spike_directory, extra)
    loop.start(config, tmp_path / "plain", opened, reporter=QUIET)
    assert not recorded
    loop.start(config, tmp_path / "captured", opened, reporter=QUIET, cuda_graph=True)
    assert len(recorded) == 1
    assert what_remains(tmp_path / "captured") == what_remains(tmp_path / "plain")
    assert clockless(tmp_path / "captured") == clockless(tmp_path / "plain")


def test_runs_together_are_captured_together_and_again_without_one_that_diverged(tmp_path, recorded, text_file):
    def configs(where):
        rates = (0.02, 1e30, 0.03)
        of = [config_of("enwik8", text_file, [f"training.learning_rate={r}"], seed=k)[0] for k, r in enumerate(rates)]
        return {tmp_path / where / f"seed-{k}": config for k, config in enumerate(of)}

    ends = loop.together(configs("plain"), reporter=QUIET)
    got = loop.together(configs("captured"), reporter=QUIET, cuda_graph=True)
    assert [isinstance(end, dict) for end in got.values()] == [isinstance(end, dict) for end in ends.values()]
    assert [isinstance(end, dict) for end in got.values()] == [True, False, True]
    assert len(recorded) == 2  # with three runs, then with two
    for k in (0, 2):
        assert what_remains(tmp_path / "captured" / f"seed-{k}") == what_remains(tmp_path / "plain" / f"seed-{k}")


def test_what_cannot_be_captured_is_refused_before_anything_is_written(tmp_path, text_file):
    config, task = config_of("enwik8", text_file)
    with pytest.raises(ConfigError, match="the run's device is cpu; choose a GPU with --set device=cuda"):
        loop.start(config, tmp_path / "run", task, reporter=QUIET, cuda_graph=True)
    command = [sys.executable, "-m", "elmnet", "train", "enwik8", "--data", str(text_file), "--cuda-graph", "--out"]
    done = subprocess.run([*command, str(tmp_path / "cli")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--cuda-graph cannot capture this run's steps: the run's device is cpu" in done.stderr
    assert not list(tmp_path.iterdir())


def test_reasons(tmp_path, text_file):
    config, task = config_of("enwik8", text_file)
    trainer = Trainer(RunDirectory(tmp_path / "run"), config, task, QUIET)
    trainer.config = SimpleNamespace(device="cuda")  # a real configuration refuses it here
    assert capture.refuses(trainer) is None
    trainer.team = Team(0, 2)
    assert capture.refuses(trainer) == "it is for one process, not for torchrun"
    trainer.team, batch = Team(), task.training_batch(0)
    trainer.task = SimpleNamespace(training_batch=lambda step: batch._replace(lengths=torch.ones(4)), picks=False)
    assert "different lengths" in capture.refuses(trainer)
    trainer.task = SimpleNamespace(training_batch=lambda step: batch, picks=True, name="sequence")
    assert "the loss of sequence picks the steps that count" in capture.refuses(trainer)
    trainer.network = torch.nn.Linear(1, 1)
    assert capture.refuses(trainer) == "it is for ELM networks"
