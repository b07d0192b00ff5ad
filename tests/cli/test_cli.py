import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import run, write_spikes

from elmnet.cli import main

TINY_TEXT = [
    *("--set", "model.layers.0.units=8", "--set", "options.chunk=10", "--set", "options.streams=4"),
    *("--set", "options.final_test_streams=32", "--set", "options.final_valid_streams=32"),
    *("--set", "training.eval_every=5", "--threads", "1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit, match="0"):
        main(["train", "enwik8", "--data", str(text_file), "--out", str(path), "--steps", "10", "-q", *TINY_TEXT])
    return path


@pytest.mark.parametrize(
    "command",
    [
        *("train", "eval", "generate", "params", "fit", "plan", "report", "sweep", "import", "export"),
        *("verify", "bench", "data", "doctor"),
    ],
)
def test_every_command_has_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage" in out
    assert len(out.splitlines()) > 5


def test_help_needs_no_torch():
    code = "import sys\nfrom elmnet.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"elmnet \d+\.\d+\.\d+\n", out)


def test_train_prints_scores_beside_baselines(capsys, tmp_path, text_file):
    path = tmp_path / "run"
    arguments = ["train", "enwik8", "--data", text_file, "--out", path, "--steps", 6, "--memory", 2, *TINY_TEXT]
    code, out, err = run(capsys, *arguments, "--budget", 4000)
    assert code == 0
    assert "words.txt (txl)" in out
    assert "unigram" in out
    assert "order-2 context" in out
    assert "best network" not in err
    result = json.loads((path / "result.json").read_text())
    assert 3700 < result["parameters"] <= 4000
    assert f"P {result['parameters']:,}" in out
    assert str(path / "best") in err


def test_a_run_repeats_from_its_own_configuration(capsys, trained, tmp_path):
    again = tmp_path / "again"
    code, _, err = run(capsys, "train", "--config", trained / "config.yaml", "--out", again, "-q")
    assert code == 0, err
    assert (again / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    code, _, err = run(capsys, "train", "enwik8", "--config", trained / "config.yaml")
    assert code == 2
    assert "leave out TASK" in err


def test_eval_repeats_the_final_score(capsys, trained):
    code, out, _ = run(capsys, "eval", trained, "--json", "-")
    assert code == 0
    got, result = json.loads(out), json.loads((trained / "result.json").read_text())
    assert got["bpc"] == result["test"]["bpc"]
    code, out, _ = run(capsys, "eval", trained, "--split", "valid")
    assert f"bpc {result['valid']['bpc']:.4f}" in out


def test_eval_on_another_text(capsys, trained, text_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(text_file.read_bytes()[:5000])
    code, out, _ = run(capsys, "eval", trained, "--data", other, "--split", "all")
    assert code == 0
    assert "all of other.txt (txl): bpc" in out


def test_eval_says_which_splits_there_are(capsys, spike_directory, tmp_path):
    path = tmp_path / "run"
    small = ["--steps", 2, "-q", "--threads", 1, "--set", "model.layers.0.units=4", "--set", "options.bins=5"]
    code, _, err = run(capsys, "train", "shd", "--data", spike_directory, "--out", path, *small)
    assert code == 0, err
    code, _, err = run(capsys, "eval", path, "--split", "all")
    assert code == 2
    assert "must be one of train, valid, test" in err
    write_spikes(tmp_path / "train.h5", classes=20)
    write_spikes(tmp_path / "test.h5", classes=20)
    code, _, err = run(capsys, "eval", path, "--data", tmp_path)
    assert code == 1
    assert "has 20 classes, the model was trained on 10" in err


def test_generate_continues_the_prompt(capsys, trained):
    code, out, _ = run(capsys, "generate", trained, "--prompt", "the neuron", "--length", 20)
    assert code == 0
    assert out.startswith("the neuron")
    assert len(out) >= len("the neuron") + 10


def test_params_of_several(capsys):
    code, out, _ = run(capsys, "params", "enwik8", "--neurons", "1024,512", "--memory", "15", "--synapses", "15")
    assert code == 0
    assert "3,516,748" in out
    assert len(re.findall(r"^ +1,024 ", out, re.M)) == 1
    code, out, _ = run(capsys, "params", "shd-adding", "--budget", "77_310", "--memory", "5,9", "--json", "-")
    assert [(row["N"], row["P"]) for row in json.loads(out)] == [(96, 77_310), (57, 76_551)]
    code, out, _ = run(capsys, "params", "enwik8", "--model", "lstm", "--budget", "60000,100_000", "--json", "-")
    assert [(row["width"], row["P"]) for row in json.loads(out)] == [(64, 59_596), (88, 98_764)]


def test_options_that_do_not_apply_are_refused(capsys, tmp_path, text_file):
    for arguments, words in (
        (("params", "enwik8", "--model", "lstm", "--vary", "memory"), "--vary belong to ELM neurons"),
        (("params", "enwik8", "--model", "lstm", "--batch", 4), "--batch belong to ELM neurons"),
        (("params", "enwik8", "--model", "leaky", "--memory", 8), "leaky units have a shape of their own"),
        (("params", "enwik8", "--model", "leaky", "--budget", "2e6", "--vary", "memory"), "leave out --vary memory"),
        (("fit", "published:neuronio", "--draws", 30), "no options but --json"),
        (("bench", "--quick", "--rounds", 0), "--rounds must be at least 1"),
    ):
        code, _, err = run(capsys, *arguments)
        assert (code, words in " ".join(err.split())) == (2, True), (arguments, err)
    start = ("train", "enwik8", "--data", text_file, "--steps", 1, "--out", tmp_path / "run")
    code, _, err = run(capsys, *start, "--model", "leaky", "--memory", 8)
    assert (code, "leaky units have a shape of their own; leave out --memory" in err) == (2, True)
    code, _, err = run(capsys, *start, "--budget", "1e4,2e4")
    assert (code, "--budget of a run is one number" in err) == (2, True)
    assert run(capsys, *start, "--budget", "1e4", "--quiet")[0] == 0
    assert 9_000 < json.loads((tmp_path / "run" / "result.json").read_text())["parameters"] <= 10_000


def test_json_has_the_standard_output_for_itself(capsys, tmp_path):
    code, out, err = run(capsys, "params", "enwik8", "--json", "-")
    assert code == 0 and json.loads(out)[0]["N"] == 1024 and "starting from the published network" in err
    code, same, _ = run(capsys, "params", "enwik8", "--json", tmp_path / "p.json")
    assert "starting from the published network" in same and (tmp_path / "p.json").read_text() == out


@pytest.mark.parametrize(
    ("arguments", "closed", "locale"),
    [
        (["fit", "published:enwik8", "--draws", "0"], False, {"PYTHONIOENCODING": "latin-1"}),
        (["verify"], False, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (["params", "enwik8"], True, {}),
    ],
)
def test_any_locale_and_no_output_at_all(arguments, closed, locale):
    command = [sys.executable, "-m", "elmnet", *arguments]
    if closed:
        command = ["sh", "-c", '"$@" >&-', "sh", *command]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_verify_without_files_checks_this_installation(capsys):
    code, out, _ = run(capsys, "verify")
    assert code == 0
    assert "self-check, backend reference" in out
    assert "all passed" in out


def test_verify_fails_past_tolerance(capsys, shared, tmp_path):
    import numpy as np

    with np.load(shared / "golden" / "spiking.npz") as file:
        arrays = dict(file)
    arrays["loss"] = arrays["loss"] + 1e-3
    np.savez(tmp_path / "wrong.npz", **arrays)
    code, out, _ = run(capsys, "verify", tmp_path / "wrong.npz", "--backend", "reference")
    assert code == 1
    assert "FAILED" in out
    assert "2 failed" in out


def test_doctor_reports_a_healthy_installation(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for word in ("torch", "threads", "disk", "reference", "ok"):
        assert word in out
    assert "reference (plain torch, any device, the definition): ok" in " ".join(out.split())


def test_doctor_plans_for_gpus_that_are_not_here(capsys):
    code, out, _ = run(capsys, "doctor", "--cuda-plan")
    assert code == 0
    for gpu in ("H100", "A100"):
        for case in ("enwik8-small", "enwik8-paper", "shd", "shd-64"):
            assert re.search(rf"{gpu}  {case}, hidden: (resident|streamed): \d+ × \d+ programs", out)


def test_verify_in_a_line_per_backend(capsys):
    code, out, _ = run(capsys, "verify", "--summary", "--backend", "reference")
    assert code == 0
    assert out.count("self-check, backend reference: float64: ") == 1
    assert out.rstrip().endswith("all passed")


def test_data_commands(capsys, text_file, spike_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path))
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    assert "synthetic" in out
    code, out, _ = run(capsys, "data", "info", "enwik8", text_file)
    assert "order-2 context, test: bpc" in out
    code, out, _ = run(capsys, "data", "info", "shd", spike_directory)
    assert "recordings: {'train':" in out
    np.savez(tmp_path / "rec.npz", x=np.zeros((20, 3, 2)), y=np.arange(20) % 2)
    code, out, _ = run(capsys, "data", "info", tmp_path / "rec.npz")  # the name says the task
    assert code == 0 and "sequences: {'train': 14, 'valid': 3, 'test': 3}" in out
    code, _, err = run(capsys, "data", "info", text_file)
    assert code == 2 and "is no task but a place; name its task first" in " ".join(err.split())


def test_tensorboard_on_request(capsys, tmp_path, text_file):
    pytest.importorskip("tensorboard", reason="the extra elmnet[tensorboard] is not installed")
    path = tmp_path / "run"
    code, _, err = run(
        capsys, "train", "enwik8", "--data", text_file, "--out", path, "--steps", 3, "-q", "--tensorboard", *TINY_TEXT
    )
    assert code == 0, err
    assert list((path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(("replicas", "begun"), [((), "config.yaml"), (("--replicas", 2), "seed-0/config.yaml")])
def test_a_full_disk_says_how_to_go_on(capsys, tmp_path, text_file, monkeypatch, replicas, begun):
    place = tmp_path / "run"

    def full(*arguments, **settings):
        (place / begun).parent.mkdir(parents=True, exist_ok=True)
        (place / begun).touch()
        raise OSError(28, "No space left on device")

    for name in ("start", "together"):
        monkeypatch.setattr(f"elmnet.train.loop.{name}", full)
    code, _, err = run(capsys, "train", "enwik8", "--data", text_file, "--out", place, "-q", *TINY_TEXT, *replicas)
    assert code == 1
    assert f"everything saved before is intact; when this is fixed, continue with: elmnet train --resume {place}" in err


def test_a_checkpoint_that_does_not_fit_says_how_to_go_on(capsys, tmp_path, text_file, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elmnet.train.checkpoint.replace_directory", full)
    place = tmp_path / "run"
    code, _, err = run(capsys, "train", "enwik8", "--data", text_file, "--out", place, "--steps", 2, "-q", *TINY_TEXT)
    assert code == 1 and "cannot write checkpoint" in err and f"continue with: elmnet train --resume {place}" in err
