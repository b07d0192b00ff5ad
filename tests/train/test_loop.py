"""The trainer, and the proof that a run killed at any moment ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from training import clockless, config_of, lines, settings, what_remains

from elmnet import ELMNetwork
from elmnet.errors import BackendError, CheckpointError, DivergedError, RunError
from elmnet.tasks import Task, open_task
from elmnet.train import loop, trainer
from elmnet.train.checkpoint import list_checkpoints
from elmnet.train.config import amend, compose
from elmnet.train.journal import Journal, read_metrics
from elmnet.train.learner import enough_memory
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory


@pytest.fixture
def sources(text_file, spike_directory):
    return {"enwik8": str(text_file), "shd-adding": str(spike_directory), "shd": str(spike_directory)}


def train_here(path, task, source, extra=(), steps=30, seed=0):
    config, opened = config_of(task, source, extra, steps, seed)
    return loop.start(config, path, opened, reporter=Reporter(quiet=True))


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
def test_same_configuration_same_bytes(tmp_path, sources, task):
    train_here(tmp_path / "a", task, sources[task])
    train_here(tmp_path / "b", task, sources[task])
    train_here(tmp_path / "c", task, sources[task], seed=1)
    assert what_remains(tmp_path / "a") == what_remains(tmp_path / "b")
    assert what_remains(tmp_path / "a") != what_remains(tmp_path / "c")


def test_a_lost_best_network_is_chosen_anew(tmp_path, sources, capsys):
    """It may have been moved away; hours of training must not end in an error for it."""
    train_here(tmp_path, "enwik8", sources["enwik8"])
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "best")
    result = loop.resume(tmp_path, reporter=Reporter(quiet=True))
    assert result["best_step"] == 30 and ELMNetwork.from_pretrained(tmp_path / "best")
    assert "best is gone; the next validation chooses anew" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
def test_killed_runs_end_like_undisturbed_ones(tmp_path, sources, task):
    """kill -9 at six random moments; weights, optimiser, metrics and scores are equal to the byte."""
    steps = 150
    calm, chaos = tmp_path / "calm", tmp_path / "chaos"
    train_here(calm, task, sources[task], ["training.checkpoint_minutes=0.003"], steps=steps)
    base = [sys.executable, "-m", "elmnet", "train"]
    chosen = [item for s in settings(task, steps) for item in ("--set", s)]
    begin = [*base, task, "--data", sources[task], "--out", str(chaos), "--threads", "1", "-q", *chosen]
    begin += ["--set", "training.checkpoint_minutes=0.003"]
    resume = [*base, "--resume", str(chaos), "-q"]
    rng = random.Random(os.urandom(8))
    moments = []
    kills = 0
    command = begin
    while kills < 6:
        before = lines(chaos)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = before + rng.randint(1, steps // 6)
        while process.poll() is None and (lines(chaos) < wanted or not (chaos / "config.yaml").exists()):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.03)
        if process.poll() is not None:
            break  # it finished before it could be killed
        process.kill()
        process.wait()
        kills += 1
        moments.append(lines(chaos))
        command = resume
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kills >= 5, f"only {kills} kills, after lines {moments}"
    assert what_remains(chaos) == what_remains(calm), f"killed after metrics lines {moments}"
    assert clockless(chaos) == clockless(calm)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_baselines_resume_to_the_byte(tmp_path, sources, kind):
    """Stopped after a checkpoint in the middle of a turn, with carried state, and continued."""

    class Stop(Reporter):
        def step(self, step, *rest):
            if step == 22:
                os.kill(os.getpid(), signal.SIGINT)

    chosen = [s for s in settings("enwik8", 30) if not s.startswith("model.")]
    config = compose("enwik8", data=sources["enwik8"], threads=1).with_model(kind)
    config = amend(config, settings=[*chosen, "model.width=10"])
    opened = open_task("enwik8", config.options, config.data)
    config = config.replace(model=opened.fit_model(config.model))
    loop.start(config, tmp_path / "calm", opened, reporter=Reporter(quiet=True))
    with pytest.raises(loop.Interrupted):
        loop.start(config, tmp_path / "cut", opened, reporter=Stop(quiet=True))
    resumed = loop.resume(tmp_path / "cut", reporter=Reporter(quiet=True))
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "calm")
    assert clockless(tmp_path / "cut") == clockless(tmp_path / "calm")
    assert (resumed["model"], resumed["complexity"]) == (kind, None)


def test_mixed_precision_keeps_weights_and_scores_in_float32(tmp_path, sources):
    """On a CPU autocast reaches an affine read-out and the reference's products: off a little, and exact to resume."""
    extra = ["model.readout=linear", "backend=reference"]
    exact = train_here(tmp_path / "exact", "enwik8", sources["enwik8"], extra)
    mixed = train_here(tmp_path / "mixed", "enwik8", sources["enwik8"], [*extra, "dtype=bf16-mixed"])
    assert mixed["test"] != exact["test"]
    assert mixed["test"]["bpc"] == pytest.approx(exact["test"]["bpc"], rel=0.02)
    network = ELMNetwork.from_pretrained(tmp_path / "mixed" / "best")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_mixed_precision_trains_an_lstm_in_float32(tmp_path, sources):
    """torch's LSTM in bfloat16 does not run on every CPU."""
    chosen = [s for s in settings("enwik8", 10) if not s.startswith("model.")]
    config = compose("enwik8", data=sources["enwik8"], threads=1).with_model("lstm")
    config = amend(config, settings=[*chosen, "model.width=12", "dtype=bf16-mixed", "options.streams=8"])
    opened = open_task("enwik8", config.options, config.data)
    config = config.replace(model=opened.fit_model(config.model))
    result = loop.start(config, tmp_path / "run", opened, reporter=Reporter(quiet=True))
    assert result["steps"] == 10


def test_a_schedule_that_only_rises_is_said(tmp_path, sources, capsys):
    config, opened = config_of("enwik8", sources["enwik8"], ["training.warmup=30"], steps=30)
    loop.start(config, tmp_path / "run", opened, reporter=Reporter())
    words = " ".join(capsys.readouterr().err.split())
    assert "the learning rate only rises, over training.warmup=30 steps of 30" in words


def test_a_full_disk_leaves_no_lock_behind(tmp_path, sources, monkeypatch):
    """Not even while somebody keeps the error, as a notebook does."""
    config, opened = config_of("enwik8", sources["enwik8"])

    close = Journal.close

    def fail(self):
        close(self)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Journal, "close", fail)
        with pytest.raises(OSError, match="No space left") as kept:
            loop.start(config, tmp_path / "run", opened, reporter=Reporter(quiet=True))
    RunDirectory(tmp_path / "run").lock().release()
    del kept


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_save_first(tmp_path, sources, name):
    """In the middle of a turn, which would not end by itself."""
    path, number = tmp_path / "run", getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    wanted = [*settings("enwik8", 100_000), "training.eval_every=100000"]
    chosen = [item for s in wanted for item in ("--set", s)]
    command = [sys.executable, "-m", "elmnet", "train", "enwik8", "--data", sources["enwik8"], "--out", str(path)]
    ignored = signal.signal(number, signal.SIG_DFL)  # by nohup, perhaps, which the run would inherit
    try:
        process = subprocess.Popen([*command, *chosen], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(number, ignored)
    while process.poll() is None and lines(path) < 5:
        time.sleep(0.02)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number, messages
    assert f"continue with: elmnet train --resume {path}" in messages
    assert "Traceback" not in messages
    newest = list_checkpoints(path / "checkpoints")[0]
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert int(newest.name.removeprefix("step-")) == last["step"]


def test_a_vanished_reader_does_not_stop_the_saving(tmp_path, sources):
    """As in `elmnet train ... 2>&1 | tee log`, where Ctrl-C ends tee, too."""
    path = tmp_path / "run"
    chosen = [item for s in settings("enwik8", 100_000) for item in ("--set", s)]
    command = [sys.executable, "-m", "elmnet", "train", "enwik8", "--data", sources["enwik8"], "--out", str(path)]
    process = subprocess.Popen([*command, *chosen], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.stderr.close()
    while process.poll() is None and lines(path) < 40:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list_checkpoints(path / "checkpoints")


def test_what_cannot_run_leaves_no_directory_behind(tmp_path, sources):
    with pytest.raises(BackendError, match="no backend 'fpga'"):
        train_here(tmp_path / "run", "enwik8", sources["enwik8"], ["backend=fpga"], steps=2)
    assert not (tmp_path / "run").exists()
    train_here(tmp_path / "run", "enwik8", sources["enwik8"], steps=2)


def test_stopping_during_a_validation_loses_nothing(tmp_path, sources):
    """An interruption inside the validation of a turn is done again on resume, with the same bytes."""
    train_here(tmp_path / "calm", "enwik8", sources["enwik8"])
    config = compose("enwik8", data=sources["enwik8"], settings=settings("enwik8", 30), threads=1)
    task = open_task("enwik8", config.options, config.data)
    config = config.replace(model=task.fit_model(config.model))
    real = task.evaluation_batches

    def interrupted(split, *, whole):
        for i, batch in enumerate(real(split, whole=whole)):
            if i == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    task.evaluation_batches = interrupted
    with pytest.raises(loop.Interrupted) as stop:
        loop.start(config, tmp_path / "run", task, reporter=Reporter(quiet=True))
    assert stop.value.number == signal.SIGTERM
    loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))
    assert what_remains(tmp_path / "run") == what_remains(tmp_path / "calm")


def test_run_directory_holds_what_it_promises(tmp_path, sources):
    result = train_here(tmp_path / "run", "enwik8", sources["enwik8"])
    run = tmp_path / "run"
    document = yaml.safe_load((run / "config.yaml").read_text())
    assert document["config"]["model"]["inputs"] == len(document["data"]["symbols"])
    assert {"torch", "elmnet", "git", "python"} <= set(document["environment"])
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "train"] == list(range(1, 31))
    assert [e["step"] for e in events if e["event"] == "valid"] == [15, 30]
    assert ELMNetwork.from_pretrained(run / "best").config.inputs == document["config"]["model"]["inputs"]
    assert result["test"]["bpc"] > 0
    assert result["parameters"] == ELMNetwork.from_pretrained(run / "best").count_parameters()
    assert len(list_checkpoints(run / "checkpoints")) == 2


def test_training_learns(tmp_path, sources):
    """150 steps on words beat the unigram baseline."""
    result = train_here(tmp_path / "run", "enwik8", sources["enwik8"], steps=150)
    assert result["test"]["bpc"] < result["baselines"]["unigram"]["test"]["bpc"] - 0.15


def test_bfloat16_and_float64_train(tmp_path, sources):
    for dtype in ("bfloat16", "float64"):
        path = tmp_path / dtype
        train_here(path, "enwik8", sources["enwik8"], [f"dtype={dtype}"], steps=4)
        assert ELMNetwork.from_pretrained(path / "best").dtype == getattr(torch, dtype)


def test_a_damaged_newest_checkpoint_is_reported_and_the_previous_used(tmp_path, sources, capsys):
    train_here(tmp_path / "calm", "enwik8", sources["enwik8"])
    run = tmp_path / "run"
    train_here(run, "enwik8", sources["enwik8"])
    (run / "result.json").unlink()
    newest = list_checkpoints(run / "checkpoints")[0]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    loop.resume(run, reporter=Reporter())
    messages = capsys.readouterr().err
    assert f"{weights}: damaged" in messages
    assert "using the previous checkpoint" in messages
    assert "continuing at step 15 of 30" in messages
    assert what_remains(run) == what_remains(tmp_path / "calm")
    (run / "result.json").unlink()
    for path in list_checkpoints(run / "checkpoints"):
        (path / "manifest.json").write_text("{}")
    loop.resume(run, reporter=Reporter())
    assert "no checkpoint is intact; starting again from step 0" in capsys.readouterr().err
    assert what_remains(run) == what_remains(tmp_path / "calm")


def test_divergence_stops_before_the_weights_are_spoiled(tmp_path, sources, monkeypatch):
    config = compose("enwik8", data=sources["enwik8"], settings=settings("enwik8", 30), threads=1)
    task = open_task("enwik8", config.options, config.data)
    config = config.replace(model=task.fit_model(config.model))
    real = Task.loss
    calls = iter(range(1000))

    def poisoned(*args):
        return real(*args) * (float("nan") if next(calls) == 20 else 1.0)

    monkeypatch.setattr(Task, "loss", poisoned)
    with pytest.raises(DivergedError, match=r"step 20: loss nan.*Last good checkpoint: .*step-00000015"):
        loop.start(config, tmp_path / "run", task, reporter=Reporter(quiet=True))
    monkeypatch.setattr(Task, "loss", real)
    loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))
    train_here(tmp_path / "calm", "enwik8", sources["enwik8"])
    assert what_remains(tmp_path / "run") == what_remains(tmp_path / "calm")


def test_a_full_disk_names_the_last_checkpoint_and_loses_nothing(tmp_path, sources, monkeypatch):
    real = trainer.save_checkpoint
    calls = iter(range(100))

    def full(*args, **kwargs):
        if next(calls) == 1:
            monkeypatch.setattr("elmnet.train.checkpoint.to_bytes", refuse)
        return real(*args, **kwargs)

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; the last good one is .*step-00000015"):
        train_here(tmp_path / "run", "enwik8", sources["enwik8"])
    monkeypatch.undo()
    loop.resume(tmp_path / "run", reporter=Reporter(quiet=True))
    train_here(tmp_path / "calm", "enwik8", sources["enwik8"])
    assert what_remains(tmp_path / "run") == what_remains(tmp_path / "calm")


FULL = """
import resource, sys
from elmnet.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # what a full disk does, at this size
main(sys.argv[1:])
"""


def test_a_disk_that_fills_while_metrics_are_written(tmp_path, sources):
    """Before there is a checkpoint, which would be larger."""
    command = [
        "train",
        "enwik8",
        "--data",
        sources["enwik8"],
        "--out",
        tmp_path / "run",
        "--steps",
        200,
        "--threads",
        1,
    ]
    for setting in ("training.log_every=1", "training.eval_every=200", "options.chunk=5", "options.streams=2"):
        command += ["--set", setting]
    command += ["--set", "model.layers.0.units=4"]
    arguments = [sys.executable, "-c", FULL, *map(str, command)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    words = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert f"File too large: '{tmp_path}/run/metrics.jsonl'" in words
    assert f"continue with: elmnet train --resume {tmp_path}/run" in words
    assert "Traceback" not in words


def test_a_validation_that_is_not_a_number_is_beaten_by_any_that_is(tmp_path, sources, monkeypatch):
    real, calls = trainer.evaluate, iter(range(100))

    def poisoned(*arguments, **options):
        scores = real(*arguments, **options)
        return {name: float("nan") for name in scores} if next(calls) == 0 else scores

    monkeypatch.setattr(trainer, "evaluate", poisoned)
    result = train_here(tmp_path / "run", "enwik8", sources["enwik8"])
    valid = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["event"] == "valid"]
    best = min((line["bpc"], line["step"]) for line in valid[1:])
    assert valid[1]["best"]
    assert result["best_step"] == best[1] > valid[0]["step"]


def test_existing_runs_are_not_overwritten(tmp_path, sources):
    train_here(tmp_path / "run", "enwik8", sources["enwik8"], steps=2)
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        train_here(tmp_path / "run", "enwik8", sources["enwik8"], steps=2)


def test_two_processes_do_not_train_one_run(tmp_path, sources):
    path = tmp_path / "run"
    train_here(path, "enwik8", sources["enwik8"], steps=2)
    (path / "result.json").unlink()
    from filelock import FileLock

    with FileLock(path / ".lock"), pytest.raises(RunError, match="is being trained by another process"):
        loop.resume(path, reporter=Reporter(quiet=True))


def test_other_data_is_refused_on_resume(tmp_path, sources, text_file):
    path = tmp_path / "run"
    train_here(path, "enwik8", sources["enwik8"], steps=2)
    (path / "result.json").unlink()
    other = tmp_path / "other.txt"
    other.write_bytes(text_file.read_bytes()[::-1])
    with pytest.raises(RunError, match="is not the data this run was trained on"):
        loop.resume(path, data=str(other), reporter=Reporter(quiet=True))
    moved = tmp_path / "moved.txt"
    moved.write_bytes(text_file.read_bytes())
    assert loop.resume(path, data=str(moved), reporter=Reporter(quiet=True))["steps"] == 2


def test_an_edited_configuration_is_told_from_damage(tmp_path, sources):
    path = tmp_path / "run"
    train_here(path, "enwik8", sources["enwik8"], steps=2)
    (path / "result.json").unlink()
    document = yaml.safe_load((path / "config.yaml").read_text())
    document["config"]["model"]["layers"][0]["units"] += 1
    (path / "config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckpointError, match=r"config\.yaml describes another network .* was it edited"):
        loop.resume(path, reporter=Reporter(quiet=True))


def test_a_finished_run_returns_its_result(tmp_path, sources):
    result = train_here(tmp_path / "run", "shd-adding", sources["shd-adding"], steps=2)
    assert loop.resume(tmp_path / "run", reporter=Reporter(quiet=True)) == json.loads(json.dumps(result))


@pytest.mark.parametrize("content", ["", "config: 3", "{", "config: {task: nope}\ndata: {}", "\x00"])
def test_damaged_configurations_are_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"config\.yaml"):
        loop.resume(tmp_path, reporter=Reporter(quiet=True))


@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), RuntimeError("enforce fail: can't allocate memory")])
def test_too_little_memory_is_said_in_words(error):
    with pytest.raises(RunError, match="not enough memory for a step: "), enough_memory("a step"):
        raise error
    for other in ("shape", "CUDA error: an illegal memory access was encountered"):
        with pytest.raises(RuntimeError, match=f"^{other}$"), enough_memory("a step"):
            raise RuntimeError(other)


def test_checkpoints_are_written_within_a_turn(tmp_path, sources, monkeypatch):
    """As often as `checkpoint_minutes` says, however long a turn is."""
    kept = []
    save = trainer.Trainer.save

    def noting(self):
        kept.append(self.step)
        return save(self)

    monkeypatch.setattr(trainer.Trainer, "save", noting)
    extra = ["training.eval_every=1000", "training.checkpoint_minutes=1e-9"]
    train_here(tmp_path / "run", "enwik8", sources["enwik8"], extra, steps=6)
    assert kept[:5] == [1, 2, 3, 4, 5]
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000006",
        "step-00000005",
    ]
