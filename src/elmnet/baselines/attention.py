"""A causal transformer whose every layer sees a bounded number of steps, so that it can stream like the others."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet.baselines.config import BaselineConfig
from elmnet.baselines.state import Carried


class Attention(nn.Module):
    """A pre-norm residual block: causal self-attention over the last `span` steps, then an MLP of 4 · width (GELU).

    Keys and values of the last span - 1 steps are the state and go from one call to the next, as in Transformer-XL
    (Dai et al. 2019, arXiv:1901.02860); positions are rotary (Su et al. 2021, arXiv:2104.09864), so only distances
    count and a sequence in pieces equals the whole.

    State: keys and values (B, span-1, heads, head width), and (B, span-1) 1 where a step was, 0 before the beginning.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        w, self.heads, self.head_width, self.span = config.width, config.head_count, config.head_width, config.span
        inner = self.heads * self.head_width
        self.norm, self.mlp_norm = nn.LayerNorm(w), nn.LayerNorm(w)
        self.project, self.out = nn.Linear(w, 3 * inner), nn.Linear(inner, w)
        self.mlp = nn.Sequential(nn.Linear(w, 4 * w), nn.GELU(), nn.Linear(4 * w, w))

    def initial_state(self, batch: int) -> Carried:
        """No step seen yet."""
        new, shape = self.out.weight.new_zeros, (batch, self.span - 1)
        return new(*shape, self.heads, self.head_width), new(*shape, self.heads, self.head_width), new(*shape)

    def forward(self, x: Tensor, state: Carried, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """x (B, T, width) → (B, T, width) and the state after each sequence's last valid step."""
        batch, steps, past = len(x), x.shape[1], self.span - 1
        shape = (batch, steps, self.heads, self.head_width)
        query, key, value = (piece.reshape(shape) for piece in self.project(self.norm(x)).chunk(3, -1))
        keys, values = torch.cat([state[0], key], 1), torch.cat([state[1], value], 1)
        there = torch.cat([state[2], state[2].new_ones(batch, steps)], 1)
        place = torch.arange(past + steps, device=x.device)
        distance = place[past:, None] - place
        allowed = (distance >= 0) & (distance < self.span) & (there[:, None, None] > 0)
        attended = F.scaled_dot_product_attention(
            _rotated(query, place[past:]).transpose(1, 2),
            _rotated(keys, place).transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=allowed,
        )
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        ends = torch.full((batch,), steps, device=x.device) if lengths is None else lengths
        kept = ends[:, None] + torch.arange(past, device=x.device)
        row = torch.arange(batch, device=x.device)[:, None]
        return x + self.mlp(self.mlp_norm(x)), (keys[row, kept], values[row, kept], there[row, kept])


def _rotated(x: Tensor, place: Tensor) -> Tensor:
    """Rotary positions: channel pairs of x (B, T, heads, head width) turned by place · 10000^(-2i/head width)."""
    half = x.shape[-1] // 2
    exact = torch.promote_types(x.dtype, torch.float32)
    rate = 10000 ** (-torch.arange(half, device=x.device, dtype=exact) / half)
    angle = (place[:, None] * rate)[:, None]  # (T, 1, half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
