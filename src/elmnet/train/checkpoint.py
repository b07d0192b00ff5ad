"""Checkpoints: atomic, hashed, without pickle.

`step-<n>/` holds model.safetensors, training.safetensors (optimiser, carried state, random generator), training.json
(numbers) and manifest.json (sizes and SHA-256 of the others). It is written aside and renamed, so a checkpoint that
exists is complete; the hashes catch what a disk does to it afterwards.
"""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from elmnet.errors import CheckpointError
from elmnet.files import recover_directory, replace_directory, sha256
from elmnet.models import Network, State

_FILES = ("model.safetensors", "training.safetensors", "training.json")


class Checkpoint(NamedTuple):
    """Everything a run needs to go on exactly."""

    model: dict[str, Tensor]
    training: dict[str, Tensor]
    numbers: dict[str, Any]


def save_checkpoint(directory: Path, step: int, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `step-<n>` under `directory` and remove all but the newest `keep`.

    Raises:
        CheckpointError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    path = path_of(directory, step)

    def fill(aside: Path) -> None:
        for name, tensors in (("model", checkpoint.model), ("training", checkpoint.training)):
            # not `save_file`, whose files nobody else may read
            content = to_bytes({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
            (aside / f"{name}.safetensors").write_bytes(content)
        (aside / "training.json").write_text(json.dumps(checkpoint.numbers))
        manifest = {f: {"bytes": (aside / f).stat().st_size, "sha256": sha256(aside / f)} for f in _FILES}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=2))

    try:
        replace_directory(path, fill)
    except (OSError, SafetensorError) as error:
        older = list_checkpoints(directory)
        last = f"the last good one is {older[0]}" if older else "there is no older one"
        raise CheckpointError(f"cannot write checkpoint {path}: {error}; {last}") from error
    for old in list_checkpoints(directory)[keep:]:
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints, newest first; what else lies there is somebody's own."""
    found = (path for path in directory.glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir())
    return sorted(found, key=step_of, reverse=True)


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint written after a step lies."""
    return directory / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(path.name.rpartition("-")[2])


def set_aside(path: Path) -> Path:
    """Take a damaged checkpoint out of the count, as `damaged-step-<n>`, so that good ones are not pruned for it."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def clean_up(directory: Path) -> None:
    """Bring back what a killed writer was about to replace, remove what it left half-done."""
    for old in directory.glob(".step-*.old"):
        recover_directory(directory / old.name.removeprefix(".").removesuffix(".old"))
    for leftover in directory.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every hash.

    Raises:
        CheckpointError: a file is missing, damaged or truncated.
        OSError: it cannot be read now; that is no damage.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name in _FILES:
            expected = manifest[name]
            if (path / name).stat().st_size != expected["bytes"] or sha256(path / name) != expected["sha256"]:
                raise CheckpointError(f"{path / name}: damaged (size or hash differs from its manifest)")
        return Checkpoint(
            load_file(path / "model.safetensors"),
            load_file(path / "training.safetensors"),
            json.loads((path / "training.json").read_text(encoding="utf-8")),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete: {error}") from error


def intact_steps(directory: Path) -> set[int]:
    """Steps with an undamaged checkpoint."""
    steps = set()
    for path in list_checkpoints(directory):
        with suppress(CheckpointError):
            load_checkpoint(path)
            steps.add(step_of(path))
    return steps


def load_newest(directory: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint; None where there is none. Damaged ones are set aside, with a warning."""
    for path in list_checkpoints(directory):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warn(f"{error}; kept as {set_aside(path).name}; using the previous checkpoint")
    return None


def go_back_to(directory: Path, step: int) -> Checkpoint | None:
    """A step's checkpoint, None for step 0; newer ones are deleted."""
    for path in list_checkpoints(directory):
        if step_of(path) > step:
            shutil.rmtree(path)
    return load_checkpoint(path_of(directory, step)) if step else None


def generators(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators that training on this device draws from."""
    cuda = {"rng.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"rng.torch": torch.get_rng_state(), **cuda}


def set_generators(tensors: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `generators`."""
    torch.set_rng_state(tensors["rng.torch"])
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


def pack(network: Network, optimizer: torch.optim.Optimizer, state: State | None) -> dict[str, Tensor]:
    """Everything besides the weights that the next step depends on: optimiser, carried state, random generators."""
    tensors = generators(network.device)
    for index, values in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()})
    carried = {} if state is None else state.tensors()
    return tensors | {f"state.{name}": tensor for name, tensor in carried.items()}


def unpack(tensors: dict[str, Tensor], network: Network, optimizer: torch.optim.Optimizer) -> State | None:
    """The inverse of `pack`: restores optimiser and generators, returns the carried state."""
    moments: dict[int, dict[str, Tensor]] = {}
    carried: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            index, _, name = rest.partition(".")
            moments.setdefault(int(index), {})[name] = tensor
        elif kind == "state":
            carried[rest] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    set_generators(tensors, network.device)
    return network.state_of(carried) if carried else None
