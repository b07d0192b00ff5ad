"""What tests of training share: small runs, and what of them must be equal to the byte."""

import json
from pathlib import Path

from elmnet.tasks import open_task
from elmnet.train.checkpoint import list_checkpoints
from elmnet.train.config import compose

SMALL = {
    "enwik8": [
        "model.layers.0.units=10",
        "model.layers.0.neuron.memory=2",
        "model.layers.0.neuron.branches=4",
        "model.layers.0.neuron.synapses=3",
        "model.layers.0.recurrent_dropout=0.1",
        "options.streams=4",
        "options.chunk=12",
        "options.valid_chunks=4",
        "options.final_valid_streams=16",
        "options.final_test_streams=16",
        "training.reset_steps=10",
    ],
    "shd-adding": [
        "model.layers.0.units=8",
        "model.layers.0.neuron.memory=2",
        "model.layers.0.neuron.branches=4",
        "model.layers.0.neuron.synapses=3",
        "options.batch=4",
        "options.bins=8",
        "options.bin_ms=80",
        "options.valid_batches=3",
        "options.test_batches=3",
    ],
}
TRAINING = ["training.eval_every=15", "training.log_every=1", "training.warmup=5", "training.learning_rate=0.02"]


def settings(task, steps):
    return [*SMALL[task], *TRAINING, f"training.steps={steps}"]


def config_of(task, source, extra=(), steps=30, seed=0):
    """A small run's configuration, and its task."""
    config = compose(task, data=str(source), settings=[*settings(task, steps), *extra], threads=1, seed=seed)
    opened = open_task(task, config.options, config.data, seed=seed)
    return config.replace(model=opened.fit_model(config.model)), opened


def what_remains(path: Path) -> dict[str, bytes]:
    """The bytes a run leaves behind that no clock has touched."""
    files = [path / "metrics.jsonl", path / "best" / "model.safetensors", path / "best" / "config.json"]
    for checkpoint in list_checkpoints(path / "checkpoints")[:1]:
        files += [checkpoint / "model.safetensors", checkpoint / "training.safetensors"]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def clockless(path: Path) -> dict:
    result = json.loads((path / "result.json").read_text())
    timed = ("training_seconds", "wall_seconds", "cpu_seconds", "steps_per_second", "peak_memory_bytes")
    return {name: value for name, value in result.items() if name not in timed}


def lines(run: Path) -> int:
    """Lines of metrics so far."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
