"""How time and memory grow with N, d_m, k_c, T, batch and threads: exponents, and where they change.

    python benchmarks/growth.py                          # every axis, into docs/results/growth.{csv,md} (and figures)
    python benchmarks/growth.py --quick --axes N,T       # a small base and few values, to see that it works

From one base network, one number varies at a time. First every point runs once in a process of its own, which gives its
peak memory and shows what would take too long; then all points that remain are timed in rounds, one visit each, so
that a machine that drifts spoils every point alike.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib import import_module, util
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from powerlaws import LEAST_CHANGE, foretold, growth
from report import ROOT, as_csv, command, commit, machine, short, today, wrap
from torch.nn import functional as F

from elmnet import ELMNetwork, NetworkConfig, budget
from elmnet.errors import ConfigError, ElmnetError
from elmnet.files import write_atomic
from elmnet.train.progress import Reporter


@dataclass(frozen=True)
class Point:
    """One configuration: the published enwik8 network with other numbers."""

    units: int = 256  # N
    memory: int = 10  # d_m, with d_mlp = 2·d_m
    branches: int = 50  # d_tree
    synapses: int = 15  # d_s; k_c = d_tree·d_s
    steps: int = 100  # T
    batch: int = 8  # B
    threads: int = 1

    @property
    def network(self) -> NetworkConfig:
        """Hidden layer, ELM read-out and affine map."""
        return NetworkConfig.preset("enwik8").with_hidden(
            units=self.units, memory=self.memory, branches=self.branches, synapses=self.synapses
        )

    @property
    def flops(self) -> float:
        """Of a forward pass over the batch."""
        return float(budget.cost(self.network).flops) * self.batch * self.steps


class Axis(NamedTuple):
    """A number that varies."""

    name: str
    field: str
    values: tuple[int, ...]
    quick: tuple[int, ...]

    def at(self, base: Point, value: int) -> Point:
        """The base with another value."""
        return replace(base, **{self.field: value})

    def position(self, point: Point) -> int:
        """Where a point lies on this axis."""
        value = int(getattr(point, self.field))
        return point.branches * value if self.field == "synapses" else value


AXES = (
    Axis("N", "units", (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (8, 16, 32, 64)),
    Axis("d_m", "memory", (1, 2, 3, 5, 10, 20, 30, 50, 70, 100), (1, 2, 4, 8)),
    Axis("k_c", "synapses", (1, 2, 4, 8, 15, 30, 60, 90), (1, 2, 4, 8)),
    Axis("T", "steps", (10, 30, 100, 300, 1000, 3000, 10_000), (5, 10, 20, 40)),
    Axis("batch", "batch", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8)),
    Axis("threads", "threads", (), ()),  # as many as the machine has
)
ALL_AXES = ",".join(axis.name for axis in AXES)
BASE = Point()
QUICK_BASE = Point(units=32, memory=3, branches=10, synapses=3, steps=20, batch=2)
SMALLEST = Point(units=1, memory=1, branches=1, synapses=1, steps=1, batch=1)
"""What a process holds before the point it measures: subtracted from its peak."""
LEAST_MIB = 1.0
"""Equal processes differ by about as much: less says nothing about growth."""
VISIT_SECONDS = 0.1
"""A visit repeats what is faster than this."""


class Probe(NamedTuple):
    """What a point took in a process of its own."""

    peak: int  # bytes, largest resident size
    seconds: float  # forward and backward, the second time


class Times(NamedTuple):
    """A visit's median seconds."""

    forward: float  # without gradients
    both: float  # forward and backward


@dataclass(frozen=True)
class Measured:
    """A point's numbers on one axis: medians over the rounds, with the least and most of any round."""

    axis: str
    value: int
    parameters: int
    flops: float  # forward, whole batch
    forward_ms: float
    forward_least_ms: float
    forward_most_ms: float
    both_ms: float
    both_least_ms: float
    both_most_ms: float
    memory_mib: float


def build(point: Point, backend: str) -> Callable[[bool], None]:
    """What a point runs: a forward pass without gradients, or (True) forward and backward."""
    network = ELMNetwork(point.network, seed=0, backend=backend)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(network.config.inputs, (2, point.batch, point.steps), generator=generator)

    def run(backward: bool) -> None:
        torch.set_num_threads(point.threads)
        with torch.set_grad_enabled(backward):
            out, _ = network(x)
            loss = F.cross_entropy(out.flatten(0, 1), y.flatten())
        if backward:
            network.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]

    return run


def probe(point: Point, backend: str) -> Probe:
    """Run a point twice and say how much memory this process has ever held; meant for a fresh process."""
    run = build(point, backend)
    run(True)
    started = time.perf_counter()
    run(True)
    return Probe(_peak(), time.perf_counter() - started)


def apart(point: Point, backend: str) -> Probe | None:
    """`probe` in a process of its own; None if the system killed it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(probe, point, backend).result()
        except (BrokenProcessPool, MemoryError):
            return None


def _peak() -> int:
    """Bytes. Linux's own count where there is one: ru_maxrss survives exec, so a child would inherit its parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> float:
    """Bytes that could be used without swapping; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def survey(
    axis: Axis, base: Point, backend: str, limits: Probe, baseline: int, known: dict[Point, Probe]
) -> tuple[list[Point], list[str]]:
    """Probe an axis from its small end; returns the points within the limits, and words about those left out."""
    kept: list[Point] = []
    for value in axis.values:
        point = axis.at(base, value)
        x = [axis.position(p) for p in kept]
        peak = foretold(x, [max(known[p].peak - baseline, 1) for p in kept], axis.position(point)) + baseline
        seconds = foretold(x, [known[p].seconds for p in kept], axis.position(point))
        rest = [axis.position(axis.at(base, v)) for v in axis.values if v >= value]
        words = f"{axis.name} {', '.join(f'{r:,}' for r in rest)}"
        if axis.field != "threads" and (peak > limits.peak or seconds > limits.seconds):
            return kept, [
                f"{words}: {axis.name} {rest[0]:,} would take about {seconds:.0f} s and {peak / 2**30:.1f} GiB"
            ]
        if point not in known:
            seen = apart(point, backend)
            if seen is None:
                return kept, [f"{words}: the system killed {axis.name} {rest[0]:,}"]
            known[point] = seen
        kept.append(point)
    return kept, []


def visit(run: Callable[[bool], None]) -> Times:
    """Time a point: warm up unless that takes long, then repeat what is short."""
    return Times(_median_seconds(lambda: run(False)), _median_seconds(lambda: run(True)))


def _median_seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    if first > 1:
        return first
    seconds: list[float] = []
    while sum(seconds) < VISIT_SECONDS or len(seconds) < 2:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def time_in_rounds(points: Sequence[Point], backend: str, rounds: int, reporter: Reporter) -> dict[Point, list[Times]]:
    """Every point once a round."""
    ready = {point: build(point, backend) for point in points}
    seen: dict[Point, list[Times]] = {point: [] for point in points}
    for number in range(1, rounds + 1):
        started = time.monotonic()
        with reporter.phase(f"round {number} of {rounds}", len(ready)) as advance:
            for point, run in ready.items():
                seen[point].append(visit(run))
                advance()
        reporter.note(f"round {number} of {rounds}: {len(ready)} points in {time.monotonic() - started:.0f} s")
    return seen


def measured(axis: Axis, point: Point, times: Sequence[Times], peak: int) -> Measured:
    """A point's row on an axis; peak memory above the baseline, bytes."""
    forward, both = ([1000 * seconds for seconds in column] for column in zip(*times, strict=True))
    return Measured(
        axis=axis.name,
        value=axis.position(point),
        parameters=budget.parameters(point.network),
        flops=point.flops,
        forward_ms=statistics.median(forward),
        forward_least_ms=min(forward),
        forward_most_ms=max(forward),
        both_ms=statistics.median(both),
        both_least_ms=min(both),
        both_most_ms=max(both),
        memory_mib=max(peak, 0) / 2**20,
    )


QUANTITIES = (("both_ms", "forward + backward, ms"), ("forward_ms", "forward, ms"), ("memory_mib", "peak memory, MiB"))


def as_markdown(rows: Sequence[Measured], base: Point, backends: str, rounds: int, skipped: Sequence[str]) -> str:
    """Exponents and knees of every axis."""
    lines = ["# How time and memory grow", "", f"    {command()}", ""]
    lines += wrap(
        f"Measured {today()} on {machine()}; commit {commit()}; backend {backends}; torch {torch.__version__}. "
        f"Base: N {base.units}, d_m {base.memory}, {base.branches} × {base.synapses} synapses, T {base.steps}, batch "
        f"{base.batch}, threads {base.threads}; hidden layer (ρ 0.8) and read-out of the published enwik8 network, 204 "
        f"symbols; one number varies at a time. Times are medians of {rounds} interleaved rounds, `forward` without "
        "gradients. Memory is the peak of a process of its own that runs forward and backward, above that of a process "
        "with a network of one unit."
    )
    lines += ["", *wrap(_WORDS), ""]
    lines += [
        "| axis | values | what | from | to | exponent, small end | large end | knee | of FLOPs, small and large end |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for axis in dict.fromkeys(row.axis for row in rows):
        own = [row for row in rows if row.axis == axis]
        x = [row.value for row in own]
        flops = growth(x, [row.flops for row in own])
        for i, (field, words) in enumerate(QUANTITIES):
            y = [getattr(row, field) for row in own]
            found = growth(*_curve(own, field))
            knee = "none" if found.knee is None else short(found.knee)
            cells = [axis, f"{x[0]:,} … {x[-1]:,}"] if i == 0 else ["", ""]
            cells += [words, short(y[0]), short(y[-1]), _slope(found.small), _slope(found.large), knee]
            cells += [f"{_slope(flops.small)}, {_slope(flops.large)}"] if field != "memory_mib" else [""]
            lines.append(f"| {' | '.join(cells)} |")
    if skipped:
        lines += ["", "Left out, because a point would pass the limits of time or memory:", ""]
        lines += [f"* {words}" for words in skipped]
    return "\n".join([*lines, "", "All points: [growth.csv](growth.csv).", ""])


_WORDS = f"""An exponent is the slope in log-log coordinates through the three smallest or largest values (of memory:
those above {LEAST_MIB:g} MiB, as equal processes differ by about as much). The knee is where the local exponent passes
midway from one to the other; none where they differ by less than {LEAST_CHANGE}."""


def _slope(exponent: float) -> str:
    return "–" if math.isnan(exponent) else f"{round(exponent, 2) + 0.0:.2f}"  # + 0.0: no -0.00


def _curve(rows: Sequence[Measured], field: str) -> tuple[list[int], list[float]]:
    """One quantity along an axis; memory without the points that are lost in the noise between processes."""
    least = LEAST_MIB if field == "memory_mib" else 0.0
    pairs = [(row.value, float(getattr(row, field))) for row in rows]
    return [x for x, y in pairs if y > least], [y for _, y in pairs if y > least]


def draw(rows: Sequence[Measured], out: Path) -> None:
    """growth.svg and growth.png: a column for every axis, times above, memory below, knees marked."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = import_module("matplotlib.pyplot")
    axes = list(dict.fromkeys(row.axis for row in rows))
    figure, panels = pyplot.subplots(2, len(axes), figsize=(2.6 * len(axes), 5), squeeze=False, layout="constrained")
    for column, axis in enumerate(axes):
        own = [row for row in rows if row.axis == axis]
        for field, words in QUANTITIES:
            panel = panels[int(field == "memory_mib"), column]
            x, y = _curve(own, field)
            (line,) = panel.loglog(x, y, "o-", markersize=3, label=words)
            knee = growth(x, y).knee
            if knee is not None:
                panel.axvline(knee, color=line.get_color(), linestyle=":", linewidth=1)
            ticks = [own[i].value for i in (0, len(own) // 2, -1)]
            panel.set_xticks(ticks, [f"{value:,}" for value in ticks])
            panel.set_xticks([], minor=True)
            panel.set_xlabel(axis)
    for row, words in enumerate(("ms", "MiB")):
        panels[row, 0].set_ylabel(words)
        panels[row, 0].legend(fontsize="x-small")
    for kind in ("svg", "png"):
        figure.savefig(out / f"growth.{kind}", dpi=150)
    pyplot.close(figure)


def chosen_axes(names: str, most_threads: int, quick: bool) -> list[Axis]:
    """The axes asked for, with their values.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {axis.name: axis for axis in AXES}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"no axis {name!r}; known: {', '.join(known)}")
    counts = tuple(sorted({most_threads, *(2**i for i in range(most_threads.bit_length()))}))
    chosen = [known[name]._replace(values=known[name].quick if quick else known[name].values) for name in wanted]
    return [axis._replace(values=counts) if axis.name == "threads" else axis for axis in chosen]


def main(
    axes: Annotated[str, typer.Option(help="comma-separated")] = ALL_AXES,
    backend: Annotated[str, typer.Option(help="of the recurrence")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads on every axis but their own")] = 1,
    most_threads: Annotated[int, typer.Option(help="end of the threads axis; 0: all cores")] = 0,
    rounds: Annotated[int, typer.Option(help="visits to every point")] = 7,
    seconds: Annotated[float, typer.Option(help="leave out points whose forward + backward takes longer")] = 20.0,
    memory: Annotated[float, typer.Option(help="GiB; leave out points that need more; 0: half of what is free")] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="a small base, few values")] = False,
    out: Annotated[Path, typer.Option(help="where table and figure go")] = ROOT / "docs" / "results",
) -> None:
    """Measure time and memory along every axis and write growth.csv, growth.md and, with matplotlib, a figure."""
    reporter = Reporter()
    base = replace(QUICK_BASE if quick else BASE, threads=threads)
    wanted = chosen_axes(axes, most_threads or os.cpu_count() or 1, quick)
    limits = Probe(int(memory * 2**30) or int(min(available_memory() / 2, 2**50)), seconds)

    baseline = apart(replace(SMALLEST, threads=threads), backend)
    if baseline is None:
        raise typer.BadParameter("not even a network of one unit runs", param_hint="--backend")
    known: dict[Point, Probe] = {}
    kept: dict[Axis, list[Point]] = {}
    skipped: list[str] = []
    for axis in wanted:
        kept[axis], left_out = survey(axis, base, backend, limits, baseline.peak, known)
        skipped += left_out
        reporter.note("; ".join([f"{axis.name}: {len(kept[axis])} points probed", *left_out]))

    points = list(dict.fromkeys(point for line in kept.values() for point in line))
    times = time_in_rounds(points, backend, rounds, reporter)
    rows = [
        measured(axis, point, times[point], known[point].peak - baseline.peak)
        for axis, line in kept.items()
        for point in line
    ]
    names = ", ".join(ELMNetwork(base.network, seed=0, backend=backend).backends())
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "growth.csv", as_csv(rows))
    write_atomic(out / "growth.md", as_markdown(rows, base, names, rounds, skipped))
    if util.find_spec("matplotlib") is None:
        reporter.note("no figure: matplotlib is not installed")
    else:
        draw(rows, out)
    reporter.note(str(out / "growth.md"))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ElmnetError as error:
        sys.exit(f"error: {error}")
