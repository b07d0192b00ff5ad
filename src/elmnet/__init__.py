"""elmnet: recurrent networks of expressive neurons (Expressive Leaky Memory, arXiv:2605.12049).

    from elmnet import ELMNetwork, NetworkConfig

    net = ELMNetwork(NetworkConfig.preset("enwik8"), seed=0)
    logits, state = net(tokens)

Names that need torch are loaded on first use, so `elmnet.budget` and the command line's `--help` stay light.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from elmnet.config import (
    LayerConfig,
    ModularWiring,
    NetworkConfig,
    NeuronConfig,
    SmallWorldWiring,
    TopographicWiring,
)
from elmnet.errors import ElmnetError

if TYPE_CHECKING:
    from elmnet.layer import ELM, ELMLayer
    from elmnet.network import ELMNetwork, NetworkState
    from elmnet.ops import LayerState, Masks
    from elmnet.replicas import Replicas
    from elmnet.train.config import compose
    from elmnet.train.trained import Run

__all__ = [
    "ELM",
    "ELMLayer",
    "ELMNetwork",
    "ElmnetError",
    "LayerConfig",
    "LayerState",
    "Masks",
    "ModularWiring",
    "NetworkConfig",
    "NetworkState",
    "NeuronConfig",
    "Replicas",
    "Run",
    "SmallWorldWiring",
    "TopographicWiring",
    "compose",
]

__version__ = metadata.version("elmnet")

_LAZY = {
    "ELM": "elmnet.layer",
    "ELMLayer": "elmnet.layer",
    "ELMNetwork": "elmnet.network",
    "NetworkState": "elmnet.network",
    "LayerState": "elmnet.ops",
    "Masks": "elmnet.ops",
    "Replicas": "elmnet.replicas",
    "Run": "elmnet.train.trained",
    "compose": "elmnet.train.config",
}


if not TYPE_CHECKING:  # a type checker would believe in every name

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'elmnet' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
