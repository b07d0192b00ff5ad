"""Checkpoints of other implementations come in, graphs for other runtimes go out.

`pytorch`: the first ELM neuron; `equinox`: the authors' ELM Network; `graphs`: ONNX and torch.export. Nothing here
unpickles what it reads, and no file's header is believed before it is measured against the file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elmnet.errors import CheckpointError
from elmnet.network import ELMNetwork
from elmnet.strict import instead

LARGEST_CONFIG = 2**20  # bytes


def import_checkpoint(path: Path, *, backend: str = "auto") -> ELMNetwork:
    """Read a checkpoint of another implementation, by its ending: `.pt`, `.pth` or `.eqx`; or the folder of one.

    The geometry comes from `model_config.json` beside it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds what elmnet's neurons cannot express.
    """
    from elmnet.interop import equinox, pytorch

    readers = {".pt": pytorch.read_network, ".pth": pytorch.read_network, ".eqx": equinox.read_network}
    path = Path(path)
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.suffix in readers]
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise CheckpointError(f"{path}: needs exactly one {', '.join(readers)} file, found {names}; name the file")
        (path,) = found
    if path.suffix not in readers:
        raise CheckpointError(f"{path}: the ending must be one of {', '.join(readers)}, got {path.suffix!r}")
    return readers[path.suffix](path, backend=backend)


def read_config(path: Path) -> dict[str, Any]:
    """The `model_config.json` beside a checkpoint.

    Raises:
        CheckpointError: it is missing, or no JSON object.
    """
    file = path.with_name("model_config.json")
    try:
        if file.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{file}: larger than {LARGEST_CONFIG:,} bytes: no model's configuration")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        words = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise CheckpointError(f"{file}: cannot be read as the configuration of {path.name}: {words}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected a JSON object of settings")
    return config


class Settings:
    """The keyword arguments another implementation was built with: typed look-ups that say which one is wrong."""

    def __init__(self, values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
        """
        Args:
            values: what the file says.
            known: every setting there is, with the other implementation's default; `...`: none, it must be given.
            where: named in messages.
        """
        self.where = where
        unknown = [name for name in values if name not in known]
        if unknown:
            raise CheckpointError(f"{where}: unknown setting {unknown[0]!r}; {instead(unknown[0], known, {})}")
        self._values = {**known, **values}
        missing = [name for name, value in self._values.items() if value is ...]
        if missing:
            raise CheckpointError(f"{where}: missing setting {missing[0]!r}")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 to 2^31; the default where the file has null."""
        return default if default is not None and self[name] is None else self._number(name, 1, 2**31)

    def layers(self, name: str) -> int:
        """A whole number from 0 to 100."""
        return self._number(name, 0, 100)

    def _number(self, name: str, least: int, most: int) -> int:
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            words = f"must be a whole number from {least} to {most}, got {value!r}"
            raise CheckpointError(f"{self.where}: {name} {words}")
        return value

    def choice(self, name: str, meanings: Mapping[Any, Any]) -> Any:
        """What one of a few values means here."""
        value = self[name]
        if isinstance(value, (dict, list)) or value not in meanings:
            known = ", ".join(map(str, meanings))
            raise CheckpointError(f"{self.where}: {name} must be one of {known} to be imported, got {value!r}")
        return meanings[value]

    def mapping(self, name: str) -> dict[str, Any]:
        """A JSON object; none: empty."""
        value = self[name]
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {name} must be a JSON object, got {value!r}")
        return value
