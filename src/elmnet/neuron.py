"""The parameters of N Expressive Leaky Memory neurons, their initialisation, and what the recurrence sees of them."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet.config import NeuronConfig
from elmnet.ops import Weights
from elmnet.ops.operands import has_values


class Neurons(nn.Module):
    """N neurons of one configuration, each with its own weights.

    Attributes:
        w_s: synaptic weights (N, d_tree, d_s).
        mlp: the MLP's affine maps, each with weight (N, out, in) and bias (N, out).
        readout: W_y (N, n_y, d_m).
        bias: (N, n_y).
        tau_logit: τ_m (N, d_m) through a scaled sigmoid; trained only with `learn_timescales`. Never narrower than
            float32, whatever the other weights are cast to.
    """

    def __init__(self, config: NeuronConfig, units: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.units = units
        self.w_s = nn.Parameter(self._draw_synapses(generator))
        widths = config.mlp_widths
        self.mlp = nn.ModuleList(Affine(units, n_in, n_out, generator) for n_in, n_out in pairwise(widths))
        bound = 1 / math.sqrt(config.memory)
        self.readout = nn.Parameter(uniform((units, config.outputs, config.memory), bound, generator))
        bias = torch.tensor(config.bias_init or [0.0] * config.outputs, dtype=torch.get_default_dtype())
        self.bias = nn.Parameter(bias.repeat(units, 1))
        exact = torch.promote_types(torch.get_default_dtype(), torch.float32)
        logit = torch.empty(units, config.memory, dtype=exact)
        self.tau_logit = nn.Parameter(logit, requires_grad=config.learn_timescales)
        self.set_timescales(torch.tensor(config.timescales, dtype=torch.float64, device="cpu"))

    def _draw_synapses(self, generator: torch.Generator | None) -> Tensor:
        shape = (self.units, self.config.branches, self.config.synapses)
        scale = 1 / math.sqrt(self.config.synapses)
        if self.config.synapse_init is None:
            return uniform(shape, scale, generator)
        return torch.full(shape, self.config.synapse_init * scale)

    @property
    def _tau_range(self) -> tuple[float, float]:
        scale = self.config.tau_range_scale
        return self.config.tau_min / scale, self.config.tau_max * math.sqrt(scale)

    def timescales(self) -> Tensor:
        """τ_m (N, d_m), in the unit of dt."""
        low, high = self._tau_range
        # fixed also where somebody has called `requires_grad_` on the whole network
        logit = self.tau_logit if self.config.learn_timescales else self.tau_logit.detach()
        return low + (high - low) * torch.sigmoid(logit)

    @torch.no_grad()
    def set_timescales(self, tau: Tensor) -> None:
        """Store τ_m, (d_m) or (N, d_m), strictly inside the range the configuration allows."""
        low, high = self._tau_range
        if has_values(tau) and not bool(((tau > low) & (tau < high)).all()):
            raise ValueError(f"timescales must lie inside ({low:g}, {high:g}), got {tau.tolist()}")
        fraction = (tau.double() - low) / (high - low)
        self.tau_logit.copy_(torch.logit(fraction).expand_as(self.tau_logit))

    def forward(self) -> Weights:
        """The weights of the equations, differentiable in every parameter."""
        rate, ratio = self.config.dt / self.timescales(), self.config.timescale_ratio
        as_ratio = self.config.lambda_as_timescale_ratio
        gain = _gain(ratio * rate) if as_ratio else ratio * _gain(rate)
        return Weights(
            synapse=F.relu(self.w_s) if self.config.nonnegative_synapses else self.w_s,
            mlp=tuple(affine() for affine in self.mlp),
            readout=self.readout,
            bias=self.bias,
            decay=torch.exp(-rate),
            gain=gain,
        )

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Casting to a half type leaves the timescales in float32: rounded, they would not be the same neuron."""
        exact = self.tau_logit.detach().float()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.tau_logit.dtype.itemsize < 4:
            self.tau_logit.data = exact.to(self.tau_logit.device)
            if self.tau_logit.grad is not None:
                self.tau_logit.grad = self.tau_logit.grad.float()
        return self

    def extra_repr(self) -> str:
        c = self.config
        return f"units={self.units}, memory={c.memory}, branches={c.branches}, synapses={c.synapses}"


def _gain(rate: Tensor) -> Tensor:
    """1 - exp(-rate), exact for small rates in compiled programs, too, whose expm1 is not."""
    if not torch.compiler.is_compiling():
        return -torch.expm1(-rate)
    half = torch.tanh(rate / 2)
    return 2 * half / (1 + half)


class Affine(nn.Module):
    """N affine maps side by side: weight (N, out, in), bias (N, out), both ~ U(-1/√in, 1/√in)."""

    def __init__(self, units: int, n_in: int, n_out: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(uniform((units, n_out, n_in), bound, generator))
        self.bias = nn.Parameter(uniform((units, n_out), bound, generator))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return self.weight, self.bias


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    """U(-bound, bound), drawn on the CPU so that a seed means the same weights on every device."""
    drawn = torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)
    return drawn.to(torch.get_default_device())
