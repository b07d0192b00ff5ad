"""Bad input on the command line: the exit code and message of every case, kept as a table in docs/bad-input.md.

`ELMNET_UPDATE_DOCS=1 pytest tests/test_bad_input.py` rewrites the table.
"""

import os
import pickle
import re
import shutil
import struct
import zipfile

import numpy as np
import pytest
from conftest import ROOT, wav, write_spikes

from elmnet.cli import main

PAGE = ROOT / "docs" / "bad-input.md"
HEAD = """# Bad input and what it says

Every row was run by `tests/test_bad_input.py`: the command, its exit code, and its message. `DIR` stands for a
folder the test made.

| case | command | exit | message |
|---|---|---|---|
"""

OWN = "train sequence --data {dir}/own.npz --out {ownrun}"
TRAIN = "train enwik8 --data {text} --out {new} --steps 2 -q --threads 1"
CASES = [
    ("unknown task", "train mnist", "no task 'mnist'"),
    ("nothing to do", "train", "name a TASK to train"),
    ("unknown preset", "train enwik8 --preset huge", "no preset 'huge'"),
    ("misspelt setting", TRAIN + " --set training.learning_rat=1", "'learning_rat'; did you mean 'learning_rate'"),
    ("wrong type", TRAIN + " --set model.layers.0.neuron.memory=two", "memory must be a whole number, got 'two'"),
    ("out of range", TRAIN + " --set training.learning_rate=-1", "learning_rate must be positive, got -1.0"),
    ("budget too small", TRAIN + " --budget 100", "a budget of 100 parameters is too small"),
    ("broken YAML", "train --config {badrun}/config.yaml", "cannot be read as YAML"),
    ("missing text file", "train enwik8 --data {dir}/nowhere.txt", "no such file"),
    ("truncated xz file", "train enwik8 --data {dir}/cut.xz", "cut.xz: damaged or unreadable"),
    ("empty text file", "train enwik8 --data {dir}/empty.txt", "holds no text"),
    ("text too short", "train enwik8 --data {dir}/short.txt", "too few"),
    ("directory without spikes", "train shd --data {dir}", "exactly one *train*.h5 file, found none"),
    ("truncated HDF5 file", "train shd --data {dir}/cut", "damaged or truncated HDF5 file"),
    ("spike channel out of range", "train shd --data {dir}/units", "sample 1 has unit 700, outside 0..699"),
    ("label out of range", "train shd --data {dir}/labels", "sample 2 has label 31, outside 0..19"),
    ("times and units differ", "train shd --data {dir}/lengths", "sample 0 has 2 times but 1 units"),
    ("spikes without labels", "train shd --data {dir}/nolabels", "has no dataset 'labels'"),
    ("unknown speaker", "train shd --data {spikes} --set options.held_out_speakers=[9]", "has no speaker 9"),
    ("run exists already", TRAIN.replace("{new}", "{run}"), "already holds a run; continue it with --resume"),
    ("resume where nothing is", "train --resume {dir}", "is not a run directory"),
    ("resume with changes", "train --resume {run} --steps 5", "leave out --steps"),
    ("damaged config.yaml", "train --resume {badrun}", "config.yaml: damaged"),
    ("unknown backend", TRAIN + " --set backend=fpga", "no backend 'fpga'"),
    ("loss not finite", TRAIN.replace("--steps 2", "--steps 40") + " --set training.learning_rate=1e30", "step "),
    ("truncated weights", "eval {cutrun}", "cannot be read as safetensors weights"),
    ("unknown symbol in text", "eval {run} --data {dir}/foreign.txt", "byte 0x7e at offset 7,000"),
    ("unknown split", "eval {run} --split dev", "split must be one of"),
    (
        "infinite temperature",
        "generate {run} --prompt the --temperature nan",
        "must be finite and not negative, got nan",
    ),
    ("both N and a budget", "params enwik8 --neurons 5 --budget 1e6", "--budget decides what --neurons would"),
    ("fractions of units", "params enwik8 --neurons 2.7", "expected whole numbers"),
    ("device torch cannot train on", TRAIN + " --set device=meta", "device must be cpu, cuda or cuda:N"),
    ("unknown symbol in prompt", "generate {run} --prompt ~", "prompt: byte 0x7e at offset 0"),
    ("unknown model", "train enwik8 --model mlp", "no model 'mlp'; known: elm, leaky, lstm"),
    ("d_m of a baseline", "train enwik8 --data {text} --model gru --memory 3", "a gru has none"),
    ("penalty without ELM neurons", TRAIN + " --model gru --set training.mlp_penalty=1", "leave them 0"),
    ("backend for ELM neurons alone", TRAIN + " --model gru --set backend=cpu", "a gru runs on torch"),
    ("no file of sequences", "train sequence --data {dir}/nowhere.npz", "no such file"),
    ("another kind of file", "train sequence --data {text}", "name an .npz, .h5, .parquet or .csv file"),
    ("NaN in sequences", "train sequence --data {dir}/nan.npz", "sequence 3, step 1, channel 0: nan"),
    ("pickled objects", "train sequence --data {dir}/objects.npz", "which elmnet does not unpickle"),
    ("wrong number of targets", "train sequence --data {dir}/targets.npz", "y of classes must be (20,) or (20, 6)"),
    ("truncated archive", "train sequence --data {dir}/cut.npz", "damaged or not an .npz archive"),
    (
        "unknown class",
        "eval {ownrun} --data {dir}/unknown.npz --split all",
        "has class 6, which the model does not know",
    ),
    ("another number of channels", "predict {ownrun} --data {dir}/wide.npz --out {dir}/p.csv", "has 3 channels"),
    (
        "predictions nobody can read",
        "predict {ownrun} --data {dir}/own.npz --out {dir}/p.xls",
        "must end in .csv, .npz",
    ),
    (
        "predict with a text network",
        "predict {run} --data {text} --out {dir}/p.csv",
        "predict is for the task sequence",
    ),
    ("negative temperature", "generate {run} --prompt the --temperature -1", "must be finite and not negative"),
    ("not a golden file", "verify {dir}/short.txt", "not a readable golden file"),
    ("unknown dataset", "data get imagenet", "no dataset 'imagenet'"),
    ("numbers expected", "params enwik8 --memory a,b", "expected whole numbers separated by commas, got 'a,b'"),
    ("pickle that would run code", "train neuronio --data {dir}/evil", "refused: this pickle names posix.mkdir"),
    ("pickle that is no simulation", "train neuronio --data {dir}/other.p", "has no 'Params'"),
    ("sequences for another task", "train neuronio --data {dir}/own.npz", "are for the task sequence"),
    ("folder without simulations", "train neuronio --data {spikes}", "no simulation files"),
    ("no recordings", "data encode-audio {spikes} --out {new}", "holds no .wav recordings"),
    ("WAV with a lying header", "data encode-audio {dir}/lying.wav --out {new}", "declares 4,294,967,295 bytes"),
    ("WAV of an unknown format", "data encode-audio {dir}/adpcm.wav --out {new}", "format 2 with 4 bits"),
    ("NaN in sound", "data encode-audio {dir}/nan.wav --out {new}", "sample 1 is not finite"),
    ("silence", "data encode-audio {dir}/silence.wav --out {new}", "silence, every sample is the same"),
    ("sound too short", "data encode-audio {dir}/click.wav --out {new}", "lasts 5.0 ms, less than 20"),
    ("zip slip", "data encode-audio {dir}/slip.zip --out {new}", "points outside the archive"),
    ("zip bomb", "data encode-audio {dir}/bomb.zip --out {new}", "declares 8,000,000 bytes"),
    ("labels from nowhere", "data encode-audio {dir}/silence.wav --label-from sky --out {new}", "name or folder"),
    ("d_m of an LSTM", "params enwik8 --model lstm --memory 3", "--memory belong to ELM neurons"),
    ("zero units", "params enwik8 --neurons 0", "units must be at least 1, got 0"),
    (
        "modules without units",
        TRAIN + " --set model.layers.0.wiring=modular --set model.layers.0.units=3",
        "4 modules of",
    ),
    ("giant safetensors header", "eval {headrun}", "cannot be read as safetensors weights"),
    ("malicious pickle", "import {dir}/evil.pt --out {new}", "refused: it holds objects other than tensors"),
    ("no configuration beside it", "import {dir}/alone/x.eqx --out {new}", "model_config.json: cannot be read"),
    ("not an Equinox file", "import {dir}/zip.eqx --out {new}", "leaf 'layers[0].ensemble._w_s' at byte 0"),
]


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_signals(directory):
    """Sound and pickles that are not to be trusted."""
    (directory / "evil").mkdir()
    (directory / "evil" / "sim__1.p").write_bytes(pickle.dumps(Evil(directory / "made")))
    (directory / "other.p").write_bytes(pickle.dumps({"a": [1]}))
    loud = (1000 * np.random.default_rng(0).normal(size=800)).astype("<i2")
    good = wav(loud)
    (directory / "lying.wav").write_bytes(good[:40] + struct.pack("<I", 2**32 - 1) + good[44:])
    (directory / "adpcm.wav").write_bytes(wav(loud, code=2, bits=4))
    (directory / "nan.wav").write_bytes(wav(np.array([0.5, np.nan] * 400, "<f4"), code=3, bits=32))
    (directory / "silence.wav").write_bytes(wav(np.zeros(800, "<i2")))
    (directory / "click.wav").write_bytes(wav(loud[:40]))
    for name, member, data in (("slip", "../../evil.wav", good), ("bomb", "a.wav", bytes(8_000_000))):
        with zipfile.ZipFile(directory / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(member, data)


@pytest.fixture(scope="module")
def places(tmp_path_factory, text_file, spike_directory):
    directory = tmp_path_factory.mktemp("bad")
    run = directory / "run"
    small = "--set model.layers.0.units=4 --set options.streams=2 --set options.chunk=10 --set training.eval_every=1"
    names = {"dir": directory, "text": text_file, "spikes": spike_directory, "run": run}
    names |= {"badrun": directory / "badrun", "cutrun": directory / "cutrun", "new": directory / "new"}
    with pytest.raises(SystemExit, match="0"):
        main((TRAIN.replace("{new}", "{run}").format(**names) + " " + small).split())
    shutil.copytree(run, names["badrun"])
    (names["badrun"] / "config.yaml").write_text("config: [")
    shutil.copytree(run, names["cutrun"])
    weights = names["cutrun"] / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    names["headrun"] = shutil.copytree(run, directory / "headrun")
    weights = names["headrun"] / "best" / "model.safetensors"
    weights.write_bytes((2**62).to_bytes(8, "little") + weights.read_bytes()[8:])
    (directory / "model_config.json").write_text('{"num_input": 2, "num_output": 1, "num_hidden": 1}')
    (directory / "evil.pt").write_bytes(pickle.dumps({"w_s": print}))
    (directory / "zip.eqx").write_bytes(b"PK\x03\x04" + bytes(10_000))
    x, y = np.arange(120.0).reshape(20, 6, 1), np.arange(20) % 2
    holes = np.where(x == 19, np.nan, x)
    arrays = {
        "own": {"x": x, "y": y},
        "nan": {"x": holes, "y": y},
        "targets": {"x": x, "y": y[:7]},
        "unknown": {"x": x, "y": y + 6},
        "wide": {"x": np.zeros((2, 6, 3))},
        "objects": {"x": x, "y": np.array([None] * 20)},
    }
    for name, content in arrays.items():
        np.savez(directory / f"{name}.npz", **content)
    (directory / "cut.npz").write_bytes((directory / "own.npz").read_bytes()[:-40])
    names["ownrun"] = directory / "ownrun"
    with pytest.raises(SystemExit, match="0"):
        main((OWN + " --steps 2 -q --set model.layers.0.units=4").format(**names).split())
    text = text_file.read_bytes()
    (directory / "short.txt").write_bytes(text[:500])
    (directory / "empty.txt").touch()
    (directory / "foreign.txt").write_bytes(text[:7000] + b"~" + text[7000:])
    import lzma

    (directory / "cut.xz").write_bytes(lzma.compress(text)[:-50])
    write_signals(directory)
    times, units = [np.array([0.1, 0.2])] * 3, [np.array([1, 2])] * 3
    broken = {
        "cut": {},
        "units": {"spikes/units": [units[0], np.array([5, 700]), units[0]]},
        "labels": {"labels": np.array([0, 1, 31])},
        "lengths": {"spikes/units": [np.array([1]), units[0], units[0]]},
        "nolabels": {"labels": None},
    }
    for name, replace in broken.items():
        (directory / name).mkdir()
        content = {"spikes/times": times, "spikes/units": units, "labels": np.array([0, 1, 2]), "extra/speaker": None}
        for part in ("train", "test"):
            write_spikes(directory / name / f"{part}.h5", count=3, **{**content, **replace})
    cut = directory / "cut" / "train.h5"
    cut.write_bytes(cut.read_bytes()[:3000])
    return names


@pytest.fixture(scope="module")
def rows():
    """Filled by the cases, read by the last test."""
    return {}


@pytest.mark.parametrize(("case", "command", "words"), CASES, ids=[case for case, _, _ in CASES])
def test_bad_input_is_refused_in_words(places, rows, capsys, case, command, words):
    shutil.rmtree(places["new"], ignore_errors=True)
    with pytest.raises(SystemExit) as stop:
        main(command.format(**places).split())
    captured = capsys.readouterr()
    assert stop.value.code in (1, 2)
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not (places["dir"] / "made").exists()
    shown = captured.err[captured.err.index("error:") :]  # without what was said before it went wrong
    for name, place in (("DIR/words.txt", places["text"]), ("DIR/spikes", places["spikes"]), ("DIR", places["dir"])):
        shown = shown.replace(str(place), name)
    plain = re.sub(r"\{\w+\}", lambda m: "DIR/" + m[0][1:-1] if m[0] != "{dir}" else "DIR", command)
    message = " ".join(shown.split()).replace("|", "\\|")
    rows[case] = f"| {case} | `{plain}` | {stop.value.code} | {message} |\n"


def test_the_table_is_what_was_printed(rows):
    if len(rows) != len(CASES):
        pytest.skip("needs all cases to have run in this process")
    table = HEAD + "".join(rows[case] for case, _, _ in CASES)
    if os.environ.get("ELMNET_UPDATE_DOCS"):
        PAGE.write_text(table)
    # what a diverging run reached, and which backends there are, depends on the machine
    varying = re.compile(r"(loss|norm) [\w.+-]+|step \d+|installation has: [\w, ]+")
    assert varying.sub("", PAGE.read_text()) == varying.sub("", table)
