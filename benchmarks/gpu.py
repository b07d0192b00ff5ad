"""Everything the cuda backend has to show on a GPU, in calls of less than ten minutes each; never run so far.

    python benchmarks/gpu.py --json gpu.json                       # verify, time, table: about five minutes
    python benchmarks/gpu.py --train 300 --json gpu-train.json     # a real training, beside the CPU backend's
    python benchmarks/gpu.py --tune --case enwik8-paper --json tuned.json

The first recomputes golden files (float32, TF32 off), times full training steps, also captured, beside JAX A and B on
the same GPU, nn.LSTM and the reference, profiles ours, and varies N, d_m, batch and T. The second trains one network
for so many seconds on the GPU, and its first steps on the CPU with two seeds, and writes all losses. The third also
tries the planner's alternatives, most of its time in Triton's compiler. Input of timings is synthetic. Nothing is timed
after a failed check.
"""

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the GPU's memory from torch

from elmnet import budget
from elmnet.bench.cases import CASES, Case
from elmnet.bench.contenders import Jax, Lstm, learner, trainer, truth
from elmnet.bench.cuda_tune import tune_network
from elmnet.errors import BackendError, ElmnetError, in_a_line
from elmnet.files import write_atomic
from elmnet.ops.cuda.operator import limits
from elmnet.ops.cuda.plan import Sizes, plan
from elmnet.train.capture import Captured, Given, Pulled
from elmnet.verify import self_check, verify_file

GPU = torch.device("cuda")
VARIED = {"units": (64, 256, 1024, 4096), "memory": (5, 10, 20), "batch": (1, 8, 32, 128), "steps": (50, 200, 800)}
TOLERANCE = 1e-4
CPU_STEPS = 300
"""Steps of the training that the CPU repeats: it is slow, and a call is short."""


def main() -> int:
    """Run what was asked; the exit code is 1 where something failed or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--golden", type=Path, default=Path("../shared/golden"), help="folder of .npz files; carry it along"
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable; default: all")
    parser.add_argument("--train", type=float, default=0.0, metavar="SECONDS", help="only train, so long")
    parser.add_argument("--tune", action="store_true", help="first time the planner's alternatives, keep the fastest")
    parser.add_argument("--data", default=None, help="of the training; default: the task's embedded text")
    place = Path(os.environ.get("OUT", ".")) / "gpu.json"
    parser.add_argument("--json", type=Path, default=place, help="where everything is written; default: in $OUT")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU that torch can use here; benchmarks/gpu_compile.py needs none", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {"gpu": vars(limits(torch.device("cuda", 0))), **versions()}

    def keep(name: str, value: object) -> None:
        found[name] = value
        print(f"{name}: {value}", flush=True)
        write_atomic(chosen.json, json.dumps(found, indent=2) + "\n")

    if chosen.train:
        for name, value in train(chosen.train, chosen.data):
            keep(name, value)
        return 0
    failed = 0
    for name, worst in verified(chosen.golden):
        keep(f"verify {name}", worst)
        failed += "FAILED" in worst or (name == "self-check" and not worst.startswith("ok"))
    if failed:
        print(f"{failed} checks failed; nothing is timed", file=sys.stderr)
        return 1
    keep("sgemm_flops", attainable())
    for case in (CASES[name] for name in chosen.case or CASES):
        for name, value in timed(case, tuned=chosen.tune):
            keep(f"{case.name} {name}", value)
    if not chosen.tune:
        for name, value in table():
            keep(name, value)
    return 0


def versions() -> dict[str, str | None]:
    """What compiles and runs here."""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda}
    for name in ("triton", "jax", "jaxlib"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def verified(golden: Path) -> Iterator[tuple[str, str]]:
    """The worst error of the self-check and of every golden file, in float32."""
    files = sorted(golden.glob("*.npz"))
    if not files:
        yield "golden files", f"none in {golden}: only the self-check verifies"
    for path in (None, *files):
        try:
            options = {"backend": "cuda", "dtype": torch.float32}
            checks = self_check(**options) if path is None else verify_file(path, **options)
        except BackendError as error:
            yield ("self-check" if path is None else path.name), f"refused: {error}"
            continue
        except Exception as error:  # the other files go on, and what was found is kept
            traceback.print_exc()
            yield ("self-check" if path is None else path.name), f"FAILED: {in_a_line(error)}"
            continue
        worst = max(checks, key=lambda check: check.error / (check.tolerance or 1e-300))
        word = "ok" if all(check.passed for check in checks) else "FAILED"
        yield ("self-check" if path is None else path.name), f"{word}: {worst.error:.1e} ({worst.name})"


def attainable() -> float:
    """FLOP/s of a large float32 product, TF32 off."""
    a = torch.randn(4096, 4096, device=GPU)
    return 2 * 4096**3 / min(seconds_of(lambda: a @ a, rounds=10))


def seconds_of(function: Callable[[], Any], *, rounds: int = 20, limit: float = 10.0) -> list[float]:
    """Seconds of single calls, the GPU idle before and after; three calls first, for compilers and allocators."""
    for _ in range(3):
        function()
    times: list[float] = []
    while len(times) < rounds and (sum(times) < limit or len(times) < 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def step_of(case: Case, backend: str) -> Callable[[], float]:
    """One full training step on the GPU: forward, backward, clipping, Adam."""
    network = case.build(backend).to(GPU)
    x, y = (tensor.to(GPU) for tensor in case.data)
    return trainer(network, lambda: case.loss(network(x)[0], y))


def captured_step(case: Case) -> Callable[[], float]:
    """The same with forward and backward pass in a CUDA graph, by the piece that `elmnet train --cuda-graph` uses."""
    network = case.build("cuda").to(GPU)
    x, y = (tensor.to(GPU) for tensor in case.data)
    given = Given(x, y, network.initial_state(len(x)), None, network.draw_masks(len(x)), 1.0)

    def pull(given: list[Given]) -> list[Pulled]:
        out, state = network(given[0].x, given[0].state, masks=given[0].masks)
        loss = case.loss(out, given[0].y)
        loss.backward()
        return [Pulled(state, loss, loss)]

    captured = Captured(pull, list(network.parameters()))
    step = learner(network, lambda: captured([given])[0].loss)
    first, plain = step(), step_of(case, "cuda")()
    if not abs(first - plain) <= TOLERANCE * abs(plain):
        raise ElmnetError(f"the captured step's loss is {first}, the plain one's {plain}")
    return step


def lstm_step(case: Case) -> Callable[[], float]:
    """nn.LSTM of equal parameters on the GPU."""
    model = Lstm()._model(case).to(GPU)
    x, y = (tensor.to(GPU) for tensor in case.data)

    def loss() -> torch.Tensor:
        dense = x if case.network.token_scale is None else F.one_hot(x, case.network.inputs).float()
        return case.loss(model["linear"](model["lstm"](dense)[0]), y)

    return trainer(model, loss)


def kernels_of(step: Callable[[], Any], *, rounds: int = 5, most: int = 12) -> list[str]:
    """Where a step's time goes on the GPU: its longest kernels, microseconds and launches a step."""
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(rounds):
            step()
        torch.cuda.synchronize()
    found = sorted(profile.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    return [
        f"{kernel.self_device_time_total / rounds:,.0f} µs, {kernel.count / rounds:g} ×, {kernel.key[:60]}"
        for kernel in found[:most]
    ]


def error_of(case: Case) -> float:
    """Worst relative error of loss and gradients on the GPU, on the case's batch and first steps, against float64."""
    small = case.shortened(batch=case.batch, steps=12)
    network = small.build("cuda").to(GPU)
    x, y = (tensor.to(GPU) for tensor in small.data)
    loss = small.loss(network(x)[0], y)
    loss.backward()
    true_loss, true_gradients = truth(small)
    errors = [abs(loss.item() - true_loss) / abs(true_loss)]
    for name, want in true_gradients.items():
        got = network.get_parameter(name).grad
        assert got is not None
        errors.append(float((got.cpu().double() - want).norm() / want.norm().clamp(min=1e-30)))
    return max(error if error == error else float("inf") for error in errors)


def timed(case: Case, *, tuned: bool) -> Iterator[tuple[str, Any]]:
    """Every contender on a case, or in words why not."""
    try:
        error = error_of(case)
    except Exception as broken:  # of Triton, of its compiler, of the driver: the other cases go on
        yield "error", f"not known: {in_a_line(broken)}"
        return
    yield "error", error
    if not error <= TOLERANCE:
        yield "cuda", f"not timed: its error is {error:.1e}"
        return
    if tuned:
        yield "cuda, as planned", described(case, seconds_of(step_of(case, "cuda")))
        try:
            for layer, trials in enumerate(tune_network(case.build("cuda").to(GPU), case.batch, case.steps)):
                yield f"plans of layer {layer}", [str(trial) for trial in trials]
        except Exception as broken:
            yield "plans", f"not tried: {in_a_line(broken)}"
    jax = {f"JAX {kind}": Jax(kind) for kind in ("A", "B")}
    makers: dict[str, Callable[[], Callable[[], float]]] = {
        "cuda": lambda: step_of(case, "cuda"),
        "cuda, captured": lambda: captured_step(case),
        "nn.LSTM": lambda: lstm_step(case),
        "reference": lambda: step_of(case, "reference"),
        **{name: (lambda entrant=entrant: entrant.training(case)) for name, entrant in jax.items()},
    }
    for name, make in makers.items():
        try:
            reason = jax[name].refuses(case) if name in jax else None
            if name in jax and reason is None:
                import jax as library

                library.config.update("jax_default_matmul_precision", "highest")  # no TF32 here, either
                reason = None if library.default_backend() == "gpu" else "this JAX sees no GPU"
            if name in jax and reason is None:
                error = jax[name].verify(case.shortened(batch=case.batch, steps=12))
                yield f"{name} error", error
                reason = None if error <= TOLERANCE else f"its error is {error:.1e}"
            if reason is not None:
                yield name, f"not timed: {reason}"
                continue
            yield name, described(case, seconds_of(make()))
        except Exception as broken:
            yield name, f"not timed: {in_a_line(broken)}"
    try:
        yield "cuda, its kernels", kernels_of(step_of(case, "cuda"))
    except Exception as broken:  # a profiler may be refused
        yield "cuda, its kernels", f"not known: {in_a_line(broken)}"


def described(case: Case, seconds: list[float]) -> dict[str, Any]:
    """A step's median, per time step, and arithmetic per second by elmnet's count (three times the forward pass)."""
    median = statistics.median(seconds)
    flops = 3.0 * budget.cost(case.network).flops * case.batch * case.steps
    return {
        "milliseconds": 1e3 * median,
        "fastest": 1e3 * min(seconds),
        "slowest": 1e3 * max(seconds),
        "microseconds_a_time_step": 1e6 * median / case.steps,
        "flops": flops / median,
    }


def table() -> Iterator[tuple[str, Any]]:
    """One number varied at a time, around enwik8-small."""
    start = CASES["enwik8-small"]
    gpu = limits(torch.device("cuda", 0))
    for what, values in VARIED.items():
        for value in values:
            if what in ("units", "memory"):
                changes = {what: value} if what == "units" else {"memory": value, "hidden": 2 * value}
                case = replace(start, network=start.network.with_hidden(**changes))
            else:
                case = replace(start, **{what: value})
            c = case.network.layers[0].neuron
            sizes = Sizes(case.batch, case.network.layers[0].units, c.branches, c.memory, c.mlp_widths[1], 1, True)
            try:
                yield f"{what} {value}", {"plan": plan(sizes, gpu).in_words(), **described(case, seconds_of(
                    step_of(case, "cuda"), rounds=10, limit=5.0))}  # fmt: skip
            except Exception as broken:
                yield f"{what} {value}", f"not timed: {in_a_line(broken)}"


def train(seconds: float, data: str | None) -> Iterator[tuple[str, Any]]:
    """Losses of one training on the GPU, and of its first steps on the CPU with this seed and another one: what the
    seeds differ by is what devices may differ by."""
    from elmnet.tasks import open_task
    from elmnet.train.config import compose
    from elmnet.train.learner import Learner

    config = compose("enwik8", preset="small", data=data)
    task = open_task(config.task, config.options, config.data, seed=0)
    config = config.replace(model=task.fit_model(config.model), threads=torch.get_num_threads())

    def losses(device: str, seed: int, enough: Callable[[int, float], bool]) -> list[float]:
        learner, start = Learner(config.replace(device=device, seed=seed), task), time.perf_counter()
        seen: list[float] = []
        while not enough(len(seen), time.perf_counter() - start):
            given = learner.take()
            seen.append(learner.learn(given, learner.pull(given)).error)
        return seen

    gpu = losses("cuda", 0, lambda steps, spent: spent > seconds or steps >= config.training.steps)
    yield "steps", len(gpu)
    yield "loss on the GPU", gpu
    share = min(len(gpu), CPU_STEPS)
    for seed in (0, 1):
        yield f"loss on the CPU, seed {seed}", losses("cpu", seed, lambda steps, _: steps >= share)


if __name__ == "__main__":
    sys.exit(main())
