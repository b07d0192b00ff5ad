"""When two runs are the same, and when they differ in one thing only: hashes of what decides a result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from elmnet.train.config import RunConfig

IRRELEVANT = ("threads", "device", "backend", "preset", "data")
"""Settings that name no other run: how it is computed, not what."""
BOOKKEEPING = ("log_every", "checkpoint_minutes", "keep")
"""The same, of `training`."""
LATER = {"weight_decay": 0.0, "schedule": "cosine", "train_only": "all", "patience": 0}
"""Settings of `training` that runs of elmnet 0.1 began without, at the values that change nothing: names stay."""
LATER_OPTIONS = {"missing": "refuse"}
"""The same, of a task's options."""


def contents_of(facts: Mapping[str, Any]) -> str | list[str]:
    """Hashes of the data that facts tell of, of one file or in order of several, which may have been renamed."""
    found = facts.get("sha256")
    return list(found.values()) if isinstance(found, dict) else str(found)


def same_data(facts: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether facts tell of the same data, wherever they lie."""
    return contents_of(facts) == contents_of(others)


def name_of(config: RunConfig, facts: Mapping[str, Any]) -> str:
    """A run's name. The data count by their content, wherever they lie."""
    return _hash({**deciding(config), "data": contents_of(facts)})


def configuration_of(config: RunConfig) -> str:
    """The same for all seeds of a configuration, and for nothing else, whatever the data."""
    return _hash({**deciding(config), "seed": None})


def setting_of(config: RunConfig) -> str:
    """The same for configurations that differ in training steps and the hidden layers' N, d_m, d_mlp, d_tree, d_s
    alone, whatever the data."""
    document = {**deciding(config), "seed": None}
    document["training"].pop("steps")
    for layer in document["model"].get("layers") or ():
        layer.pop("units")
        for name in ("memory", "hidden", "branches", "synapses"):
            layer["neuron"].pop(name)
    return _hash(document)


def deciding(config: RunConfig) -> dict[str, Any]:
    """All settings that decide a result, besides the data."""
    document = config.to_dict()
    for key in IRRELEVANT:
        document.pop(key)
    for key in BOOKKEEPING:
        document["training"].pop(key)
    for key, without in LATER.items():
        if document["training"][key] == without:
            document["training"].pop(key)
    for key, without in LATER_OPTIONS.items():
        if document["options"].get(key) == without:
            document["options"].pop(key)
    if document["init"] is None:
        document.pop("init")
    else:
        document["init"].pop("path")
    return document


def _hash(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
