"""A baseline as a network: stem, core, read-out, with the contract of `ELMNetwork`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet.baselines.attention import Attention
from elmnet.baselines.config import GATES, BaselineConfig
from elmnet.baselines.recurrent import Recurrent
from elmnet.baselines.scan import MinGRU, StateSpace
from elmnet.baselines.state import BaselineState
from elmnet.errors import BackendError, ShapeError
from elmnet.layer import (
    Call,
    Lengths,
    Signals,
    check_carried,
    check_input,
    check_lengths,
    check_tensor,
    without_padding,
)
from elmnet.ops import Signal
from elmnet.pretrained import Pretrained

_BLOCKS = {"transformer": Attention, "mingru": MinGRU, "s5-like": StateSpace}


class Baseline(Pretrained[BaselineState]):
    """A network of `elmnet.baselines`, used like `ELMNetwork`.

        net = Baseline(BaselineConfig(kind="lstm", inputs=700, outputs=19), seed=0)
        logits, state = net(spikes)  # (B, T, 700) → (B, T, 19)

    Args:
        config: the network.
        seed: draws the weights; None: torch's default generator.
        backend: `auto`; the backends of `elmnet.ops` are for ELM neurons.

    Raises:
        BackendError: one of those was asked for.
    """

    Configuration = BaselineConfig
    State = BaselineState
    TYPICAL = "stem.weight"
    config: BaselineConfig
    if TYPE_CHECKING:
        __call__: Call[BaselineState, BaselineState, Never, tuple[Signals, ...]]

    def __init__(self, config: BaselineConfig, *, seed: int | None = None, backend: str = "auto") -> None:
        super().__init__()
        if backend != "auto":
            raise BackendError(f"backend {backend!r} runs ELM neurons; a {config.kind} runs on torch: leave it 'auto'")
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.stem = (nn.Embedding if config.tokens else nn.Linear)(config.inputs, config.width)
            blocks: list[nn.Module]
            if config.kind in GATES:
                blocks, self.norm = [Recurrent(config)], None
            else:
                blocks = [_BLOCKS[config.kind](config) for _ in range(config.depth)]
                self.norm = nn.LayerNorm(config.width)
            self.core = nn.ModuleList(blocks)
            self.head = nn.Linear(config.width, config.outputs)

    def initial_state(self, batch: int) -> BaselineState:
        """All zeros, for `batch` sequences."""
        return BaselineState(tuple(block.initial_state(batch) for block in self.core))  # type: ignore[operator]

    def forward(
        self,
        x: Tensor,
        state: BaselineState | None = None,
        lengths: Lengths | None = None,
        *,
        monitor: Sequence[Signal] | None = None,
    ) -> Any:
        """Run a batch of sequences.

        Args:
            x: (B, T, n_in) floating point or bool, or (B, T) integer tokens if the network takes tokens.
            state: where to go on; None: zeros.
            lengths: (B,) valid steps of each sequence, 1 to T; None: all T.
            monitor: None or (): there are no signals of ELM neurons here.

        Returns:
            (out, state), or (out, state, (no signals,)) with `monitor`: out (B, T, n_out), zero past a sequence's
            length; the state after each sequence's last valid step.

        Raises:
            ShapeError: an argument has the wrong shape, type or range.
        """
        if monitor:
            raise ShapeError(f"monitor: {', '.join(monitor)} belong to ELM neurons; a {self.config.kind} has none")
        h, valid = self._stem(x, lengths)
        start = self.initial_state(h.shape[0])
        if state is not None:
            self.check_state(state)
            wanted = start.tensors()
            check_carried(state.tensors(), wanted)
            like = iter(wanted.values())
            start = state.map(lambda tensor: tensor.to(next(like)))  # what ran in another type may go on in this one
        ends = []
        for block, carried in zip(self.core, start.layers, strict=True):
            h, end = block(h, carried, valid)
            ends.append(end)
        out = self.head(h if self.norm is None else self.norm(h))
        if valid is not None:
            out = without_padding(out, valid)
        result = BaselineState(tuple(ends))
        return (out, result) if monitor is None else (out, result, ({},))

    def _stem(self, x: Tensor, lengths: Lengths | None) -> tuple[Tensor, Tensor | None]:
        """Input as (B, T, width), zeros in place of padding, and the lengths checked."""
        inputs = self.config.inputs
        check_tensor(x)
        if not self.config.tokens or x.is_floating_point():
            check_input(x, inputs, self.device)
            valid = check_lengths(lengths, x)
            x = x.to(self.dtype) if valid is None else without_padding(x.to(self.dtype), valid)
            return (x @ self.stem.weight if self.config.tokens else self.stem(x)), valid
        if x.dim() != 2 or 0 in x.shape or x.dtype == torch.bool:
            raise ShapeError(f"tokens must be whole numbers (B, T), got {tuple(x.shape)} of {x.dtype}")
        valid = check_lengths(lengths, x)
        if valid is not None:
            x = without_padding(x.unsqueeze(2), valid).squeeze(2)
        least, most = torch.aminmax(x)
        if not 0 <= int(least) <= int(most) < inputs:
            raise ShapeError(f"tokens must lie in 0..{inputs - 1}, got {int(least)}..{int(most)}")
        return F.embedding(x.long(), self.stem.weight), valid

    def step(self, x_t: Tensor, state: BaselineState | None = None) -> tuple[Tensor, BaselineState]:
        """One time step: x_t (B, n_in) or (B,) tokens → out (B, n_out); equal to the step inside a whole sequence."""
        out, state = self(x_t.unsqueeze(1), state)
        return out.squeeze(1), state

    def backends(self) -> list[str]:
        """What runs it."""
        return ["torch"]

    @staticmethod
    def expected_parameters(config: BaselineConfig) -> int:
        """P of a configuration."""
        return config.parameters
