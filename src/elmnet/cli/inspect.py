"""Looking at things: params, verify, doctor."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from elmnet.cli.numbers import whole_numbers
from elmnet.cli.output import JsonOption, say, show, write_json
from elmnet.errors import BackendError, ConfigError
from elmnet.machine import cores
from elmnet.tables import Table

if TYPE_CHECKING:
    from elmnet.config import NetworkConfig
    from elmnet.verify import Check


def params(
    task: Annotated[str, typer.Argument(help="enwik8, shd-adding or neuronio", metavar="TASK")],
    neurons: Annotated[str | None, typer.Option(help="N, one or several: 512,1024")] = None,
    memory: Annotated[str | None, typer.Option(help="d_m, one or several")] = None,
    branches: Annotated[str | None, typer.Option(help="d_tree, one or several")] = None,
    synapses: Annotated[str | None, typer.Option(help="d_s per branch, one or several")] = None,
    budget: Annotated[str | None, typer.Option(help="P, one or several: find the --vary that spends it")] = None,
    vary: Annotated[str, typer.Option(help="what a budget decides: units, memory or synapses")] = "units",
    model: Annotated[str, typer.Option(help="elm, leaky, lstm, gru, rnn, transformer, mingru, s5-like")] = "elm",
    recipe: Annotated[bool, typer.Option("--recipe", help="spend each budget by the paper's recipe")] = False,
    batch: Annotated[int | None, typer.Option(help="sequences, for the memory estimate; default: 8")] = None,
    length: Annotated[int | None, typer.Option(help="time steps, for the memory estimate; default: 100")] = None,
    file: JsonOption = None,
) -> None:
    """Count parameters and FLOPs exactly, and estimate training memory, for variations of the published network."""
    if model not in ("elm", "leaky"):
        given: dict[str, Any] = {"--memory": memory, "--branches": branches, "--synapses": synapses}
        given |= {"--recipe": recipe or None, "--vary": None if vary == "units" else vary}
        given |= {"--batch": batch, "--length": length}
        _baselines(task, model, neurons, budget, [name for name, value in given.items() if value is not None], file)
        return
    from elmnet import models
    from elmnet.budget import cost, paper_recipe, spend, training_bytes
    from elmnet.config import NetworkConfig

    start = NetworkConfig.preset(task)
    if model == "leaky":
        start = _leaky(start)
    if not budget and (recipe or vary != "units"):
        raise ConfigError("--recipe and --vary say how a budget is spent; name one with --budget")
    batch, length = 8 if batch is None else batch, 100 if length is None else length
    if batch < 1 or length < 1:
        raise ConfigError(f"--batch and --length must be at least 1, got {batch} and {length}")
    knobs = {"units": neurons, "memory": memory, "branches": branches, "synapses": synapses}
    options = {"units": "neurons"} | {name: name for name in ("memory", "branches", "synapses")}
    chosen = {name: whole_numbers(f"--{options[name]}", text) for name, text in knobs.items() if text is not None}
    budgets: list[int | None] = list(whole_numbers("--budget", budget)) if budget else [None]
    decided = ("units", "memory", "branches") if recipe else (vary,)
    if budget and any(name in chosen for name in decided):
        words = ", ".join(f"--{options[name]}" for name in decided)
        raise ConfigError(f"--budget decides what {words} would; leave them out, or choose another --vary")
    shaped = [f"--{name}" for name in chosen if name != "units"]
    shaped += ["--recipe"] if recipe else [f"--vary {vary}"] if vary != "units" else []
    rows = []
    for limit, values in product(budgets, product(*chosen.values())):
        network = start.with_hidden(**dict(zip(chosen, values, strict=True)))
        if limit is not None:
            network = paper_recipe(network, limit) if recipe else spend(network, limit, cast(Any, vary))
        if model == "leaky":
            models.require_kind(model, network, shaped)
        price, first = cost(network), network.layers[0].neuron
        rows.append(
            {
                "N": price.units,
                "d_m": first.memory,
                "d_tree": first.branches,
                "d_s": first.synapses,
                "k_e": price.complexity,
                "k_c": price.connectivity,
                "hidden P'": price.hidden,
                "read-out": price.readout,
                "P": price.parameters,
                "FLOPs/step": price.flops,
                "train MiB": round(training_bytes(network, batch, length) / 2**20),
            }
        )
    _tell(f"{task}, starting from the published network", rows, file)


def _leaky(start: "NetworkConfig") -> "NetworkConfig":
    """The published network with the simplest units."""
    from elmnet.config import NetworkConfig
    from elmnet.models import choose

    leaky = choose("leaky", start)
    assert isinstance(leaky, NetworkConfig)
    return leaky


def _baselines(
    task: str, kind: str, widths: str | None, budget: str | None, given: list[str], file: Path | None
) -> None:
    """The same of other networks: their width is what a budget decides."""
    from elmnet import models
    from elmnet.baselines.config import BaselineConfig, spend
    from elmnet.config import NetworkConfig

    if given:
        raise ConfigError(f"{', '.join(given)} belong to ELM neurons; a {kind} has a width (--neurons)")
    if budget and widths:
        raise ConfigError("--budget decides units here; leave --neurons out")
    start = models.choose(kind, NetworkConfig.preset(task))
    assert isinstance(start, BaselineConfig)
    many = [start.replace(width=width) for width in whole_numbers("--neurons", widths)] if widths else [start]
    many = [spend(start, limit) for limit in whole_numbers("--budget", budget)] if budget else many
    rows = [
        {"width": one.width, "layers": one.depth, "read-out": one.readout, "P": one.parameters, "FLOPs/step": one.flops}
        for one in many
    ]
    _tell(f"{kind} for {task}", rows, file)


def _tell(title: str, rows: Sequence[Mapping[str, int]], file: Path | None) -> None:
    """Print numbers, and perhaps write them."""
    show(Table(title, list(rows[0]), [[f"{number:,}" for number in row.values()] for row in rows]))
    if file is not None:
        write_json(file, rows)


def verify(
    files: Annotated[
        list[Path] | None, typer.Argument(help="golden .npz files; without any: the built-in self-check")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="repeatable; default: those that run on the CPU")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="one line per file instead of every tensor")] = False,
) -> None:
    """Recompute golden vectors and print the relative error of every output, state, loss and gradient."""
    import torch

    from elmnet.ops import BACKENDS, usable
    from elmnet.verify import self_check, verify_file

    failed = refused = verified = 0
    everything: list[Path | None] = list(files or [None])  # type: ignore[list-item]
    for name, path in product(backend or usable(torch.device("cpu")), everything):
        title = f"{'self-check' if path is None else path.name}, backend {name}"
        checks: dict[str, list[Check]] = {}
        for dtype in (torch.float64, torch.float32):
            try:
                row = self_check if path is None else partial(verify_file, path)
                checks[str(dtype).removeprefix("torch.")] = row(backend=name, dtype=dtype)
            except BackendError as error:
                if name not in BACKENDS:
                    raise
                refusal = error
        if not checks:
            refused += 1
            say(f"refused {title}: {refusal}", style="yellow")
            continue
        verified += 1
        failed += sum(not check.passed for row in checks.values() for check in row)
        if summary:
            say(_in_a_line(title, checks))
        else:
            show(_side_by_side(title, checks), bad="FAILED")
    verdict = f"{failed} failed" if failed else "all passed" if verified else "nothing verified"
    bad = failed > 0 or verified == 0
    say(f"{verdict}, {refused} refused" if refused else verdict, "red" if bad else "green")
    raise typer.Exit(1 if bad else 0)


def _side_by_side(title: str, by_dtype: "Mapping[str, Sequence[Check]]") -> Table:
    """Every relative error of a verification, for each dtype."""
    columns = [column for dtype in by_dtype for column in (dtype, "tolerance")]
    rows = []
    for checks in zip(*by_dtype.values(), strict=True):
        errors = [(f"{one.error:.1e}{'' if one.passed else ' FAILED'}", f"{one.tolerance:.0e}") for one in checks]
        rows.append([checks[0].name, *chain.from_iterable(errors)])
    return Table(title, ["relative error of", *columns], rows)


def _in_a_line(title: str, by_dtype: "Mapping[str, Sequence[Check]]") -> str:
    """The worst error of each dtype, measured by its tolerance."""
    good = all(check.passed for row in by_dtype.values() for check in row)
    words = []
    for dtype, row in by_dtype.items():
        worst = max(row, key=lambda check: check.error / (check.tolerance or 1e-300))
        words.append(f"{dtype}: {worst.error:.1e} ({worst.name})")
    return f"{'ok    ' if good else 'FAILED'} {title}: {'  '.join(words)}"


def doctor(
    cuda_plan: Annotated[
        bool, typer.Option("--cuda-plan", help="show how the cuda backend would lay out the benchmark's networks")
    ] = False,
) -> None:
    """Show versions, backends, threads and disk space, and check this installation."""
    import shutil

    import torch

    from elmnet.files import cache_directory
    from elmnet.ops import BACKENDS, usable
    from elmnet.train.run import environment
    from elmnet.verify import device_of, self_check

    def line(name: str, value: object) -> None:
        say(f"{name:>12}  {value}")

    if cuda_plan:
        _cuda_plan(line)
        return
    for name, value in environment().items():
        line(name, value)
    line("cores", cores())
    line("CPU features", torch.backends.cpu.get_cpu_capability())
    line("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    for place in (Path.cwd(), cache_directory()):
        line("disk", f"{shutil.disk_usage(place).free / 2**30:.1f} GiB free at {place}")
    healthy = True
    for backend in BACKENDS.values():
        device = device_of(backend.name)
        if backend.name not in usable(device):
            line("backend", f"{backend.name} ({backend.about}): refuses, see `elmnet verify --backend {backend.name}`")
            continue
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        worst = max(self_check(backend=backend.name, dtype=dtype), key=lambda check: check.error / check.tolerance)
        healthy &= worst.passed
        verdict = "ok" if worst.passed else "FAILED"
        line("backend", f"{backend.name} ({backend.about}): {verdict}, worst {worst.name} {worst.error:.1e}")
    raise typer.Exit(0 if healthy else 1)


def _cuda_plan(line: Callable[[str, object], None]) -> None:
    """The regimes of the benchmark's cases on this GPU, or on those whose limits are known."""
    import torch

    from elmnet.bench.cases import CASES
    from elmnet.ops.cuda.operator import limits
    from elmnet.ops.cuda.plan import GPUS, Sizes, plan

    known = [limits(torch.device("cuda", 0))] if torch.cuda.is_available() else list(GPUS.values())
    for gpu, case in product(known, CASES.values()):
        for place, layer in zip(("hidden", "read-out"), case.network.stack, strict=True):
            c, rho = layer.neuron, layer.recurrent_connect
            widths = c.mlp_widths
            hidden = widths[1] if c.hidden_layers else 0
            sizes = Sizes(case.batch, layer.units, c.branches, c.memory, hidden, c.outputs, rho != 0)
            line(gpu.name, f"{case.name}, {place}: {plan(sizes, gpu).in_words()}")
