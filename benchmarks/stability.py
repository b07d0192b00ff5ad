"""Stability over scale: the published training, on networks of about 10^3 to 10^7 parameters, through the real trainer.

    python benchmarks/stability.py                                  # everything, into docs/results/stability.{md,csv}
    python benchmarks/stability.py --tasks enwik8 --sizes 3,4 --steps 300

Every network follows the paper's recipe (`elmnet.budget.paper_recipe`) and trains with its task's `paper` preset. Runs
live in runs/stability/TASK-1eN; a killed command goes on with what is unfinished, and the tables are always made of
all the runs found there, so several commands may share the work.
"""

import dataclasses
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from report import ROOT, as_csv, command, commit, machine, short, today, wrap

from elmnet import ELMNetwork, NetworkConfig, budget
from elmnet.errors import BudgetError, ConfigError, DivergedError, ElmnetError
from elmnet.files import write_atomic
from elmnet.tasks import Batch, Task, open_task
from elmnet.train.config import RunConfig, compose
from elmnet.train.evaluate import evaluate
from elmnet.train.loop import Interrupted, Lockstep
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory
from elmnet.train.trainer import Trainer

SOURCES = {"enwik8": "enwik8_first_3900000.xz", "shd-adding": "."}
"""Each task's data within --data."""
WINDOW = 20
"""Steps over which start and end are averaged."""
BIN_MS = (2, 4, 5, 10, 20)
"""Bins of spikes, in ms, from the published one to the coarsest tried."""
LEAST_STEPS = 50


@dataclass(frozen=True)
class Row:
    """One trained network. `start` and `end` are means over the first and last `WINDOW` steps; the norm of the
    gradient is that before clipping; activity, silence and validation belong to the untrained and the final network on
    the same validation data."""

    task: str
    data: str
    asked: int  # the power of ten
    parameters: int  # P
    hidden_parameters: int  # P'
    units: int  # N
    memory: int  # d_m
    branches: int  # d_tree
    synapses: int  # d_s
    readout_units: int
    batch: int
    time_steps: int  # T
    steps: int
    done: int  # steps that were taken: fewer only if training diverged
    loss_start: float
    loss_end: float
    gradient_start: float
    gradient_end: float
    gradient_largest: float
    valid_nats_start: float
    valid_nats_end: float
    prior_nats: float  # of the task's simplest baseline: how often a symbol or class occurs
    activity_start: float  # mean of the hidden layer
    activity_end: float
    silent_start: float  # share of hidden units without any activity
    silent_end: float
    training_seconds: float
    backend: str
    threads: int
    commit: str
    date: str
    cut: str  # what differs from the published setting

    @property
    def finite(self) -> bool:
        """Whether training came to its end and every number is finite (the trainer checks each step's)."""
        numbers = (getattr(self, field.name) for field in dataclasses.fields(self) if field.type is float)
        return self.done == self.steps and all(map(math.isfinite, numbers))


class Sprint(Trainer):
    """A run of which only the training matters: it ends without scoring the whole validation and test data."""

    def finish(self) -> dict[str, Any]:
        return {"training_seconds": self.journal.training_seconds}


def network_of(published: NetworkConfig, size: int) -> NetworkConfig:
    """About `size` parameters by the paper's recipe.

    Where the published read-out (a neuron for every output) would take more than half of them, the hidden layer takes
    half, and as many read-out neurons as still fit feed the affine map.

    Raises:
        BudgetError: not even one read-out neuron fits.
    """
    try:
        network = budget.paper_recipe(published, size)
        if 2 * budget.cost(network).readout <= size:
            return network
    except BudgetError:
        pass
    hidden = budget.paper_recipe(published.replace(outputs=1, readout="linear"), size // 2).layers
    whole = published.replace(layers=hidden)
    for units in range(whole.outputs - 1, 0, -1):
        network = whole.replace(readout=whole.stack[-1].replace(units=units))
        if budget.parameters(network) <= size:
            return network
    least = budget.parameters(network)
    raise BudgetError(f"a budget of {size:,} parameters is too small: one read-out neuron already makes it {least:,}")


def work(config: RunConfig) -> float:
    """FLOPs of the whole training; back-propagation costs about twice the forward pass."""
    batch, time_steps = extent(config)
    return 3.0 * budget.cost(config.model).flops * batch * time_steps * config.training.steps


def extent(config: RunConfig) -> tuple[int, int]:
    """B and T of a training batch."""
    options = config.options.to_dict()
    return (options["streams"], options["chunk"]) if "chunk" in options else (options["batch"], 2 * options["bins"])


def shortened(config: RunConfig, limit: float) -> RunConfig:
    """The run within `limit` FLOPs: spikes in coarser bins first, then fewer steps."""
    if "bins" in config.options.to_dict():
        for width in BIN_MS:
            config = config.replace(options=config.options.replace(bin_ms=float(width), bins=1000 // width))
            if work(config) <= limit:
                break
    steps = min(config.training.steps, max(LEAST_STEPS, int(config.training.steps * limit / work(config))))
    return config.replace(training=config.training.replace(steps=steps, eval_every=steps))


def plan(task: str, exponent: int, data: Path, *, steps: int, limit: float, **fields: Any) -> tuple[RunConfig, Task]:
    """The run of one task and size, and its data."""
    short_validation = {"enwik8": "options.valid_chunks=10", "shd-adding": "options.valid_batches=20"}[task]
    settings = [f"training.steps={steps}", "training.log_every=1", short_validation]
    config = compose(task, preset="paper", data=str(data / SOURCES[task]), settings=settings, **fields)
    opened = open_task(task, config.options, config.data, seed=config.seed)
    config = config.replace(model=network_of(opened.fit_model(config.model), 10**exponent))
    config = shortened(config, limit)
    return config, open_task(task, config.options, config.data, seed=config.seed)


def differences(config: RunConfig, asked_steps: int) -> str:
    """What a run does otherwise than the published one, besides its number of steps and its size."""
    words = []
    _, time_steps = extent(config)
    if config.task == "shd-adding" and time_steps != 1000:
        words.append(f"bins of {1000 // (time_steps // 2)} ms, so T {time_steps}")
    if config.training.steps != asked_steps:
        words.append(f"{config.training.steps} steps")
    readout = config.model.stack[-1].units
    if readout != config.model.outputs:
        words.append(f"{readout} read-out neuron{'s' * (readout > 1)} for {config.model.outputs} outputs")
    return "; ".join(words)


@torch.no_grad()
def activity(network: ELMNetwork, batch: Batch) -> tuple[float, float]:
    """Mean activity of the hidden layers on a batch, without dropout, and the share of units it leaves silent."""
    training = network.training
    network.eval()
    _, _, signals = network(batch.x, monitor=("activity",))
    network.train(training)
    hidden = [signal["activity"].flatten(0, 1) for signal in signals[: len(network.config.layers)]]  # (B·T, N)
    mean = sum(float(layer.sum()) for layer in hidden) / sum(layer.numel() for layer in hidden)
    silent = sum(int((layer == 0).all(0).sum()) for layer in hidden) / sum(layer.shape[1] for layer in hidden)
    return mean, silent


def prior_nats(task: Task) -> float:
    """Cross entropy of the task's simplest baseline on the whole validation data."""
    scores = next(iter(task.baselines().values()))["valid"]
    return scores["nats"] if "nats" in scores else scores["bpc"] * math.log(2)


def read_metrics(run: RunDirectory) -> tuple[list[dict[str, float]], float]:
    """The lines of every step, and the validation's nats after the last (nan: it was never reached)."""
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    nats = [line["nats"] for line in lines if line["event"] == "valid"]
    return [line for line in lines if line["event"] == "train"], nats[-1] if nats else math.nan


def ends(values: list[float]) -> tuple[float, float]:
    """Means over the first and the last `WINDOW` values, at most half of them each; nan where there are none."""
    if not values:
        return math.nan, math.nan
    width = max(1, min(WINDOW, len(values) // 2))
    return statistics.fmean(values[:width]), statistics.fmean(values[-width:])


def train(config: RunConfig, task: Task, path: Path, reporter: Reporter) -> float:
    """Begin or continue one run; returns the seconds spent in training steps, nan after a divergence.

    Raises:
        ConfigError: the directory holds a run with other settings.
    """
    run = RunDirectory(path)
    begun = run.config_file.exists()
    if begun and run.read_config()[0] != config:
        raise ConfigError(f"{path} holds a run with other settings; choose another --runs, or delete it")
    trainer = Sprint(run, config, task, reporter)
    try:
        return float(Lockstep([trainer]).train(resuming=begun)[0]["training_seconds"])
    except DivergedError as error:
        reporter.warn(f"{path}: {error}")
        return math.nan


def measure(config: RunConfig, task: Task, asked: int, asked_steps: int, path: Path, reporter: Reporter) -> Row:
    """Train one network and put its start and end side by side."""
    seconds = train(config, task, path, reporter)
    run = RunDirectory(path)
    steps, nats_end = read_metrics(run)
    first = next(iter(task.evaluation_batches("valid", whole=False)))
    untrained = ELMNetwork(config.model, seed=config.seed, backend=config.backend)  # as the trainer drew it
    start = activity(untrained, first)
    nats_start = evaluate(untrained, task, "valid", whole=False)["nats"]
    finished = math.isfinite(nats_end)
    end = activity(run.best_network(config.backend), first) if finished else (math.nan, math.nan)
    price, neuron = budget.cost(config.model), config.model.layers[0].neuron
    loss, norms = ends([step["loss"] for step in steps]), [step["gradient_norm"] for step in steps]
    batch, time_steps = extent(config)
    return Row(
        task=config.task,
        data=task.data_name,
        asked=asked,
        parameters=price.parameters,
        hidden_parameters=price.hidden,
        units=price.units,
        memory=neuron.memory,
        branches=neuron.branches,
        synapses=neuron.synapses,
        readout_units=config.model.stack[-1].units,
        batch=batch,
        time_steps=time_steps,
        steps=config.training.steps,
        done=len(steps),
        loss_start=loss[0],
        loss_end=loss[1],
        gradient_start=ends(norms)[0],
        gradient_end=ends(norms)[1],
        gradient_largest=max(norms, default=math.nan),
        valid_nats_start=nats_start,
        valid_nats_end=nats_end,
        prior_nats=prior_nats(task),
        activity_start=start[0],
        activity_end=end[0],
        silent_start=start[1],
        silent_end=end[1],
        training_seconds=seconds,
        backend=", ".join(untrained.backends()),
        threads=config.threads,
        commit=commit(),
        date=today(),
        cut=differences(config, asked_steps),
    )


def collect(runs: Path) -> list[Row]:
    """The finished runs, by task and size."""
    rows = [Row(**json.loads(path.read_text())) for path in runs.glob("*/row.json")]
    return sorted(rows, key=lambda row: (row.task, row.asked))


def as_markdown(rows: list[Row]) -> str:
    """The table, and the words it needs."""
    lines = ["# Stability over scale", "", f"    {command()}", ""]
    lines += wrap(
        f"Measured {_list(row.date for row in rows)} on {machine()}; commit {_list(row.commit for row in rows)}; "
        f"backend {_list(row.backend for row in rows)}, threads {_list(str(row.threads) for row in rows)}. "
        f"Data: {_list(row.data for row in rows)}. {_verdict(rows)}"
    )
    head = "| task | P | N | d_m | synapses | read-out | T | steps | loss | gradient norm (largest) "
    head += "| validation nats (prior) | activity | silent units |"
    lines += ["", head, "|---|" + "--:|" * 12]
    for r in rows:
        cells = [r.task, f"{r.parameters:,}", r.units, r.memory, f"{r.branches} × {r.synapses}", r.readout_units]
        cells += [r.time_steps, r.steps if r.done == r.steps else f"{r.done}, then diverged"]
        cells += [f"{r.loss_start:.3f} → {r.loss_end:.3f}"]
        cells += [f"{short(r.gradient_start)} → {short(r.gradient_end)} ({short(r.gradient_largest)})"]
        cells += [f"{r.valid_nats_start:.3f} → {r.valid_nats_end:.3f} ({r.prior_nats:.3f})"]
        cells += [f"{r.activity_start:.2g} → {r.activity_end:.2g}", f"{r.silent_start:.1%} → {r.silent_end:.1%}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *wrap(_WORDS)]
    cuts = [f"{r.task} at {r.parameters:,} parameters: {r.cut}." for r in rows if r.cut]
    if cuts:
        lines += ["", "What differs from the published setting besides the length of training:", ""]
        lines += [f"* {cut}" for cut in cuts]
    return "\n".join(lines) + "\n"


_WORDS = f"""Loss (cross entropy with label smoothing, plus both regularisers) and gradient norm (before clipping at
1) are means over the first and last {WINDOW} steps; in brackets the largest norm of any step. Validation nats, the
mean activity of the hidden layer and the share of its units without any activity are those of the untrained and the
trained network on the same few validation batches; in brackets the nats of a guess by frequency alone (of symbols,
of classes) on the whole validation data: a run that ends there has learned those and nothing else yet. Sizes follow
the paper's recipe (d_m ∝ √N from its default network, d_mlp = 2 d_m, d_tree = 4 d_m, its synapses a branch); where a
read-out neuron for every output would take over half of the parameters, the hidden layer gets half and as many
read-out neurons as fit feed the trained affine map to all outputs. The smallest sizes show that training stays
sound, not that the network is good. Optimiser, peak learning rate, warm-up, clipping, regularisers, dropout and
batch are those of the task's `paper` preset; the cosine that ends the published schedule at 0 ends at these runs'
last step instead. Raw rows: [stability.csv](stability.csv)."""


def _verdict(rows: list[Row]) -> str:
    count = len(rows)
    falls = {
        "the loss": sum(row.loss_end < row.loss_start for row in rows),
        "the validation's cross entropy": sum(row.valid_nats_end < row.valid_nats_start for row in rows),
        "the gradient norm": sum(row.gradient_end < row.gradient_start for row in rows),
        "the activity": sum(row.activity_end < row.activity_start for row in rows),
    }
    words = ", ".join(f"{name} in {number}" for name, number in falls.items())
    return (
        f"Finite at every step: {sum(row.finite for row in rows)} of {count} runs. Falling from start to end: {words}."
    )


def _list(words: Any) -> str:
    return ", ".join(dict.fromkeys(words))


def main(
    tasks: Annotated[str, typer.Option(help="comma-separated")] = ",".join(SOURCES),
    sizes: Annotated[str, typer.Option(help="powers of ten, comma-separated")] = "3,4,5,6,7",
    steps: Annotated[int, typer.Option(help="training steps; shd-adding's warm-up alone takes 400")] = 600,
    flops: Annotated[float, typer.Option(help="a run that needs more is cut: coarser bins, then fewer steps")] = 3e13,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    backend: Annotated[str, typer.Option(help="of the recurrence")] = "auto",
    data: Annotated[Path, typer.Option(help="directory of both data sources")] = ROOT.parent / "shared" / "data",
    runs: Annotated[Path, typer.Option(help="run directories")] = ROOT / "runs" / "stability",
    out: Annotated[Path, typer.Option(help="where the tables go")] = ROOT / "docs" / "results",
    plan_only: Annotated[bool, typer.Option("--plan", help="print the networks and stop")] = False,
) -> None:
    """Train networks of every size and table their start and end; exits with 1 if one is not finite or not falling."""
    reporter = Reporter()
    chosen = [(task.strip(), int(size)) for size in sizes.split(",") for task in tasks.split(",")]
    for task, size in chosen:
        if task not in SOURCES:
            raise typer.BadParameter(f"no task {task!r}; known: {', '.join(SOURCES)}", param_hint="--tasks")
        path = runs / f"{task}-1e{size}"
        if (path / "row.json").exists() and not plan_only:
            reporter.note(f"{path} is finished")
            continue
        fields = {"threads": threads, "backend": backend}
        config, opened = plan(task, size, data, steps=steps, limit=flops, **fields)
        if plan_only:
            _print_plan(config, size, steps, reporter)
            continue
        try:
            row = measure(config, opened, 10**size, steps, path, reporter)
        except Interrupted as stop:
            reporter.note(f"{stop}\nthe same command goes on from there")
            raise typer.Exit(128 + stop.number) from None
        write_atomic(path / "row.json", json.dumps(dataclasses.asdict(row), indent=2) + "\n")
        _write(collect(runs), out)
    if plan_only:
        return
    rows = collect(runs)
    _write(rows, out)
    reporter.note(f"{out / 'stability.md'}\n{_verdict(rows)}")
    raise typer.Exit(0 if all(row.finite and row.loss_end < row.loss_start for row in rows) else 1)


def _write(rows: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "stability.csv", as_csv(rows))
    write_atomic(out / "stability.md", as_markdown(rows))


def _print_plan(config: RunConfig, size: int, steps: int, reporter: Reporter) -> None:
    price, neuron = budget.cost(config.model), config.model.layers[0].neuron
    reporter.note(
        f"{config.task} 10^{size}: P {price.parameters:,} (hidden {price.hidden:,}), N {price.units}, "
        f"d_m {neuron.memory}, {neuron.branches} × {neuron.synapses}, {work(config):.1e} FLOPs  "
        f"{differences(config, steps)}"
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except ElmnetError as error:
        sys.exit(f"error: {error}")
