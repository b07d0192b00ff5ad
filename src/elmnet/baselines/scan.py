"""Recurrences linear in their state, taken for all steps at once: minGRU and a diagonal state-space layer."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet.baselines.config import BaselineConfig
from elmnet.baselines.state import Carried


def scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """All h_t = decay_t · h_{t-1} + drive_t along dimension 1, with h_{-1} = start, in log2(T) rounds.

    A prefix "sum" of the pairs (decay, drive) under (a, b) ∘ (a', b') = (a·a', a'·b + b'), each round joining
    neighbours twice as far apart (Hillis and Steele 1986). Decays at most 1 in size never overflow.

    Args:
        decay: (B or 1, T, n).
        drive: (B, T, n).
        start: (B, n).
    """
    h = torch.cat([drive[:, :1] + decay[:, :1] * start.unsqueeze(1), drive[:, 1:]], 1)
    far = 1
    while far < drive.shape[1]:
        h = torch.cat([h[:, :far], h[:, far:] + decay[:, far:] * h[:, :-far]], 1)
        decay = torch.cat([decay[:, :far], decay[:, far:] * decay[:, :-far]], 1)
        far *= 2
    return h


def at_the_end(h: Tensor, lengths: Tensor | None) -> Tensor:
    """h (B, T, ...) after each sequence's last valid step."""
    return h[:, -1] if lengths is None else h[torch.arange(len(h), device=h.device), lengths - 1]


class MinGRU(nn.Module):
    """A residual block of a minimal gated recurrent unit and a small MLP.

    z_t = σ(W_z x_t + b_z), h̃_t = W_h x_t + b_h, h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t: Feng et al., "Were RNNs all we
    needed?" (arXiv:2410.01201, 2024), section 3.1, with the linear h̃ of the main text. State: h (B, width).
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.width = w = config.width
        self.norm, self.mlp_norm = nn.LayerNorm(w), nn.LayerNorm(w)
        self.gates = nn.Linear(w, 2 * w)
        self.mlp = nn.Sequential(nn.Linear(w, 2 * w), nn.GELU(), nn.Linear(2 * w, w))

    def initial_state(self, batch: int) -> Carried:
        """Zeros."""
        return (self.gates.weight.new_zeros(batch, self.width),)

    def forward(self, x: Tensor, state: Carried, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """x (B, T, width) → (B, T, width) and the state after each sequence's last valid step."""
        gate, candidate = self.gates(self.norm(x)).chunk(2, -1)
        h = scan(torch.sigmoid(-gate), torch.sigmoid(gate) * candidate, state[0])
        x = x + h
        return x + self.mlp(self.mlp_norm(x)), (at_the_end(h, lengths),)


class StateSpace(nn.Module):
    """A residual block of a diagonal linear state-space layer with many inputs and outputs.

    s_t = Λ̄ s_{t-1} + Λ⁻¹(Λ̄ - 1) ⊙ B u_t with Λ̄ = exp(Λ Δ) (zero-order hold), y_t = 2 Re(C s_t) + D ⊙ u_t, then
    g = GELU(y) and g ⊙ σ(W g + b): Smith, Warrington, Linderman, "Simplified state space layers for sequence modeling"
    (ICLR 2023, arXiv:2208.04933), sections 2 and 3. "-like" because Λ starts at -½ + iπn (the linear initialisation of
    Gu et al. 2022, arXiv:2206.11893) rather than at the eigenvalues of HiPPO-N, B and C at random, and all parameters
    share one learning rate. Δ starts log-uniform in [0.001, 0.1]. State: real and imaginary parts of s (B, n, 2).
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        w, self.states = config.width, config.states
        self.norm = nn.LayerNorm(w)
        self.log_rate = nn.Parameter(torch.full((self.states,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(self.states, dtype=torch.get_default_dtype()))
        self.log_step = nn.Parameter(torch.empty(self.states).uniform_(math.log(0.001), math.log(0.1)))
        self.drive = nn.Linear(w, 2 * self.states, bias=False)  # B: real parts, imaginary parts
        self.read = nn.Linear(2 * self.states, w, bias=False)  # C, with the 2 and the sign taken in
        self.through = nn.Parameter(torch.randn(w))
        self.gate = nn.Linear(w, w)

    def initial_state(self, batch: int) -> Carried:
        """Zeros."""
        weight = self.gate.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return (weight.new_zeros(batch, self.states, 2, dtype=dtype),)

    def forward(self, x: Tensor, state: Carried, lengths: Tensor | None) -> tuple[Tensor, Carried]:
        """x (B, T, width) → (B, T, width) and the state after each sequence's last valid step."""
        u, exact = self.norm(x), state[0].dtype
        rate = torch.complex(-torch.exp(self.log_rate.to(exact)), self.frequency.to(exact))
        decay = torch.exp(rate * torch.exp(self.log_step.to(exact)))
        real, imaginary = self.drive(u).to(exact).chunk(2, -1)
        driven = torch.complex(real, imaginary) * ((decay - 1) / rate)
        s = scan(decay.expand(1, x.shape[1], -1), driven, torch.view_as_complex(state[0].contiguous()))
        y = self.read(torch.cat([s.real, s.imag], -1).to(x.dtype)) + self.through * u
        g = F.gelu(y)
        return x + g * torch.sigmoid(self.gate(g)), (torch.view_as_real(at_the_end(s, lengths)),)
