import numpy as np
import pytest
import yaml

from elmnet import models
from elmnet.errors import BudgetError, ConfigError
from elmnet.train.config import RunConfig, TrainConfig, amend, compose, load_config


@pytest.mark.parametrize("task", ["enwik8", "shd-adding", "shd", "sequence"])
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_every_preset_composes_and_round_trips(task, preset):
    config = compose(task, preset=preset)
    assert RunConfig.from_dict(config.to_dict()) == config


def test_paper_presets_have_the_published_values():
    text, spikes = compose("enwik8", preset="paper"), compose("shd-adding", preset="paper")
    t = text.training
    assert (t.steps, t.optimizer, t.learning_rate, t.warmup) == (300_000, "adam", 5e-4, 100)
    assert (t.label_smoothing, t.mlp_penalty, t.activity_penalty) == (1e-4, 0.01, 1.0)
    assert (t.clip, t.eval_every, t.reset_from, t.reset_to, t.reset_steps) == (1.0, 400, 1.0, 0.01, 40_000)
    assert text.options.to_dict() == {
        "convention": "txl",
        "streams": 8,
        "chunk": 100,
        "valid_chunks": 200,
        "final_valid_streams": 8,
        "final_test_streams": 1,
    }
    s = spikes.training
    assert (s.steps, s.optimizer, s.learning_rate, s.warmup) == (70 * 2000, "adamax", 5e-3, 400)
    assert (s.label_smoothing, s.mlp_penalty, s.activity_penalty, s.eval_every) == (0.01, 0.002, 0.2, 2000)
    o = spikes.options.to_dict()
    assert (o["bin_ms"], o["bins"], o["batch"], o["valid_batches"], o["test_batches"]) == (2.0, 500, 8, 500, 2000)


def test_settings_are_applied_in_order():
    config = compose(
        "enwik8",
        settings=[
            "training.learning_rate=1e-3",
            "model.layers.0.neuron.memory=7",
            "model.layers.0.neuron.tau_highpass=null",
            "training.steps=1e3",
            "options.convention=bytes",
            "seed=12345678901234567",
            "training.steps=500",
        ],
    )
    first = config.model.layers[0].neuron
    assert (config.training.learning_rate, config.training.steps, config.seed) == (1e-3, 500, 12345678901234567)
    assert (first.memory, first.tau_highpass) == (7, None)
    assert config.options.to_dict()["convention"] == "bytes"


def test_settings_may_be_a_mapping_whose_values_are_taken_as_they_are():
    values = {
        "options.standardise": np.bool_(False),
        "training.steps": np.int64(7),
        "training.optimizer": np.str_("adamax"),
        "model.layers.0.neuron.tau_highpass": None,
        "model.layers.0.recurrent_connect": np.float32(0.25),
    }
    config = compose("sequence", settings=values)
    assert config.options.to_dict()["standardise"] is False and config.training.steps == 7
    assert type(config.training.optimizer) is str
    layer = config.model.layers[0]
    assert (layer.neuron.tau_highpass, layer.recurrent_connect) == (None, 0.25)
    training = config.training.to_dict()
    assert amend(config, settings={"training": training, "training.steps": 8}).training.steps == 8
    assert training["steps"] == 7  # what was given is left alone
    with pytest.raises(ConfigError, match=r"setting training\.stepps: training has no setting 'stepps'"):
        compose("enwik8", settings={"training.stepps": 3})
    with pytest.raises(ConfigError, match="steps must be a whole number, got '3'"):
        compose("enwik8", settings={"training.steps": "3"})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.steps", "expected path.to.key=value"),
        ("training.stepps=3", "training has no setting 'stepps'; did you mean 'steps'"),
        ("training.mood=3", "training has no setting 'mood'; known: steps, optimizer"),
        ("d_m=5", "the run has no setting 'd_m'; write model.layers.0.neuron.memory"),
        ("model.layers.0.neuron.d_m=5", "model.layers.0.neuron has no setting 'd_m'; write memory"),
        ("network.layers.0.units=5", "the run has no setting 'network'; write model"),
        ("k_c=5", "write model.layers.0.neuron.branches or model.layers.0.neuron.synapses"),
        ("model.tau_max=5", "model has no setting 'tau_max'; write model.layers.0.neuron.tau_max"),
        ("training.lr=1e-3", "training has no setting 'lr'; write learning_rate"),
        ("training.batch_size=3", "training has no setting 'batch_size'; write options.streams"),
        ("trainin.steps=3", "the run has no setting 'trainin'"),
        ("model.layers.5.units=3", "model.layers is a list of 1, it has no '5'"),
        ("training.steps.x=3", "training.steps holds no settings of its own"),
        ("training.steps=0", "steps must be positive, got 0"),
        ("training.steps=many", "steps must be a whole number, got 'many'"),
        ("training.optimizer=sgd", "'adam', 'adamax'"),
        ("training.steps=[1", "not valid YAML"),
        ("training.keep=1", "keep must be at least 2"),
        ("training.label_smoothing=1", r"label_smoothing must lie in \[0, 1\)"),
        ("device=meta", "device must be cpu, cuda or cuda:N, got 'meta'"),
        ("threads=0", r"threads must lie in 1\.\.4096, got 0"),
        ("threads=99999999999", "threads must lie in"),
        ("seed=99999999999999999999", "seed must lie in"),
        ("task=shd", "task cannot be set; name another TASK"),
        ("data=x", "data cannot be set; use --data"),
        ("model.inputs=3", "model.inputs cannot be set; it follows from the data"),
        ("training.learning_rate=nan", "learning_rate must be finite"),
    ],
)
def test_bad_settings_are_refused_in_words(setting, words):
    with pytest.raises(ConfigError, match=words):
        compose("enwik8", settings=[setting])


def test_a_device_that_is_elsewhere_is_described_and_not_trained_on():
    config = compose("enwik8", settings=["device=cuda:77"])
    with pytest.raises(ConfigError, match=r"device must be one of cpu.* here, got 'cuda:77'"):
        config.require_device()


def test_a_longest_timescale_is_not_set_where_the_data_decide_it():
    setting = "model.layers.0.neuron.tau_max=70"
    with pytest.raises(ConfigError, match=r"tau_max=70: the data decide tau_max here; add --set options\.timescales=m"):
        compose("sequence", settings=[setting])
    chosen = compose("sequence", settings=[setting, "options.timescales=model"])
    assert chosen.model.layers[0].neuron.tau_max == compose("enwik8", settings=[setting]).model.layers[0].neuron.tau_max
    assert chosen.model.layers[0].neuron.tau_max == 70


def test_paths_become_absolute_and_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").touch()
    (tmp_path / "official").touch()
    assert compose("enwik8", data="text.txt").data == str(tmp_path.resolve() / "text.txt")
    assert compose("enwik8", data="official").data == "official"
    assert compose("enwik8").data == "python-stdlib"


def test_a_file_may_say_1e_minus_2_and_name_data_beside_it(tmp_path, monkeypatch):
    document = compose("enwik8", preset="tiny").to_dict()
    text = yaml.safe_dump({**document, "data": "text.txt"}).replace("learning_rate: 0.01", "learning_rate: 2e-2")
    (tmp_path / "run.yaml").write_text(text)
    (tmp_path / "text.txt").touch()
    monkeypatch.chdir(tmp_path)
    config = amend(load_config(tmp_path / "run.yaml"))
    assert config.training.learning_rate == 0.02
    assert config.data == str(tmp_path / "text.txt")


@pytest.mark.parametrize(
    "text", ["a: [", "task: a\ntask: b", "x: &a {y: *a}", "when: 2026-99-99", "\xff", "[" * 100_000, "- " * 100_000]
)
def test_what_is_no_yaml_is_refused_with_the_file_s_name(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"run\.yaml: cannot be read as YAML"):
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("kind", ["leaky", "gru", "transformer", "s5-like"])
def test_models_of_other_kinds_compose_and_round_trip(kind):
    config = compose("enwik8").with_model(kind)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert (config.training.mlp_penalty == 0) == (kind != "leaky")
    if kind != "leaky":
        with pytest.raises(ConfigError, match="the run has no setting 'd_m'; known: task"):  # for it has no memory
            amend(config, settings=["d_m=7"])
        assert amend(config, settings=["model.width=7"]).model.width == 7
        with pytest.raises(ConfigError, match="of signals of ELM neurons, which a baseline has not"):
            amend(config, settings=["training.activity_penalty=0.1"])


def test_an_elm_run_is_written_as_ever():
    """Its configuration says nothing of other models, so old files and the names of trials keep their meaning."""
    assert list(compose("enwik8").to_dict()["model"]) == ["inputs", "outputs", "layers", "readout", "token_scale"]


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="no task 'mnist'; known: enwik8, shd-adding, shd, neuronio, sequence"):
        compose("mnist")
    with pytest.raises(ConfigError, match="no preset 'huge'; known: tiny, small, paper"):
        compose("enwik8", preset="huge")
    with pytest.raises(ConfigError, match="missing setting steps"):
        TrainConfig.from_dict({})


def test_a_run_may_be_composed_of_a_kind_and_a_budget():
    config = compose("enwik8", model="lstm", budget=20_000, settings=["training.steps=7"])
    assert config.model.kind == "lstm" and config.training.steps == 7
    assert config.model.inputs == config.model.outputs == len(config.open_task().facts()["symbols"])
    fits, more = config.model, config.model.replace(width=config.model.width + 1)
    assert models.counts(fits).parameters <= 20_000 < models.counts(more).parameters
    assert compose("enwik8", model=fits).model == fits
    with pytest.raises(ConfigError, match="no model 'lstn'; known: elm, leaky"):
        compose("enwik8", model="lstn")
    with pytest.raises(BudgetError):
        compose("enwik8", budget=100)


def test_a_file_that_is_no_configuration_is_not_printed(tmp_path):
    (tmp_path / "text.txt").write_text("no settings " * 1000)
    with pytest.raises(ConfigError, match=r"expected a mapping of settings, got 'no settings ") as refused:
        load_config(tmp_path / "text.txt")
    assert len(str(refused.value)) < 300
