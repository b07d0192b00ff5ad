"""Which of the planner's choice and its neighbours is fastest on this GPU: tried on a layer, kept in a file.

    network = ELMNetwork(config).to("cuda")
    for trials in tune_network(network, batch=8, steps=100):     # some minutes, most of them Triton's compiler
        print(*trials, sep="\\n")

From then on every layer of these sizes takes the fastest; delete the file to forget. Plans compute the same, and nobody
is timed before it agrees with the first that runs. Runs write into tensors of their own. Not measured on a GPU yet.
"""

import json
import logging
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from elmnet.errors import DataError
from elmnet.files import cache_directory, write_atomic
from elmnet.layer import ELMLayer
from elmnet.network import ELMNetwork
from elmnet.ops.cuda.operator import TAPE, limits
from elmnet.ops.cuda.plan import Limits, Plan, Regime, Sizes, alternatives, laid
from elmnet.ops.operands import DIFFERENTIABLE, Inputs, Numbers, operands
from elmnet.ops.types import Weights

TOLERANCE = 1e-4
"""Relative L2 error of outputs and gradients against those of the first plan that runs."""
ROUNDS = 9

_log = logging.getLogger("elmnet")


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


def example(layer: ELMLayer, batch: int, steps: int, weights: Weights) -> tuple[Inputs, Numbers]:
    """A layer's arguments for noise (synthetic) of that shape, as for training."""
    x = torch.randn(batch, steps, layer.inputs, device=layer.connectome.device)
    state, masks = layer.initial_state(batch), layer.draw_masks(batch)
    i, n = operands(x, state, layer.connectome, weights, layer.dynamics, masks, None, (), torch.float32)
    return i, n._replace(keep=True)


def tune_network(network: ELMNetwork, batch: int, steps: int) -> Iterator[list[Trial]]:
    """`tune` for every layer."""
    for layer in network.layers:
        if isinstance(layer, ELMLayer):
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
    from elmnet.ops.cuda import rounded
    from elmnet.ops.cuda.launch import Layer

    weights = layer.neurons.effective()
    i, n = example(layer, batch, steps, rounded(weights) if bf16 else weights)
    gpu = limits(i.x.device)
    sizes = Layer(i, n, gpu).sizes
    truth: list[Tensor] = []
    trials: list[Trial] = []
    for chosen in alternatives(sizes, gpu):
        run = Layer(i, n, gpu, chosen=chosen)
        try:
            got = _pass(run)
            truth = truth or got
            wrong = [error for error in _errors(got, truth) if not error <= TOLERANCE]
            if wrong:
                trials.append(Trial(chosen, None, f"differs by {wrong[0]:.1e}"))
                continue
            trials.append(Trial(chosen, 1e3 * statistics.median(_seconds(run, clock))))
        except Exception as error:  # of the compiler and the driver: they have many kinds
            first = next(iter(str(error).strip().splitlines()), "")
            trials.append(Trial(chosen, None, f"{type(error).__name__}: {first}"))
    _keep(gpu, sizes, trials)
    return trials


def _pass(run: Any) -> list[Tensor]:
    """Outputs and all gradients."""
    out, *rest = run.forward()
    tape = rest[-len(TAPE) :]
    return [out, *run.backward(out, tape, [out, *[None] * 8], [True] * len(DIFFERENTIABLE))]


def _errors(got: list[Tensor], want: list[Tensor]) -> Iterator[float]:
    for a, b in zip(got, want, strict=True):
        if b.numel():
            yield float((a - b).norm() / b.norm().clamp(min=1e-30))


def _seconds(run: Any, clock: Callable[[], float]) -> Iterator[float]:
    for _ in range(ROUNDS):
        _wait(run.i.x)
        start = clock()
        _pass(run)
        _wait(run.i.x)
        yield clock() - start


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


# The file


def place(gpu: Limits) -> Path:
    """Where a GPU's plans are kept.

    Raises:
        DataError: the cache cannot be created.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    return cache_directory() / "cuda-plans" / f"{name}.json"


def kept(sizes: Sizes, gpu: Limits) -> Plan | None:
    """The plan that was fastest when these sizes were tuned; None: they never were, or it fits no longer."""
    stored = _read(gpu).get(_key(sizes))
    return None if stored is None else laid(sizes, gpu, **stored)


def _keep(gpu: Limits, sizes: Sizes, trials: list[Trial]) -> None:
    timed = [trial for trial in trials if trial.milliseconds is not None]
    if not timed:
        return
    best = min(timed, key=lambda trial: trial.milliseconds or 0.0).plan
    chosen = {"regime": best.regime, "block": best.block, "lanes": best.lanes, "warps": best.warps}
    plans = {**_read(gpu), _key(sizes): chosen}
    file = place(gpu)
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps({"triton": metadata.version("triton"), "plans": plans}, indent=2) + "\n")
    _read.cache_clear()


def _key(sizes: Sizes) -> str:
    return " ".join(f"{name}={value}" for name, value in asdict(sizes).items())


@lru_cache
def _read(gpu: Limits) -> dict[str, dict[str, Any]]:
    """One of another Triton's, or a damaged one, is as none."""
    try:
        file = place(gpu)
        stored = json.loads(file.read_text())
        if stored["triton"] != metadata.version("triton"):
            return {}
        for plan in stored["plans"].values():
            if plan["regime"] not in get_args(Regime) or not all(
                type(plan[k]) is int for k in ("block", "lanes", "warps")
            ):
                raise ValueError(f"{plan} is no plan")
        return stored["plans"]  # type: ignore[no-any-return]
    except (FileNotFoundError, DataError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("elmnet: %s is damaged and not used (%s); delete it, then tune again", file, error)
        return {}
