"""LSTM, GRU and tanh RNN: torch.nn's, with the state as a batch-first argument."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from elmnet.baselines.config import BaselineConfig
from elmnet.baselines.state import Carried

_MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Recurrent(nn.Module):
    """A stack of torch.nn's recurrent layers. State: h of every layer (B, width), for an LSTM then c of every layer."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.kinds = 2 if config.kind == "lstm" else 1
        self.depth, self.width = config.depth, config.width
        self.rnn = _MODULES[config.kind](config.width, config.width, config.depth, batch_first=True)

    def initial_state(self, batch: int) -> Carried:
        """Zeros."""
        weight = self.rnn.weight_ih_l0
        return tuple(weight.new_zeros(batch, self.width) for _ in range(self.kinds * self.depth))

    def forward(self, x: Tensor, state: Carried, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """x (B, T, width) → (B, T, width) and the state after each sequence's last valid step."""
        if self.kinds == 2 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            own = self.rnn.weight_ih_l0.dtype
            with torch.autocast("cpu", enabled=False):  # torch's LSTM in bfloat16 asks for what not every CPU has
                return self.forward(x.to(own), tuple(part.to(own) for part in state), lengths)
        stacked = [torch.stack(state[i * self.depth : (i + 1) * self.depth]) for i in range(self.kinds)]
        start = tuple(stacked) if self.kinds == 2 else stacked[0]
        if lengths is None:
            out, last = self.rnn(x, start)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed, last = self.rnn(packed, start)
            out, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        ends = last if self.kinds == 2 else (last,)
        return out, tuple(layer.clone() for kind in ends for layer in kind)  # each with memory of its own, to be saved
