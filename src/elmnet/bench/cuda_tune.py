"""Which of the planner's choice and its neighbours is fastest on this GPU: tried on a layer, kept in a file.

    network = ELMNetwork(config).to("cuda")
    for trials in tune_network(network, batch=8, steps=100):     # some minutes, most of them Triton's compiler
        print(*trials, sep="\\n")

From then on every layer of these sizes takes the fastest; delete the file to forget. Plans compute the same, and nobody
is timed before it agrees with the first that runs. Runs write into tensors of their own. Not measured on a GPU yet.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elmnet.errors import in_a_line
from elmnet.layer import ELMLayer
from elmnet.network import ELMNetwork
from elmnet.ops.cuda import rounded
from elmnet.ops.cuda.kept import keep
from elmnet.ops.cuda.launch import Layer
from elmnet.ops.cuda.operator import TAPE, limits
from elmnet.ops.cuda.plan import Plan, alternatives
from elmnet.ops.operands import DIFFERENTIABLE, Inputs, Numbers, operands

TOLERANCE = 1e-4
"""Relative L2 error of outputs and gradients against those of the first plan that runs."""
ROUNDS = 9


@dataclass(frozen=True)
class Trial:
    """A plan that was tried."""

    plan: Plan
    milliseconds: float | None
    """Forward and backward, median; None: it cannot run here, or is wrong."""
    why: str = ""

    def __str__(self) -> str:
        """One line."""
        took = self.why if self.milliseconds is None else f"{self.milliseconds:.3f} ms"
        return f"{took}: {self.plan.in_words()}"


def example(layer: ELMLayer, batch: int, steps: int, *, bf16: bool = False) -> tuple[Inputs, Numbers]:
    """A layer's arguments in training, on noise (synthetic) of that shape; bf16: as under `torch.autocast`."""
    weights = layer.neurons()
    weights = rounded(weights) if bf16 else weights
    x = torch.randn(batch, steps, layer.inputs, device=layer.connectome.device)
    state, masks = layer.initial_state(batch), layer.draw_masks(batch)
    i, n = operands(x, state, layer.connectome, weights, layer.dynamics, masks, None, (), torch.float32)
    return i, n._replace(keep=True)


def both_ways(run: Layer) -> list[Tensor]:
    """Outputs and, of half their squares' sum, all gradients."""
    out, *rest = run.forward()
    tape = rest[-len(TAPE) :]
    return [out, *run.backward(out, tape, [out, *[None] * 8], [True] * len(DIFFERENTIABLE))]


def tune_network(network: ELMNetwork, batch: int, steps: int) -> Iterator[list[Trial]]:
    """`tune` for every layer."""
    for layer in network.elm_layers:
        yield tune(layer, batch, steps)


@torch.no_grad()
def tune(
    layer: ELMLayer, batch: int, steps: int, *, bf16: bool = False, clock: Callable[[], float] = time.perf_counter
) -> list[Trial]:
    """Time the plans that fit a layer and keep the fastest for its sizes on this GPU.

    Args:
        layer: on the GPU, float32.
        batch: sequences.
        steps: of each; the kept plan serves every length.
        bf16: as under `torch.autocast` to bfloat16.
        clock: seconds.

    Returns:
        All that was tried, the planner's choice first.

    Raises:
        DataError: the file's folder cannot be created.
    """
    i, n = example(layer, batch, steps, bf16=bf16)
    with torch.cuda.device_of(i.x):  # type: ignore[no-untyped-call]
        return _tried(i, n, clock)


def _tried(i: Inputs, n: Numbers, clock: Callable[[], float]) -> list[Trial]:
    gpu = limits(i.x.device)
    sizes = Layer(i, n, gpu).sizes
    truth: list[Tensor] = []
    trials: list[Trial] = []
    for chosen in alternatives(sizes, gpu):
        run = Layer(i, n, gpu, chosen=chosen)
        try:
            got = both_ways(run)
            truth = truth or got
            wrong = [error for error in _errors(got, truth) if not error <= TOLERANCE]
            if wrong:
                trials.append(Trial(chosen, None, f"differs by {wrong[0]:.1e}"))
                continue
            trials.append(Trial(chosen, 1e3 * statistics.median(_seconds(run, clock))))
        except Exception as error:  # of the compiler and the driver: they have many kinds
            trials.append(Trial(chosen, None, in_a_line(error)))
    times = {trial.plan: trial.milliseconds for trial in trials if trial.milliseconds is not None}
    if times:
        keep(min(times, key=times.__getitem__), sizes, gpu)
    return trials


def _errors(got: list[Tensor], want: list[Tensor]) -> Iterator[float]:
    for a, b in zip(got, want, strict=True):
        if b.numel():
            yield float((a - b).norm() / b.norm().clamp(min=1e-30))


def _seconds(run: Layer, clock: Callable[[], float]) -> Iterator[float]:
    for _ in range(ROUNDS):
        _wait(run.i.x)
        start = clock()
        both_ways(run)
        _wait(run.i.x)
        yield clock() - start


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
