"""What a plan may spend, and how the units of its networks are wired."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from elmnet import budget
from elmnet.config import NetworkConfig


@dataclass(frozen=True)
class Limit:
    """A budget of some kind."""

    value: float
    kind: str = "parameters"
    """In words, with its unit: `parameters`, `FLOPs per step`, ..."""
    price: Callable[[NetworkConfig], float] = budget.parameters
    """What a network takes of it; grows with N, or has a floor that does."""
    floor: Callable[[NetworkConfig], float] | None = None
    """Of a price that also falls in places, what it is never below (`elmnet.budget.largest`)."""

    @classmethod
    def of(cls, limit: "Limit | float") -> "Limit":
        """A limit as it is; of a number, one of parameters."""
        return limit if isinstance(limit, cls) else cls(float(limit))  # type: ignore[arg-type]

    @classmethod
    def hidden(cls, value: float) -> "Limit":
        """A budget P' = N·(k_e + k_c) of the hidden layer alone."""
        return cls(value, "hidden-layer parameters", lambda network: float(budget.cost(network).hidden))

    @classmethod
    def flops(cls, value: float) -> "Limit":
        """A budget of forward FLOPs per time step and sequence."""
        return cls(value, "FLOPs per step", lambda network: float(budget.cost(network).flops))

    @classmethod
    def file_bytes(cls, value: float) -> "Limit":
        """A budget of bytes of the saved network (`elmnet.budget.saved_bytes`)."""
        return cls(value, "bytes", budget.saved_bytes)

    @classmethod
    def memory(cls, value: float, batch: int, steps: int) -> "Limit":
        """A budget of bytes while training, as `elmnet.budget.training_bytes` estimates them."""
        price = partial(budget.training_bytes, batch=batch, steps=steps)
        return cls(value, f"bytes while training (batch {batch}, T {steps})", price, floor=budget.state_bytes)


@dataclass(frozen=True)
class Wiring:
    """Branches and synapses of the networks to choose from."""

    branches: int | None
    """d_tree; None: the paper's 4·d_m."""
    synapses: int
    """d_s."""

    def at(self, start: NetworkConfig, units: int, memory: int) -> NetworkConfig:
        """`start` with N units of complexity d_m, wired like this; d_mlp/d_m stays, or is the paper's 2."""
        if self.branches is None:
            hidden, branches = None, 4 * memory
        else:
            hidden, branches = start.layers[0].neuron.with_memory(memory).hidden, self.branches
        return start.with_hidden(units=units, memory=memory, hidden=hidden, branches=branches, synapses=self.synapses)
