"""The command line: one thin function per command. Heavy imports wait until a command needs them."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from elmnet import tables
from elmnet.bench.command import bench
from elmnet.errors import BackendError, ConfigError, ElmnetError

app = typer.Typer(
    name="elmnet",
    help="Recurrent networks of expressive neurons (arXiv:2605.12049): train, evaluate, count, verify.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Data sources: what there is, getting it, what a source holds.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.command()(bench)

out = Console(width=None if sys.stdout.isatty() else 160)

Task_ = Annotated[str, typer.Argument(help="enwik8, shd-adding or shd", metavar="TASK")]
Run_ = Annotated[Path, typer.Argument(help="a run directory", metavar="RUN")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors a user can cause are printed without a traceback.

    Exit codes: 0 success; 1 failure; 2 wrong usage or configuration; 128 + n stopped by signal n.
    """
    try:
        app(args=None if arguments is None else list(arguments))
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ElmnetError, OSError) as error:  # OSError: a full disk, a folder that cannot be read or written
        err = Console(stderr=True)
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if version:
        from elmnet import __version__

        out.print(f"elmnet {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def train(
    task: Annotated[str | None, typer.Argument(help="enwik8, shd-adding or shd", metavar="TASK")] = None,
    data: Annotated[str | None, typer.Option(help="data source (see `elmnet data list`)", metavar="SOURCE")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny (default; minutes), small (half an hour), paper")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any setting, e.g. training.steps=500", metavar="PATH=VALUE")
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="start from a YAML file, e.g. a run's")] = None,
    budget: Annotated[int | None, typer.Option(help="P: the largest number of units that fits is used")] = None,
    memory: Annotated[int | None, typer.Option(help="d_m, memory units per neuron")] = None,
    steps: Annotated[int | None, typer.Option(help="training steps")] = None,
    seed: Annotated[int | None, typer.Option(help="of weights, wiring, batches, dropout; default 0")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default 1, best for small networks")] = None,
    path: Annotated[Path | None, typer.Option("--out", help="run directory; default: runs/TASK-PRESET-TIME")] = None,
    resume: Annotated[Path | None, typer.Option(help="continue this run exactly", metavar="DIR")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write TensorBoard events, too")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print only the result")] = False,
) -> None:
    """Train a network, or continue an interrupted run.

    Ctrl-C and SIGTERM save first. kill -9 loses at most the work since the last checkpoint; --resume then gives the
    same weights and metrics, byte for byte, as if nothing had happened.
    """
    from elmnet.train import loop
    from elmnet.train.config import amend
    from elmnet.train.progress import Reporter

    reporter = Reporter(quiet=quiet)
    fixed = {
        "TASK": task,
        "--preset": preset,
        "--config": config_file,
        "--set": settings,
        "--budget": budget,
        "--memory": memory,
        "--steps": steps,
        "--seed": seed,
        "--threads": threads,
        "--out": path,
    }
    given = ", ".join(name for name, value in fixed.items() if value is not None)
    if resume is not None and given:
        raise ConfigError(f"--resume continues a run exactly as it was begun; leave out {given}")
    try:
        if resume is not None:
            directory = resume
            result = loop.resume(resume, data=data, reporter=reporter, tensorboard=tensorboard)
        else:
            start = _start(task, preset, config_file)
            changes = {name: value for name, value in (("seed", seed), ("threads", threads)) if value is not None}
            chosen = [*(settings or []), *([] if steps is None else [f"training.steps={steps}"])]
            config = amend(start, data=data, settings=chosen, **changes)
            reporter.note(f"reading {config.data}")
            config, opened = _fit(config, budget, memory)
            directory = path or Path("runs") / f"{config.task}-{config.preset}-{datetime.now():%Y%m%d-%H%M%S}"
            reporter.note(f"run directory: {directory}")
            result = loop.start(config, directory, opened, reporter=reporter, tensorboard=tensorboard)
    except loop.Interrupted as stop:
        reporter.note(f"{stop}\ncontinue with: elmnet train --resume {directory}")
        sys.exit(128 + stop.number)
    out.print(tables.scores(result))
    out.print(tables.cost(result), highlight=False, soft_wrap=True)
    reporter.note(f"the trained network: {directory / 'best'}")


def _start(task: str | None, preset: str | None, file: Path | None) -> Any:
    """What a new run begins from: a task's preset, or a file."""
    from elmnet.train.config import compose, load_config

    if file is not None:
        if task is not None or preset is not None:
            raise ConfigError("--config names the task and all its settings; leave out TASK and --preset")
        return load_config(file)
    if task is None:
        raise ConfigError("name a TASK to train (enwik8, shd-adding, shd), or --config FILE, or --resume DIR")
    return compose(task, preset=preset or "tiny")


def _fit(config: Any, budget: int | None, memory: int | None) -> Any:
    """Open the task's data, and give the model its inputs, outputs, complexity and budget."""
    from elmnet.budget import spend
    from elmnet.tasks import open_task

    opened = open_task(config.task, config.options, config.data, seed=config.seed)
    model = opened.fit_model(config.model)
    if memory is not None:
        model = model.with_hidden(memory=memory)
    if budget is not None:
        model = spend(model, budget)
    return config.replace(model=model), opened


@app.command("eval")
def evaluate_(
    run: Run_,
    split: Annotated[str, typer.Option(help="train, valid, test, or all (a whole text)")] = "test",
    data: Annotated[str | None, typer.Option(help="another data source", metavar="SOURCE")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score a run's best network on a split, of its own data or another source."""
    from elmnet.tasks import in_words
    from elmnet.train.evaluate import evaluate
    from elmnet.train.progress import Reporter

    network, task = _open_run(run, data)
    if split not in task.splits:
        raise ConfigError(f"--split must be one of {', '.join(task.splits)}, got {split!r}")
    reporter = Reporter()
    with reporter.phase(f"scoring {split}", task.count_batches(split, whole=True)) as advance:
        scores = evaluate(network, task, cast(Any, split), whole=True, advance=advance)
    if json:
        out.print_json(data={"run": str(run), "data": task.data_name, "split": split, **scores})
    else:
        out.print(f"{split} of {task.data_name}: {in_words(scores)}", highlight=False, soft_wrap=True)


def _open_run(path: Path, data: str | None = None) -> Any:
    """Best network and task of a run."""
    import torch

    from elmnet.tasks import open_task
    from elmnet.train.run import RunDirectory

    run = RunDirectory.open(path)
    config, facts = run.read_config()
    torch.set_num_threads(config.threads)
    network = run.best_network(config.backend)
    return network, open_task(config.task, config.options, data or config.data, seed=config.seed, facts=facts)


@app.command()
def generate(
    run: Run_,
    prompt: Annotated[str, typer.Option(help="text to continue")],
    length: Annotated[int, typer.Option(help="characters to draw")] = 400,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest; 1: as learned")] = 0.8,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
) -> None:
    """Continue a prompt with a trained text network, character by character."""
    from elmnet.data.text import Vocabulary
    from elmnet.train.generate import generate as stream
    from elmnet.train.run import RunDirectory

    directory = RunDirectory.open(run)
    config, facts = directory.read_config()
    if "symbols" not in facts:
        raise ConfigError(f"{run} was trained on {config.task}, which is not text")
    pieces = stream(
        directory.best_network(config.backend),
        Vocabulary(facts["symbols"]),
        os.fsencode(prompt),
        convention=config.options.to_dict()["convention"],
        length=length,
        temperature=temperature,
        seed=seed,
    )
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    for piece in chain([prompt], pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command()
def params(
    task: Annotated[str, typer.Argument(help="enwik8, shd-adding or neuronio", metavar="TASK")],
    neurons: Annotated[str | None, typer.Option(help="N, one or several: 512,1024")] = None,
    memory: Annotated[str | None, typer.Option(help="d_m, one or several")] = None,
    branches: Annotated[str | None, typer.Option(help="d_tree, one or several")] = None,
    synapses: Annotated[str | None, typer.Option(help="d_s per branch, one or several")] = None,
    budget: Annotated[str | None, typer.Option(help="P, one or several: find what --vary names")] = None,
    vary: Annotated[str, typer.Option(help="units, memory or synapses: what a budget decides")] = "units",
    recipe: Annotated[bool, typer.Option("--recipe", help="spend each budget by the paper's recipe")] = False,
    batch: Annotated[int, typer.Option(help="sequences, for the memory estimate")] = 8,
    steps: Annotated[int, typer.Option(help="time steps, for the memory estimate")] = 100,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Exact parameter counts, FLOPs and training memory of networks, starting from the published one."""
    from elmnet.budget import cost, paper_recipe, spend, training_bytes
    from elmnet.config import NetworkConfig

    start = NetworkConfig.preset(task)
    knobs = {"units": neurons, "memory": memory, "branches": branches, "synapses": synapses}
    chosen = {name: _integers(text, name) for name, text in knobs.items() if text is not None}
    budgets: list[int | None] = list(_integers(budget, "budget")) if budget else [None]
    decided = ("units", "memory", "branches") if recipe else (vary,)
    if budget and any(name in chosen for name in decided):
        raise ConfigError(f"--budget decides {', '.join(decided)} here; leave it out, or choose another --vary")
    rows = []
    for limit, values in product(budgets, product(*chosen.values())):
        network = start.with_hidden(**dict(zip(chosen, values, strict=True)))
        if limit is not None:
            network = paper_recipe(network, limit) if recipe else spend(network, limit, cast(Any, vary))
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
                "train MiB": round(training_bytes(network, batch, steps) / 2**20),
            }
        )
    if json:
        out.print_json(data=rows)
    else:
        # a line may wrap on a narrow terminal, a number must not
        Console(width=max(out.width, 110)).print(tables.numbers(f"{task}, starting from the published network", rows))


def _integers(text: str, name: str) -> list[int]:
    try:
        numbers = [float(item) for item in text.replace("_", "").split(",")]
        if all(number.is_integer() for number in numbers):
            return [int(number) for number in numbers]
    except ValueError:
        pass
    raise ConfigError(f"--{name}: expected whole numbers separated by commas, got {text!r}")


@app.command()
def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="golden .npz files; none: built-in self-check")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="backend, repeatable; default: all installed")] = None,
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
        checks = {}
        try:
            for dtype in (torch.float64, torch.float32):
                if path is None:
                    checks[dtype] = self_check(backend=name, dtype=dtype)
                else:
                    checks[dtype] = verify_file(path, backend=name, dtype=dtype)
        except BackendError as error:
            if name not in BACKENDS:
                raise
            refused += 1
            out.print(f"refused {title}: {error}", style="yellow", highlight=False, markup=False, soft_wrap=True)
            continue
        verified += 1
        failed += sum(not check.passed for row in checks.values() for check in row)
        both = (title, checks[torch.float64], checks[torch.float32])
        out.print(tables.checks_in_a_line(*both) if summary else tables.checks(*both), highlight=False, soft_wrap=True)
    verdict = f"{failed} failed" if failed else "all passed" if verified else "nothing verified"
    bad = failed > 0 or verified == 0
    out.print(f"{verdict}, {refused} refused" if refused else verdict, style="red" if bad else "green")
    raise typer.Exit(1 if bad else 0)


@data_app.command("list")
def data_list() -> None:
    """Every data source, and whether it is here."""
    from elmnet.data.download import OFFICIAL, cache_directory

    cache = cache_directory()
    table = Table("task", "--data", "what", "here", title=f"cache: {cache}", title_justify="left")
    table.add_row("enwik8", "python-stdlib (default)", "Python's own library sources", "always")
    table.add_row(
        "shd, shd-adding", "synthetic (default)", "synthetic spoken-digit-like spikes", "generated on first use"
    )
    for task, dataset, what in (
        ("enwik8", "enwik8", "enwik8"),
        ("shd, shd-adding", "shd", "Spiking Heidelberg Digits"),
    ):
        here = all((cache / file.name).exists() for file in OFFICIAL[dataset])
        licence = OFFICIAL[dataset][0].licence
        table.add_row(task, "official", f"{what} ({licence})", "yes" if here else f"elmnet data get {dataset}")
    table.add_row("enwik8", "PATH", "a raw, xz, gz or zip text file", "")
    table.add_row("shd, shd-adding", "PATH", "a directory with *train*.h5 and *test*.h5 in SHD's layout", "")
    out.print(table)


@data_app.command("get")
def data_get(
    dataset: Annotated[str, typer.Argument(help="enwik8, shd or synthetic", metavar="DATASET")],
) -> None:
    """Download (or generate) a dataset into the cache."""
    from elmnet.data.download import OFFICIAL, fetch
    from elmnet.data.spikes import synthetic_directory

    if dataset == "synthetic":
        out.print(str(synthetic_directory()), highlight=False, soft_wrap=True)
    elif dataset in OFFICIAL:
        for path in fetch(dataset):
            out.print(str(path), highlight=False, soft_wrap=True)
    else:
        raise ConfigError(f"no dataset {dataset!r}; known: {', '.join((*OFFICIAL, 'synthetic'))}")


@data_app.command("info")
def data_info(
    task: Task_,
    source: Annotated[str | None, typer.Argument(help="data source; default: the task's own")] = None,
) -> None:
    """Read and check a source as a task would, and say what it holds."""
    from elmnet.tasks import find_task, in_words, open_task

    kind = find_task(task)
    opened = open_task(task, kind.Options(), source or kind.default_data)
    facts = opened.facts()
    symbols = facts.pop("symbols", None)
    if symbols is not None:
        facts["symbols"] = len(symbols)
    for name, value in facts.items():
        out.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    for name, scores in opened.baselines().items():
        out.print(f"{name}, test: {in_words(scores['test'])}", highlight=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Versions, backends, threads, disk, and a self-check of this installation."""
    import shutil

    import torch

    from elmnet.data.download import cache_directory
    from elmnet.ops import BACKENDS, usable
    from elmnet.train.run import environment
    from elmnet.verify import self_check

    def line(name: str, value: object) -> None:
        out.print(f"{name:>12}  {value}", highlight=False, markup=False, soft_wrap=True)

    for name, value in environment().items():
        line(name, value)
    line("cores", os.cpu_count())
    line("CPU features", torch.backends.cpu.get_cpu_capability())
    line("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    for place in (Path.cwd(), cache_directory()):
        line("disk", f"{shutil.disk_usage(place).free / 2**30:.1f} GiB free at {place}")
    healthy = True
    for backend in BACKENDS.values():
        if backend.name not in usable(torch.device("cpu")):
            line("backend", f"{backend.name} ({backend.about}): refuses, see `elmnet verify --backend {backend.name}`")
            continue
        worst = max(self_check(backend=backend.name), key=lambda check: check.error / check.tolerance)
        healthy &= worst.passed
        verdict = "ok" if worst.passed else "FAILED"
        line("backend", f"{backend.name} ({backend.about}): {verdict}, worst {worst.name} {worst.error:.1e}")
    raise typer.Exit(0 if healthy else 1)
