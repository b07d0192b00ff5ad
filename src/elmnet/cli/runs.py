"""Training runs: train, eval, predict, generate."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elmnet.cli.numbers import whole_numbers
from elmnet.cli.output import JsonOption, say, show, write_json
from elmnet.errors import CheckpointError, ConfigError, RunError
from elmnet.scores import by_class, by_value, final_scores

if TYPE_CHECKING:
    from elmnet.tasks import Task
    from elmnet.train.config import RunConfig
    from elmnet.train.progress import Reporter

Run_ = Annotated[Path, typer.Argument(help="a run directory", metavar="RUN")]


def train(
    task: Annotated[
        str | None, typer.Argument(help="enwik8, shd-adding, shd, neuronio or sequence", metavar="TASK")
    ] = None,
    data: Annotated[str | None, typer.Option(help="data source (see `elmnet data list`)", metavar="SOURCE")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny (default, a minute), small (5 to 15 minutes), paper")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any setting, e.g. training.steps=500", metavar="PATH=VALUE")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="elm (default), leaky, lstm, gru, rnn, transformer, mingru, s5-like", metavar="KIND"),
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="start from a YAML file, e.g. a run's")] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="begin with the settings and weights of this run, as far as they fit", metavar="RUN"),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="P: use as many units as fit into it, whatever the model")] = None,
    memory: Annotated[int | None, typer.Option(help="d_m, memory units per neuron")] = None,
    steps: Annotated[int | None, typer.Option(help="training steps")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of weights, wiring, batches and dropout; default 0")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default 1, safe beside other work")] = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="train K seeds together, each in a directory OUT/seed-S", metavar="K"),
    ] = None,
    path: Annotated[Path | None, typer.Option("--out", help="run directory; default: runs/TASK-PRESET-TIME")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="continue this run, or these replicas, exactly", metavar="DIR")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="also write TensorBoard events")] = False,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph", help="on a GPU: capture forward and backward pass, replay them with one launch"),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print only the result")] = False,
) -> None:
    """Train a network, or continue an interrupted run.

    Ctrl-C, SIGTERM and a closed terminal save first. kill -9 loses at most the work since the last checkpoint;
    --resume then gives the same weights and metrics, byte for byte, as if nothing had happened. Several processes
    share every batch of one run under `torchrun --nproc-per-node K -m elmnet train ...`.
    """
    from elmnet.train import loop, parallel
    from elmnet.train.config import amend
    from elmnet.train.progress import Reporter
    from elmnet.train.run import create_replicas, replicas_in

    fixed = {
        "TASK": task,
        "--preset": preset,
        "--model": model,
        "--config": config_file,
        "--init": init,
        "--set": settings,
        "--budget": budget,
        "--memory": memory,
        "--steps": steps,
        "--seed": seed,
        "--threads": threads,
        "--replicas": replicas,
        "--out": path,
    }
    if replicas is not None and replicas < 1:
        raise ConfigError(f"--replicas must be at least 1, got {replicas}")
    given = ", ".join(name for name, value in fixed.items() if value is not None)
    if resume is not None and given:
        words = f"--resume continues a run exactly as it was begun; leave out {given}"
        raise ConfigError(f"{words}, or begin a new one from its weights: --init {resume}")
    begun = {} if resume is None else replicas_in(resume)
    several = replicas is not None or bool(begun)
    if several and tensorboard:
        raise ConfigError("--tensorboard is for one run; leave it out with --replicas")
    with parallel.group() as team:
        if several and team.size > 1:
            raise ConfigError("torchrun shares one run among processes; replicas share one process: use one of them")
        reporter = Reporter(quiet=quiet or not team.first)
        more: Any = {"reporter": reporter, "tensorboard": tensorboard, "cuda_graph": cuda_graph, "team": team}
        if resume is not None:
            directory, alone = resume, partial(loop.resume, resume, data=data, **more)
        else:
            start = _start(task, preset, config_file, init, model)
            changes = {name: value for name, value in (("seed", seed), ("threads", threads)) if value is not None}
            chosen = [*(settings or []), *([] if steps is None else [f"training.steps={steps}"])]
            config = amend(start, data=data, settings=chosen, **changes)
            config.require_device()
            reporter.note(f"reading {config.data}")
            config, opened = _opened(config, budget, memory)
            directory = path or Path("runs") / f"{config.task}-{config.preset}-{datetime.now():%Y%m%d-%H%M%S}"
            for words in opened.notes():
                reporter.note(words)
            reporter.note(f"run directory: {directory}")
            begun = {} if replicas is None else create_replicas(directory, config, replicas)
            alone = partial(loop.start, config, directory, opened, **more)
        with _saying_how_to_go_on(directory, reporter):
            ends: Mapping[Path, Any] = (
                loop.together(begun, data=data, reporter=reporter, cuda_graph=cuda_graph)
                if several
                else {directory: alone()}
            )
    if several:
        _tell_together(ends, reporter)
    elif team.first:
        _tell(directory, ends[directory], reporter)


@contextmanager
def _saying_how_to_go_on(directory: Path, reporter: "Reporter") -> Iterator[None]:
    """Around training: what to do where it is stopped, or a disk is full."""
    from elmnet.train.signals import Interrupted

    try:
        yield
    except Interrupted as stop:
        reporter.note(f"{stop}\ncontinue with: elmnet train --resume {directory}")
        sys.exit(128 + stop.number)
    except (OSError, CheckpointError) as error:  # a full disk, most likely
        disk = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        if not disk or not [*directory.glob("config.yaml"), *directory.glob("seed-*/config.yaml")]:
            raise
        words = "everything saved before is intact; when this is fixed, continue with: elmnet train --resume"
        raise RunError(f"{error}; {words} {directory}") from error


def _tell(directory: Path, result: Mapping[str, Any], reporter: "Reporter") -> None:
    """How a run ended."""
    show(final_scores({"": result}))
    say(_cost(result))
    reporter.note(f"the trained network: {directory}/best")


def _cost(result: Mapping[str, Any]) -> str:
    """What a run took, in a line."""
    peak = result["peak_memory_bytes"]
    memory = "" if peak is None else f", peak memory {peak / 2**20:.0f} MiB"
    return (
        f"{result['steps']} steps in {result['wall_seconds']:.0f} s with all evaluations, "
        f"best at {result['best_step']}; {result['steps_per_second']:.2f} training steps/s{memory}"
    )


def _tell_together(ends: Mapping[Path, Any], reporter: "Reporter") -> None:
    """How replicas ended.

    Raises:
        typer.Exit: one diverged.
    """
    finished = {path: result for path, result in ends.items() if isinstance(result, dict)}
    if finished:
        show(final_scores({path.name: result for path, result in finished.items()}))
        reporter.note(f"the trained networks: {next(iter(finished)).parent}/seed-*/best")
    for path in ends.keys() - finished.keys():
        reporter.warn(f"{path}: {ends[path]}")
    if len(finished) < len(ends):
        raise typer.Exit(1)


def _start(
    task: str | None, preset: str | None, file: Path | None, init: Path | None, model: str | None
) -> "RunConfig":
    """What a new run begins from: a task's preset or a file, with another model, or another run."""
    from elmnet.train.config import compose, load_config
    from elmnet.train.warm import continued

    if init is not None:
        others = {"TASK": task, "--preset": preset, "--config": file, "--model": model}
        if given := [name for name, value in others.items() if value is not None]:
            raise ConfigError(f"--init begins with a run's settings and weights; leave out {', '.join(given)}")
        return continued(init)
    if file is not None:
        if task is not None or preset is not None:
            raise ConfigError("--config names the task and all its settings; leave out TASK and --preset")
        start = load_config(file)
    elif task is not None:
        start = compose(task, preset=preset or "tiny")
    else:
        from elmnet.tasks import TASKS

        tasks = ", ".join(TASKS)
        raise ConfigError(f"name a TASK to train ({tasks}), or --config FILE, --init RUN, or --resume DIR")
    return start if model is None else start.with_model(model)


def _opened(config: "RunConfig", budget: str | None, memory: int | None) -> "tuple[RunConfig, Task]":
    """Open the task's data, and give the model its inputs, outputs, complexity and budget."""
    from elmnet import models
    from elmnet.config import NetworkConfig

    opened = config.open_task()
    model = opened.fit_model(config.model)
    if memory is not None:
        if not isinstance(model, NetworkConfig):
            raise ConfigError(f"--memory is d_m of ELM neurons; a {model.kind} has none")
        kind, model = models.kind_of(model), model.with_hidden(memory=memory)
        if kind == "leaky":
            models.require_kind(kind, model, ["--memory"])
    if budget is not None:
        limits = whole_numbers("--budget", budget)
        if len(limits) > 1:
            raise ConfigError(f"--budget of a run is one number, got {budget!r}")
        model = models.spend(model, limits[0])
    return config.replace(model=model), opened


def evaluate_(
    run: Run_,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, valid, test, or all (the whole text, every sequence); default: test, or all of other data with"
            " no split of their own"
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="another data source", metavar="SOURCE")] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", "--per-value", help="also a table by class, or by value")
    ] = False,
    file: JsonOption = None,
) -> None:
    """Score a run's best network on a split, of its own data or another source."""
    from elmnet.tasks import in_words
    from elmnet.train.progress import Reporter
    from elmnet.train.trained import Run, no_confusion

    known = Run(run)
    task, part = known.part(split, data)
    by_name = per_class and bool(task.value_names)
    confusion = no_confusion(task) if per_class and not by_name else None
    tallies: list[Any] | None = [] if by_name else None
    with Reporter().phase(f"scoring {part}", task.count_batches(part, whole=True)) as advance:
        scores = known.score(task, part, advance=advance, confusion=confusion, tallies=tallies)
    values = task.by_value(sum(tallies)) if tallies else {}
    if file is not None:
        more: dict[str, Any] = {"values": values} if values else {}
        if confusion is not None:
            more = {"labels": task.labels, "confusion": confusion.tolist()}
        write_json(file, {"run": str(run), "data": task.data_name, "split": part, **scores, **more})
    say(f"{part} of {task.data_name}: {in_words(scores)}")
    if confusion is not None:
        show(by_class(task.labels, confusion, f"{part} of {task.data_name}, by class"))
    if values:
        show(by_value(values, f"{part} of {task.data_name}, by value"))


def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(help="run directories, or a directory of replicas; several are averaged", metavar="RUN"),
    ],
    data: Annotated[str, typer.Option(help="file or folder of sequences, as for `train`; targets are not needed")],
    path: Annotated[
        Path, typer.Option("--out", help="a .csv, .npz or .parquet file, replaced if it exists", metavar="FILE")
    ],
) -> None:
    """Predict every sequence of a file with networks trained on `sequence`: classes with probabilities, or values."""
    from elmnet.train.predict import require_ending, write
    from elmnet.train.run import replicas_in
    from elmnet.train.trained import Run, ensemble

    require_ending(path)
    if path.exists() and Path(data).exists() and path.samefile(data):
        raise ConfigError(f"--out {path} is the data itself; name another file")
    known = [Run(one) for run in runs for one in replicas_in(run) or [run]]
    told = ensemble(known, data)
    write(told, path)
    words = f", mean of {len(known)} networks" if len(known) > 1 else ""
    say(f"{len(told.ids)} sequences of {Path(data).name}{words}: {path}")


def generate(
    run: Run_,
    prompt: Annotated[str, typer.Option(help="text to continue")],
    length: Annotated[int, typer.Option(help="characters to draw")] = 400,
    temperature: Annotated[
        float, typer.Option(help="0: always the likeliest character; 1: probabilities as learned")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="seed of the draws")] = 0,
) -> None:
    """Continue a prompt with a trained text network, character by character."""
    from elmnet.train.trained import Run

    pieces = Run(run).generate(prompt, length=length, temperature=temperature, seed=seed)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    for piece in chain([prompt], pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
