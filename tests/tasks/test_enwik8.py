import math

import numpy as np
import pytest
import torch

from elmnet.data.text import Corpus, Vocabulary
from elmnet.errors import ConfigError, DataError
from elmnet.tasks import OpenTasks, find_task
from elmnet.tasks.enwik8 import Enwik8, TextOptions

TEXT = b"".join(b"line %d of some text\n" % i for i in range(2000))


def task(data=TEXT, vocabulary=None, **options):
    settings = {"streams": 4, "chunk": 25, "valid_chunks": 3, **options}
    return Enwik8(TextOptions(**settings), Corpus("lines", data), vocabulary=vocabulary)


def test_training_batches_follow_the_streams():
    t = task()
    text = t.parts["train"]
    length = (len(text) - 1) // 4
    first, second = t.training_batch(0), t.training_batch(1)
    assert (first.fresh, second.fresh) == (True, False)
    for row in range(4):
        start = row * length
        assert first.x[row].tolist() == text[start : start + 25].tolist()
        assert first.y[row].tolist() == text[start + 1 : start + 26].tolist()
        assert second.x[row].tolist() == text[start + 25 : start + 50].tolist()


def test_training_wraps_and_starts_afresh():
    t = task()
    per_pass = ((len(t.parts["train"]) - 1) // 4) // 25
    again = t.training_batch(per_pass)
    assert again.fresh
    assert torch.equal(again.x, t.training_batch(0).x)


def test_whole_evaluation_predicts_every_symbol_but_the_first():
    t = task()
    targets = torch.cat([b.y.flatten() for b in t.evaluation_batches("test", whole=True)])
    assert targets.tolist() == t.parts["test"][1:].tolist()
    assert sum(1 for _ in t.evaluation_batches("test", whole=True)) == t.count_batches("test", whole=True)
    assert [b.fresh for b in t.evaluation_batches("test", whole=True)][:2] == [True, False]


def test_turn_validation_is_limited():
    t = task()
    assert t.count_batches("valid", whole=False) == 3
    assert len(list(t.evaluation_batches("valid", whole=False))) == 3


def test_conventions_differ_only_in_newlines():
    txl, raw = task(), task(convention="bytes")
    assert raw.inputs == txl.inputs + 1
    assert "(txl)" in txl.data_name
    assert "(bytes)" in raw.data_name
    assert len(raw.parts["train"]) == len(TEXT) - 2 * (len(TEXT) // 20)
    with pytest.raises(ConfigError, match="'txl', 'bytes'"):
        task(convention="utf-8")


def test_all_is_the_whole_text():
    t = task()
    targets = torch.cat([b.y.flatten() for b in t.evaluation_batches("all", whole=True)])
    assert len(targets) == len(TEXT.replace(b"\n", b"")) - 1


def test_foreign_text_is_encoded_with_the_stored_vocabulary_or_refused():
    stored = Vocabulary(task().facts()["symbols"])
    assert task(TEXT[::-1], vocabulary=stored).inputs == len(stored)
    with pytest.raises(DataError, match="byte 0x21 at offset 3,000"):
        task(TEXT[:3000] + b"!" + TEXT, vocabulary=stored)


def test_too_short_text_is_refused():
    with pytest.raises(DataError, match="too few for 4 streams of 500 steps"):
        task(b"ab " * 700, streams=4, chunk=500)


def test_short_texts_are_scored_in_fewer_streams():
    stored = Vocabulary(task().facts()["symbols"])
    short = task(TEXT[:90], vocabulary=stored, final_test_streams=64)
    batches = list(short.evaluation_batches("all", whole=True))
    assert {len(batch.x) for batch in batches} == {3}
    assert sum(batch.y.numel() for batch in batches) >= 75
    with pytest.raises(DataError, match="all: holds 0 symbols"):
        list(task(b"\n\n", vocabulary=stored).evaluation_batches("all", whole=True))


def test_scores_are_bits():
    expected = {"bpc": pytest.approx(3), "nats": pytest.approx(2.07944, abs=1e-5), "accuracy": 0.5}
    assert task().scores(math.log(2) * 3, 0.5) == expected


def test_baselines_by_counting():
    rng = np.random.default_rng(0)
    uniform = bytes(rng.integers(97, 105, size=40_000).astype(np.uint8))
    scores = task(uniform).baselines()
    assert scores["unigram"]["test"]["bpc"] == pytest.approx(3.0, abs=0.01)
    assert scores["order-2 context"]["test"]["bpc"] == pytest.approx(3.0, abs=0.05)
    cycle = b"abac" * 10_000
    scores = task(cycle).baselines()
    assert scores["unigram"]["test"]["bpc"] == pytest.approx(1.5, abs=0.01)
    assert scores["order-2 context"]["test"]["bpc"] < 0.01  # two symbols say which comes next


def test_baselines_do_not_depend_on_the_block_size(monkeypatch):
    whole = task().baselines()
    monkeypatch.setattr("elmnet.tasks.enwik8._BLOCK", 777)
    pieces = task().baselines()
    for name, splits in whole.items():
        for part, scores in splits.items():
            assert pieces[name][part]["bpc"] == pytest.approx(scores["bpc"], rel=1e-12)


def test_tasks_that_differ_in_their_seed_share_the_data(text_file):
    tasks, options = OpenTasks(), TextOptions(streams=2, chunk=5)
    first, second = (tasks.of("enwik8", options, str(text_file), seed=seed) for seed in (1, 2))
    assert (first.seed, second.seed) == (1, 2)
    assert first.corpus is second.corpus
    assert tasks.of("enwik8", TextOptions(streams=3, chunk=5), str(text_file)).options.streams == 3
    cells = [tasks.of("neuronio", find_task("neuronio").Options(), "synthetic-cell", seed=seed) for seed in (1, 2)]
    assert cells[0]._load is not cells[1]._load  # each keeps the files of its own batches
    assert not torch.equal(cells[0].training_batch(0).x, cells[1].training_batch(0).x)
