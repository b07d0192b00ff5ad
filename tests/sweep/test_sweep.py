"""Sweeps: recipes, names, running and stopping, failures, tables, the command line."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import conftest
import pytest
import torch
import yaml
from safetensors import SafetensorError

from elmnet import budget, models
from elmnet.errors import ConfigError, DivergedError, ElmnetError, RunError
from elmnet.scores import ALWAYS
from elmnet.sweep import estimate, execute, store, table
from elmnet.sweep.read import read_table
from elmnet.sweep.recipe import Recipe, Trial
from elmnet.sweep.store import Sweep, _last_step, own_seconds
from elmnet.sweep.trials import _TRAINING, Job, read_failure, record_failure, run, run_together
from elmnet.tasks import open_task
from elmnet.train import loop, signals
from elmnet.train.config import amend, compose
from elmnet.train.identity import name_of
from elmnet.train.results import read_runs
from elmnet.train.run import RunDirectory

SETTINGS = {
    "options.chunk": 10,
    "options.streams": 4,
    "options.final_test_streams": 32,
    "options.final_valid_streams": 32,
    "training.eval_every": 10,
    "training.checkpoint_minutes": 0.01,
}
TRIALS = [{"grid": {"memory": [2, 3], "branches": 4, "synapses": 3}, "budget": 800, "of": "hidden", "seeds": [0, 1]}]


def document(text_file, **changes):
    base = {"name": "tiny", "task": "enwik8", "data": str(text_file), "preset": "tiny", "set": SETTINGS}
    return {**base, "trials": [{**group, "steps": 20} for group in TRIALS], **changes}


@pytest.fixture
def recipe(tmp_path, text_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document(text_file)))
    return path


def trials(text_file, **changes):
    return Recipe.from_dict(document(text_file, **changes)).expand()


def command(capsys, *arguments):
    """Exit code and output of one `elmnet sweep` command, in one line each."""
    code, out, err = conftest.run(capsys, "sweep", *arguments)
    return code, " ".join(out.split()), " ".join(err.split())


def test_a_recipe_says_every_run(text_file):
    found = trials(text_file)
    shapes = [(t.network.layers[0].neuron.memory, t.config.seed) for t in found]
    assert shapes == [(2, 0), (2, 1), (3, 0), (3, 1)]
    for trial in found:
        spent = budget.cost(trial.network)
        assert spent.hidden <= 800 < spent.hidden + spent.complexity + spent.connectivity
        assert trial.config.training.steps == 20
        assert trial.config.options.chunk == 10
    assert len({trial.name for trial in found}) == 4


def test_names_depend_on_what_decides_the_result_and_nothing_else(text_file, tmp_path):
    first = trials(text_file)[0]
    copy = tmp_path / "elsewhere.txt"
    shutil.copy(text_file, copy)
    assert trials(copy)[0].name == first.name
    x, y, renamed = {"sha256": {"a.npz": "x"}}, {"sha256": {"a.npz": "y"}}, {"sha256": {"b.npz": "x"}}
    assert name_of(first.config.replace(threads=2, preset="paper"), x) == name_of(first.config, renamed)
    assert name_of(first.config.replace(seed=7), x) != name_of(first.config, x)
    assert name_of(first.config, y) != name_of(first.config, x)
    assert trials(text_file, set={**SETTINGS, "training.log_every": 3})[0].name == first.name
    assert trials(text_file, set={**SETTINGS, "training.learning_rate": 3e-3})[0].name != first.name


def test_lists_random_draws_flops_and_repetitions(text_file):
    groups = [
        {"list": [{"units": 5, "memory": 2}, {"units": 5, "memory": 2}, {"units": 6, "steps": 7, "seed": 3}]},
        {"random": {"count": 5, "units": [4, 64], "memory": [2, 8]}, "seed": 1, "flops": 1e9},
        {"grid": {"units": 7, "memory": 3, "recipe": "paper", "training.learning_rate": [0.001, 0.002]}},
    ]
    rates = trials(text_file, trials=[{"random": {"count": 3, "training.learning_rate": [0.001, 0.1]}}])
    assert all(0.001 < trial.config.training.learning_rate < 0.1 for trial in rates)
    found = trials(text_file, trials=groups)
    assert len(found) == 2 + 5 + 2  # the repeated one once
    assert (found[1].config.training.steps, found[1].config.seed) == (7, 3)
    for trial in found[2:7]:
        layer = trial.network.layers[0]
        assert 4 <= layer.units <= 64 and 2 <= layer.neuron.memory <= 8
        assert trial.flops == pytest.approx(1e9, rel=0.05)
    assert found[7].network.layers[0].neuron.branches == 12
    assert [trial.config.training.learning_rate for trial in found[7:]] == [0.001, 0.002]
    assert trials(text_file, trials=groups)[3].name == found[3].name  # draws repeat


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"grid": {"memory": [2]}, "list": []}, "one of grid, list, random, got grid, list"),
        ({"grid": {"units": 5}, "budget": 900}, "a budget decides units"),
        ({"budget": 3}, "N = 1 already takes"),
        ({"grid": {"training.nothing": 1}}, "training has no setting 'nothing'"),
        ({"grid": {"d_m": [2, 3]}}, "group 1: no setting 'd_m'; write memory"),
        ({"grid": {"lr": [0.1]}}, "no setting 'lr'; write training.learning_rate"),
        ({"list": [{"branchs": 2}]}, "no setting 'branchs'; did you mean 'branches'"),
        ({"random": {"units": [1, 2]}}, "random.count must be a whole number"),
        ({"random": {"count": 2, "units": [5, 2]}}, r"random.units must be \[least, most\]"),
        ({"steps": 3, "flops": 1e9}, "steps or flops"),
        ({"seeds": []}, "seeds must not be empty"),
        ({"grid": {"recipe": "mine"}}, "recipe must be 'paper'"),
        ({"budgets": 3}, "unknown setting 'budgets'"),
        ({"grid": {"seed": ["a"]}}, "seed"),
        ({"grid": {"steps": ["many"]}}, "steps"),
        ({"grid": {"steps": [1.5]}}, "steps"),
        ({"list": [{"seed": 1.5}]}, "seed"),
        ({"flops": -1e14}, "flops must be positive"),
        ({"set": {"seed": 3}}, "a seed is no setting here"),
        ({"grid": {"model": ["leaky"], "memory": [2]}}, "leaky units have a shape of their own"),
        ({"grid": {"memory": []}}, "grid.memory holds no values"),
        ({"grid": {1: [2]}}, r"names of settings must be text, got \[1\]"),
        ({"list": [{"memory": 2}], "set": {"training.clip": date(2026, 1, 1)}}, "clip must be a number, got"),
        ({"random": {"count": True, "memory": [2, 3]}}, "random.count must be a whole number, at least 1, got True"),
        ({"random": {"count": 2}}, "random needs a range to draw from"),
        ({"random": {"count": 2, "memory": [2, float("inf")]}}, r"random.memory must be \[least, most\]"),
        ({"budget": 3, "of": "hidden"}, "a budget of 3 hidden-layer parameters is too small"),
        ({"list": []}, "at least one"),
        ({"grid": {"memory": 2}, "seed": 3}, "seed is of random draws"),
        ({"grid": {"memory": 2}, "of": "hidden"}, "there is no budget"),
        ({"grid": {"seed": [1]}, "seeds": [0, 1]}, "seed of a row or seeds of the group"),
        ({"grid": {"recipe": "paper", "branches": 3}}, "recipe decides branches"),
        ({"grid": {"steps": 3}, "flops": 1e9}, "steps and the group's flops all say how long"),
        ({"set": {"training.steps": 3}, "steps": 4}, "training.steps and the group's steps all say how long"),
    ],
)
def test_recipes_that_make_no_sense(text_file, group, words):
    with pytest.raises(ConfigError, match=words):
        trials(text_file, trials=[group])


def test_options_of_a_row_change_what_its_model_and_its_steps_follow_from(text_file):
    """The lengths of chunks, which FLOPs count, and the alphabet, which the network's sizes follow."""
    group = {"grid": {"units": 5, "options.chunk": [10, 20], "options.convention": ["txl", "bytes"]}, "flops": 1e9}
    found = trials(text_file, trials=[group])
    for trial in found:
        options = trial.config.options
        sizes = open_task("enwik8", options, str(text_file))
        assert (trial.network.inputs, trial.network.outputs) == (sizes.inputs, sizes.outputs)
        assert trial.flops == pytest.approx(1e9, rel=0.05)
    assert len({trial.network.inputs for trial in found}) == 2, "the conventions differ in nothing"
    (alone,) = trials(text_file, trials=[{"grid": {"units": 5}, "set": {"options.convention": "bytes"}, "flops": 1e9}])
    assert alone.name == found[1].name


def test_flops_count_every_step_of_a_sequence():
    trial = Trial("x", compose("shd-adding", preset="small"))
    options, training = trial.config.options, trial.config.training
    forward = models.counts(trial.network).flops
    assert trial.flops == 3 * forward * options.batch * 2 * options.bins * training.steps
    unknown = Trial("y", compose("sequence"))
    assert unknown.flops is None and unknown.work > 0


def test_only_seeds_are_averaged(text_file, tmp_path):
    """Settings that no column shows make other configurations."""
    groups = [{"grid": {"units": 5, "memory": 2, "model.layers.0.neuron.tau_max": [50.0, 100.0]}, "seeds": [0, 1]}]
    found = trials(text_file, trials=groups)
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), found)
    for trial in found:
        fabricate(sweep, trial, {"bpc": 2.0 + trial.config.seed, "nats": 1.0, "accuracy": 0.5})
    table.write([sweep], sweep.table_file)
    means = table.aggregate(sweep.table_file)
    assert [(one["seeds"], one["valid_bpc"], one["valid_bpc_se"]) for one in means] == [(2, 2.5, 0.5)] * 2
    assert len({one["setting"] for one in means}) == 2


def test_a_damaged_run_stops_nothing(text_file, tmp_path, capsys):
    found = trials(text_file, trials=[{"grid": {"units": 5, "memory": 2}, "seeds": [0, 1, 2]}])
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), found)
    for trial in found:
        fabricate(sweep, trial, {"bpc": 2.0, "nats": 1.0, "accuracy": 0.5})
    first, second, _ = (sweep.directory(trial) for trial in found)
    (first / "best" / "model.safetensors").unlink()
    (first / "config.yaml").write_bytes(b"\xff\xfe")
    (second / "result.json").write_text(json.dumps({"test": {}, "baselines": {}, "parameters": 3}))
    for order in ("collect", "status"):
        code, words, err = command(capsys, order, sweep.path)
        assert code == 0, err
    assert "damaged" in words
    sweep.table_file.write_bytes(sweep.table_file.read_bytes()[:-9])
    code, _, err = command(capsys, "query", sweep.path, "SELECT 1")
    assert code == 1 and "collect` writes it anew" in " ".join(err.split())


def test_brackets_in_answers_are_shown(text_file, tmp_path, capsys):
    found = trials(text_file, trials=[{"grid": {"units": 5, "memory": 2}}])
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), found)
    record_failure(sweep.directory(found[0]), RuntimeError("[enforce fail] [/data]"))
    code, words, err = command(capsys, "status", sweep.path)
    assert code == 0 and "[enforce fail]" in " ".join(words.split()), err
    code, words, err = command(capsys, "query", sweep.path, "SELECT '[/home] is bold' AS \"[red]\"")
    assert code == 0 and "[/home] is bold" in words and "[red]" in words, err
    code, _, err = command(capsys, "query", sweep.path, " ; ")
    assert code == 2 and "ask something" in err


def test_shipped_recipes_are_sound():
    from elmnet.sweep import recipe as module

    files = sorted((Path(module.__file__).parent / "recipes").glob("*.yaml"))
    assert files
    for file in files:
        what = Recipe.read(Path(file.stem))
        if what.data == "official":
            what = what.replace(data=None)  # not here; the shapes are the same
        assert what.name == file.stem
        assert what.about
        found = what.expand()
        assert len(found) == len({trial.name for trial in found}) > 3
    with pytest.raises(ConfigError, match=f"neither a file nor one of .*{files[0].stem}"):
        Recipe.read(Path("nonsense"))


def test_the_same_trial_is_never_trained_twice(capsys, recipe, tmp_path):
    out = tmp_path / "sweep"
    code, words, _ = command(capsys, "run", recipe, "--out", out, "--workers", 1)
    assert code == 0, words
    assert "4 done" in words
    results = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")}
    assert len(results) == 4
    assert "nothing to do" in command(capsys, "run", recipe, "--out", out, "--workers", 1)[1]
    assert {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")} == results

    code, words, _ = command(capsys, "status", out)
    assert "4 done, 0 begun, 0 waiting" in words
    code, words, _ = command(capsys, "collect", out)
    assert code == 0, words
    assert "±" in words
    code, words, _ = command(capsys, "query", out, "SELECT count(*) AS n, min(valid_bpc) > 0 AS good FROM trials")
    assert "4 True" in words
    code, words, _ = command(capsys, "collect", out, "--out", tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 5
    runs, _ = read_runs(out)
    for file in (out / "table.parquet", tmp_path / "table.csv"):
        again, skipped, found = read_table(file)
        assert skipped == {}
        assert dict(zip(again.names, again.y, strict=True)) == {
            name.removeprefix("trials/"): y for name, y in zip(runs.names, runs.y, strict=True)
        }
        for name in ("H0", "unit", "score", "task", "caution"):
            assert getattr(again, name) == getattr(runs, name)
        assert sorted(again.configurations) == sorted(runs.configurations)
        assert [one.config for one in found] == [trial.config for trial in Sweep.open(out).trials()]

    rows = table.aggregate(out / "table.parquet")
    assert [(row["d_m"], row["seeds"]) for row in rows] == [(2, 2), (3, 2)]
    results = [json.loads(path.read_text()) for path in out.glob("trials/*/result.json")]
    two = [result["valid"]["bpc"] for result in results if result["units"] == rows[0]["N"]]
    assert rows[0]["valid_bpc"] == pytest.approx(sum(two) / 2)
    assert rows[0]["valid_bpc_se"] == pytest.approx(abs(two[0] - two[1]) / 2)


def test_every_column_of_a_table_has_its_type(tmp_path, text_file):
    """Also where nothing was reached yet to tell it by."""
    sweep, _ = one(text_file, tmp_path)
    scores = (*ALWAYS, "of_my_own")
    (seen,) = sweep.look()
    assert list(store.row(sweep, seen, scores)) == list(store.columns(scores))
    table.write([sweep], sweep.table_file)
    kinds = dict(table.ask(sweep.table_file, "SELECT column_name, column_type FROM (DESCRIBE trials)")[1])
    assert kinds == store.columns()
    assert (kinds["seed"], kinds["valid_nats"], kinds["git"]) == ("BIGINT", "DOUBLE", "VARCHAR")


def test_what_a_table_of_runs_leaves_out(tmp_path, text_file):
    """Networks of two hidden layers, which no law is of; names of one's own tables are kept."""
    sweep, trial = one(text_file, tmp_path)
    assert run(job(sweep, trial)) == "done"
    (row,) = table.write([sweep], tmp_path / "table.csv")
    config = trial.config
    deep = config.replace(model=config.model.replace(layers=config.model.layers * 2))
    rows = [{**row, "trial": f"t{i}", "config": json.dumps(config.to_dict())} for i in range(5)]
    rows.append({**row, "trial": "deep", "config": json.dumps(deep.to_dict())})
    with (tmp_path / "all.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows(rows)
    runs, skipped, found = read_table(tmp_path / "all.csv")
    assert len(runs) == len(found) == 5 and skipped == {"deep": "2 hidden layers; the model is of one"}
    lines = ["name,N,d_m,valid_bpc", *(f"mine {d_m},{900 // d_m},{d_m},{2 - d_m / 100}" for d_m in (3, 5, 9, 15, 30))]
    (tmp_path / "own.csv").write_text("\n".join([*lines, ",100,9,1.9"]))
    runs, _, _ = read_table(tmp_path / "own.csv", network=config.model, H0=5.0)
    assert runs.names[:2] == ("mine 3", "mine 5") and runs.names[-1] == "row 6"


def test_replicas_share_what_they_took_together():
    assert own_seconds({"wall_seconds": 12.0, "trained_together": 3}) == 4.0
    assert own_seconds({"wall_seconds": 12.0}) == 12.0
    assert own_seconds({"wall_seconds": None, "trained_together": None}) == 0.0


def test_the_last_step_is_read_from_the_end_of_a_long_file(tmp_path):
    lines = [json.dumps({"step": step, "filling": "x" * 100}) for step in range(200)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3']))
    assert _last_step(tmp_path / "metrics.jsonl") == 199
    assert _last_step(tmp_path / "nothing") == 0


def test_means_tell_every_configuration_from_the_others():
    row = dict.fromkeys(table.SAME, 1)
    assert table.distinguishing([row]) == table.distinguishing([]) == []
    assert table.distinguishing([row, {**row, "data": 2}]) == ["data"]
    assert table.distinguishing([row, {**row, "learning_rate": 2}, {**row, "N": 2}]) == ["learning_rate"]
    assert table.distinguishing([row, {**row, "configuration": 2}]) == ["configuration"]


@pytest.mark.parametrize("name", ["a[1].parquet", "a?.parquet", "a*.parquet", "a'b.csv"])
def test_a_table_is_the_file_that_was_named(tmp_path, name):
    """Not every file that looks like it."""
    duckdb = pytest.importorskip("duckdb", reason="needs DuckDB (extra `sweep`)")
    for file, value in (("a1.parquet", 1), ("ab.parquet", 1), (name, 2)):
        place = tmp_path / "made"
        form = "csv, header" if name.endswith("csv") and value == 2 else "parquet"
        duckdb.sql(f"COPY (SELECT {value} AS n) TO '{place}' (FORMAT {form})")
        place.rename(tmp_path / file)
    assert table.ask(tmp_path / name, "SELECT n FROM trials")[1] == [(2,)]
    with pytest.raises(RunError, match="there is no file"):
        table.ask(tmp_path / f"no{name}", "SELECT n FROM trials")


def test_recipes_add_up_in_one_directory(text_file, tmp_path):
    first, second = trials(text_file)[:2], trials(text_file)[1:]
    what = Recipe.from_dict(document(text_file))
    Sweep.create(tmp_path, what, first)
    sweep = Sweep.create(tmp_path, what, second)
    assert [trial.name for trial in sweep.trials()] == [trial.name for trial in trials(text_file)]
    assert all(seen.state == "waiting" for seen in sweep.look())


def job(sweep, trial, **changes):
    return Job(str(sweep.directory(trial)), trial.config.to_dict(), 1, **changes)


def one(text_file, tmp_path, **changes):
    (trial, *_) = trials(text_file, **changes)
    return Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), [trial]), trial


def fabricate(sweep, trial, scores):
    """A run directory that nobody trained, marked as such."""
    result = {"fabricated": True, "test": scores, "valid": scores, "baselines": {}, "parameters": 1, "steps": 20}
    result |= {"wall_seconds": 1.0, "data": "fabricated"}
    best = sweep.directory(trial) / "best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_bytes(b"fabricated")
    (best.parent / "result.json").write_text(json.dumps(result))
    (best.parent / "config.yaml").write_text("environment: {elmnet: fabricated}")


def test_a_failed_trial_is_recorded_and_tried_again_on_request(text_file, tmp_path):
    sweep, trial = one(text_file, tmp_path, set={**SETTINGS, "training.learning_rate": 1e30})
    assert run(job(sweep, trial)) == "failed"
    assert "DivergedError: step" in read_failure(sweep.directory(trial))
    (seen,) = sweep.look()
    assert (seen.state, "DivergedError" in seen.reason) == ("failed", True)
    assert run(job(sweep, trial)) == "failed"
    assert execute.jobs(sweep, threads=1) == {}
    assert list(execute.jobs(sweep, threads=1, retry=True)) == [trial]
    assert run(job(sweep, trial, retry=True)) == "failed"
    assert sweep.directory(trial).with_name(f"{trial.name}.failed-1").exists()


def test_a_trial_out_of_memory_is_a_failure(text_file, tmp_path, monkeypatch):
    sweep, trial = one(text_file, tmp_path)
    from elmnet.train import loop

    def start(*_, **__):
        raise MemoryError

    monkeypatch.setattr(loop, "start", start)
    assert run(job(sweep, trial)) == "failed"
    assert read_failure(sweep.directory(trial)) == "MemoryError: MemoryError"


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("elmnet.train.checkpoint.to_bytes", OSError(28, "No space left on device")),
        ("elmnet.train.checkpoint.to_bytes", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("elmnet.train.run.write_atomic", OSError(28, "No space left on device")),
        ("elmnet.train.run.FileLock.acquire", OSError(30, "No space, read-only file system")),
    ],
)
def test_a_full_disk_is_not_the_trials_fault(text_file, tmp_path, monkeypatch, where, error):
    sweep, trial = one(text_file, tmp_path)

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as full:
        full.setattr(where, fails)
        with pytest.raises((OSError, ElmnetError), match="No space"):
            run(job(sweep, trial))
    assert read_failure(sweep.directory(trial)) is None
    assert run(job(sweep, trial)) == "done"


def test_whoever_comes_second_leaves_a_trial_alone(text_file, tmp_path, monkeypatch):
    """At every moment of the first one's beginning, and when both try again what had failed."""
    sweep, trial = one(text_file, tmp_path)
    place = RunDirectory(sweep.directory(trial))
    first = place.lock()  # and it has written nothing yet
    assert run(job(sweep, trial)) == "elsewhere"
    assert not place.config_file.exists()
    first.release()

    def meanwhile(*arguments, **options):
        task = open_task(*arguments, **options)
        place.create(trial.config, task.facts())
        return task

    with monkeypatch.context() as late:
        late.setattr("elmnet.tasks.open_task", meanwhile)
        assert run(job(sweep, trial)) == "elsewhere"
    record_failure(place.path, RuntimeError("once"))
    again = replace(job(sweep, trial), retry=True)
    first = place.lock()
    assert run(again) == "elsewhere"
    assert run_together([again, again]) == ["elsewhere"] * 2
    first.release()
    assert [path.name for path in place.path.parent.iterdir()] == [trial.name]
    assert run(again) == "done"
    with _TRAINING:  # another thread of this process trains
        assert run_together([again]) == ["elsewhere"]
    assert run_together([again]) == ["done"]


def test_a_stopped_trial_goes_on_to_the_same_bytes(text_file, tmp_path):
    sweep, trial = one(text_file, tmp_path)
    signals.stop_everywhere(signal.SIGTERM)
    try:
        assert run(job(sweep, trial)) == "stopped"
    finally:
        signals.stop_everywhere(None)
    (seen,) = sweep.look()
    assert (seen.state, seen.result) == ("begun", None)
    assert run(job(sweep, trial)) == "done"
    other = Job(str(tmp_path / "undisturbed"), trial.config.to_dict(), 1)
    assert run(other) == "done"
    metrics = [Path(j.directory, "metrics.jsonl").read_bytes() for j in (job(sweep, trial), other)]
    assert metrics[0] == metrics[1]


def test_trials_of_equal_shape_go_together(text_file, tmp_path):
    """Seeds, not sizes; each ends as alone within rounding; one that is damaged keeps the others from nothing."""
    found = trials(text_file, trials=[{**TRIALS[0], "seeds": [0, 1, 2], "steps": 20}])
    assert [len(pack) for pack in execute.packs(found, 2)] == [2, 1, 2, 1]
    assert [len(pack) for pack in execute.packs(found, 1)] == [1] * 6
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), found[:3])
    todo = execute.jobs(sweep, threads=1)
    ended = []
    assert execute.in_process(todo, lambda trial, outcome: ended.append(outcome), replicas=3)
    assert ended == ["done"] * 3
    for trial in todo:
        assert sweep.directory(trial).joinpath("result.json").read_text().count('"trained_together": 3') == 1
        alone = Job(str(tmp_path / trial.name), trial.config.to_dict(), 1)
        assert run(alone) == "done"
        results = [json.loads(Path(j.directory, "result.json").read_text()) for j in (job(sweep, trial), alone)]
        assert results[0]["test"] == pytest.approx(results[1]["test"], rel=1e-3)

    more = Sweep.create(tmp_path / "more", Recipe.from_dict(document(text_file)), found[3:])
    damaged = more.directory(found[4])
    damaged.mkdir(parents=True)
    (damaged / "config.yaml").write_text("config: [")
    outcomes = run_together([job(more, trial) for trial in found[3:]])
    assert outcomes == ["done", "failed", "done"]
    assert "damaged" in read_failure(damaged)


def test_one_of_several_that_diverges_is_recorded(text_file, tmp_path):
    (good, *_) = trials(text_file)
    (bad, *_) = trials(text_file, set={**SETTINGS, "training.learning_rate": 1e30})
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), [good, bad])
    assert len(execute.packs([good, bad], 2)) == 1
    assert run_together([job(sweep, good), job(sweep, bad, retry=True)]) == ["done", "failed"]
    assert "DivergedError: step" in read_failure(sweep.directory(bad))


def test_what_another_process_trains_is_left_to_it(text_file, tmp_path):
    sweep, trial = one(text_file, tmp_path)
    assert run(job(sweep, trial)) == "done"
    directory = sweep.directory(trial)
    (directory / "result.json").unlink()
    from elmnet.train.run import RunDirectory

    lock = RunDirectory(directory).lock()
    script = "import sys, json; from elmnet.sweep.trials import Job, run; print(run(Job(**json.load(sys.stdin))))"
    given = json.dumps(job(sweep, trial).__dict__)
    try:
        done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, check=True)
    finally:
        lock.release()
    assert done.stdout == "elsewhere\n"
    assert read_failure(directory) is None


def test_damaged_directories(text_file, tmp_path):
    sweep, trial = one(text_file, tmp_path)
    directory = sweep.directory(trial)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("config: [")
    assert run(job(sweep, trial)) == "failed"
    assert "damaged" in read_failure(directory)
    (directory / "failed.json").write_text("{")
    assert "unreadable" in next(sweep.look()).reason
    assert run(job(sweep, trial, retry=True)) == "done"
    finished = (directory / "result.json").read_text()
    (directory / "result.json").write_text("{")
    assert next(sweep.look()).state == "damaged"
    assert list(execute.jobs(sweep, threads=1)) == [trial]
    assert run(job(sweep, trial)) == "done"  # from its last checkpoint
    assert json.loads((directory / "result.json").read_text())["valid"] == json.loads(finished)["valid"]
    assert (directory / "damaged-result.json").read_text() == "{"
    sweep.file.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        sweep.trials()
    with pytest.raises(RunError, match="is not a sweep"):
        Sweep.open(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(text_file, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write the sweep directory"):
        Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), trials(text_file))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nonsense"], "no recipe 'nonsense'"),
        (["status", "nowhere"], "is not a sweep"),
        (["run", "RECIPE", "--scheduler", "tcp://127.0.0.1:1", "--cluster", "slurm"], "--scheduler or --cluster"),
        (["run", "RECIPE", "--resource", "GPU=1"], "--resource is for the workers of a --scheduler"),
        (
            ["run", "RECIPE", "--resource", "GPU=0", "--scheduler", "x"],
            "expected NAME=NUMBER, a positive one, got 'GPU=0'",
        ),
        (["run", "RECIPE", "--resource", "GPU", "--scheduler", "x"], "expected NAME=NUMBER, a positive one, got 'GPU'"),
        (["run", "RECIPE", "--threads", "0"], "--threads must be at least 1"),
        (["run", "RECIPE", "--cluster", "abacus"], "--cluster must be one of slurm"),
    ],
)
def test_bad_commands(capsys, recipe, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *[str(recipe) if a == "RECIPE" else a for a in arguments])
    assert code in (1, 2)
    assert words in err


def test_a_score_that_no_run_has_is_no_obstacle_in_a_csv_file(tmp_path):
    scores = [f"{part}_{kind}" for part in ("valid", "test") for kind in ALWAYS]
    names = [*table.SAME, *scores, "state"]
    row = {"valid_nats": 2.5, "state": "done", "N": 3}
    lines = [",".join(names)] + [",".join(str(row.get(name, "")) for name in names)] * 2
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (mean,) = table.aggregate(tmp_path / "table.csv")
    assert (mean["valid_nats"], mean["valid_nats_se"], mean["valid_bpc"], mean["seeds"]) == (2.5, 0.0, None, 2)


def test_a_query_reads_the_table_and_nothing_else(capsys, recipe, tmp_path, text_file):
    sweep = Sweep.create(tmp_path / "sweep", Recipe.read(recipe), trials(text_file))
    code, words, _ = command(capsys, "query", sweep.path, "SELECT state, count(*) AS n FROM trials GROUP BY state")
    assert "waiting 4" in words
    code, _, err = command(capsys, "query", sweep.path, f"SELECT * FROM read_text('{recipe}')")
    assert code == 2
    assert "query:" in err
    code, words, err = command(
        capsys, "query", sweep.path, "SELECT trial, config FROM trials", "--out", tmp_path / "a.csv"
    )
    assert code == 0 and "a.csv: 4 rows" in words, err
    with (tmp_path / "a.csv").open() as lines:
        first, *_ = csv.DictReader(lines)
    assert json.loads(first["config"])["task"] == "enwik8"
    code, words, _ = command(capsys, "query", sweep.path, "SELECT config FROM trials")
    assert code == 0 and "…" in words and first["config"] not in "".join(words.split())


def test_plan_prints_every_trial(capsys, recipe):
    code, words, _ = command(capsys, "plan", recipe)
    assert code == 0, words
    assert "4 trials" in words
    assert "of training on" in words


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_driver_without_the_workers_device(capsys, tmp_path, text_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document(text_file, set={**SETTINGS, "device": "cuda"})))
    code, words, err = command(capsys, "plan", path)
    assert (code, "4 trials" in words, "no estimate of time: " in err) == (0, True, True)
    code, _, err = command(capsys, "run", path, "--out", tmp_path / "sweep")
    assert (code, "device must be one of cpu here, got 'cuda'" in err) == (2, True)
    assert [seen.state for seen in Sweep.open(tmp_path / "sweep").look()] == ["waiting"] * 4


def test_estimates_are_of_the_runs_own_steps(text_file, monkeypatch):
    """Its backend, type of numbers and optimiser; a step that diverges has its time, too."""
    seen = []

    class Spy(estimate.Learner):
        def learn(self, given, pulled):
            seen.append((self.config.backend, self.network.dtype, type(self.optimizer).__name__))
            raise DivergedError("as it may")

    monkeypatch.setattr(estimate, "Learner", Spy)
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    more = {"backend": "reference", "dtype": "float64", "training.optimizer": "adamax"}
    found = trials(text_file, set={**SETTINGS, **more})
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    assert all(seconds > 0 for seconds in estimate.seconds_of(found).values())
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)
    assert set(seen) == {("reference", torch.float64, "Adamax")}


def test_slurm_gets_one_trial_for_each_process(tmp_path):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue (extra `cluster`)")
    settings = tmp_path / "slurm.yaml"
    settings.write_text("{queue: cpu, cores: 4, processes: 4, memory: 8GB, walltime: '02:00:00', account: lab}")
    with execute.job_queue("slurm", settings) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p cpu" in script
    assert "#SBATCH -A lab" in script
    assert "#SBATCH -t 02:00:00" in script
    assert "--nworkers 4" in script
    assert "--nthreads 1" in script
    assert script.index("export DASK_") < script.index("dask_worker")
    settings.write_text("[1]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        execute.job_queue("slurm", settings)
    settings.write_text("{colour: red}")
    with pytest.raises(ConfigError, match="colour"):
        execute.job_queue("slurm", settings)


@pytest.mark.parametrize("kind", ["slurm", "htcondor"])  # htcondor quotes the whole of it once more
def test_workers_of_a_batch_system_are_told_what_makes_dask_slow(tmp_path, kind):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue (extra `cluster`)")
    settings = tmp_path / "queue.yaml"
    settings.write_text("job_script_prologue: [MINE=kept]" + ("\ndisk: 1GB" if kind == "htcondor" else ""))
    with execute.job_queue(kind, settings) as cluster:
        script = cluster.job_script()
    if kind == "htcondor":
        script = script.split("-c '")[1].replace("''", "'").replace("; ", "\n")
    lines = [line for line in script.splitlines() if not line.startswith("#") and "dask_worker" not in line]
    seen = "[dask.config.get('distributed.' + key) for key in ('nanny.pre-spawn-environ', 'worker.profile.enabled')]"
    ask = f'{sys.executable} -c "import dask, distributed; print({seen})"'
    shell = "\n".join([*(line for line in lines if "=" in line), ask, "echo $MINE"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DASK_", "MALLOC_"))}
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=environment)
    assert done.stdout.endswith("False]\nkept\n"), done
    assert "'OMP_NUM_THREADS': 1" in done.stdout
    assert "'MALLOC_TRIM_THRESHOLD_': None" in done.stdout


def test_a_recipe_that_was_edited_runs_what_it_names(capsys, text_file, tmp_path):
    """What it no longer names waits; data that have moved are looked for where they are now, also by what was begun."""
    once = [{"grid": {"units": 5, "memory": 2}, "seeds": [0, 1], "steps": 1}]
    moved, recipe, out = tmp_path / "moved.txt", tmp_path / "recipe.yaml", tmp_path / "sweep"
    old = tmp_path / "old.txt"
    shutil.copy(text_file, old)
    found = trials(old, trials=once)
    sweep = Sweep.create(out, Recipe.from_dict(document(old)), found)
    begun = sweep.directory(found[0])
    loop.start(found[0].config, begun, found[0].config.open_task())
    (begun / "result.json").unlink()
    old.rename(moved)
    recipe.write_text(yaml.safe_dump(document(moved, trials=[{**once[0], "seeds": [0]}])))
    code, words, err = command(capsys, "run", recipe, "--out", out, "--workers", 1)
    assert (code, [seen.state for seen in sweep.look()]) == (0, ["done", "waiting"]), words
    assert "1 trials to run; 1 more, which this recipe does not name, are left alone" in err
    assert [trial.config.data for trial in sweep.trials()] == [str(moved), str(old)]


def test_sweeps_of_several_machines_make_one_table(capsys, text_file, tmp_path):
    """Of a trial that both have, the finished one; what nobody has finished stands there once."""
    first, second, third, fourth = found = trials(text_file)
    recipe = Recipe.from_dict(document(text_file))
    here, there = (Sweep.create(tmp_path / name, recipe, found[i:]) for i, name in ((0, "here"), (1, "there")))
    for sweep, trial in ((here, first), (there, second), (here, third), (there, third)):
        fabricate(sweep, trial, {"bpc": 2.0, "nats": 1.4, "accuracy": 0.5})
    there.directory(fourth).mkdir(parents=True)
    record_failure(there.directory(fourth), RuntimeError("no more"))
    code, _, err = command(capsys, "collect", here.path, there.path)
    assert code == 2 and "--out: say where the table of several sweeps goes" in err
    code, words, _ = command(capsys, "collect", here.path, there.path, "--out", tmp_path / "all.csv")
    assert code == 0 and "tiny: means over seeds" in words
    assert "failed" in words and "4 trials" in words
    with (tmp_path / "all.csv").open(newline="") as file:
        states = {row["trial"]: row["state"] for row in csv.DictReader(file)}
    assert states == {first.name: "done", second.name: "done", third.name: "done", fourth.name: "failed"}


def test_a_thousand_trials_are_quick(text_file, tmp_path):
    """Fabricated run directories, marked as such; the figure is printed, the limit is generous."""
    groups = [{"grid": {"units": list(range(4, 104)), "memory": list(range(2, 12))}}]
    start = time.monotonic()
    found = trials(text_file, trials=groups)
    planned = time.monotonic() - start
    assert len(found) == 1000
    sweep = Sweep.create(tmp_path / "sweep", Recipe.from_dict(document(text_file)), found)
    for trial in found:
        fabricate(sweep, trial, {"bpc": 2.0, "nats": 1.4, "accuracy": 0.5})
    start = time.monotonic()
    assert sum(seen.state == "done" for seen in sweep.look()) == 1000
    looked = time.monotonic() - start
    start = time.monotonic()
    assert len(table.write([sweep], sweep.table_file)) == 1000
    collected = time.monotonic() - start
    print(f"1,000 fabricated trials: plan {planned:.1f} s, status {looked:.1f} s, collect {collected:.1f} s")
    assert max(planned, looked, collected) < 30


def test_a_trial_is_the_same_after_a_journey(text_file):
    """Outcomes are kept by trial, and workers send them back."""
    first, second, *_ = trials(text_file)
    assert {first: 1, pickle.loads(pickle.dumps(first)): 2, second: 3} == {first: 2, second: 3}


def test_early_stopping_marks_what_it_stops(capsys, recipe, tmp_path, text_file):
    pytest.importorskip("optuna", reason="needs Optuna (extra `halving`)")
    groups = [{"grid": {"memory": 2, "branches": 4, "synapses": 3, "units": 8, "training.learning_rate": RATES}}]
    recipe.write_text(yaml.safe_dump(document(text_file, trials=[{**groups[0], "steps": 80}])))
    out = tmp_path / "sweep"
    code, words, _ = command(capsys, "run", recipe, "--out", out, "--workers", 1, "--early-stopping")
    assert code == 0, words
    seen = list(Sweep.open(out).look())
    states = {one.state for one in seen}
    assert states == {"done", "stopped early"}
    early = [one for one in seen if one.state == "stopped early"]
    assert all("lags behind" in one.reason and one.step < 80 for one in early)
    assert max(one.trial.config.training.learning_rate for one in seen if one.state == "done") == max(RATES)
    assert "nothing to do" in command(capsys, "run", recipe, "--out", out, "--workers", 1, "--early-stopping")[1]
    table, skipped = read_runs(out)
    assert len(table) + len(skipped) == len(seen)
    assert len(skipped) == len(early)


RATES = [1e-2, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]


def test_models_of_several_kinds_share_a_budget_and_a_table(capsys, tmp_path, text_file):
    path, out = tmp_path / "recipe.yaml", tmp_path / "sweep"
    groups = [{"grid": {"model": ["elm", "leaky", "gru", "transformer"]}, "budget": 12_000, "steps": 10}]
    path.write_text(yaml.safe_dump(document(text_file, trials=groups)))
    found = {models.kind_of(trial.network): trial for trial in trials(text_file, trials=groups)}
    assert list(found) == ["elm", "leaky", "gru", "transformer"]
    assert all(9_000 < models.counts(trial.network).parameters <= 12_000 for trial in found.values())
    assert found["transformer"].network.context == 10  # the steps of a batch
    assert command(capsys, "plan", path, "--no-estimate")[0] == 0
    code, words, _ = command(capsys, "run", path, "--out", out, "--workers", 1)
    assert code == 0 and "4 done" in words, words
    rows = {row["model"]: row for row in table.write([Sweep.open(out)], out / "table.parquet")}
    assert rows["gru"]["d_m"] is None and rows["elm"]["d_m"] == 5
    assert rows["gru"]["P"] == found["gru"].network.parameters
    assert {row["model"] for row in table.aggregate(out / "table.parquet")} == set(found)
    with pytest.raises(ConfigError, match=r"memory belong to ELM neurons; a gru has model\.width, or a budget"):
        trials(text_file, trials=[{"grid": {"model": "gru", "memory": 3}}])
    with pytest.raises(ConfigError, match="share a budget of `parameters` only"):
        trials(text_file, trials=[{"grid": {"model": "gru"}, "budget": 9000, "of": "hidden"}])


def test_a_recipe_of_runs_like_another_one(text_file, tmp_path):
    """Settings, read-out and data are that run's, its seed is not; the same network twice has two seeds."""
    config = compose("enwik8", preset="tiny", data=str(text_file), settings=SETTINGS, seed=3)
    config = amend(config, settings={"training.clip": 0.25, "model.layers.0.recurrent_connect": 0.5})
    config = config.replace(model=config.open_task().fit_model(config.model))
    networks = [config.model.with_hidden(units=5, memory=4, branches=6, synapses=2), config.model.with_hidden(units=9)]
    networks.append(networks[0])
    Recipe.like(config, networks, name="next", about="a try", seed=5).write(tmp_path / "next.yaml")
    found = [trial.config for trial in Recipe.read(tmp_path / "next.yaml").expand()]
    assert found == [config.replace(model=one, seed=seed) for one, seed in zip(networks, (5, 5, 6), strict=True)]
