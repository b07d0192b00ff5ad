"""The report: one HTML file that needs nothing else, of runs, sweeps and published tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elmnet import models
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, ElmnetError, RunError, TheoryError
from elmnet.models import ModelConfig
from elmnet.report import curves, figures
from elmnet.sweep import table as tables
from elmnet.sweep.store import Sweep, row
from elmnet.theory.fit import Fit, fit
from elmnet.theory.planner import Limit, Plan, Wiring, plan
from elmnet.theory.runs import Runs, published
from elmnet.train.results import read_runs
from elmnet.train.run import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 5_000_000
"""Bytes of a report; figures of a sweep of any size stay far below."""
OURS = (
    "The model behind the fit (SNRR) is elmnet's own, docs/theory.md. The problem, the two mechanisms it formalises, "
    "the recipe and the published runs are of Spieler, Martius, Levina (arXiv:2605.12049)."
)


@dataclass(frozen=True)
class Table:
    """A table of text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure, and what it shows in words."""

    name: str
    title: str
    words: str
    draw: "Callable[[], Axes]"


@dataclass
class Section:
    """What is reported of one thing."""

    title: str
    words: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def report(sources: Sequence[str]) -> list[Section]:
    """Sections on runs, sweeps (directories) and `published:TASK`.

    Raises:
        ConfigError: a source is none of these.
        RunError: a directory is damaged.
    """
    sections = []
    for source in sources:
        path = Path(source)
        if source.startswith("published:"):
            sections.append(_published(source.partition(":")[2]))
        elif (path / "sweep.json").is_file():
            sections += _sweep(Sweep.open(path))
        elif (path / "config.yaml").is_file():
            sections.append(_run(RunDirectory.open(path)))
        else:
            raise ConfigError(f"{source}: neither a run, nor a sweep, nor published:TASK")
    return sections


def render(title: str, sections: Sequence[Section]) -> str:
    """The HTML page. Names from outside are escaped.

    Raises:
        ConfigError: Jinja or matplotlib is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise ConfigError("reports need Jinja and matplotlib: pip install 'elmnet[report]'") from None
    template = Environment(
        loader=PackageLoader("elmnet.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html.j2")
    shown = [
        {
            "title": section.title,
            "words": section.words,
            "tables": section.tables,
            "figures": [{"title": f.title, "words": f.words, "svg": figures.svg(f.draw)} for f in section.figures],
        }
        for section in sections
    ]
    today, version = date.today().isoformat(), metadata.version("elmnet")
    return template.render(title=title, sections=shown, date=today, version=version)


# Sections ------------------------------------------------------------------------------------------------------------


def _unit(model: ModelConfig) -> list[tuple[str, str]]:
    """What describes the units of a model."""
    cost = models.counts(model)
    if not isinstance(model, NetworkConfig):
        return [("model", model.kind), ("layers", f"{model.depth}"), ("width", f"{model.width:,}")]
    neuron = model.layers[0].neuron
    return [
        ("units, N", f"{cost.units:,}"),
        ("memory units per neuron, d_m", f"{neuron.memory:,}"),
        ("branches × synapses", f"{neuron.branches} × {neuron.synapses}"),
        ("complexity, k_e", f"{cost.complexity:,}"),
        ("connectivity, k_c", f"{cost.connectivity:,}"),
    ]


def _run(run: RunDirectory) -> Section:
    config, facts = run.read_config()
    result, cost = run.read_result(), models.counts(config.model)
    section = Section(f"Run {run.path.name}")
    state = "finished" if result else "not finished: no final scores"
    section.words.append(f"{config.task} on {facts.get('name', config.data)}, preset {config.preset}; {state}.")
    facts_table = [
        *_unit(config.model),
        ("trainable parameters, P", f"{cost.parameters:,}"),
        ("of which read-out", f"{cost.readout:,}"),
        ("FLOPs per time step, forward", f"{cost.flops:,}"),
        ("seed", str(config.seed)),
        ("steps", f"{config.training.steps:,}"),
        ("optimiser", f"{config.training.optimizer}, peak learning rate {config.training.learning_rate:g}"),
    ]
    section.tables.append(Table("What was run", ("", "value"), facts_table))
    if result:
        names = list(result["test"])
        scored = {"this network": result, **result["baselines"]}
        rows = [
            (name, *(_number(one[part].get(score)) for part in ("valid", "test") for score in names))
            for name, one in scored.items()
        ]
        columns = ("", *(f"{part} {score}" for part in ("valid", "test") for score in names))
        section.tables.append(Table("Final scores, beside trivial predictors", columns, rows))
        section.words.append(
            f"{result['steps']:,} steps in {result['wall_seconds']:,.0f} s with all evaluations; "
            f"the best validation came at step {result['best_step']:,}."
        )
    if run.metrics_file.exists():
        lines = curves.read_metrics(run.metrics_file)
        words = "Cross entropy of training batches and of validation, by training step."
        section.figures.append(Figure("learning", "Learning curve", words, lambda: curves.learning_curve(lines)))
        words = "Norm of the gradient before clipping, by training step, on a logarithmic axis."
        section.figures.append(Figure("gradient", "Gradient norm", words, lambda: curves.gradient_norm(lines)))
    return section


def _whole(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"


def _sweep(sweep: Sweep) -> list[Section]:
    seen = list(sweep.look())
    rows = [row(sweep, one) for one in seen]
    section = Section(f"Sweep {sweep.name}")
    counts = {state: sum(one.state == state for one in seen) for state in dict.fromkeys(one.state for one in seen)}
    section.words.append(f"{len(seen)} trials: " + ", ".join(f"{n} {state}" for state, n in counts.items()) + ".")
    done = [one for one in rows if one["state"] == "done"]
    lost = [one for one in rows if one["state"] in ("failed", "damaged", "stopped early")]
    score = "valid_bpc" if any(one["valid_bpc"] for one in done) else "valid_nats"
    if done:
        tables.write(sweep, sweep.table_file)
        means = tables.aggregate(sweep.table_file)
        columns = (
            "model",
            "N",
            "d_m",
            "d_tree",
            "d_s",
            "P'",
            "P",
            "steps",
            "seeds",
            score,
            "",
            score.replace("valid", "test"),
        )
        keys = ("N", "d_m", "d_tree", "d_s", "hidden", "P", "steps", "seeds")
        cells = [
            (
                str(one["model"]),
                *(_whole(one[key]) for key in keys),
                _number(one[score]),
                _error(one[f"{score}_se"]),
                _number(one[test]),
            )
            for one in means
            for test in (score.replace("valid", "test"),)
        ]
        section.tables.append(Table("Means over seeds, ± standard error", columns, cells))
        means = [one for one in means if one["d_m"] is not None]  # the figures are about ELM neurons
        if curves.budgets(means, score):
            words = f"{score.replace('_', ' ')} against d_m, one line for each budget, wiring and training length."
            draw = _bound(curves.budget_curves, means, score)
            section.figures.append(Figure("budgets", "Fixed budgets", words, draw))
        for varied in curves.AXES:
            if curves.series(means, varied, score):
                words = f"{score.replace('_', ' ')} against {varied} where nothing else varies."
                draw = _bound(curves.axis_curve, means, varied, score)
                section.figures.append(Figure(f"axis_{varied}", f"{varied} alone", words, draw))
    if lost:
        cells = [
            (
                str(one["trial"]),
                f"{one['model']}, N {one['N']}" + (f", d_m {one['d_m']}" if one["d_m"] else ""),
                str(one["reason"]),
            )
            for one in lost
        ]
        section.tables.append(Table("Failed, damaged or stopped early", ("trial", "shape", "why"), cells))
    try:
        runs, _ = read_runs(sweep.path)
        return [section, _theory(runs)]
    except (TheoryError, RunError) as error:
        section.words.append(f"No fit of the theory: {error}")
        return [section]


def _error(value: Any) -> str:
    return "" if value is None else f"± {value:.4f}"


def _bound(function: "Callable[..., Axes]", *arguments: Any) -> "Callable[[], Axes]":
    return lambda: function(*arguments)


def _published(task: str) -> Section:
    return _theory(published(task))


def _theory(runs: Runs) -> Section:
    """What the information model says of some runs."""
    known = fit(runs)
    section = Section(f"What limits these networks: {runs.source}")
    words = f"{runs.score}: {len(known.runs)} runs fitted, RMSE {known.rmse:.4g}, R² {known.r2:.4f}. {OURS}"
    section.words += [words, *(f"{name} is fixed at {why}." for name, why in known.fixed.items())]
    rows = []
    for name in ("L_inf", "D", "kappa_e", "N_r", "kappa_c", "a"):
        interval = known.interval(attrgetter(name)) if name in known.free else None
        rows.append((name, f"{float(getattr(known.law, name)):.4g}", _interval(interval, ".4g")))
    section.tables.append(Table("Constants of the fit", ("constant", "value", "95 % interval"), rows))
    section.tables.append(_next_budget(known))
    if known.excluded:
        section.tables.append(Table("Runs left out of the fit", ("run", "why"), list(known.excluded.items())))
    about = {
        "budget_curve": "Score against d_m at the runs' main budget: runs, the fitted law with its 95 % band, optimum.",
        "mechanisms": "Bits of signal-to-noise lost to units that are too simple, and to units that are too few.",
        "surface": "Predicted score over N and k_e, with lines of equal budget and the path of the optimum.",
        "front": "Least predicted score of every budget; dotted where it is extrapolated.",
    }
    draws = figures.of_fit(known)
    section.figures += [Figure(name, name.replace("_", " "), words, draws[name]) for name, words in about.items()]
    return section


def _next_budget(known: Fit) -> Table:
    """What the planner would build with the runs' largest budget, and with 3 and 10 times that."""
    network: NetworkConfig = known.runs.network
    neuron = network.layers[0].neuron
    rows = []
    for factor in (1, 3, 10):
        limit = Limit(round(factor * float(known.runs.P.max())))
        chosen: Plan = plan(network, limit, Wiring(neuron.branches, neuron.synapses), known)
        first, best = chosen.network.layers[0], chosen.best_memory
        rows.append(
            (
                f"{limit.value:,.0f}",
                f"{first.units:,}",
                f"{first.neuron.memory}",
                "" if best is None else f"{best[0]} to {best[1]}",
                f"{chosen.near_optimal[0]} to {chosen.near_optimal[1]}",
                _number(chosen.loss) + (" extrapolated" if chosen.extrapolated else ""),
                _interval(chosen.interval, ".4f"),
            )
        )
    columns = ("P", "N", "d_m", "best d_m, 95 %", "near-optimal", known.runs.score, "95 % of the law")
    return Table("How to spend the next budget", columns, rows)


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def write(path: Path, title: str, sections: Sequence[Section], directory: Path | None) -> list[Path]:
    """Write the page and, given a directory, every figure as PNG and SVG; returns the files."""
    from elmnet.files import write_atomic

    page = render(title, sections)
    if len(page.encode()) > LARGEST:
        raise ElmnetError(f"the report would take {len(page.encode()):,} bytes; report fewer things at a time")
    write_atomic(path, page)
    drawn = {
        f"{i}_{figure.name}" if len(sections) > 1 else figure.name: figure.draw
        for i, section in enumerate(sections, 1)
        for figure in section.figures
    }
    return [path, *(figures.save(drawn, directory) if directory is not None else [])]
