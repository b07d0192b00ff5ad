"""Interleaved timing: in every round each contender makes one step, so that a slow minute of the machine hits all."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from elmnet import budget
from elmnet.bench.cases import Case
from elmnet.bench.contenders import TOLERANCE, Contender
from elmnet.ops import cpu

PAUSE = 0.03
"""Seconds between two contenders: threads of the one before stop spinning."""


@dataclass
class Result:
    """What one contender did on one case."""

    contender: str
    refused: str | None = None  # in words; then there are no numbers
    error: float | None = None  # relative, of the verification
    first: float = 0.0  # seconds of the first step, compiling included
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile in seconds."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        deciles = statistics.quantiles(self.seconds, n=10, method="inclusive")
        return deciles[0], deciles[-1]


def measure(functions: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of every call, first call first: that, then `rounds` rounds, or as many as fit, at least 3.

    A contender whose calls have taken more than `seconds` in all sits out once it has been timed 3 times.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            if turn > 3 and sum(times[name]) > seconds:
                continue
            time.sleep(PAUSE)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def run(
    case: Case,
    entrants: list[Contender],
    *,
    streaming: bool = False,
    rounds: int = 15,
    seconds: float = 60.0,
    note: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Verify every contender on a small piece of the case, then time those that passed, interleaved.

    Args:
        case: what is trained (or streamed, one sequence).
        entrants: who takes part.
        streaming: time single steps instead of training steps; a call is then a hundred of them.
        rounds: at most so many calls of each.
        seconds: after which a contender stops early.
        note: told what goes on.
    """
    small = case.shortened(batch=5, steps=12)
    results: list[Result] = []
    functions: dict[str, Callable[[], Any]] = {}
    for entrant in entrants:
        note(f"{case.name}: verifying {entrant.name}")
        result = Result(entrant.name, refused=entrant.refuses(small))
        results.append(result)
        if result.refused is None:
            result.error = entrant.verify(small)
        if result.error is not None and not result.error <= TOLERANCE:
            result.refused = f"failed verification: relative error {result.error:.1e}, {TOLERANCE:.0e} allowed"
        if result.refused is None:
            function = entrant.streaming(case) if streaming else entrant.training(case)
            if function is None:
                results.pop()
            else:
                functions[entrant.name] = _hundred(function) if streaming else function
    note(f"{case.name}: timing {', '.join(functions)}")
    for name, times in measure(functions, rounds=rounds, seconds=seconds).items():
        result = next(result for result in results if result.contender == name)
        per_call = 100 if streaming else 1
        result.first, result.seconds = times[0], [t / per_call for t in times[1:]]
    return results


def _hundred(function: Callable[[], Any]) -> Callable[[], Any]:
    def hundred() -> None:
        for _ in range(100):
            function()

    return hundred


def training_flops(case: Case) -> float:
    """Floating-point operations of a training step: three times the forward pass."""
    return 3.0 * budget.cost(case.network).flops * case.batch * case.steps


def attainable() -> float:
    """FLOP/s of a large float32 matrix product in torch, on as many threads."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = measure({"mm": lambda: a @ b}, rounds=20, seconds=5.0)["mm"]
    return 2 * 1024**3 / statistics.median(times[1:])


def machine() -> dict[str, str]:
    """What this run was measured on."""
    try:
        models = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
    except OSError:
        models = []
    jax = [f"jax {metadata.version('jax')}"] if "jax" in {d.name for d in metadata.distributions()} else []
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "CPU": f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "kernels": cpu.ABOUT,
        "threads": str(torch.get_num_threads()),
        "software": ", ".join([f"elmnet {metadata.version('elmnet')}", f"torch {torch.__version__}", *jax]),
        "load average": load,
        "date": date.today().isoformat(),
    }
