"""Somebody's own sequences as a task: parts, standardisation, scores against scikit-learn's, training, predictions."""

import csv
import json

import duckdb
import numpy as np
import pytest
import torch
from conftest import run

from elmnet.data.sequences import checked
from elmnet.errors import ConfigError, DataError
from elmnet.tasks.sequence import NOWHERE, SequenceTask
from elmnet.tasks.sequence_facts import SequenceOptions
from elmnet.train.config import compose
from elmnet.train.predict import Predictions, mean, write
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory
from elmnet.train.trained import Run
from elmnet.train.trainer import Trainer

SMALL = ["--set", "model.layers.0.units=8", "--set", "options.batch=16", "--set", "training.eval_every=40"]


def waves(count=90, seed=0, classes=True, per_step=False):
    """Synthetic: noisy sines of 8 to 16 steps; the class is whether they rise first, the value their amplitude."""
    rng = np.random.default_rng(seed)
    lengths, sign = rng.integers(8, 17, size=count), rng.choice([-1, 1], size=count)
    size = rng.uniform(0.5, 2, size=count)
    x = 5 + (sign * size)[:, None, None] * np.sin(np.arange(16) / 3)[:, None] * [[1.0, 100.0]]
    x = x + 0.1 * rng.standard_normal(x.shape)
    y = np.where(sign > 0, "up", "down") if classes else sign * size
    return {"x": x, "y": np.repeat(y[:, None], 16, 1) if per_step else y, "lengths": lengths}


def table_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def task(options=None, seed=0, **changes):
    return SequenceTask(SequenceOptions(**(options or {})), checked(**waves(**changes)), seed=seed)


def test_parts_are_disjoint_fixed_and_standardised_by_the_training_part():
    a, b = task(seed=1), task(seed=2)
    parts = [set(a.parts[part]) for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [62, 14, 14] and len(set.union(*parts)) == 90
    assert all(np.array_equal(a.parts[part], b.parts[part]) for part in a.parts)
    batch = a._batch(a.parts["train"])
    inside = torch.arange(batch.x.shape[1]) < batch.lengths[:, None]
    torch.testing.assert_close(batch.x[inside].mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.x[inside].std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert torch.equal(a.training_batch(3).x, task(seed=1).training_batch(3).x)
    assert not torch.equal(a.training_batch(3).x[:, 0], b.training_batch(3).x[:, 0])


def test_the_draw_of_the_parts_never_changes():
    """A literal: runs of years hence must not learn what was a test part."""
    parts = SequenceTask(SequenceOptions(), checked(np.zeros((12, 2, 1)), np.arange(12) % 2)).parts
    assert (parts["valid"].tolist(), parts["test"].tolist()) == ([2, 9], [4, 7])


def test_no_group_is_in_two_parts():
    """Unless the file's own split has it so."""
    group = np.array(["mouse 1", "mouse 2", "mouse 3", "mouse 4", "mouse 5"])[np.arange(90) % 5]
    one = SequenceTask(SequenceOptions(), checked(**waves(), group=group))
    parts = {part: set(group[one.parts[part]]) for part in ("train", "valid", "test")}
    assert [len(groups) for groups in parts.values()] == [3, 1, 1] and len(set.union(*parts.values())) == 5
    assert "groups: 3 train, 1 valid, 1 test" in " ".join(one.notes())
    again = SequenceTask(one.options, one.data, facts=one.facts())
    assert all(np.array_equal(one.parts[part], again.parts[part]) for part in parts)
    split = np.repeat(["train", "valid", "test"], 30)
    own = SequenceTask(SequenceOptions(), checked(**waves(), group=group, split=split))
    assert np.array_equal(own.parts["valid"], np.arange(30, 60)) and "groups" not in own.facts()
    with pytest.raises(DataError, match="90 sequences in 2 groups leave none for the train part"):
        SequenceTask(SequenceOptions(), checked(**waves(), group=np.arange(90) % 2))


def test_only_the_last_step_of_a_sequence_counts_unless_every_step_does():
    last = task()
    batch = last.training_batch(0)
    assert ((batch.y != NOWHERE).sum(1) == 1).all()
    assert ((batch.y != NOWHERE).int().argmax(1) == batch.lengths - 1).all()
    every = task(per_step=True)
    batch = every.training_batch(0)
    assert torch.equal((batch.y != NOWHERE).sum(1), batch.lengths)


def test_scores_of_classes_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn (extra `estimators`)")
    rng = np.random.default_rng(0)
    x, y = np.zeros((200, 3, 1)), rng.choice([3, 5, 9], p=[0.7, 0.2, 0.1], size=200)
    one = SequenceTask(SequenceOptions(), checked(x, y))
    out = torch.randn(200, 3, 3)
    got = one.summary(
        one.tally(out[:80], torch.from_numpy(one._y[:80])) + one.tally(out[80:], torch.from_numpy(one._y[80:]))
    )
    probability = out[:, -1].double().softmax(-1).numpy()
    named = np.array([3, 5, 9])[probability.argmax(1)]
    assert got["nats"] == pytest.approx(metrics.log_loss(y, probability))
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(y, named))
    assert got["macro_f1"] == pytest.approx(metrics.f1_score(y, named, average="macro"))


def test_scores_of_values_are_those_of_scikit_learn_in_the_data_s_unit():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn (extra `estimators`)")
    y = np.random.default_rng(0).normal(50, [3.0, 7.0], size=(60, 2))
    one = SequenceTask(SequenceOptions(), checked(np.zeros((60, 3, 1)), y))
    out = torch.randn(60, 3, 2)
    got = one.summary(one.tally(out, torch.from_numpy(one._y)))
    told = one.in_units(out[:, -1].numpy())
    assert got["rmse"] == pytest.approx(metrics.mean_squared_error(y, told) ** 0.5, rel=1e-6)
    assert got["r2"] == pytest.approx(metrics.r2_score(y, told), rel=1e-6)


@pytest.mark.parametrize("standardise", [True, False])
def test_values_of_different_units_count_alike(standardise):
    """The largest unit alone does not choose the best step."""
    y = np.random.default_rng(0).normal(50, [1e-3, 1e5], size=(60, 2))
    one = SequenceTask(
        SequenceOptions(standardise=standardise), checked(np.zeros((60, 3, 1)), y, value_names=["a", "b"])
    )
    assert (one.metric, task(classes=False).metric) == ("nrmse", "rmse")
    assert "nrmse" not in task(classes=False).baselines()["training mean"]["test"]
    deviation = y[one.parts["train"]].std(0)
    told = y + deviation * [0.5, 0.1]
    out = torch.from_numpy(np.repeat(((told - one.target_mean) / one.target_scale)[:, None], 3, 1))
    sums = one.tally(out, torch.from_numpy(one._y))
    got = one.summary(sums)
    assert list(got) == ["nrmse", "rmse", "r2"]
    assert got["nrmse"] == pytest.approx(((0.25 + 0.01) / 2) ** 0.5)
    assert got["rmse"] == pytest.approx(0.1 * deviation[1] / 2**0.5)
    each = one.by_value(sums)
    assert {name: scores["rmse"] for name, scores in each.items()} == pytest.approx(
        {"a": 0.5 * deviation[0], "b": 0.1 * deviation[1]}
    )
    assert sum(scores["r2"] for scores in each.values()) / 2 == pytest.approx(got["r2"])
    again = SequenceTask(one.options, one.data, facts=one.facts())
    assert again.summary(sums) == got


def test_balanced_weights_make_the_classes_count_alike():
    x, y = np.zeros((100, 2, 1)), np.array([0] * 90 + [1] * 10)
    plain, fair = (SequenceTask(SequenceOptions(class_weights=w), checked(x, y)) for w in ("none", "balanced"))
    train = torch.from_numpy(plain._y[plain.parts["train"]])
    logits = torch.zeros(len(train), 2, 2)
    logits[:, :, 0] = 3.0  # says class 0
    nats = torch.nn.functional.softplus(torch.tensor([-3.0, 3.0]))
    assert fair.loss(logits, train).item() == pytest.approx(nats.mean().item(), rel=1e-5)
    assert plain.loss(logits, train).item() < 0.6
    counted = train[train >= 0]  # parts of a batch are put together by what their losses divide by
    weights = (len(counted) / (2 * np.bincount(counted)))[counted]
    assert (plain.weight(train), fair.weight(train)) == (len(counted), pytest.approx(weights.sum()))
    halves = [train[: len(train) // 3], train[len(train) // 3 :]]
    parts = [(fair.weight(part), fair.loss(logits[: len(part)], part).item()) for part in halves]
    together = sum(weight * loss for weight, loss in parts) / sum(weight for weight, _ in parts)
    assert together == pytest.approx(fair.loss(logits, train).item(), rel=1e-5)


def test_channels_are_told_by_their_names():
    """A table with a row per sequence, or with an index that became a channel, shows in them."""
    wide = checked(np.random.default_rng(0).random((20, 1, 8)), np.arange(20) % 2, channels=[f"t{i}" for i in range(8)])
    first, alone, *_ = SequenceTask(SequenceOptions(), wide).notes()
    assert "; 8 channels (t0, t1, t2, t3, t4, t5, ...); sequences: " in first
    assert "a single step" in alone
    assert " channels; sequences: " in task().notes()[0] and "single" not in " ".join(task().notes())


def test_the_longest_timescale_is_the_median_length():
    from elmnet.tasks.sequence import PRESETS

    one = task()
    length = float(np.median(one.data.lengths[one.parts["train"]]))
    assert one.fit_model(PRESETS["tiny"]["model"]).layers[0].neuron.tau_max == length
    assert f"tau_max of ELM neurons with several memory units: {length:g} steps, the median" in " ".join(one.notes())
    kept = task(options={"timescales": "model"}).fit_model(PRESETS["tiny"]["model"])
    assert kept.layers[0].neuron.tau_max == 100.0


def test_every_layer_has_a_longest_timescale_of_its_own():
    """The median length, but never below its shortest; where its neurons have several."""
    from elmnet.tasks.sequence import PRESETS

    one, model = task(), PRESETS["tiny"]["model"]
    first = model.layers[0]
    slow = first.replace(neuron=first.neuron.replace(tau_min=50.0, tau_max=70.0))
    simple = first.replace(neuron=first.neuron.replace(memory=1, tau_min=5.0, tau_max=5.0))
    fitted = one.fit_model(model.replace(layers=(first, slow, simple)))
    length = float(np.median(one.data.lengths[one.parts["train"]]))
    assert [layer.neuron.tau_max for layer in fitted.layers] == [length, 50.0, 5.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": None}, "has no targets"),
        ({"y": np.zeros(90, dtype=int)}, "all targets are 0; there is nothing to tell apart"),
        ({"split": np.array(["train"] * 80 + ["valid"] * 10)}, "90 sequences leave none for the test part"),
    ],
)
def test_data_without_anything_to_learn(changes, words):
    with pytest.raises(DataError, match=words):
        SequenceTask(SequenceOptions(), checked(**{**waves(), **changes}))


def test_a_class_outside_the_training_part_alone_is_refused():
    data = waves(count=20)
    split = np.where(data["y"] == "up", "train", np.where(np.arange(20) % 2, "valid", "test"))
    with pytest.raises(DataError, match="class down is not in the training part"):
        SequenceTask(SequenceOptions(), checked(**data, split=split))


def test_targets_of_another_kind_are_told_from_the_model_s():
    words = (
        "targets are values at the end of each sequence; the model was trained on classes at the end of each sequence"
    )
    with pytest.raises(DataError, match=words):
        SequenceTask(SequenceOptions(), checked(**{**waves(), "y": np.arange(90.0)}), facts=task().facts())


def test_whole_numbers_that_may_be_values():
    y = np.arange(90) - 49
    with pytest.raises(
        DataError, match=r"class -?\d+ is not in .*\. Whole numbers are classes: .* as floats \(-?\d+\.0\)"
    ):
        SequenceTask(SequenceOptions(), checked(**{**waves(), "y": y}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on synthetic classes and values, by `elmnet train`."""
    from elmnet.cli import main

    place = tmp_path_factory.mktemp("own")
    for name, classes in (("classes", True), ("values", False)):
        np.savez(place / f"{name}.npz", **waves(count=160, classes=classes))
        command = ["train", "sequence", "--data", str(place / f"{name}.npz"), "--out", str(place / name), "-q", *SMALL]
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--steps", "120"])
    return place


def test_training_beats_the_trivial_predictors(trained):
    named, told = (json.loads((trained / name / "result.json").read_text()) for name in ("classes", "values"))
    assert named["test"]["accuracy"] > 0.95 > named["baselines"]["class prior"]["test"]["accuracy"]
    assert named["test"]["macro_f1"] > 0.95
    assert told["test"]["r2"] > 0.8 > 0.1 > told["baselines"]["training mean"]["test"]["r2"]
    assert told["test"]["rmse"] < 0.5 * told["baselines"]["training mean"]["test"]["rmse"]


def test_predictions_need_no_targets_and_keep_the_files_own_numbers(trained, capsys):
    data = waves(count=7, seed=5)
    x, lengths = data["x"], data["lengths"]
    np.savez(trained / "new.npz", x=x, lengths=lengths)
    code, _, err = run(
        capsys, "predict", trained / "classes", "--data", trained / "new.npz", "--out", trained / "p.csv"
    )
    assert code == 0, err
    rows = table_of(trained / "p.csv")
    assert [row["prediction"] for row in rows] == data["y"].tolist()
    assert all(float(row["p.up"]) + float(row["p.down"]) == pytest.approx(1) for row in rows)
    run(capsys, "predict", trained / "classes", "--data", trained / "new.npz", "--out", trained / "p.npz")
    arrays = np.load(trained / "p.npz")
    assert arrays["prediction"].tolist() == data["y"].tolist() and arrays["probability"].shape == (7, 2)
    columns = "100 + sequence AS sequence, step, a, b"
    with duckdb.connect() as connection:
        table = [(i, t, *x[i, t].tolist()) for i in range(7) for t in range(lengths[i])]
        connection.execute("CREATE TABLE rows (sequence INT, step INT, a DOUBLE, b DOUBLE)")
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", table)
        connection.execute(f"COPY (SELECT {columns} FROM rows) TO '{trained / 'new.parquet'}' (FORMAT parquet)")
        source, target = trained / "new.parquet", trained / "p.parquet"
        code, _, err = run(capsys, "predict", trained / "classes", "--data", source, "--out", target)
        assert code == 0, err
        found = connection.execute(f"SELECT sequence, prediction, \"p.up\" FROM '{target}' ORDER BY 1").fetchall()
    assert [row[0] for row in found] == list(range(100, 107))
    assert [row[2] for row in found] == pytest.approx([float(row["p.up"]) for row in rows], rel=1e-6)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_names_stay_what_they_are(tmp_path, ending):
    """Neither numbers nor truth values nor nothing, though they look like it."""
    ids, classes = np.array(["1.10", "1.1", ""]), np.array(["yes", "no", ""])
    told = Predictions(ids, np.array([1, 2, 2]), False, classes, np.eye(3))
    write(told, tmp_path / f"p.{ending}")
    if ending == "csv":
        rows = [tuple(row.values())[:2] for row in table_of(tmp_path / "p.csv")]
    else:
        rows = duckdb.sql(f"SELECT sequence, prediction FROM '{tmp_path / 'p.parquet'}'").fetchall()
    assert rows == list(zip(ids.tolist(), classes.tolist(), strict=True))


def test_predictions_do_not_replace_the_data_and_scores_need_targets(trained, capsys):
    np.savez(trained / "mine.npz", x=waves(count=7)["x"])
    before = (trained / "mine.npz").read_bytes()
    mine = ["--data", trained / "mine.npz"]
    code, _, err = run(capsys, "predict", trained / "classes", *mine, "--out", trained / "mine.npz")
    assert code == 2 and "is the data itself" in " ".join(err.split())
    assert (trained / "mine.npz").read_bytes() == before
    code, _, err = run(capsys, "eval", trained / "classes", *mine)
    assert code == 1 and "has no targets to score by" in " ".join(err.split())


def test_new_data_need_not_look_like_the_training_part(trained, capsys):
    """One class alone, every sequence scored; whole numbers for values; targets that a prediction would refuse."""
    data = waves(count=20, seed=8)
    up = data["y"] == "up"
    np.savez(trained / "up[v2].npz", **{name: values[up] for name, values in data.items()})
    code, out, err = run(capsys, "eval", trained / "classes", "--data", trained / "up[v2].npz")
    assert code == 0, err
    assert out.startswith("all of up[v2].npz: nats")
    whole = waves(count=20, seed=8, classes=False)
    np.savez(trained / "whole.npz", **{**whole, "y": whole["y"].round().astype(int)})
    code, out, err = run(capsys, "eval", trained / "values", "--data", trained / "whole.npz", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["rmse"] < 1
    np.savez(trained / "bad.npz", **{**whole, "y": np.full(20, np.nan)})
    for name in ("classes", "values"):
        target = trained / "bad.csv"
        code, _, err = run(capsys, "predict", trained / name, "--data", trained / "bad.npz", "--out", target)
        assert code == 0, err
    np.savez(trained / "own.npz", **data, split=np.array(["test"] * 20))
    code, out, err = run(capsys, "eval", trained / "classes", "--data", trained / "own.npz")
    assert code == 0, err
    assert out.startswith("test of own.npz")


def test_sequences_of_one_length_can_be_trained_together(tmp_path, capsys):
    data = waves(count=60)
    np.savez(tmp_path / "d.npz", x=data["x"], y=data["y"])
    command = ["train", "sequence", "--data", tmp_path / "d.npz", "--replicas", 2, "--out", tmp_path / "both", "-q"]
    code, _, err = run(capsys, *command, *SMALL, "--steps", "5")
    assert code == 0, err
    alone = ["train", "sequence", "--data", tmp_path / "d.npz", "--seed", 1, "--out", tmp_path / "one", "-q"]
    assert run(capsys, *alone, *SMALL, "--steps", "5")[0] == 0
    results = [json.loads((tmp_path / place / "result.json").read_text()) for place in ("both/seed-1", "one")]
    assert results[0]["valid"] == pytest.approx(results[1]["valid"], rel=1e-3)


def test_r2_of_values_far_from_zero():
    data = waves(classes=False)
    near, far = (
        SequenceTask(SequenceOptions(), checked(**{**data, "y": data["y"] + shift}), seed=0).baselines()
        for shift in (0, 1e9)
    )
    assert far["training mean"]["test"]["r2"] == pytest.approx(near["training mean"]["test"]["r2"], rel=1e-4)


def test_channels_and_values_are_known_by_their_names():
    """In whatever order another file has them; other names are refused, and arrays have none."""
    data = waves(classes=False)
    y = np.stack([data["y"], -5 * data["y"]], 1)
    names = {"channels": ["left", "right"], "value_names": ["speed", "drift"]}
    facts = SequenceTask(SequenceOptions(), checked(**{**data, "y": y}, **names), seed=0).facts()
    assert (facts["channels"], facts["values"]) == (["left", "right"], ["speed", "drift"])

    def opened(columns, **given):
        turned = {**data, "x": data["x"][:, :, columns], "y": y[:, columns]}
        return SequenceTask(SequenceOptions(), checked(**turned, **given), seed=0, facts=facts)

    pool = np.arange(5)
    same = opened([0, 1], **names)
    swapped = opened([1, 0], channels=["right", "left"], value_names=["drift", "speed"])
    for one in (swapped, opened([0, 1])):
        assert torch.equal(one.inputs_of(pool)[0], same.inputs_of(pool)[0])
        assert np.array_equal(one._y, same._y, equal_nan=True)
    with pytest.raises(DataError, match="has no channel 'right', which the model was trained on; it has left, up"):
        opened([0, 1], channels=["left", "up"])
    with pytest.raises(DataError, match="has no value 'drift'"):
        opened([0, 1], channels=["left", "right"], value_names=["speed", "spin"])


def test_small_changes_of_large_numbers_are_seen():
    """Float32 has no seconds since 1970, nor the smallest numbers."""
    data = waves()
    plain = SequenceTask(SequenceOptions(), checked(**data), seed=0)
    assert plain.data.x.dtype == np.float32
    for change in (lambda x: x + 1.7e9, lambda x: x * 1e-46):
        far = SequenceTask(SequenceOptions(), checked(**{**data, "x": change(data["x"].astype(float))}), seed=0)
        got, want = (one.inputs_of(one.parts["train"])[0] for one in (far, plain))
        assert got.dtype == torch.float32
        inside = np.arange(got.shape[1]) < far.data.lengths[far.parts["train"], None]
        assert got[inside] == pytest.approx(want[inside].numpy(), abs=1e-3)


def test_a_file_that_has_grown_is_not_scored_as_if_it_had_not(trained, capsys, tmp_path):
    """Its test part would be drawn anew, and hold what was learned."""
    np.savez(tmp_path / "grow.npz", **waves(count=40))
    command = ["train", "sequence", "--data", tmp_path / "grow.npz", "--out", tmp_path / "run", "-q", *SMALL]
    assert run(capsys, *command, "--steps", 2)[0] == 0
    np.savez(tmp_path / "grow.npz", **waves(count=50))
    code, _, err = run(capsys, "eval", tmp_path / "run")
    assert code == 1 and "grow.npz has changed since" in " ".join(err.split())
    assert run(capsys, "eval", tmp_path / "run", "--split", "all")[0] == 0
    assert run(capsys, "eval", tmp_path / "run", "--data", tmp_path / "grow.npz")[0] == 0


def test_columns_that_differ_in_case_alone_are_not_renamed(tmp_path):
    told = Predictions(np.arange(2), np.ones(2, int), False, np.array(["A", "a"]), np.eye(2))
    with pytest.raises(ConfigError, match=r"p\.A, p\.a differ in case alone"):
        write(told, tmp_path / "p.parquet")
    write(told, tmp_path / "p.csv")
    assert [row["prediction"] for row in table_of(tmp_path / "p.csv")] == ["A", "a"]


def test_smoothing_of_labels_is_refused_for_values(tmp_path, capsys):
    np.savez(tmp_path / "v.npz", **waves(classes=False))
    command = ["train", "sequence", "--data", tmp_path / "v.npz", "--out", tmp_path / "run", *SMALL]
    code, _, err = run(capsys, *command, "--set", "training.label_smoothing=0.1")
    assert code != 0 and "training.label_smoothing is of classes" in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_steps_without_a_target_count_nowhere():
    """What stands at them changes nothing: neither what is learned of the data, nor loss and scores."""
    data, options = waves(classes=False, per_step=True), SequenceOptions(missing="skip")
    y = data["y"] + np.random.default_rng(0).normal(size=data["y"].shape)
    gone = np.random.default_rng(1).random(y.shape) < 0.3
    gone[:, 0] = False
    one = SequenceTask(options, checked(**{**data, "y": np.where(gone, np.nan, y)}, missing=True))
    inside = np.arange(16) < data["lengths"][:, None]
    train = one.parts["train"]
    assert one.target_mean == pytest.approx(y[train][(inside & ~gone)[train]].mean())
    out, truth = torch.randn(90, 16, 1), torch.from_numpy(one._y)
    counts = inside & ~gone
    told = one.in_units(out.numpy())[counts][:, 0]
    scores = one.summary(one.tally(out, truth))
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((told - y[counts]) ** 2)))
    assert one.weight(truth) == counts.sum() and torch.isfinite(one.loss(out, truth))
    lost = int((gone & inside).sum())
    assert f"{lost:,} of {data['lengths'].sum():,} steps have no target and are left out" in one.notes()


def test_the_name_of_a_run_without_missing_targets_stays():
    from elmnet.train.identity import name_of

    config = compose("sequence", preset="tiny", data="x.npz")
    facts = {"sha256": {"x.npz": "x"}}
    assert name_of(config, facts) == "45cd59b785a21ded"  # a literal: runs are found by it
    assert name_of(config.replace(options=SequenceOptions(missing="skip")), facts) != name_of(config, facts)


def test_options_of_classes_are_refused_for_values():
    with pytest.raises(DataError, match=r"options\.class_weights=balanced is of classes"):
        SequenceTask(SequenceOptions(class_weights="balanced"), checked(**waves(classes=False)), seed=0)


@pytest.mark.parametrize("kind", ["values", "classes"])
def test_an_exported_graph_speaks_the_data_s_units(trained, capsys, tmp_path, kind):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (extra `interop`)")
    pytest.importorskip("onnxscript", reason="needs onnxscript (extra `interop`)")
    data = waves(count=1, seed=3)
    np.savez(tmp_path / "one.npz", x=data["x"], lengths=data["lengths"])
    source = trained / kind / "best" if kind == "values" else trained / kind  # the same either way
    assert run(capsys, "export", source, "--out", tmp_path / "g.onnx", "--sequence")[0] == 0
    assert run(capsys, "predict", trained / kind, "--data", tmp_path / "one.npz", "--out", tmp_path / "p.csv")[0] == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    given = {one.name: np.zeros([1, *one.shape[1:]], np.float32) for one in session.get_inputs()[1:]}
    x = data["x"][:, : data["lengths"][0]].astype(np.float32)
    out = session.run(["out"], {"x": x, **given})[0][0, -1]
    (told,) = table_of(tmp_path / "p.csv")
    about = session.get_modelmeta().custom_metadata_map
    if kind == "values":
        assert out[0] == pytest.approx(float(told["prediction"]), rel=1e-3, abs=1e-4)
    else:
        shares = np.exp(out) / np.exp(out).sum()
        assert json.loads(about["elmnet.classes"]) == ["down", "up"]
        assert "logits of the classes" in about["elmnet.outputs"]
        assert shares == pytest.approx([float(told["p.down"]), float(told["p.up"])], abs=1e-4)
    assert "in the units of the data" in about["elmnet.units"]


@pytest.mark.parametrize("kind", ["values", "classes"])
def test_a_stream_speaks_the_data_s_units(trained, kind, tmp_path):
    data = waves(count=3, seed=3)
    np.savez(tmp_path / "few.npz", x=data["x"], lengths=data["lengths"])
    asked = Run(trained / kind)
    told = asked.predict(str(tmp_path / "few.npz")).values[0]
    out, state = None, None
    for x in torch.from_numpy(data["x"][:1, : data["lengths"][0]]).unbind(1):
        out, state = asked.step(x, state)
    assert not out.requires_grad
    got = out[0].double().softmax(-1) if kind == "classes" else out[0]
    np.testing.assert_allclose(got.numpy(), told, rtol=1e-4, atol=1e-5)


def test_values_are_told_in_the_data_s_unit(trained, capsys):
    data = waves(count=30, seed=6, classes=False)
    np.savez(trained / "v.npz", x=data["x"], lengths=data["lengths"])
    code, _, err = run(capsys, "predict", trained / "values", "--data", trained / "v.npz", "--out", trained / "v.csv")
    assert code == 0, err
    told = [float(row["prediction"]) for row in table_of(trained / "v.csv")]
    assert np.corrcoef(told, data["y"])[0, 1] > 0.9
    assert np.abs(np.array(told) - data["y"]).mean() < 0.5


def test_other_data_are_scored_with_the_run_s_own_standardisation(trained, capsys):
    np.savez(trained / "other.npz", **waves(count=12, seed=9))
    code, out, err = run(
        capsys, "eval", trained / "classes", "--data", trained / "other.npz", "--split", "all", "--json", "-"
    )
    assert code == 0, err
    assert json.loads(out)["accuracy"] > 0.9
    data = waves(count=12, seed=9)
    told = []
    for name, part in (("all", slice(None)), ("one", slice(3, 4))):
        np.savez(trained / f"{name}.npz", x=data["x"][part], lengths=data["lengths"][part])
        target = trained / f"{name}.csv"
        assert run(capsys, "predict", trained / "classes", "--data", trained / f"{name}.npz", "--out", target)[0] == 0
        told.append(table_of(target))
    (alone,), together = told[1], told[0][3]
    for column in ("p.down", "p.up"):
        assert float(alone[column]) == pytest.approx(float(together[column]), abs=1e-5)
    np.savez(trained / "sideways.npz", **{**data, "y": np.where(data["y"] == "up", "up", "sideways")})
    code, _, err = run(capsys, "eval", trained / "classes", "--data", trained / "sideways.npz", "--split", "all")
    assert code == 1 and "has class 'sideways', which the model does not know: 'down', 'up'" in " ".join(err.split())
    np.savez(trained / "three.npz", x=np.zeros((3, 4, 3)))
    code, _, err = run(
        capsys, "predict", trained / "classes", "--data", trained / "three.npz", "--out", trained / "x.csv"
    )
    assert code == 1 and "has 3 channels, the model was trained on 2" in " ".join(err.split())


@pytest.mark.parametrize("classes", [True, False])
def test_every_step_can_have_its_own_target(tmp_path, capsys, classes):
    np.savez(tmp_path / "d.npz", **waves(count=40, classes=classes, per_step=True))
    command = [
        "train",
        "sequence",
        "--data",
        tmp_path / "d.npz",
        "--out",
        tmp_path / "run",
        "-q",
        *SMALL,
        "--steps",
        "5",
    ]
    code, _, err = run(capsys, *command)
    assert code == 0, err
    code, _, err = run(capsys, "predict", tmp_path / "run", "--data", tmp_path / "d.npz", "--out", tmp_path / "p.csv")
    assert code == 0, err
    rows = table_of(tmp_path / "p.csv")
    data = waves(count=40, classes=classes, per_step=True)
    truth = [value for row, length in zip(data["y"], data["lengths"], strict=True) for value in row[:length]]
    assert [row["step"] for row in rows[: data["lengths"][0]]] == [str(t) for t in range(data["lengths"][0])]
    assert len(rows) == len(truth)
    own = ["eval", tmp_path / "run", "--data", tmp_path / "d.npz", "--split", "all", "--json", "-"]
    code, out, err = run(capsys, *own)  # the same network, scored by the task
    assert code == 0, err
    scores = json.loads(out)
    if classes:
        right = [row["prediction"] == str(want) for row, want in zip(rows, truth, strict=True)]
        assert np.mean(right) == pytest.approx(scores["accuracy"])
        assert all(float(row["p.down"]) + float(row["p.up"]) == pytest.approx(1, abs=1e-5) for row in rows)
    else:
        told = np.array([float(row["prediction"]) for row in rows])
        assert np.sqrt(np.mean((told - np.array(truth)) ** 2)) == pytest.approx(scores["rmse"], rel=1e-4)


def test_what_became_of_every_class(trained, capsys):
    np.savez(trained / "counted.npz", **waves(count=15, seed=4))
    data = ["--data", trained / "counted.npz"]
    code, out, err = run(capsys, "eval", trained / "classes", *data, "--per-class", "--json", "-")
    assert code == 0, err
    told = json.loads(out)
    told_by_hand = Run(trained / "classes").predict(str(trained / "counted.npz")).answer
    pairs = list(zip(waves(count=15, seed=4)["y"].tolist(), told_by_hand.tolist(), strict=True))
    assert told["labels"] == ["down", "up"]
    assert told["confusion"] == [[pairs.count((a, b)) for b in told["labels"]] for a in told["labels"]]
    code, out, _ = run(capsys, "eval", trained / "classes", *data, "--per-class")
    assert "by class" in out and "most often taken for" in out


def test_scores_by_value(trained, capsys):
    np.savez(trained / "one.npz", **waves(count=15, seed=4, classes=False))
    data = ["--data", trained / "one.npz"]
    code, out, err = run(capsys, "eval", trained / "values", *data, "--per-value", "--json", "-")
    assert code == 0, err
    told = json.loads(out)
    assert told["values"] == {"value 0": {"rmse": pytest.approx(told["rmse"]), "r2": pytest.approx(told["r2"])}}
    assert Run(trained / "values").by_value(data=str(trained / "one.npz")) == told["values"]
    code, out, _ = run(capsys, "eval", trained / "values", *data, "--per-class")
    assert code == 0 and "by value" in out and "R²" in out
    with pytest.raises(ConfigError, match="sequence tells no values here"):
        Run(trained / "classes").by_value()


def test_a_run_begun_before_there_was_nrmse_goes_on(tmp_path):
    """Its best is known by its RMSE."""
    data = checked(**{**waves(classes=False), "y": np.random.default_rng(0).normal(size=(90, 2))})
    config = compose("sequence", preset="tiny", data="x.npz", settings=["model.layers.0.units=2"])
    one = SequenceTask(config.options, data)
    config = config.replace(model=one.fit_model(config.model))
    trainer = Trainer(RunDirectory(tmp_path / "run"), config, one, Reporter(quiet=True))
    old = {"step": 2, "rmse": 0.5, "r2": 0.1}
    assert trainer._better({"nrmse": 9.0, "rmse": 0.4, "r2": 0.2}, old)
    assert not trainer._better({"nrmse": 0.1, "rmse": 0.6, "r2": 0.2}, old)


def test_several_networks_say_the_mean(tmp_path, capsys):
    """Two seeds, by name, or as the directory of replicas; of different classes there is none."""
    data = waves(count=60)
    np.savez(tmp_path / "d.npz", x=data["x"], y=data["y"])
    small = ["--set", "model.layers.0.units=4", "--steps", "4", "-q"]
    code, _, err = run(
        capsys, "train", "sequence", "--data", tmp_path / "d.npz", "--replicas", 2, "--out", tmp_path / "r", *small
    )
    assert code == 0, err
    files = [tmp_path / f"{name}.npz" for name in ("zero", "one", "both", "named")]
    seeds = [tmp_path / "r" / f"seed-{seed}" for seed in (0, 1)]
    for runs, file in zip(([seeds[0]], [seeds[1]], [tmp_path / "r"], seeds), files, strict=True):
        code, out, err = run(capsys, "predict", *runs, "--data", tmp_path / "d.npz", "--out", file)
        assert code == 0, err
    assert "mean of 2 networks" in out
    zero, one, both, named = (np.load(file)["probability"] for file in files)
    np.testing.assert_allclose(both, (zero + one) / 2, rtol=1e-12)
    np.testing.assert_array_equal(both, named)
    assert not np.allclose(zero, one)
    told = Run(seeds[0]).predict()
    with pytest.raises(ConfigError, match="different classes or values have no mean"):
        mean([told, told._replace(classes=np.array(["a", "b"]))])
