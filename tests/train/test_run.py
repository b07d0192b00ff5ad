import pytest

from elmnet import ELMNetwork
from elmnet.errors import CheckpointError, RunError
from elmnet.train.config import compose
from elmnet.train.run import RunDirectory, environment


def test_configuration_comes_back(tmp_path):
    config = compose("shd", settings=["options.held_out_speakers=[1, 2]", "model.layers.0.neuron.memory=7"])
    RunDirectory(tmp_path / "a" / "run").create(config, {"name": "x", "sha256": "y"})
    again, facts = RunDirectory.open(tmp_path / "a" / "run").read_config()
    assert again == config
    assert facts == {"name": "x", "sha256": "y"}


def test_a_directory_of_runs_is_none(tmp_path):
    for seed in (1, 0):
        RunDirectory(tmp_path / f"seed-{seed}").create(compose("enwik8"), {})
    with pytest.raises(RunError, match=r"has no config.yaml; it holds runs: name one, such as .*seed-0$"):
        RunDirectory.open(tmp_path)


def test_a_run_and_its_network_are_told_apart(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(compose("enwik8"), {})
    run.best.mkdir()
    with pytest.raises(RunError, match=r"best is not a run directory: it has no config.yaml; the run is .*run$"):
        RunDirectory.open(run.best)
    with pytest.raises(CheckpointError, match=r"run is a run; its network is .*best$"):
        ELMNetwork.from_pretrained(run.path)


def test_directories_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the run directory"):
        RunDirectory(tmp_path / "file" / "run").create(compose("enwik8"), {})


def test_best_network_before_and_after_a_crash(tmp_path):
    from conftest import network_config

    run = RunDirectory(tmp_path / "run")
    run.create(compose("enwik8"), {})
    with pytest.raises(RunError, match="no best network yet"):
        run.best_network()
    ELMNetwork(network_config(), seed=0).save_pretrained(run.path / ".best.old")  # as a crash mid-swap leaves it
    assert run.best_network().config == network_config()
    assert not run.best.exists()  # a reader changes nothing: a trainer may be at work


def test_unfinished_and_damaged_results(tmp_path):
    run = RunDirectory(tmp_path)
    run.create(compose("enwik8"), {})
    assert run.read_result() is None
    for content in ("{", "3", "{}"):
        run.result_file.write_text(content)
        with pytest.raises(RunError, match=r"result\.json: damaged"):
            run.read_result()


def test_environment_names_versions():
    assert {"python", "torch", "numpy", "elmnet", "git"} <= set(environment())
