import numpy as np
import pytest
import torch

from elmnet.data.spikes import load_spike_corpus
from elmnet.errors import ConfigError, DataError
from elmnet.tasks.shd import SHD, SHDAdding, SpikeOptions


@pytest.fixture
def corpus(spike_directory):
    return load_spike_corpus(str(spike_directory))


def options(**changes):
    return SpikeOptions(**{"bin_ms": 20.0, "bins": 30, "batch": 4, "valid_batches": 5, "test_batches": 6, **changes})


def test_a_sum_is_two_digits_in_a_row(corpus):
    task = SHDAdding(options(), corpus)
    drawn = task._draw_training(3)
    batch = task.training_batch(3)
    data, pool = task.pools["train"]
    assert batch.x.shape == (4, 60, 700)
    assert batch.x.dtype == torch.bool
    digits = data.dense(pool[drawn].flatten(), 0.02, 30)
    assert np.array_equal(batch.x[:, :30].numpy(), digits[0::2])
    assert np.array_equal(batch.x[:, 30:].numpy(), digits[1::2])
    assert batch.y.tolist() == (data.labels[pool[drawn]] % 10).sum(1).tolist()
    assert batch.fresh


def test_jitter_moves_training_digits_and_nothing_else(corpus):
    still, moved = (SHDAdding(options(jitter_ms=ms, jitter_channels=c), corpus) for ms, c in ((0, 0), (60, 5)))
    a, b = still.training_batch(4), moved.training_batch(4)
    assert a.y.tolist() == b.y.tolist()
    assert not torch.equal(a.x, b.x)
    assert torch.equal(b.x, moved.training_batch(4).x)
    for x, y in zip(
        still.evaluation_batches("valid", whole=True), moved.evaluation_batches("valid", whole=True), strict=True
    ):
        assert torch.equal(x.x, y.x)


def test_batches_depend_on_seed_and_index_alone(corpus):
    a, b, c = (SHDAdding(options(), corpus, seed=seed) for seed in (1, 1, 2))
    later = [a.training_batch(i) for i in (7, 2)]
    assert torch.equal(b.training_batch(2).x, later[1].x)
    assert torch.equal(b.training_batch(7).x, later[0].x)
    assert not torch.equal(c.training_batch(7).y, later[0].y) or not torch.equal(c.training_batch(7).x, later[0].x)
    for split in ("valid", "test"):
        pairs = zip(a.evaluation_batches(split, whole=True), c.evaluation_batches(split, whole=True), strict=True)
        assert all(torch.equal(x.x, y.x) for x, y in pairs)


def test_splits_do_not_share_recordings(corpus):
    pools = SHDAdding(options(), corpus).pools
    train, valid = pools["train"][1], pools["valid"][1]
    assert not set(train) & set(valid)
    assert len(train) + len(valid) == 60
    assert pools["test"][0] is corpus.test


def test_official_validation_share(shared):
    pools = SHDAdding(options(), load_spike_corpus(str(shared / "data"))).pools
    assert len(pools["valid"][1]) / 2700 == pytest.approx(0.2, abs=0.025)


def test_held_out_speakers_are_tested_and_nothing_else(corpus):
    task = SHD(options(held_out_speakers=(2,)), corpus)
    for split in ("train", "valid"):
        data, pool = task.pools[split]
        assert 2 not in data.speakers[pool]
    data, pool = task.pools["test"]
    assert set(data.speakers[pool]) == {2}
    assert len(pool) == (corpus.train.speakers == 2).sum() + (corpus.test.speakers == 2).sum()
    assert sum(len(b.y) for b in task.evaluation_batches("test", whole=True)) == len(pool)
    with pytest.raises(DataError, match=r"has no speaker 9; its speakers are \[0, 1, 2, 3\]"):
        SHD(options(held_out_speakers=(9,)), corpus)


def test_shd_epochs_visit_every_recording_once_in_new_orders(corpus):
    task = SHD(options(batch=3), corpus)
    size = len(task.pools["train"][1])
    per_epoch = size // 3
    first = np.concatenate([task._draw_training(i) for i in range(per_epoch)]).flatten()
    second = np.concatenate([task._draw_training(per_epoch + i) for i in range(per_epoch)]).flatten()
    assert len(set(first)) == len(first) == per_epoch * 3
    assert first.tolist() != second.tolist()


def test_shd_scores_every_recording_once(corpus):
    task = SHD(options(batch=7), corpus)
    for split in ("train", "valid", "test"):
        scored = np.concatenate([b.y.numpy() for b in task.evaluation_batches(split, whole=True)])
        data, pool = task.pools[split]
        assert scored.tolist() == data.labels[pool].tolist()


def test_class_prior_of_sums(corpus):
    task = SHDAdding(options(), corpus)
    prior = task._prior()
    assert prior.sum() == pytest.approx(1, abs=1e-6)
    scores = task.baselines()["class prior"]["test"]
    targets = np.concatenate([b.y.numpy() for b in task.evaluation_batches("test", whole=True)])
    assert scores["accuracy"] == (targets == prior.argmax()).mean()


def test_class_prior_of_digits(corpus):
    """The share of each class in the training part; a class it lacks is all but impossible."""
    task = SHD(options(), corpus)
    data, pool = task.pools["train"]
    share = np.bincount(data.labels[pool], minlength=task.outputs) / len(pool)
    assert task._prior() == pytest.approx(np.maximum(share, 1e-9))
    scores = task.baselines()["class prior"]["test"]
    targets = np.concatenate([b.y.numpy() for b in task.evaluation_batches("test", whole=True)])
    assert scores["nats"] == pytest.approx(-np.log(np.maximum(share, 1e-9)[targets]).mean())
    assert scores["accuracy"] == (targets == share.argmax()).mean()


def test_twenty_classes_add_as_digits(tmp_path):
    from conftest import write_spikes

    write_spikes(tmp_path / "train.h5", classes=20, count=80)
    write_spikes(tmp_path / "test.h5", classes=20)
    corpus = load_spike_corpus(str(tmp_path))
    assert SHD(options(), corpus).outputs == 20
    task = SHDAdding(options(), corpus)
    assert task.outputs == 19
    assert all(task.training_batch(i).y.max() <= 18 for i in range(20))


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="bins must be positive, got 0"):
        SpikeOptions(bins=0)
    with pytest.raises(ConfigError, match="valid_fraction"):
        SpikeOptions(valid_fraction=1.0)
