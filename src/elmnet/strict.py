"""Strict configurations: frozen dataclasses that say exactly which setting is wrong and why.

`Config` is the base of everything a user can write in Python, YAML or on the command line.
"""

import dataclasses
import difflib
import functools
import math
import numbers
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from elmnet.errors import ConfigError, one_line


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: a frozen dataclass that checks its types and ranges on construction."""

    def __post_init__(self) -> None:
        self._take({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def _take(self, values: Mapping[str, Any]) -> None:
        """Parse these fields' values, then check the whole."""
        hints = self._hints()
        for name, value in values.items():
            object.__setattr__(self, name, _parse(hints[name], value, name))
        self._check()

    @classmethod
    @functools.cache  # classes live as long as the program
    def _hints(cls) -> dict[str, Any]:
        return typing.get_type_hints(cls)

    def _check(self) -> None:
        """Refuse values that have the right type but make no sense; subclasses say which."""

    def _require(self, condition: bool, words: str) -> None:
        if not condition:
            raise ConfigError(f"{type(self).__name__}: {words}")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary (lists instead of tuples), the inverse of `from_dict`."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from a nested dictionary; unknown and missing keys are refused by name."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{cls.__name__}: expected a mapping of settings, got {data!r:.60}")
        cls._refuse_unknown(data, data)
        known = {field.name: field for field in dataclasses.fields(cls)}
        required = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
        missing = [name for name in required if name not in data]
        if missing:
            raise ConfigError(f"{cls.__name__}: missing setting {', '.join(missing)}")
        return cls(**data)

    @classmethod
    def _refuse_unknown(cls, names: Iterable[str], tree: "Mapping[str, Any] | Config") -> None:
        known = cls._hints()
        for name in names:
            if name not in known:
                within = {key: _plain(value) for key, value in _plain(tree).items() if key in known}
                raise ConfigError(f"{cls.__name__}: unknown setting {name!r}; {instead(name, known, within)}")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again. (Fields that stay are not parsed again: planners make
        copies by the ten thousand.)"""
        self._refuse_unknown(changes, self)
        copy = object.__new__(type(self))
        for name in self._hints():
            object.__setattr__(copy, name, getattr(self, name))
        copy._take(changes)
        return copy


_SYMBOLS = {
    "N": "units",
    "d_m": "memory",
    "d_mlp": "hidden",
    "d_tree": "branches",
    "d_s": "synapses",
    "k_c": "branches synapses",
    "L": "hidden_layers",
    "tau_b": "tau_branch",
    "tau_r": "tau_highpass",
    "lambda": "timescale_ratio",
    "rho": "recurrent_connect",
    "network": "model",
    "lr": "learning_rate",
    "batch_size": "batch streams",
    "epochs": "steps",
    "warmup_steps": "warmup",
    "wd": "weight_decay",
    "grad_clip": "clip",
}
"""What the paper and the field call settings: the settings that stand for it, of which a run may have only some."""


def instead(name: object, known: Iterable[str], tree: Mapping[str, Any]) -> str:
    """Words on what to write for an unknown name.

    The setting it stands for, or has the name of, as its path where that lies elsewhere; else the known name closest
    to it; else all of them.

    Args:
        name: the unknown one.
        known: names that are allowed there.
        tree: settings, nested, to look in; a list is looked into by its first item.
    """
    known, meant = tuple(known), _SYMBOLS.get(str(name), str(name)).split()
    if found := [m for m in meant if m in known] or [path for path in _paths(tree) if path.split(".")[-1] in meant]:
        return f"write {' or '.join(found)}"
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _paths(tree: Mapping[str, Any]) -> Iterator[str]:
    """Dotted, of every setting."""
    for key, value in tree.items():
        yield str(key)
        inner, value = (f"{key}.0", value[0]) if isinstance(value, list) and value else (key, value)
        if isinstance(value, Mapping):
            yield from (f"{inner}.{path}" for path in _paths(value))


class _Loader(yaml.SafeLoader):
    """Reads 1e5 as a number; YAML 1.1 alone wants 1.0e+5."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, where there is a parser in C: sweeps have many files. Deep nesting would overflow its stack."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    """Refuses a key that stands twice; YAML would take the last."""
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice", node.start_mark)
    return dict(loader.construct_mapping(node, deep=True))


for _kind in (_Loader, _FastLoader):
    _kind.add_constructor("tag:yaml.org,2002:map", _mapping)
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def read_yaml(path: Path) -> Any:
    """What a YAML file of settings holds: plain values.

    Raises:
        ConfigError: it cannot be read; the words do not name the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") < 100 and max(map(len, text.splitlines()), default=0) < 1000:  # flat
            with suppress(yaml.YAMLError):  # the other one says better what is wrong
                return yaml.load(text, Loader=_FastLoader)
        return yaml.load(text, Loader=_Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that is none
        raise ConfigError(f"cannot be read as YAML: {one_line(error)}") from error


_SCALARS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _parse(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a ConfigError that names the setting."""
    if hint is Any:
        return value
    if hint in _SCALARS:
        return _parse_scalar(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _parse_union(args, value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, args))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_parse(args[0], item, f"{where}.{i}") for i, item in enumerate(value))
        raise ConfigError(f"{where} must be a list, got {value!r}")
    if isinstance(hint, type) and issubclass(hint, Config):
        if isinstance(value, hint):
            return value
        try:
            return hint.from_dict(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    raise TypeError(f"{where} is annotated as {hint}, which no configuration may hold")


def _parse_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if isinstance(value, (Mapping, Config)):  # only a nested configuration can take these: let it speak
        options = tuple(o for o in options if isinstance(o, type) and issubclass(o, Config)) or options
    refusals = []
    for option in options:
        try:
            return _parse(option, value, where)
        except ConfigError as error:
            refusals.append(str(error))
    raise ConfigError("; or ".join(refusals))


def _parse_scalar(hint: type, value: Any, where: str) -> Any:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is float and number:
        if not math.isfinite(value):
            raise ConfigError(f"{where} must be finite, got {value!r}")
        return float(value)
    if hint is int and number and (isinstance(value, numbers.Integral) or value.is_integer()):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} must be {_SCALARS[hint]}, got {value!r}")
