"""Beginning with another run's weights, what learns then, and when it ends."""

from functools import partial

import pytest
import torch
from conftest import run
from training import config_of

from elmnet import ELMNetwork
from elmnet.baselines.network import Baseline
from elmnet.errors import CheckpointError, ConfigError, RunError
from elmnet.train import loop
from elmnet.train.config import RunConfig, TrainConfig, amend, compose
from elmnet.train.identity import configuration_of, name_of, setting_of
from elmnet.train.learner import Learner
from elmnet.train.objective import learning_rate
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory, create_replicas
from elmnet.train.trained import Run
from elmnet.train.warm import continued, take


def weights(directory):
    return RunDirectory(directory).best_network().state_dict()


@pytest.fixture(scope="module")
def before(tmp_path_factory, text_file):
    path = tmp_path_factory.mktemp("warm") / "before"
    config, task = config_of("enwik8", text_file, steps=30)
    loop.start(config, path, task, reporter=Reporter(quiet=True))
    return path


class Listening(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_run_begins_with_the_weights_of_another(before, tmp_path):
    config = amend(continued(before), settings=["training.steps=15", "training.learning_rate=1e-30"])
    listening = Listening()
    Run.train(config, tmp_path / "after", reporter=listening)
    for name, tensor in weights(before).items():
        torch.testing.assert_close(weights(tmp_path / "after")[name], tensor, rtol=0, atol=0)
    assert f"beginning with the weights of {before.resolve() / 'best'}" in listening.notes
    fresh = config.replace(init=None)
    facts = config.open_task().facts()
    assert name_of(config, facts) != name_of(fresh, facts)
    moved = config.replace(init=config.init.replace(path="/elsewhere"))
    assert name_of(config, facts) == name_of(moved, facts)
    assert configuration_of(config) != configuration_of(fresh) and setting_of(config) != setting_of(fresh)


def test_text_keeps_the_vocabulary_it_was_trained_on(before, tmp_path):
    """Other text, which lacks symbols, in the alphabet of the first one; after an interruption, too."""
    symbols = RunDirectory.open(before).read_config()[1]["symbols"]
    few = bytes(symbols[::2])
    (tmp_path / "few.txt").write_bytes((few * 4000)[:100_000])
    config = amend(continued(before), data=str(tmp_path / "few.txt"), settings=["training.steps=30"])
    task = config.open_task()
    assert task.outputs == len(symbols) > len(few)

    class Stopping(Reporter):
        def validated(self, step, score):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.start(config, tmp_path / "run", task, reporter=Stopping(quiet=True))
    result = loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))
    assert result["steps"] == 30 and Run(tmp_path / "run").facts["symbols"] == symbols
    assert next(Run(tmp_path / "run").generate(bytes(few[:3]).decode(), length=2)) is not None


def test_what_does_not_fit_is_drawn(before):
    config = continued(before)
    old = ELMNetwork.from_pretrained(before / "best")
    other = ELMNetwork(config.model.replace(outputs=7), seed=3)  # and inputs as before
    drawn = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    left = take(other, config.init)
    assert "layers.0" not in left and "affine" in left
    for name, tensor in other.state_dict().items():
        expected = old.state_dict() if name.partition(".")[0] + "." + name.split(".")[1] not in left else drawn
        expected = drawn if name.startswith("affine") else expected
        assert torch.equal(tensor, expected[name]), name
    dropping = ELMNetwork(config.model.with_hidden(synapse_dropout=0.3), seed=3)
    assert take(dropping, config.init) == []
    with pytest.raises(ConfigError, match=r"no layer of .* fits"):
        take(ELMNetwork(config.model.replace(outputs=7).with_hidden(units=11), seed=0), config.init)


def test_units_of_another_kind_do_not_fit(before):
    """Tensors of the same shapes may mean something else: another step, other timescales, another activation."""
    config = continued(before)
    for change in ({"dt": 2.0}, {"tau_max": 50.0}, {"mlp_activation": "silu"}, {"input_scale": 1.0}):
        assert "layers.0" in take(ELMNetwork(config.model.with_hidden(**change), seed=0), config.init)


def test_a_network_that_changed_is_refused(before, tmp_path):
    config = continued(before)
    with pytest.raises(CheckpointError, match="no longer the network that this run begins with"):
        take(ELMNetwork(config.model, seed=0), config.init.replace(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="no longer the network"):
        take(ELMNetwork(config.model, seed=0), config.init.replace(path=str(tmp_path / "gone")))
    with pytest.raises(RunError, match=r"no config\.yaml"):
        continued(tmp_path)


def test_init_on_the_command_line(before, tmp_path, capsys):
    command = partial(run, capsys)
    code, _, err = command("train", "--init", before, "--steps", 15, "--out", tmp_path / "next", "-q")
    assert code == 0, err
    assert RunConfig.from_dict(Run(tmp_path / "next").config.to_dict()).init.path == str(before.resolve() / "best")
    code, _, err = command("train", "enwik8", "--init", before, "--model", "gru")
    assert code == 2 and "leave out TASK, --model" in err
    code, _, err = command("train", "--resume", tmp_path / "next", "--init", before)
    assert code == 2 and "leave out --init" in err


@pytest.mark.parametrize("kind", ["elm", "gru", "transformer"])
def test_only_the_readout_learns(kind, text_file):
    config, task = config_of("enwik8", text_file, ["training.train_only=readout"])
    config = config.with_model(kind) if kind != "elm" else config
    config = config.replace(model=task.fit_model(config.model))
    learner = Learner(config, task)
    old = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    given = learner.take()
    learner.learn(given, learner.pull(given))
    changed = {name for name, tensor in learner.network.state_dict().items() if not torch.equal(tensor, old[name])}
    start = "head." if kind != "elm" else ("layers.1.", "affine.")
    assert changed and all(name.startswith(start) for name in changed)


def test_a_network_without_readout_has_none_to_train(text_file):
    config, task = config_of("enwik8", text_file, ["training.train_only=readout"])
    layer = config.model.layers[0].replace(units=config.model.outputs)
    bare = config.model.replace(readout="none", layers=(layer,))
    with pytest.raises(ConfigError, match="no read-out"):
        Learner(config.replace(model=bare), task)


@pytest.mark.parametrize("kind", ["elm", "lstm"])
def test_weight_decay_is_of_weights_alone(kind, text_file):
    settings = ["training.optimizer=adamw", "training.weight_decay=0.5", "training.schedule=constant"]
    settings += ["training.warmup=0", "training.learning_rate=0.1", "model.layers.0.neuron.learn_timescales=true"]
    config, task = config_of("enwik8", text_file, settings)
    config = config.with_model(kind) if kind != "elm" else config
    config = config.replace(model=task.fit_model(config.model))
    learner = Learner(config, task)
    assert isinstance(learner.network, ELMNetwork if kind == "elm" else Baseline)
    old = {name: parameter.detach().clone() for name, parameter in learner.network.named_parameters()}
    for parameter in learner.network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.1
    learner.optimizer.step()  # without a gradient only the decay is left
    for name, parameter in learner.network.named_parameters():
        last = name.rpartition(".")[2]
        decays = last in ("w_s", "readout") or (last.startswith("weight") and parameter.dim() > 1)
        torch.testing.assert_close(parameter.detach(), old[name] * (0.95 if decays else 1.0))


def test_weight_decay_needs_adamw():
    with pytest.raises(ConfigError, match="weight_decay is of the optimizer adamw"):
        TrainConfig(steps=10, weight_decay=0.1)


def test_schedules():
    def rates(schedule):
        config = TrainConfig(steps=110, warmup=10, learning_rate=2.0, schedule=schedule)
        return [learning_rate(step, config) for step in (4, 10, 60, 110)]

    assert rates("cosine") == pytest.approx([1.0, 2.0, 1.0, 0.0])
    assert rates("linear") == pytest.approx([1.0, 2.0, 1.0, 0.0])
    assert rates("constant") == [1.0, 2.0, 2.0, 2.0]
    quarter = TrainConfig(steps=100, warmup=0, learning_rate=1.0)
    assert learning_rate(25, quarter) == pytest.approx(0.8535533905932737)
    assert learning_rate(25, quarter.replace(schedule="linear")) == pytest.approx(0.75)


def test_patience_ends_a_run(text_file, tmp_path, monkeypatch):
    """Scores get worse after the second turn: with patience 2 the fourth is the last, interrupted or not."""
    extra = ["training.patience=2", "training.eval_every=5"]
    config, task = config_of("enwik8", text_file, extra, steps=100)

    def measured(self, split, *, whole, network=None):
        return {"bpc": abs(self.step - 10) + 1.0, "nats": 1.0, "accuracy": 0.5}

    monkeypatch.setattr("elmnet.train.trainer.Trainer._evaluate", measured)
    result = loop.start(config, tmp_path / "run", task, reporter=Reporter(quiet=True))
    assert (result["steps"], result["best_step"]) == (20, 10)
    (tmp_path / "run" / "result.json").unlink()  # as if it had been killed while it was scored
    assert loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))["steps"] == 20
    with pytest.raises(ConfigError, match=r"training\.patience ends runs one by one"):
        create_replicas(tmp_path / "several", config, 2)


def test_names_of_runs_without_later_settings_stay():
    """Sweeps that were begun before there were these settings go on under the same names."""
    config = compose("enwik8", preset="small")
    assert name_of(config, {"sha256": "x"}) == "8b43517942b5662b"
    assert name_of(config.replace(training=config.training.replace(patience=3)), {"sha256": "x"}) != "8b43517942b5662b"


def test_what_is_logged_can_be_sent_elsewhere(text_file, tmp_path):
    class Elsewhere(Reporter):
        def logged(self, record):
            sent.append(record)

    config, task = config_of("enwik8", text_file, ["training.log_every=10"], steps=15)
    sent: list[dict] = []
    loop.start(config, tmp_path / "run", task, reporter=Elsewhere(quiet=True))
    assert sent == Run(tmp_path / "run").metrics and {one["event"] for one in sent} == {"train", "valid"}
    runs = {tmp_path / f"seed-{seed}": config.replace(seed=seed) for seed in (0, 1)}
    sent.clear()
    loop.together(runs, reporter=Elsewhere(quiet=True))
    for path in runs:
        own = [{k: v for k, v in one.items() if k != "run"} for one in sent if one["run"] == path.name]
        assert own == Run(path).metrics


def test_a_run_as_an_object(before, text_file):
    trained = Run(before)
    assert trained.result["steps"] == 30 and trained.metrics[-1]["event"] == "valid"
    assert trained.evaluate("valid") == pytest.approx(trained.result["valid"])
    assert trained.evaluate("all", data=str(text_file)).keys() == trained.result["test"].keys()
    with pytest.raises(ConfigError, match="split must be one of"):
        trained.evaluate("dev")
    with pytest.raises(ConfigError, match="predict is for the task sequence"):
        trained.predict()
    with pytest.raises(ConfigError, match="enwik8 tells no classes"):
        trained.confusion()
