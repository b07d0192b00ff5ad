"""Interleaved timing: in every round each contender makes one step, so that a slow minute of the machine hits all."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from elmnet.bench.cases import Case
from elmnet.bench.contenders import TOLERANCE, Contender
from elmnet.errors import in_a_line
from elmnet.ops import cpu
from elmnet.tables import Table

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
    """Seconds of every call in `rounds` interleaved rounds, or as many as fit.

    A contender whose calls have taken more than `seconds` in all sits out once it has been timed 3 times.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds):
        for name, function in functions.items():
            if turn >= 3 and sum(times[name]) > seconds:
                continue
            time.sleep(PAUSE)
            times[name].append(_seconds(function))
    return times


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def judge(case: Case, entrants: list[Contender], *, note: Callable[[str], None] = lambda line: None) -> list[Result]:
    """Verify every contender on the first steps of the case; those that fail, refuse or break get words.

    The batch is the whole one, because the kernels that run depend on it.
    """
    small = case.shortened(batch=case.batch, steps=12)
    results = []
    for entrant in entrants:
        note(f"{case.name}: verifying {entrant.name}")
        result = Result(entrant.name)
        try:
            result.refused = entrant.refuses(small)
            if result.refused is None:
                result.error = entrant.verify(small)
        except Exception as error:  # one that breaks must not end the others' run
            result.refused = f"broke while it was verified: {in_a_line(error)}"
        if result.error is not None and not result.error <= TOLERANCE:
            result.refused = f"failed verification: relative error {result.error:.1e}, {TOLERANCE:.0e} allowed"
        results.append(result)
    return results


def run(
    case: Case,
    entrants: list[Contender],
    judged: list[Result] | None = None,
    *,
    streaming: bool = False,
    rounds: int = 15,
    seconds: float = 60.0,
    note: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Time those that passed verification, interleaved.

    Args:
        case: what is trained (or streamed, one sequence).
        entrants: who takes part.
        judged: what `judge` said of them; None: it is asked.
        streaming: time single steps instead of training steps; a call is then a hundred of them.
        rounds: at most so many calls of each, after a first one that is timed apart.
        seconds: after which a contender stops early.
        note: told what goes on.
    """
    judged = judge(case, entrants, note=note) if judged is None else judged
    results: dict[str, Result] = {}
    functions: dict[str, Callable[[], Any]] = {}
    for entrant, verdict in zip(entrants, judged, strict=True):
        result = replace(verdict, seconds=[])
        if result.refused is None:
            note(f"{case.name}: first step of {entrant.name}")
            try:
                function = entrant.streaming(case) if streaming else entrant.training(case)
                if function is None:
                    continue
                function = _hundred(function) if streaming else function
                result.first = _seconds(function)
                functions[entrant.name] = function
            except Exception as error:  # as in `judge`
                result.refused = f"broke at its first step: {in_a_line(error)}"
        results[entrant.name] = result
    note(f"{case.name}: timing {', '.join(functions)}")
    for name, times in measure(functions, rounds=rounds, seconds=seconds).items():
        results[name].seconds = [t / (100 if streaming else 1) for t in times]
    return list(results.values())


def _hundred(function: Callable[[], Any]) -> Callable[[], Any]:
    def hundred() -> None:
        for _ in range(100):
            function()

    return hundred


def attainable() -> float:
    """FLOP/s of a large float32 matrix product in torch, on as many threads: the best of 20, for it is a limit."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / min(measure({"mm": lambda: a @ b}, rounds=20, seconds=5.0)["mm"])


def machine() -> dict[str, str]:
    """What this run was measured on."""
    try:
        models = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
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


def table(title: str, rows: Sequence[Result], flops: float | None, peak: float) -> Table:
    """Medians with 10th to 90th percentile, how many times slower A and B are, arithmetic per second.

    Args:
        title: of the table.
        rows: of those that were timed.
        flops: of a training step; None: streaming, which has no share of the peak.
        peak: attainable FLOPs per second.
    """
    unit, factor = ("ms", 1e3) if flops else ("µs", 1e6)
    base = {
        kind: next((r.median for r in rows if r.contender.startswith(f"JAX {kind}") and r.seconds), None)
        for kind in "AB"
    }
    cells = []
    for row in rows:
        slower = {kind: "" if other is None else f"{other / row.median:.1f}" for kind, other in base.items()}
        times = [f"{row.median * factor:.1f}", "-".join(f"{limit * factor:.1f}" for limit in row.spread), slower["A"]]
        if flops:
            own = "LSTM" not in row.contender
            work = [f"{flops / row.median / 1e9:.1f}", f"{flops / row.median / peak:.0%}"] if own else ["", ""]
            times += [slower["B"], *work]
        cells.append([row.contender, *times, f"{row.first:.1f}"])
    more = ["B ÷ this", "GFLOP/s", "of sgemm"] if flops else []
    return Table(title, ["", unit, "10-90 %", "A ÷ this", *more, "first, s"], cells)
