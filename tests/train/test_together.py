"""Runs trained step by step together end as each would alone; to the byte when they are interrupted and continued."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from training import SMALL, clockless, config_of, lines, settings, what_remains

from elmnet.errors import ConfigError, DivergedError, RunError
from elmnet.report.build import report
from elmnet.train import loop
from elmnet.train.config import compose
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory, create_replicas, replicas_in

QUIET = Reporter(quiet=True)


@pytest.mark.parametrize("task", ["enwik8", "shd-adding"])
def test_three_seeds_end_as_each_would_alone(tmp_path, text_file, spike_directory, task):
    """In float64, with carried state, resets, dropout and penalties: metrics, weights and scores."""
    source = text_file if task == "enwik8" else spike_directory
    extra = ["dtype=float64", "backend=reference", "training.mlp_penalty=0.01", "training.activity_penalty=0.1"]
    runs = {tmp_path / f"seed-{seed}": config_of(task, source, extra, seed=seed) for seed in range(3)}
    ends = loop.together({path: config for path, (config, _) in runs.items()}, reporter=QUIET)
    for path, (config, opened) in runs.items():
        own = tmp_path / f"alone-{config.seed}"
        loop.start(config, own, opened, reporter=QUIET)
        got, want = [(p / "metrics.jsonl").read_text().splitlines() for p in (path, own)]
        for line, other in zip(got, want, strict=True):
            line, other = json.loads(line), json.loads(other)
            assert line.pop("event") == other.pop("event")
            assert line == pytest.approx(other, rel=1e-9)
        result = clockless(path)
        assert result.pop("trained_together") == 3
        assert result["test"] == pytest.approx(clockless(own)["test"], rel=1e-9)
        assert ends[path]["test"] == result["test"]
        weights = [load_file(p / "best" / "model.safetensors") for p in (path, own)]
        torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-12)
    assert len({(path / "metrics.jsonl").read_bytes() for path in runs}) == 3


def test_killed_replicas_end_like_undisturbed_ones(tmp_path, text_file):
    """kill -9 wherever it hits, also between the checkpoints of two runs; then SIGINT; by the command line."""
    steps = 60
    chosen = [item for s in settings("enwik8", steps) for item in ("--set", s)]
    chosen += ["--set", "training.checkpoint_minutes=0.002", "-q"]
    base = [sys.executable, "-m", "elmnet", "train"]

    def begin(out):
        return [*base, "enwik8", "--data", str(text_file), "--replicas", "2", "--seed", "3", "--out", str(out), *chosen]

    calm, chaos = tmp_path / "calm", tmp_path / "chaos"
    subprocess.run(begin(calm), check=True, capture_output=True)
    command = begin(chaos)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        before = lines(chaos / "seed-4")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and lines(chaos / "seed-4") < before + 9:
            time.sleep(0.002)
        assert process.poll() is None, "it finished before it could be killed"
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
        if (chaos / "seed-4" / "config.yaml").exists():
            command = [*base, "--resume", str(chaos), "-q"]
    done = subprocess.run([*base, "--resume", str(chaos)], check=True, capture_output=True, text=True)
    assert "mean ± s.e." in done.stdout
    for name in ("seed-3", "seed-4"):
        assert what_remains(chaos / name) == what_remains(calm / name)
        assert clockless(chaos / name) == clockless(calm / name)
    titles = [section.title for section in report([str(chaos)], inside=False)]
    assert titles == ["Side by side", "Run seed-3", "Run seed-4"]


def test_a_replica_that_was_never_begun_is_begun_by_resuming(tmp_path, text_file):
    config, task = config_of("enwik8", text_file, seed=5)
    runs = create_replicas(tmp_path / "all", config, 3)
    assert replicas_in(tmp_path / "all") == {}
    with pytest.raises(RunError, match=r"seeds 5, 6, 7 are planned there"):
        create_replicas(tmp_path / "all", config.replace(seed=6), 2)
    assert create_replicas(tmp_path / "all", config, 3) == runs
    first, *_ = runs
    run = RunDirectory(first)
    run.create(config, task.facts())  # and here comes the kill
    assert replicas_in(tmp_path / "all") == runs
    begun, *others = report([str(tmp_path / "all")], inside=False)
    assert begun.title == "Run seed-5"
    assert all("Not begun: elmnet train --resume" in other.words[0] for other in others)
    with pytest.raises(RunError, match="already holds runs"):
        create_replicas(tmp_path / "all", config, 3)


def test_data_that_has_moved_is_that_of_replicas_not_begun_yet_too(tmp_path, text_file):
    old, moved, other = (tmp_path / f"{name}.txt" for name in ("old", "moved", "other"))
    old.write_bytes(text_file.read_bytes())
    other.write_bytes(text_file.read_bytes()[::-1])
    config, task = config_of("enwik8", old, steps=2)
    runs = create_replicas(tmp_path / "all", config, 2)
    first, second = runs
    RunDirectory(first).create(config, task.facts())
    old.rename(moved)
    with pytest.raises(RunError, match="is not the data this run was trained on"):
        loop.together({second: runs[second], first: config}, data=str(other), reporter=QUIET)
    ends = loop.together(replicas_in(tmp_path / "all"), data=str(moved), reporter=QUIET)
    assert [end["steps"] for end in ends.values()] == [2, 2]
    assert RunDirectory(second).read_config()[0] == runs[second].replace(data=str(moved))


def test_one_that_has_diverged_does_not_hold_the_others_back(tmp_path, text_file):
    """Stopped twice after it, with too few checkpoints to have forgotten the beginning, which it still holds."""
    seen: list[int] = []

    class Stop(Reporter):
        stops = (12, 20)

        def named(self, name, *, first):
            return self

        def step(self, step, *rest):
            seen.append(step)
            if step in self.stops and seen.count(step) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    extra = ["training.eval_every=1000", "training.warmup=0"]
    runs = {tmp_path / f"seed-{seed}": config_of("enwik8", text_file, extra, seed=seed)[0] for seed in range(2)}
    bad, _ = config_of("enwik8", text_file, [*extra, "training.learning_rate=1e30"], seed=2)
    for _ in range(2):
        with pytest.raises(loop.Interrupted):
            loop.together({tmp_path / "bad": bad, **runs}, reporter=Stop(quiet=True))
    assert seen.count(20) == 2 and max(map(seen.count, range(2, 21))) == 2, "steps were taken twice"
    ends = loop.together({tmp_path / "bad": bad, **runs}, reporter=QUIET)
    assert isinstance(ends[tmp_path / "bad"], DivergedError)
    assert all(ends[path]["steps"] == 30 for path in runs)


def test_one_that_diverges_leaves_the_others_alone(tmp_path, text_file):
    good, task = config_of("enwik8", text_file)
    bad, _ = config_of("enwik8", text_file, ["training.learning_rate=1e30", "training.warmup=0"], seed=1)
    runs = {tmp_path / "bad": bad, tmp_path / "good": good}
    ends = loop.together(runs, reporter=QUIET)
    assert isinstance(ends[tmp_path / "bad"], DivergedError)
    loop.start(good, tmp_path / "alone", task, reporter=QUIET)
    assert ends[tmp_path / "good"]["test"]["bpc"] == pytest.approx(clockless(tmp_path / "alone")["test"]["bpc"], 1e-4)
    again = loop.together(runs, reporter=QUIET)  # continued: the finished one is left alone, the other one fails again
    assert isinstance(again[tmp_path / "bad"], DivergedError)
    assert again[tmp_path / "good"] == ends[tmp_path / "good"]


def test_what_cannot_go_together_is_refused(tmp_path, text_file):
    one, task = config_of("enwik8", text_file)
    for other, words in (
        (config_of("enwik8", text_file, ["model.layers.0.units=11"], seed=1), "another shape"),
        (config_of("enwik8", text_file, steps=40, seed=1), "another shape"),
    ):
        with pytest.raises(ConfigError, match=words):
            loop.together({tmp_path / "a": one, tmp_path / "b": other[0]}, reporter=QUIET)
    plain = compose("enwik8", data=str(text_file), settings=SMALL["enwik8"][5:-1]).with_model("lstm")
    plain = plain.replace(model=task.fit_model(plain.model))
    with pytest.raises(ConfigError, match="only ELM networks can be trained together, not a lstm"):
        loop.together({tmp_path / "a": plain, tmp_path / "b": plain.replace(seed=1)}, reporter=QUIET)
    with pytest.raises(ConfigError, match="only ELM networks can be trained together, not a lstm"):
        create_replicas(tmp_path / "c", plain, 2)
    assert not list(tmp_path.iterdir())  # refused before anything was written
