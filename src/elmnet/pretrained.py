"""A network on disk: `config.json` and `model.safetensors`, written atomically and read with suspicion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from elmnet.errors import CheckpointError, ConfigError
from elmnet.files import write_atomic
from elmnet.strict import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)


def save(network: nn.Module, config: Config, directory: str | Path) -> None:
    """Write a network's configuration and weights."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(directory / "model.safetensors", to_bytes(tensors))
    write_atomic(directory / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(directory: str | Path, parse: Callable[[Any], AnyConfig]) -> AnyConfig:
    """The configuration of a saved network, through `parse`, which takes plain values.

    Raises:
        CheckpointError: it is missing or damaged, or describes another kind of network.
    """
    path = Path(directory) / "config.json"
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: cannot be read as a network configuration: {error}") from error


def check_size(directory: Path, parameters: int) -> None:
    """Whether the weights can hold this many parameters; asked before memory is taken for them.

    Raises:
        CheckpointError: the file is too short, so the configuration beside it is not its own.
    """
    weights = directory / "model.safetensors"
    if weights.is_file() and parameters > weights.stat().st_size:  # at least a byte for each
        size = weights.stat().st_size
        raise CheckpointError(
            f"{weights}: config.json describes {parameters:,} parameters, the file has {size:,} bytes"
        )


def read_weights(path: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A safetensors file whose names and shapes must be exactly those of `own`.

    Raises:
        CheckpointError: the file is missing, damaged, or holds another network.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors weights: {error}") from error
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unknown {name}" for name in tensors if name not in own]
    for name, tensor in own.items():
        got = tensors.get(name, tensor)
        if got.shape != tensor.shape:
            wrong.append(f"{name} is {tuple(got.shape)}, the configuration says {tuple(tensor.shape)}")
        elif got.is_floating_point() != tensor.is_floating_point() or got.is_complex() or got.dtype == torch.bool:
            kind = "floating point" if tensor.is_floating_point() else "integer"
            wrong.append(f"{name} is {got.dtype}, not {kind}")
    if wrong:
        raise CheckpointError(f"{path}: does not fit its configuration: {'; '.join(wrong[:5])}")
    return tensors
