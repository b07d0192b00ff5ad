"""The planner: plan."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from elmnet.budget import LEAST_MEMORY
from elmnet.cli.numbers import numbers
from elmnet.cli.output import JsonOption, say, show, write_json
from elmnet.cli.theory import (
    H0Option,
    announce,
    check_least_memory,
    fitted,
    give_credit,
)
from elmnet.errors import ConfigError
from elmnet.files import write_atomic

if TYPE_CHECKING:
    from elmnet.config import NetworkConfig
    from elmnet.sweep.learned import Learned
    from elmnet.theory.fit import Fit
    from elmnet.theory.limits import Limit, Wiring
    from elmnet.theory.planner import Plan
    from elmnet.train.config import RunConfig


def plan(
    task: Annotated[
        str | None, typer.Argument(help="enwik8, shd-adding or shd; default: the task of the runs", metavar="TASK")
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="runs to learn from: a directory (repeatable), a table or published:TASK", metavar="RUNS"
        ),
    ] = None,
    score: Annotated[str | None, typer.Option(help="score of those runs to learn from, e.g. test_bpc")] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="a run, or its YAML: plan its network from priors alone; with --from TABLE, as for `elmnet fit`",
            metavar="NAME|RUN",
        ),
    ] = None,
    h0: H0Option = None,
    least_memory: Annotated[
        int, typer.Option(help="smallest d_m to learn from and to propose; below 3 some tasks do not start to learn")
    ] = LEAST_MEMORY,
    budgets: Annotated[
        list[str] | None, typer.Option("--budget", help="P, all trainable parameters; repeatable")
    ] = None,
    hidden: Annotated[
        list[str] | None, typer.Option(help="instead of P: P', of the hidden layer alone; repeatable")
    ] = None,
    flops: Annotated[float | None, typer.Option(help="instead of P: forward FLOPs per time step")] = None,
    file_bytes: Annotated[float | None, typer.Option(help="instead of P: bytes of the saved network")] = None,
    training_bytes: Annotated[
        float | None, typer.Option(help="instead of P: estimated bytes while training (see --batch, --length)")
    ] = None,
    latency: Annotated[
        float | None, typer.Option("--latency-us", help="instead of P: microseconds per streamed step, measured here")
    ] = None,
    fixed: Annotated[str | None, typer.Option(help="wiring, e.g. branches=50,synapses=15; default: the task's")] = None,
    recipe: Annotated[bool, typer.Option("--recipe", help="d_tree = 4 d_m, as in the paper's recipe")] = False,
    choose: Annotated[
        bool, typer.Option("--choose-synapses", help="choose d_s, too; needs runs whose k_c differ by a factor of 2")
    ] = False,
    configs: Annotated[
        Path | None,
        typer.Option(help="predict the loss of the networks in this CSV, columns N,d_m[,d_tree,d_s]", metavar="FILE"),
    ] = None,
    design: Annotated[
        int, typer.Option(help="propose the next N runs that would tell most about ten times the budget")
    ] = 0,
    design_file: Annotated[
        Path | None,
        typer.Option("--design-out", help="write those runs as a recipe for `elmnet sweep run`", metavar="FILE"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="sequences per batch, for --training-bytes; default: the runs', else the preset's"),
    ] = None,
    length: Annotated[int | None, typer.Option(help="time steps, for --training-bytes; default: likewise")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="tiny, small or paper, for --out and --training-bytes; default: the runs' training, else paper"
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--out", help="write the planned run as YAML for `elmnet train --config`")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="write figures here, PNG and SVG", metavar="DIR")] = None,
    file: JsonOption = None,
) -> None:
    """Find the best way to spend a budget: the N and d_m of least expected regret, and how sure that is.

    It learns from the published runs of the task, or from those that --from names, which also name the task. Without
    any it can say how to allocate a budget, but not what the loss will be.
    """
    from elmnet.sweep.learned import run_like
    from elmnet.theory import answers, next_runs, planner

    learned = _learned(task, sources or [], score, network, h0, least_memory)
    known = None if learned is None or learned.runs is None else fitted(learned, least_memory=least_memory)
    start, task = _start(task, learned, known)
    if configs is not None:
        if known is None:
            raise ConfigError(f"--configs needs runs to learn from; there are none published of {task}: use --from")
        others = (budgets, hidden, flops, file_bytes, training_bytes, latency, fixed, recipe, choose, design)
        if any(others) or any(one is not None for one in (batch, length, preset, path, design_file, figures)):
            raise ConfigError("--configs asks for the loss of given networks: beside it only --from, --score, --json")
        from elmnet.theory.rows import read_networks

        _predict(known, read_networks(configs, start), file)
        return
    if preset is not None and path is None and training_bytes is None and design_file is None:
        raise ConfigError(
            "--preset is of the training that --out and --design-out write, or --training-bytes counts; there is none"
        )
    if design_file is not None and not design:
        raise ConfigError("--design-out writes the runs of --design N; say how many")
    if training_bytes is None and (batch is not None or length is not None):
        raise ConfigError("--batch and --length are for --training-bytes")
    wiring = _wiring(start, fixed, recipe)

    def whole_batch() -> tuple[int, int]:
        return _batch(batch, length, run_like(learned, known, task=task, preset=preset)[0])

    limits = _limits(start, budgets, hidden, flops, file_bytes, training_bytes, latency, whole_batch)
    if not limits:
        raise ConfigError(
            "name a budget: --budget P, --hidden, --flops, --file-bytes, --training-bytes or --latency-us"
        )
    if len(limits) > 1 and (path is not None or design):
        raise ConfigError("--out and --design take one budget")
    if known is None and (figures is not None or design):
        raise ConfigError(f"--{'design' if design else 'figures'} needs runs to learn from: use --from")
    options = _choice(wiring, fixed, recipe, known) if choose else [wiring]
    with Console(stderr=True).status("going through the networks"):
        plans = [planner.plan(start, limit, options, known) for limit in limits]
    if latency is not None:
        from elmnet.bench.latency import fast_enough

        plans = [fast_enough(plans[0], start, options, known)]
    asked = next_runs.design(start, limits[0], options, known, design) if design and known is not None else None
    where = known.runs.source if known is not None else f"no runs of {task}: priors alone, allocation only"
    show(answers.plans(plans, known, f"budget in {limits[0].kind}, learned from {where}"))
    for one in plans:
        for words in answers.plan_remarks(one, known):
            say(words)
    if latency is not None:
        words = f"measured here: {plans[0].price:.0f} µs per streamed step, {latency:g} asked"
        say(words, style=None if plans[0].price <= latency else "yellow")
    if asked is not None:
        show(answers.next_runs(*asked, limits[0]))
    give_credit()
    if path is not None:
        _write_run(task, preset, learned, known, plans[0], path)
    if design_file is not None and asked is not None:
        _write_recipe(task, preset, learned, known, [choice.network for choice in asked[1]], design_file)
    if file is not None:
        cautions = [] if known is None else known.cautions
        write_json(file, [{**one.to_dict(), "cautions": cautions} for one in plans])
    if figures is not None and known is not None:
        from elmnet.report.figures import of_fit, plan_curve, save

        drawn = of_fit(known)
        for one in plans:
            name = "plan" if len(plans) == 1 else f"plan_{one.limit.value:.0f}"
            drawn[name] = partial(plan_curve, known, one)
        announce(save(drawn, figures))


def _start(task: str | None, learned: "Learned | None", known: "Fit | None") -> "tuple[NetworkConfig, str]":
    """A network to vary, and its task: those of the runs, or of the one named; without any, the task's published one.

    SHD has that of SHD-Adding with an output for each of its 20 digits.
    """
    from elmnet.config import NetworkConfig

    if known is not None:
        own = known.runs.task
        if own is None or task not in (None, own):
            raise ConfigError(
                f"these runs are of {own}, the plan is for {task}: losses and optima are of one task. Leave out "
                f"{task}, or --from runs of it; without --from a plan for it starts from priors or published runs"
            )
        return known.runs.network, own
    if learned is not None and learned.like is not None:
        assert isinstance(learned.like.model, NetworkConfig)  # see `run_named`
        return learned.like.model, learned.like.task
    if task == "shd":
        return NetworkConfig.preset("shd-adding").replace(outputs=20), task
    if task is None or task not in ("enwik8", "shd-adding"):
        raise ConfigError(
            f"plans without runs are for the tasks enwik8, shd-adding and shd, got {task!r}; use --from RUNS, or "
            "--network RUN"
        )
    return NetworkConfig.preset(task), task


def _wiring(start: "NetworkConfig", fixed: str | None, recipe: bool) -> "Wiring":
    from elmnet.theory.limits import Wiring

    neuron = start.layers[0].neuron
    values = {"branches": neuron.branches, "synapses": neuron.synapses}
    for item in (fixed or "").split(","):
        name, _, text = item.partition("=")
        if not item:
            continue
        if name not in values or not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"--fixed: expected branches=NUMBER,synapses=NUMBER, got {item!r}")
        if recipe and name == "branches":
            raise ConfigError("--recipe sets branches to 4 d_m; leave branches out of --fixed")
        values[name] = int(text)
    return Wiring(None if recipe else values["branches"], values["synapses"])


def _choice(wiring: "Wiring", fixed: str | None, recipe: bool, known: "Fit | None") -> "list[Wiring]":
    """The wirings of --choose-synapses."""
    from elmnet.theory.planner import wirings

    if recipe or "synapses=" in (fixed or ""):
        raise ConfigError("--choose-synapses is for one number of branches: leave out --recipe and --fixed synapses=")
    if known is None or wiring.branches is None:
        raise ConfigError("--choose-synapses needs runs to learn from: use --from")
    return wirings(known, wiring.branches)


def _limits(
    start: "NetworkConfig",
    budgets: list[str] | None,
    hidden: list[str] | None,
    flops: float | None,
    file_bytes: float | None,
    training_bytes: float | None,
    latency: float | None,
    batch: Callable[[], tuple[int, int]],
) -> "list[Limit]":
    from elmnet.theory.limits import Limit

    given = {
        "--flops": flops,
        "--file-bytes": file_bytes,
        "--training-bytes": training_bytes,
        "--latency-us": latency,
    }
    others = {name: value for name, value in given.items() if value is not None}
    kinds = [name for name, texts in (("--budget", budgets), ("--hidden", hidden)) if texts] + list(others)
    if len(kinds) > 1:
        raise ConfigError(f"one kind of budget at a time, got {', '.join(kinds)}")
    for name, value in others.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be positive, got {value}")
    if flops is not None:
        return [Limit.flops(flops)]
    if file_bytes is not None:
        return [Limit.file_bytes(file_bytes)]
    if training_bytes is not None:
        return [Limit.memory(training_bytes, *batch())]
    if latency is not None:
        from elmnet.bench.latency import calibrate

        with Console(stderr=True).status("measuring streamed steps on this machine"):
            return [Limit(latency, "µs per streamed step", calibrate(start))]
    if hidden:
        return [Limit.hidden(value) for text in hidden for value in numbers("--hidden", text)]
    return [Limit(value) for text in budgets or [] for value in numbers("--budget", text)]


def _learned(
    task: str | None,
    sources: Sequence[str],
    score: str | None,
    network: str | None,
    h0: float | None,
    least_memory: int,
) -> "Learned | None":
    """The runs to learn from, or the one that was named in their place; None where there are none."""
    from elmnet.sweep.learned import Learned, learn, run_named
    from elmnet.theory.rows import PUBLISHED

    named = run_named(network) if not sources and network is not None else None
    if named is not None and task not in (None, named.task):
        raise ConfigError(f"--network {network} is of {named.task}, the plan is for {task}")
    if not sources and task is None and named is None:
        raise ConfigError("name a task (enwik8, shd-adding, shd), runs to learn from (--from RUNS), or --network RUN")
    check_least_memory(least_memory)
    if not sources and (named or task not in PUBLISHED or not PUBLISHED[task].ignorance):
        given = {"--score": score, "--h0": h0}
        options = [name for name, value in given.items() if value is not None]
        options += ["--least-memory"] if least_memory != LEAST_MEMORY else []
        if options:
            where = "beside --network a plan without runs has none" if named else f"there are none published of {task}"
            raise ConfigError(f"{options[0]} is of runs to learn from; {where}: use --from")
        return None if named is None else Learned(None, {}, {}, like=named)
    return learn(sources or [f"published:{task}"], score, network, h0)


def _predict(known: "Fit", networks: "Sequence[NetworkConfig]", file: Path | None) -> None:
    """Print, and perhaps write, what the fit says of networks."""
    from elmnet.theory import answers
    from elmnet.theory.planner import predict

    predictions = predict(known, networks)
    show(answers.predictions(predictions, known))
    for reason in dict.fromkeys(one.extrapolated for one in predictions if one.extrapolated):
        say(f"extrapolated: {reason}")
    if file is not None:
        write_json(file, [one.to_dict() for one in predictions])


def _batch(batch: int | None, length: int | None, like: "RunConfig") -> tuple[int, int]:
    """Sequences and time steps of a training batch: those asked for, or else of a run."""
    from elmnet.tasks import find_task

    kind = find_task(like.task)
    batch = kind.sequences_of(like.options) if batch is None else batch
    length = kind.steps_of(like.options) if length is None else length
    if length is None:
        raise ConfigError(f"how long sequences of {like.task} are only their data say: add --length")
    for name, value in (("--batch", batch), ("--length", length)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    return batch, length


def _write_run(
    task: str,
    preset: str | None,
    learned: "Learned | None",
    known: "Fit | None",
    one: "Plan",
    path: Path,
) -> None:
    """A run of the planned network, trained like the run nearest its budget, or as a preset says."""
    import yaml

    from elmnet.config import NetworkConfig
    from elmnet.models import counts
    from elmnet.sweep.learned import run_like

    config, name = run_like(learned, known, task=task, preset=preset, hidden=one.cost.hidden)
    if learned is None or not learned.tells_training:
        first = one.network.layers[0]
        assert isinstance(config.model, NetworkConfig)  # every preset is one
        config = config.replace(model=config.model.with_hidden(units=first.units, **first.neuron.sizes))
    else:
        config = config.replace(model=one.network)
    write_atomic(path, yaml.safe_dump(config.to_dict(), sort_keys=False, width=120))
    like = _like(config, name)
    P = counts(config.model).parameters
    if one.cost.parameters != P:
        like += f" (whose other settings make P {P:,})"
    say(f"train it {like}, {config.training.steps:,} steps: elmnet train --config {path}")


def _write_recipe(
    task: str,
    preset: str | None,
    learned: "Learned | None",
    known: "Fit | None",
    networks: "Sequence[NetworkConfig]",
    path: Path,
) -> None:
    """A sweep of the designed runs, trained like the run nearest the largest, or as a preset says."""
    from elmnet import budget
    from elmnet.sweep.learned import run_like
    from elmnet.sweep.recipe import Recipe

    largest = max(budget.cost(network).hidden for network in networks)
    config, name = run_like(learned, known, task=task, preset=preset, hidden=largest)
    where = "" if known is None else f", learned from {known.runs.source}"
    about = f"the {len(networks)} next runs of `elmnet plan --design`{where}"
    seed = 1 + max((one.seed for one in learned.configs.values()), default=-1) if learned is not None else 0
    Recipe.like(config, networks, name=f"{task}-next", about=about, seed=seed).write(path)
    say(f"train them {_like(config, name)}, {config.training.steps:,} steps: elmnet sweep run {path}")


def _like(config: "RunConfig", name: str) -> str:
    """What planned runs are trained like: the run of this name, or a preset."""
    return f"like {name}" if name else f"on {config.data} data, preset {config.preset}"
