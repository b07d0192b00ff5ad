import pickle

import numpy as np
import pytest
import torch
from conftest import neuronio_document

from elmnet import budget
from elmnet.errors import ConfigError, DataError
from elmnet.network import ELMNetwork
from elmnet.tasks import open_task
from elmnet.tasks.neuronio import PRESETS, NeuronIOOptions, deal, roc_auc
from elmnet.train import loop
from elmnet.train.config import compose
from elmnet.train.evaluate import evaluate
from elmnet.train.progress import Reporter

OPTIONS = NeuronIOOptions(batch=4, window_ms=30, ignore_ms=20, burn_in_ms=10, eval_batch=3, file_batches=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("neuronio")
    for part, seed in (("train", 1), ("train2", 2), ("valid", 3), ("test", 4)):
        document = neuronio_document(segments=5, seconds=0.1, simulations=8, seed=seed)
        (directory / f"{part}.p").write_bytes(pickle.dumps(document, protocol=2))
    return directory


def test_batches_are_windows_decided_by_seed_and_index(folder):
    task, same, other = (open_task("neuronio", OPTIONS, str(folder), seed=seed) for seed in (1, 1, 2))
    later = task.training_batch(9)
    batch = task.training_batch(3)
    assert batch.fresh
    assert batch.x.shape == (4, 30, 10)
    assert batch.y.shape == (4, 30, 2)
    assert set(batch.x.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert (batch.x[..., :5] >= 0).all()
    assert (batch.x[..., 5:] <= 0).all()
    assert torch.equal(same.training_batch(9).x, later.x)
    assert torch.equal(same.training_batch(3).y, batch.y)
    assert not torch.equal(other.training_batch(3).x, batch.x)
    assert batch.y[..., 1].max() <= (-55 + 67.7) / 10 + 1e-6  # clipped


def test_an_evaluation_scores_every_calm_millisecond_once(folder):
    task = open_task("neuronio", OPTIONS, str(folder))
    data = task._file("test", 0)
    calm = data.spikes.sum(1) <= 24
    scored = [task.scored(batch.y, batch.y)[1] for batch in task.evaluation_batches("test", whole=True)]
    assert task.count_batches("test", whole=True) == len(scored)
    assert sum(y[..., 0].sum() for y in scored) == data.spikes[calm, 20:].sum() > 0
    assert sum(y[..., 0].numel() for y in scored) == calm.sum() * 80
    assert np.allclose(sum(float(y[..., 1].sum()) for y in scored), task._targets("test")[:, 1].sum(), rtol=1e-5)


def test_scores_are_what_their_names_say(folder):
    task = open_task("neuronio", OPTIONS, str(folder))
    truth = [(batch.y, batch.y) for batch in task.evaluation_batches("test", whole=True)]
    perfect = task.measure(truth)
    assert perfect["auc"] == perfect["soma_ev"] == 1
    assert perfect["soma_rmse"] == 0
    off = task.measure([(y + torch.tensor([0.0, 0.3]), y) for y, _ in truth])
    assert off["soma_rmse"] == pytest.approx(3.0, rel=1e-5)  # mV
    assert off["soma_ev"] == pytest.approx(1)
    aligned = open_task("neuronio", OPTIONS.replace(align_soma=True), str(folder))
    assert aligned.measure([(2 * y + 0.3, y) for y, _ in truth])["soma_rmse"] < 1e-5
    constant = task.baselines()["constant"]["test"]
    assert constant["auc"] == 0.5
    assert constant["soma_ev"] == pytest.approx(0)
    spike, mean = task._training_mean
    voltages = (task._targets("test")[:, 1] - mean) / OPTIONS.soma_scale
    assert spike == 0 and constant["soma_rmse"] == pytest.approx(float(np.sqrt(np.square(voltages).mean())), rel=1e-5)


def test_auc_is_the_probability_of_the_right_order():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(5, size=60).astype(float), rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert roc_auc(score, positive) == pytest.approx(np.mean(pairs))
    with pytest.raises(DataError, match="the AUC is not defined"):
        roc_auc(score, np.zeros(60, dtype=bool))


def test_the_loss_is_half_and_half(folder):
    task = open_task("neuronio", OPTIONS, str(folder))
    out = torch.zeros(1, 4, 2)
    y = torch.tensor([[[1.0, 2.0]] * 4])
    assert task.loss(out, y).item() == pytest.approx(0.5 * np.log(2) + 0.5 * 4)


def test_files_without_parts_are_dealt_by_simulation(folder):
    task = open_task("neuronio", OPTIONS, str(folder / "train.p"))
    sizes = [len(task._file(part, 0)) for part in ("train", "valid", "test")]
    assert sizes == [6, 1, 1]
    together = np.concatenate([deal(20, part) for part in ("train", "valid", "test")])
    assert sorted(together) == list(range(20))


def test_data_that_cannot_be_used_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="ignore_ms \\+ window_ms need 120"):
        open_task("neuronio", OPTIONS.replace(window_ms=100), str(folder))
    with pytest.raises(DataError, match="fetched by hand"):
        open_task("neuronio", OPTIONS, "official")
    (tmp_path / "a.p").write_bytes((folder / "train.p").read_bytes())
    (tmp_path / "test.p").write_bytes((folder / "train.p").read_bytes())
    with pytest.raises(DataError, match="no files of the valid part"):
        open_task("neuronio", OPTIONS, str(tmp_path))
    with pytest.raises(ConfigError, match="burn_in_ms 40 must be below"):
        OPTIONS.replace(burn_in_ms=40)


def test_the_paper_preset_is_the_published_neuron():
    model = PRESETS["paper"]["model"]
    assert budget.parameters(model) == 8002
    assert budget.parameters(model.with_hidden(memory=100)) == 54_002


def test_training_resumes_to_the_byte(folder, tmp_path):
    chosen = {"options.window_ms": 30, "options.ignore_ms": 20, "options.burn_in_ms": 10, "training.eval_every": 4}
    settings = [f"{key}={value}" for key, value in chosen.items()] + ["training.steps=8", "training.log_every=2"]
    config = compose("neuronio", data=str(folder), settings=settings)
    task = open_task("neuronio", config.options, config.data)
    config = config.replace(model=task.fit_model(config.model))
    calm = loop.start(config, tmp_path / "calm", task, reporter=Reporter(quiet=True))

    class Killed(Exception):
        pass

    class Killer(Reporter):
        def step(self, step, *args):
            if step == 6:
                raise Killed

    with pytest.raises(Killed):
        loop.start(config, tmp_path / "run", task, reporter=Killer(quiet=True))
    again = loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))
    assert again["test"] == calm["test"]
    for file in ("metrics.jsonl", "best/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "calm" / file).read_bytes()


def test_the_hidden_cell_scores_what_it_is_said_to_know():
    """The network with the cell's own parameters, through the trainer's evaluation."""
    options = NeuronIOOptions.from_dict(PRESETS["tiny"]["options"]).replace(
        window_ms=400, burn_in_ms=200, ignore_ms=200
    )
    task = open_task("neuronio", options, "synthetic-cell")
    cell = task.source.cell
    model = PRESETS["tiny"]["model"]
    first = model.layers[0]
    model = model.replace(layers=(first.replace(neuron=cell.neuron.layer.config.neuron),))
    network = ELMNetwork(model, seed=0)
    network.layers[0].load_state_dict(cell.neuron.layer.state_dict())
    known = task.baselines()["hidden cell itself"]["valid"]
    got = evaluate(network, task, "valid", whole=True)
    assert "synthetic" in task.data_name
    assert known["auc"] > 0.7
    assert got["auc"] == pytest.approx(known["auc"], abs=0.02)  # states restart in every window
