"""Sweeps: plan, run, status, collect, query."""

import tempfile
from collections import Counter
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from elmnet.cli.output import out
from elmnet.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from elmnet.sweep.recipe import Trial
    from elmnet.sweep.store import Seen, State

Recipe_ = Annotated[Path, typer.Argument(help="a recipe file, or the name of a shipped one", metavar="RECIPE")]
Sweep_ = Annotated[Path, typer.Argument(help="a sweep's directory", metavar="DIR")]
Data_ = Annotated[str | None, typer.Option(help="data source, instead of the recipe's", metavar="SOURCE")]


def run(
    recipe: Recipe_,
    directory: Annotated[Path | None, typer.Option("--out", help="the sweep's directory; default: sweeps/NAME")] = None,
    data: Data_ = None,
    workers: Annotated[int, typer.Option(help="processes, each training one trial; 0: cores / threads")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of each trial")] = 1,
    replicas: Annotated[
        int, typer.Option(help="trials of equal shape, such as seeds, that a worker trains together")
    ] = 1,
    scheduler: Annotated[str | None, typer.Option(help="a Dask scheduler, e.g. tcp://10.0.0.1:8786")] = None,
    cluster: Annotated[str | None, typer.Option(help="slurm, pbs, lsf, sge or htcondor")] = None,
    cluster_config: Annotated[Path | None, typer.Option(help="YAML: settings of a job", metavar="FILE")] = None,
    resources: Annotated[
        list[str] | None, typer.Option("--resource", help="of a worker's, for a trial: GPU=0.5")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry-failed", help="try again what failed")] = False,
    halving: Annotated[
        bool, typer.Option("--early-stopping", help="successive halving; biases fits, so what it stops enters none")
    ] = False,
) -> None:
    """Run a recipe's trials, or go on with them; the same trial is never trained twice.

    Ctrl-C saves first. Workers and this driver may be killed at any moment: run the same command again.
    """
    from elmnet.sweep import execute
    from elmnet.sweep.recipe import Recipe
    from elmnet.sweep.store import Sweep
    from elmnet.train.progress import SteadyConsole

    if scheduler and cluster:
        raise ConfigError("--scheduler or --cluster, not both")
    if cluster_config and not cluster:
        raise ConfigError("--cluster-config is for the jobs of a --cluster; name one")
    if workers and scheduler:
        raise ConfigError("--workers starts workers; those of a --scheduler are there already: leave it out")
    if resources and not scheduler:
        raise ConfigError("--resource is for the workers of a --scheduler, which must offer it")
    if threads < 1 or workers < 0:
        raise ConfigError(f"--threads must be at least 1 and --workers at least 0, got {threads} and {workers}")
    if replicas < 1 or (replicas > 1 and halving):
        raise ConfigError(f"--replicas must be at least 1, and 1 with --early-stopping, got {replicas}")
    if halving:
        from elmnet.sweep.halving import require

        require()
    wanted = _resources(resources or [])
    what = Recipe.read(recipe, data)
    sweep = Sweep.create(directory or Path("sweeps") / what.name, what, what.expand())
    todo = execute.jobs(sweep, threads=threads, retry=retry, halving=halving)
    for trial in [] if scheduler or cluster else todo:  # else it is the workers' machine that has to have it
        trial.config.require_device()
    err = SteadyConsole(stderr=True)
    err.print(f"{sweep.path}: {len(todo)} trials to run", highlight=False, markup=False, soft_wrap=True)
    count = workers or max(1, min(execute.cores() // threads, len(execute.packs(todo, replicas))))
    opened: AbstractContextManager[Any] | None = None
    if not todo:
        pass
    elif scheduler:
        opened = execute.by_address(scheduler)
    elif cluster:
        opened = execute.queued(cluster, cluster_config, min(workers or len(todo), len(todo)))
    elif workers > 1 or (count > 1 and find_spec("distributed") is not None):
        opened = execute.local(count)
    outcomes: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        bar = progress.add_task("trials", total=len(todo))

        def note(trial: "Trial", outcome: str) -> None:
            outcomes[outcome] += 1
            progress.advance(bar)
            reason = _reason(sweep.directory(trial)) if outcome == "failed" else ""
            progress.console.print(
                f"{outcome} {describe(trial)}{reason}", highlight=False, markup=False, soft_wrap=True
            )

        if opened is None:
            ended = execute.in_process(todo, note, replicas=replicas)
        else:
            with opened as client:
                for words in execute.lacks(client, wanted) if scheduler else ():
                    progress.console.print(words, style="yellow", highlight=False, markup=False, soft_wrap=True)
                ended = execute.on_cluster(client, todo, note, wanted, replicas=replicas)
    words = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    words = words or ("nothing to do" if not todo else "no trial has ended")
    out.print(f"{sweep.path}: {words}", highlight=False, markup=False, soft_wrap=True)
    if not ended:
        out.print("stopped; run the same command to go on", highlight=False)
        raise typer.Exit(130)
    raise typer.Exit(1 if outcomes["failed"] else 0)


def _reason(directory: Path) -> str:
    from elmnet.sweep.trials import read_failure

    return f": {read_failure(directory)}"


def _resources(settings: list[str]) -> dict[str, float]:
    found = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < float("inf"):
            raise ConfigError(f"--resource: expected NAME=NUMBER, a positive one, got {setting!r}")
    return found


def describe(trial: "Trial") -> str:
    """A trial in a line."""
    from elmnet import models
    from elmnet.config import NetworkConfig

    network, training = trial.network, trial.config.training
    shape = f"{models.kind_of(network)} N {models.counts(network).units}"
    if isinstance(network, NetworkConfig):
        neuron = network.layers[0].neuron
        shape += f" d_m {neuron.memory} wiring {neuron.branches}×{neuron.synapses}"
    return f"{trial.name} {shape} seed {trial.config.seed} steps {training.steps:,}"


def plan(
    recipe: Recipe_,
    data: Data_ = None,
    workers: Annotated[int, typer.Option(help="for the estimate of time; 0: cores / threads")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of each trial")] = 1,
    estimate: Annotated[bool, typer.Option("--estimate/--no-estimate", help="time a few training steps here")] = True,
    limit: Annotated[int, typer.Option(help="trials listed; 0: all")] = 40,
) -> None:
    """Every trial of a recipe with its exact P, FLOPs and how long it would take here. Trains nothing."""
    from elmnet import models
    from elmnet.config import NetworkConfig
    from elmnet.sweep import execute
    from elmnet.sweep.estimate import seconds_of
    from elmnet.sweep.recipe import Recipe

    if threads < 1 or workers < 0 or limit < 0:
        raise ConfigError(
            f"--threads must be at least 1, --workers and --limit at least 0, got {threads}, {workers} and {limit}"
        )
    what = Recipe.read(recipe, data)
    trials = what.expand()
    times: dict[Trial, float] = {}
    if estimate:
        err = Console(stderr=True)
        try:
            with err.status("timing a few training steps on this machine"):
                times = seconds_of(trials, threads=threads)
        except (ConfigError, BackendError) as error:  # a device or backend that only the workers have
            err.print(f"no estimate of time: {error}", highlight=False, markup=False, soft_wrap=True)
    table = _table(f"{what.name}: {len(trials)} trials", "trial", *SHAPE, "seed", "steps", "TFLOP", "time")
    shown = trials[: limit or None]
    for trial in shown:
        network, config = trial.network, trial.config
        cost = models.counts(network)
        unit: tuple[int | None, ...] = (None, None, None)
        if isinstance(network, NetworkConfig):
            neuron = network.layers[0].neuron
            unit = (neuron.memory, neuron.branches, neuron.synapses)
        cells = [cost.units, *unit, cost.hidden, cost.parameters, config.seed, config.training.steps]
        took = _clock(times[trial]) if times else ""
        work = "" if trial.flops is None else f"{trial.flops / 1e12:.3g}"
        table.add_row(trial.name, models.kind_of(network), *map(_whole, cells), work, took)
    out.print(table)
    if len(shown) < len(trials):
        out.print(f"and {len(trials) - len(shown)} more (--limit 0)", highlight=False)
    flops = sum(trial.flops or 0.0 for trial in trials)
    words = f"{len(trials)} trials" + (f", {flops / 1e12:,.3g} TFLOP in all" if flops else "")
    if times:
        count = workers or max(1, execute.cores() // threads)
        took = _clock(sum(times.values()) / count)
        words += f", about {took} of training on {count} workers here (evaluations come on top)"
    out.print(words, highlight=False)


SHAPE = ("model", "N", "d_m", "d_tree", "d_s", "P'", "P")


def status(
    directory: Sweep_,
    watch: Annotated[bool, typer.Option("--watch", help="again every few seconds, until all have ended")] = False,
) -> None:
    """What is done, running, failed and waiting, and the time left."""
    import time

    from rich.live import Live

    from elmnet.sweep.store import UNFINISHED, Sweep

    sweep = Sweep.open(directory)
    if not watch:
        out.print(_status(sweep.name, list(sweep.look())))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            seen = list(sweep.look())
            live.update(_status(sweep.name, seen), refresh=True)
            if all(one.state not in UNFINISHED for one in seen):
                return
            time.sleep(5)


STATES: "tuple[State, ...]" = ("done", "begun", "waiting", "failed", "damaged", "stopped early")


def _status(name: str, seen: "list[Seen]") -> Table:
    from elmnet.sweep.store import UNFINISHED, own_seconds

    counts = Counter(one.state for one in seen)
    shown = [state for state in STATES if counts[state] or state in STATES[:3]]
    words = ", ".join(f"{counts[state]} {state}" for state in shown)
    spent = sum(own_seconds(one.result) for one in seen if one.result)
    finished = sum(one.trial.work for one in seen if one.result)
    unfinished = [one for one in seen if one.state in UNFINISHED]
    left = sum(one.trial.work * (1 - one.step / one.trial.config.training.steps) for one in unfinished)
    if finished:
        words += f"; about {_clock(left * spent / finished)} of one worker left"
    table = _table(f"{name}: {words}", "trial", "", "step", "of", "score, or why")
    for one in seen:
        if one.state == "waiting":
            continue
        score = ""
        if one.result:
            score = "  ".join(f"{kind} {value:.4f}" for kind, value in one.result["valid"].items())
        total = one.trial.config.training.steps
        table.add_row(describe(one.trial), one.state, f"{one.step:,}", f"{total:,}", escape(one.reason or score))
    return table


def collect(
    directory: Sweep_,
    file: Annotated[Path | None, typer.Option("--out", help="default: DIR/table.parquet", metavar="FILE")] = None,
) -> None:
    """Write one table of all trials (Parquet, or CSV by the file's ending), and print means over seeds."""
    from elmnet.sweep.store import LOST, Sweep
    from elmnet.sweep.table import aggregate, distinguishing, leading_score, write

    sweep = Sweep.open(directory)
    target = file or sweep.table_file
    rows = write(sweep, target)
    means = aggregate(target)
    score, others = leading_score(rows), distinguishing(means)
    table = _table(
        f"{sweep.name}: means over seeds ± standard error",
        *others,
        *SHAPE,
        "steps",
        "seeds",
        score,
        score.replace("valid", "test"),
    )
    for one in means:
        names = ("N", "d_m", "d_tree", "d_s", "hidden", "P", "steps", "seeds")
        cells = [*(escape(str(one[name])) for name in others), one["model"], *(_whole(one[name]) for name in names)]
        shown = [_mean(one, name) for name in (score, score.replace("valid", "test"))]
        table.add_row(*cells, *shown)
    out.print(table)
    lost = [row for row in rows if row["state"] in LOST]
    for row in lost:
        out.print(f"{row['state']} {row['trial']}: {row['reason']}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"{target}: {len(rows)} trials", highlight=False, markup=False, soft_wrap=True)


def _mean(row: "dict[str, Any]", name: str) -> str:
    value, error = row[name], row[f"{name}_se"]
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def query(
    directory: Sweep_,
    sql: Annotated[str, typer.Argument(help="of a table called trials", metavar="SQL")],
) -> None:
    """Ask the collected table in SQL: SELECT d_m, avg(valid_bpc) FROM trials GROUP BY d_m ORDER BY d_m."""
    from elmnet.sweep.store import Sweep
    from elmnet.sweep.table import ask, write

    sweep = Sweep.open(directory)
    if sweep.table_file.exists():
        names, rows = ask(sweep.table_file, sql)
        written = sweep.table_file.stat().st_mtime
        newer = sum(file.stat().st_mtime > written for file in sweep.path.glob("trials/*/result.json"))
        if newer:
            words = f"{newer} trials ended since {sweep.table_file} was collected: elmnet sweep collect {directory}"
            out.print(words, style="yellow", highlight=False, markup=False, soft_wrap=True)
    else:
        with tempfile.TemporaryDirectory() as place:
            write(sweep, Path(place) / "table.parquet")
            names, rows = ask(Path(place) / "table.parquet", sql)
    table = _table("", *map(escape, names))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    out.print(table)


def _whole(number: int | None) -> str:
    """A number of a table, nothing where a model has none."""
    return "" if number is None else f"{number:,}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("trial", "", "score, or why") else "right", overflow="fold"
        )
    return table


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
