"""Sweeps: plan, run, status, collect, query."""

import csv
import io
import tempfile
from collections import Counter
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from elmnet.cli.output import drawn, out, say, show
from elmnet.errors import BackendError, ConfigError
from elmnet.files import write_atomic
from elmnet.machine import cores
from elmnet.tables import Table, duration, whole

if TYPE_CHECKING:
    from elmnet.sweep.recipe import Trial
    from elmnet.sweep.store import Seen

Recipe_ = Annotated[Path, typer.Argument(help="a recipe file, or the name of a shipped one", metavar="RECIPE")]
Sweep_ = Annotated[Path, typer.Argument(help="a sweep's directory", metavar="DIR")]
WIDEST = 80
"""Characters of an answer's cell on the terminal."""
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
    cluster_config: Annotated[Path | None, typer.Option(help="YAML with the settings of a job", metavar="FILE")] = None,
    resources: Annotated[
        list[str] | None, typer.Option("--resource", help="what a trial needs of a worker, e.g. GPU=0.5; repeatable")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry-failed", help="run failed trials again")] = False,
    halving: Annotated[
        bool,
        typer.Option("--early-stopping", help="successive halving; stopped trials enter no fit, which they would bias"),
    ] = False,
) -> None:
    """Run a recipe's trials, or continue them; no trial is trained twice.

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
    trials = what.expand()
    sweep = Sweep.create(directory or Path("sweeps") / what.name, what, trials)
    left = execute.jobs(sweep, threads=threads, retry=retry, halving=halving)
    asked = {trial.name for trial in trials}
    todo = {trial: job for trial, job in left.items() if trial.name in asked}
    for trial in [] if scheduler or cluster else todo:  # else it is the workers' machine that has to have it
        trial.config.require_device()
    err = SteadyConsole(stderr=True)
    others = len(left) - len(todo)
    words = f"; {others} more, which this recipe does not name, are left alone" if others else ""
    say(f"{sweep.path}: {len(todo)} trials to run{words}", console=err)
    count = workers or max(1, min(cores() // threads, len(execute.packs(todo, replicas))))
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
            say(f"{outcome} {describe(trial)}{reason}", console=progress.console)

        if opened is None:
            ended = execute.in_process(todo, note, replicas=replicas)
        else:
            with opened as client:
                for words in execute.lacks(client, wanted) if scheduler else ():
                    say(words, "yellow", console=progress.console)
                ended = execute.on_cluster(client, todo, note, wanted, replicas=replicas)
    words = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    words = words or ("nothing to do" if not todo else "no trial has ended")
    say(f"{sweep.path}: {words}")
    if not ended:
        say("stopped; run the same command to go on")
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

    cost = models.counts(trial.network)
    shape = f"{models.kind_of(trial.network)} N {cost.units}"
    if cost.memory is not None:
        shape += f" d_m {cost.memory} wiring {cost.branches}×{cost.synapses}"
    return f"{trial.name} {shape} seed {trial.config.seed} steps {trial.config.training.steps:,}"


def plan(
    recipe: Recipe_,
    data: Data_ = None,
    workers: Annotated[int, typer.Option(help="for the estimate of time; 0: cores / threads")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of each trial")] = 1,
    estimate: Annotated[bool, typer.Option("--estimate/--no-estimate", help="time a few training steps here")] = True,
    limit: Annotated[int, typer.Option(help="trials listed; 0: all")] = 40,
) -> None:
    """List every trial of a recipe with its exact P and FLOPs and the time it would take here. Trains nothing."""
    from elmnet import models
    from elmnet.sweep.estimate import seconds_of
    from elmnet.sweep.recipe import Recipe
    from elmnet.sweep.table import SHAPE

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
            say(f"no estimate of time: {error}", console=err)
    rows = []
    for trial in trials[: limit or None]:
        cost, config = models.counts(trial.network), trial.config
        sizes = (cost.units, cost.memory, cost.branches, cost.synapses, cost.hidden, cost.parameters)
        cells = [whole(number) for number in (*sizes, config.seed, config.training.steps)]
        took = duration(times[trial]) if times else ""
        work = "" if trial.flops is None else f"{trial.flops / 1e12:.3g}"
        rows.append((trial.name, models.kind_of(trial.network), *cells, work, took))
    columns = ("trial", *SHAPE, "seed", "steps", "TFLOP", "time")
    show(Table(f"{what.name}: {len(trials)} trials", columns, rows))
    if len(rows) < len(trials):
        say(f"and {len(trials) - len(rows)} more (--limit 0)")
    flops = sum(trial.flops or 0.0 for trial in trials)
    words = f"{len(trials)} trials" + (f", {flops / 1e12:,.3g} TFLOP in all" if flops else "")
    if times:
        count = workers or max(1, cores() // threads)
        took = duration(sum(times.values()) / count)
        words += f", about {took} of training on {count} workers here (evaluations come on top)"
    say(words)


def status(
    directory: Sweep_,
    watch: Annotated[bool, typer.Option("--watch", help="repeat every few seconds until all have ended")] = False,
) -> None:
    """Show which trials are done, running, failed and waiting, and the time left."""
    import time

    from rich.live import Live

    from elmnet.sweep.store import UNFINISHED, Sweep

    sweep = Sweep.open(directory)
    if not watch:
        show(_status(sweep.name, list(sweep.look())))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            seen = list(sweep.look())
            live.update(drawn(_status(sweep.name, seen)), refresh=True)
            if all(one.state not in UNFINISHED for one in seen):
                return
            time.sleep(5)


def _status(name: str, seen: "list[Seen]") -> Table:
    from elmnet.sweep.store import STATES, UNFINISHED, own_seconds
    from elmnet.tasks import in_words

    counts = Counter(one.state for one in seen)
    shown = [state for state in STATES if counts[state] or state in STATES[:3]]
    words = ", ".join(f"{counts[state]} {state}" for state in shown)
    spent = sum(own_seconds(one.result) for one in seen if one.result)
    finished = sum(one.trial.work for one in seen if one.result)
    unfinished = [one for one in seen if one.state in UNFINISHED]
    left = sum(one.trial.work * (1 - one.step / one.trial.config.training.steps) for one in unfinished)
    if finished:
        words += f"; about {duration(left * spent / finished)} of one worker left"
    rows = []
    for one in seen:
        if one.state == "waiting":
            continue
        score = ""
        if one.result:
            score = in_words(one.result["valid"])
        total = one.trial.config.training.steps
        rows.append((describe(one.trial), one.state, whole(one.step), whole(total), one.reason or score))
    return Table(f"{name}: {words}", ("trial", "state", "step", "of", "score, or why"), rows)


def collect(
    directories: Annotated[list[Path], typer.Argument(help="sweeps' directories", metavar="DIR")],
    file: Annotated[
        Path | None,
        typer.Option("--out", help="the table to write; default, for one sweep: DIR/table.parquet", metavar="FILE"),
    ] = None,
) -> None:
    """Write one table of all trials (Parquet, or CSV by the file's ending), and print means over seeds.

    Of several sweeps, for example from several machines, each trial enters once: finished, if one of them finished it.
    """
    from elmnet.sweep.store import LOST, Sweep
    from elmnet.sweep.table import aggregate, means_over_seeds, write

    sweeps = [Sweep.open(directory) for directory in directories]
    if file is None and len(sweeps) > 1:
        raise ConfigError("--out: say where the table of several sweeps goes, such as all.parquet")
    target = file or sweeps[0].table_file
    rows = write(sweeps, target)
    names = ", ".join(dict.fromkeys(sweep.name for sweep in sweeps))
    show(means_over_seeds(aggregate(target), f"{names}: means over seeds ± standard error"))
    lost = [row for row in rows if row["state"] in LOST]
    for row in lost:
        say(f"{row['state']} {row['trial']}: {row['reason']}")
    say(f"{target}: {len(rows)} trials")


def query(
    directory: Sweep_,
    sql: Annotated[str, typer.Argument(help="a query of the table called trials", metavar="SQL")],
    file: Annotated[Path | None, typer.Option("--out", help="write the answer here, as CSV", metavar="FILE")] = None,
) -> None:
    """Query the collected table in SQL: SELECT d_m, avg(valid_bpc) FROM trials GROUP BY d_m ORDER BY d_m."""
    from elmnet.sweep.store import Sweep
    from elmnet.sweep.table import ask, write

    sweep = Sweep.open(directory)
    if sweep.table_file.exists():
        names, rows = ask(sweep.table_file, sql)
        written = sweep.table_file.stat().st_mtime
        newer = sum(file.stat().st_mtime > written for file in sweep.path.glob("trials/*/result.json"))
        if newer:
            words = f"{newer} trials ended since {sweep.table_file} was collected: elmnet sweep collect {directory}"
            say(words, style="yellow")
    else:
        with tempfile.TemporaryDirectory() as place:
            write([sweep], Path(place) / "table.parquet")
            names, rows = ask(Path(place) / "table.parquet", sql)
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if file is not None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *cells])
        write_atomic(file, text.getvalue())
        say(f"{file}: {len(cells)} rows")
        return
    show(Table("", names, [[_shortened(cell) for cell in row] for row in cells]))


def _shortened(cell: str) -> str:
    """As much of a cell as a terminal has room for: a trial's whole configuration is thousands of characters."""
    return cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…"
