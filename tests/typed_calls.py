"""What type checkers make of a user's code: mypy reads this file (pyproject.toml), nothing runs it."""

from typing import assert_type

from torch import Tensor, nn

from elmnet import ELM, ELMLayer, ELMNetwork, LayerState, NetworkState
from elmnet.baselines.network import Baseline
from elmnet.baselines.state import BaselineState
from elmnet.layer import Signals
from elmnet.replicas import Replicas


class Model(nn.Module):
    """A layer in somebody's model."""

    def __init__(self, layer: ELMLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.layer(x, lengths=[3, 4])
        return out + state.memory.mean()


def calls(network: ELMNetwork, layer: ELMLayer, neuron: ELM, baseline: Baseline, replicas: Replicas, x: Tensor) -> None:
    """Every module that is called."""
    out, state = network(x)
    assert_type(out, Tensor)
    assert_type(state, NetworkState)
    assert_type(network(x, state.detach(), monitor=["memory"]), tuple[Tensor, NetworkState, tuple[Signals, ...]])
    assert_type(network.step(x, state), tuple[Tensor, NetworkState])
    assert_type(layer(x), tuple[Tensor, LayerState])
    assert_type(layer(x, monitor=("branch", "mlp")), tuple[Tensor, LayerState, Signals])
    assert_type(neuron(x), tuple[Tensor, LayerState])
    assert_type(baseline(x), tuple[Tensor, BaselineState])
    assert_type(replicas(x), tuple[Tensor, list[NetworkState]])
    network(x, state=0)  # type: ignore[call-overload]
    network(x, monitor=["memoire"])  # type: ignore[list-item]
