"""Before the first layer runs on a GPU: do this GPU, driver and Triton compute what the reference does?"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from elmnet.config import NeuronConfig
from elmnet.errors import in_a_line
from elmnet.ops import reference
from elmnet.ops.types import Dynamics, LayerState, Recurrence, Weights

_log = logging.getLogger("elmnet")
TOLERANCE = 1e-4
"""Relative L2 error of an output or a gradient, float32 against float64."""


@lru_cache
def disagreement(run: Recurrence, device: torch.device, sizes: tuple[int, ...] = (3, 150)) -> str | None:
    """In words, how a backend differs from the reference on layers of so many units, of which the planner lets the
    first run without a wait, the second with one; None: it does not."""
    try:
        with _as_usual(device):
            return _difference(run, device, sizes)
    except Exception as error:  # of Triton, of the driver, of the compiler it calls: they have many kinds
        _log.warning("elmnet: the first check on %s broke", device, exc_info=error)
        return f"its first check on {device} broke: {in_a_line(error)}"


def _difference(run: Recurrence, device: torch.device, sizes: tuple[int, ...]) -> str | None:
    for units in sizes:
        wanted = _everything(reference.recurrence, units, torch.device("cpu"), torch.float64)
        got = _everything(run, units, device, torch.float32)
        for name, want in wanted.items():
            error = float((got[name].cpu() - want).norm() / want.norm())
            if not error <= TOLERANCE:
                return f"its first check on {device} failed: {name} of {units} units is off by {error:.1e}"
    return None


@contextmanager
def _as_usual(device: torch.device) -> Iterator[None]:
    """The check is made once, for all: what surrounds the first call must not decide it."""
    products = torch.backends.cuda.matmul  # asking by TF32's older name is an error once somebody used its newer one
    precise, products.fp32_precision = products.fp32_precision, "ieee"
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        products.fp32_precision = precise


def _everything(run: Recurrence, units: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs and gradients of a layer drawn from a seed; its activation has no kink for rounding to cross."""
    neuron = NeuronConfig(memory=3, branches=4, synapses=2, activation="identity", tau_branch=3.0, tau_highpass=4.0)
    batch, steps, inputs = 5, 5, 2  # a tile of eight sequences, which is not full
    chance: Any = {"generator": torch.Generator("cpu").manual_seed(0), "device": "cpu"}

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(shape, dtype=torch.float32, **chance).mul(0.3)
        return drawn.to(device, dtype).requires_grad_()

    connectome = torch.randint(-1, inputs + units, (units, 8), **chance).to(device)
    tensors = [draw(batch, steps, inputs), draw(batch, units, 3), draw(batch, units, 4), draw(batch, units, 1)]
    tensors += [draw(batch, units), draw(units, 4, 2), draw(units, 6, 7), draw(units, 6), draw(units, 3, 6)]
    tensors += [draw(units, 3), draw(units, 1, 3), draw(units, 1), draw(units, 3), draw(units, 3)]
    x, memory, branch, highpass, activity, synapse, *rest = tensors
    weights = Weights(synapse, ((rest[0], rest[1]), (rest[2], rest[3])), *rest[4:])
    out, state, _ = run(x, LayerState(memory, branch, highpass, activity), connectome, weights, Dynamics.of(neuron))
    grads = torch.autograd.grad(out.square().sum() + state.memory.sum(), tensors)
    return {"output": out.detach(), "memory": state.memory.detach()} | {f"gradient {i}": g for i, g in enumerate(grads)}
