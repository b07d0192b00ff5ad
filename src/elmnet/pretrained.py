"""A network on disk: `config.json` and `model.safetensors`, written atomically and read with suspicion."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from elmnet.errors import CheckpointError
from elmnet.files import write_atomic
from elmnet.layer import check_kind
from elmnet.strict import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)


class StateLike(Protocol):
    """What a network carries from one call to the next."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name, in the order in which `map` takes them."""
        ...


AnyState = TypeVar("AnyState", bound=StateLike)


class Pretrained(nn.Module, ABC, Generic[AnyState]):
    """A network that is built from a configuration, saved and found again."""

    Configuration: ClassVar[type[Config]]
    State: ClassVar[type[StateLike]]
    TYPICAL: ClassVar[str]
    """The parameter whose type is that of the network; some, such as timescales, may be kept in another."""
    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self._typical.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._typical.device

    @property
    def _typical(self) -> Tensor:
        """By its name, for the copies that `nn.DataParallel` makes have no `parameters()`."""
        return cast(Tensor, attrgetter(self.TYPICAL)(self))

    def count_parameters(self) -> int:
        """P: trainable parameters, counted one by one."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @abstractmethod
    def initial_state(self, batch: int) -> AnyState:
        """All zeros, for `batch` sequences."""

    def state_of(self, tensors: Mapping[str, Tensor]) -> AnyState:
        """The inverse of a state's `tensors`, on the network's device.

        Raises:
            CheckpointError: these are not the tensors of a state of this network.
        """
        start = self.initial_state(1)
        wanted = start.tensors()
        if wanted.keys() != tensors.keys():
            raise CheckpointError(f"a state of this network holds {', '.join(wanted)}, got {', '.join(tensors)}")
        given = iter([tensors[name].to(self.device) for name in wanted])
        return start.map(lambda _: next(given))

    def check_state(self, state: AnyState) -> None:
        """Refuse what is no state of such networks.

        Raises:
            ShapeError: it is of another kind.
        """
        check_kind("state", state, self.State)

    @staticmethod
    @abstractmethod
    def expected_parameters(config: Any) -> int:
        """P of a configuration, from arithmetic: asked before memory is taken."""

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `config.json` and `model.safetensors` (fixed wiring included), each atomically.

        Raises:
            CheckpointError: the network has tensors that its configuration does not know, so nobody could read it.
        """
        directory, state = Path(directory), self.state_dict()
        with torch.device("meta"):
            as_configured = type(self)(self.config, seed=0).state_dict()
        if wrong := _differences(state, as_configured):
            raise CheckpointError(
                f"{directory}: not saved, for this is no longer the configuration's network: {'; '.join(wrong[:5])}. "
                "Remove parametrisations and pruning (torch.nn.utils), build another head from the configuration "
                "(config.replace(outputs=...)), or save its state_dict() yourself"
            )
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: _narrow(tensor.detach().cpu()).contiguous() for name, tensor in state.items()}
        write_atomic(directory / "model.safetensors", to_bytes(tensors))
        write_atomic(directory / "config.json", json.dumps(self.config.to_dict(), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, backend: str = "auto") -> Self:
        """Rebuild a network saved by `save_pretrained`, on the CPU, in evaluation mode, with the saved dtype.

        Raises:
            CheckpointError: a file is missing, damaged, or does not fit the configuration beside it.
        """
        weights = Path(directory) / "model.safetensors"
        config = read_config(directory, cls.Configuration.from_dict)
        _check_size(weights, cls.expected_parameters(config))
        network = cls(config, seed=0, backend=backend)
        network.load_weights(weights)
        return network.eval()

    def load_weights(self, path: Path) -> None:
        """Load a safetensors file whose names and shapes must be exactly this network's.

        Raises:
            CheckpointError: the file is missing, damaged, or holds another network.
        """
        tensors = _read_weights(path, self.state_dict())
        self.refuse_weights(path, tensors)
        self.to(tensors[self.TYPICAL].dtype)
        self.load_state_dict(tensors)

    def refuse_weights(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """What else may be wrong with tensors of the right names and shapes.

        Raises:
            CheckpointError: something is.
        """


def _narrow(tensor: Tensor) -> Tensor:
    """Whole numbers in no more bytes than they need: half of a small network would be its connectome."""
    if tensor.is_floating_point() or not tensor.numel():
        return tensor
    largest = int(tensor.abs().max())
    return tensor.to(torch.int16 if largest < 2**15 else torch.int32 if largest < 2**31 else torch.int64)


def read_config(directory: str | Path, parse: Callable[[Any], AnyConfig]) -> AnyConfig:
    """The configuration of a saved network, through `parse`, which takes plain values.

    Raises:
        CheckpointError: it is missing or damaged, or describes another kind of network.
    """
    path = Path(directory) / "config.json"
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # ConfigError is a ValueError
        if (best := Path(directory) / "best").is_dir() and not path.exists():
            raise CheckpointError(f"{directory} is a run; its network is {best}") from None
        raise CheckpointError(f"{path}: cannot be read as a network configuration: {error}") from error


def _check_size(weights: Path, parameters: int) -> None:
    """Refuse a file too short for this many parameters: the configuration beside it is not its own."""
    if weights.is_file() and parameters > weights.stat().st_size:  # at least a byte for each
        size = weights.stat().st_size
        raise CheckpointError(
            f"{weights}: config.json describes {parameters:,} parameters, the file has {size:,} bytes"
        )


def _read_weights(path: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A safetensors file whose names and shapes must be exactly those of `own`."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors weights: {error}") from error
    if wrong := _differences(tensors, own):
        raise CheckpointError(f"{path}: does not fit its configuration: {'; '.join(wrong[:5])}")
    return tensors


def _differences(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """What of tensors is not as in `own`, a network's: names, shapes, kinds of numbers."""
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unknown {name}" for name in tensors if name not in own]
    for name, tensor in own.items():
        got = tensors.get(name, tensor)
        if got.shape != tensor.shape:
            wrong.append(f"{name} is {tuple(got.shape)}, the configuration says {tuple(tensor.shape)}")
        elif got.is_floating_point() != tensor.is_floating_point() or got.is_complex() or got.dtype == torch.bool:
            kind = "floating point" if tensor.is_floating_point() else "integer"
            wrong.append(f"{name} is {got.dtype}, not {kind}")
    return wrong
