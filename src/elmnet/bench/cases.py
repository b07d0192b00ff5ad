"""What is timed: networks of published shape on synthetic input."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from elmnet.config import NetworkConfig
from elmnet.network import ELMNetwork


@dataclass(frozen=True)
class Case:
    """A network, a batch of synthetic data, and the loss a training step minimises."""

    name: str
    network: NetworkConfig
    batch: int
    steps: int
    last_step: bool  # the loss sees only the last step's output

    def shortened(self, *, batch: int, steps: int) -> "Case":
        """The same with less data, for verification."""
        return Case(self.name, self.network, min(batch, self.batch), min(steps, self.steps), self.last_step)

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Synthetic x, (B, T) tokens or (B, T, n_in) sparse 0/1 of spiking density, and targets (B, T) or (B,)."""
        generator = torch.Generator().manual_seed(0)
        net, shape = self.network, (self.batch, self.steps)
        targets = torch.randint(net.outputs, shape[:1] if self.last_step else shape, generator=generator)
        if net.token_scale is not None:
            return torch.randint(net.inputs, shape, generator=generator), targets
        return (torch.rand(*shape, net.inputs, generator=generator) < 0.02).float(), targets

    def build(self, backend: str = "auto") -> ELMNetwork:
        """The network with the weights and wiring that all contenders share."""
        return ELMNetwork(self.network, seed=0, backend=backend)

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy in nats of outputs (B, T, classes)."""
        return (
            F.cross_entropy(out[:, -1], targets)
            if self.last_step
            else F.cross_entropy(out.flatten(0, 1), targets.flatten())
        )


def _shd(batch: int) -> Case:
    config = NetworkConfig.preset("shd-adding").with_hidden(units=57, memory=9)
    layers = tuple(layer.replace(input_dropout=0.0, recurrent_dropout=0.0) for layer in config.layers)
    return Case("shd" if batch == 8 else f"shd-{batch}", config.replace(layers=layers), batch, 1000, last_step=True)


CASES = {
    case.name: case
    for case in (
        Case("enwik8-small", NetworkConfig.preset("enwik8").with_hidden(units=256, memory=10), 8, 100, False),
        Case("enwik8-paper", NetworkConfig.preset("enwik8"), 8, 100, False),
        _shd(8),
        _shd(64),
    )
}
"""The four configurations of the project's feasibility study: 0.75 M, 3.5 M and 0.07 M parameters, the last at two
batch sizes."""
