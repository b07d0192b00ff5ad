"""What a baseline is and costs, without a tensor.

Every baseline is a stem (an embedding of tokens, or an affine map of dense input) to `width` channels, a core of that
width, and an affine read-out. The stem keeps the core's matrices free of the many inputs: with 199 symbols or 700
channels and a small budget, gates that read the input itself would leave next to nothing for the units.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from elmnet.budget import largest
from elmnet.strict import Config

Kind = Literal["lstm", "gru", "rnn", "transformer", "mingru", "s5-like"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ELEMENTWISE = {"lstm": 9, "gru": 10, "rnn": 1}
"""Activations, products and sums of a unit and step besides its matrices."""


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(Config):
    """A network to compare with."""

    kind: Kind
    """`lstm`, `gru`, `rnn` (tanh): torch.nn; `transformer`: causal self-attention over a bounded context; `mingru`:
    Feng et al. 2024; `s5-like`: a diagonal linear state-space layer after Smith et al. 2023."""
    inputs: int
    """Input channels, or number of symbols."""
    outputs: int
    tokens: bool = False
    """The input is a number of a symbol, not a vector."""
    width: int = 64
    """Units of every layer; a budget decides it."""
    layers: int | None = None
    """None: 1 of `lstm`, `gru`, `rnn`; 2 residual blocks of the others."""
    heads: int | None = None
    """Of the transformer; None: 4."""
    context: int | None = None
    """Of the transformer: how many steps a layer sees, this one included. None: as many as the task's sequences have
    (`Task.fit_model` fills it in), 128 outside tasks."""

    def _check(self) -> None:
        for name in ("inputs", "outputs", "width", "layers", "heads", "context"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("heads", "context"):
            fits = self.kind == "transformer" or getattr(self, name) is None
            self._require(fits, f"{name} belongs to the transformer; a {self.kind} has none")

    @property
    def depth(self) -> int:
        """Layers."""
        return self.layers or (1 if self.kind in GATES else 2)

    @property
    def head_count(self) -> int:
        """Attention heads."""
        return self.heads or 4

    @property
    def head_width(self) -> int:
        """Channels of a head: even, for rotary positions, and about width / heads, so that any width can be built."""
        return 2 * max(1, self.width // (2 * self.head_count))

    @property
    def span(self) -> int:
        """Steps a transformer's layer sees."""
        return self.context or 128

    @property
    def states(self) -> int:
        """Complex states of an s5-like layer, each standing for a conjugate pair."""
        return max(1, self.width // 2)

    @property
    def readout(self) -> int:
        """Trainable parameters of the affine read-out."""
        return self.width * self.outputs + self.outputs

    @property
    def parameters(self) -> int:
        """P, all trainable parameters."""
        w = self.width
        stem = self.inputs * w + (0 if self.tokens else w)
        norm = 0 if self.kind in GATES else 2 * w
        return stem + self.depth * (self._weights + self._others) + norm + self.readout

    @property
    def flops(self) -> int:
        """Per time step and sample, forward: a multiply-add is 2, another operation or function 1; attention over a
        full context; normalisation and rotary positions 8 a channel."""
        w = self.width
        stem = 0 if self.tokens else 2 * self.inputs * w + w
        inner = {
            "transformer": 4 * self.span * self.head_count * self.head_width + 3 * self.span * self.head_count + 30 * w,
            "mingru": 30 * w,
            "s5-like": 8 * self.states + 14 * w,
        }.get(self.kind, ELEMENTWISE.get(self.kind, 0) * w)
        return stem + self.depth * (2 * self._weights + self._others + inner) + 2 * self.readout - self.outputs

    @property
    def _weights(self) -> int:
        """Of the matrices of a layer."""
        w, inner = self.width, self.head_count * self.head_width
        if self.kind in GATES:
            return 2 * GATES[self.kind] * w * w
        return {"transformer": 4 * w * inner + 8 * w * w, "mingru": 6 * w * w}.get(
            self.kind, 4 * w * self.states + w * w
        )

    @property
    def _others(self) -> int:
        """Biases, norms and diagonals of a layer."""
        w, inner = self.width, self.head_count * self.head_width
        if self.kind in GATES:
            return 2 * GATES[self.kind] * w
        return {"transformer": 3 * inner + 10 * w, "mingru": 9 * w}.get(self.kind, 3 * self.states + 4 * w)


def spend(config: BaselineConfig, budget: int) -> BaselineConfig:
    """The widest of its kind that costs at most `budget` parameters.

    Raises:
        BudgetError: width 1 exceeds the budget.
    """
    return largest(lambda width: config.replace(width=width), budget, "width", lambda one: one.parameters)
