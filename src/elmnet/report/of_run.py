"""What a single run was, how it went, and what its best network looks like inside."""

from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from elmnet import models
from elmnet.config import NetworkConfig
from elmnet.data.download import OFFICIAL
from elmnet.data.text import Vocabulary
from elmnet.errors import ElmnetError
from elmnet.files import cache_directory
from elmnet.models import ModelConfig
from elmnet.network import ELMNetwork
from elmnet.report import figures, inside
from elmnet.report.figures.style import short
from elmnet.report.page import Figure, Passage, Section, bound
from elmnet.scores import final_scores
from elmnet.tables import Table
from elmnet.tasks import Task
from elmnet.tasks.enwik8 import TextOptions
from elmnet.tasks.shd import SpikeOptions
from elmnet.train.trained import Run

STEPS = 600
"""Time steps that a look inside takes of a stream."""
SEQUENCES = 8
SHADES = (1.0, 3.0, 6.0, 9.0)
"""Bits from which a character is shaded 1 to 4."""


def sections(run: Run, *, inside: bool) -> list[Section]:
    """The run, and with `inside` a section on its best network.

    Raises:
        RunError: the run is damaged.
    """
    return [_course(run), _inside(run)] if inside else [_course(run)]


def _unit(model: ModelConfig) -> list[tuple[str, str]]:
    """What describes the units of a model."""
    if not isinstance(model, NetworkConfig):
        return [("model", model.kind), ("layers", f"{model.depth}"), ("width", f"{model.width:,}")]
    cost = models.counts(model)
    return [
        ("units, N", f"{cost.units:,}"),
        ("memory units per neuron, d_m", f"{cost.memory:,}"),
        ("branches × synapses", f"{cost.branches} × {cost.synapses}"),
        ("complexity, k_e", f"{cost.complexity:,}"),
        ("connectivity, k_c", f"{cost.connectivity:,}"),
    ]


def _course(run: Run) -> Section:
    config, result, cost = run.config, run.result, models.counts(run.config.model)
    section = Section(f"Run {run.path.resolve().name}")
    state = "finished" if result else "not finished: no final scores"
    section.words.append(f"{config.task} on {run.facts.get('name', config.data)}, preset {config.preset}; {state}.")
    made = run.directory.read_environment()
    rows = [
        *_unit(config.model),
        ("trainable parameters, P", f"{cost.parameters:,}"),
        ("of which read-out", f"{cost.readout:,}"),
        ("FLOPs per time step, forward", f"{cost.flops:,}"),
        ("seed", str(config.seed)),
        ("steps", f"{config.training.steps:,}"),
        ("optimiser", f"{config.training.optimizer}, peak learning rate {config.training.learning_rate:g}"),
        ("versions", ", ".join(f"{name} {made[name]}" for name in ("elmnet", "torch", "python") if made.get(name))),
        ("commit", str(made.get("git") or "not recorded")),
    ]
    section.tables.append(Table("What was run", ("setting", "value"), rows))
    if result:
        section.tables.append(final_scores({"": result}, "Final scores, beside trivial predictors"))
        section.words.append(
            f"{result['steps']:,} steps in {result['wall_seconds']:,.0f} s with all evaluations; "
            f"the best validation came at step {result['best_step']:,}. One seed: no spread is known."
        )
    if lines := run.metrics:
        words = "The training loss and the validation score, by training step."
        section.figures.append(Figure("learning", "Learning curve", words, bound(figures.learning_curve, lines)))
        words = "Norm of the gradient before clipping, by training step, on a logarithmic axis."
        section.figures.append(Figure("gradient", "Gradient norm", words, bound(figures.gradient_norm, lines)))
    return section


def _inside(run: Run) -> Section:
    """The best network, and what it does with test data; in words where either is not at hand."""
    section = Section(f"Inside {run.path.resolve().name}")
    try:
        network = run.directory.best_network()
    except ElmnetError as error:
        section.words.append(f"No look inside: {error}.")
        return section
    if not isinstance(network, ELMNetwork):
        section.words.append("Only ELM networks can be looked into; this is another model.")
        return section
    words = "In- and out-degrees of the connectome: synapses of a unit, and synapses that read an input or a unit."
    counted = inside.degrees(network)
    wiring = [Figure("degrees", "Connectome", words, bound(figures.degree_distribution, counted))]
    words = "Norm of every unit's read-out weights, and of the weights with which the next layer reads it, by rank."
    norms = inside.readout_norms(network)
    wiring.append(Figure("readout", "Read-out norms", words, bound(figures.readout_strength, norms)))
    try:
        task = _task_of(run)
        x, y, lengths = sample(task)
    except ElmnetError as error:
        section.words.append(f"Its data are not at hand, so its activity cannot be shown: {error}.")
        section.figures = wiring
        return section
    if not run.same_data(task):
        section.words.append("The data have changed since this network was trained on them.")
    _look(section, network, task, x, y, lengths)
    section.figures += wiring
    return section


def _task_of(run: Run) -> Task:
    """The run's task on its data; nothing is downloaded for a report.

    Raises:
        DataError: they are not here, or do not fit.
        ElmnetError: official data were never fetched.
    """
    if run.config.data == "official":
        files = OFFICIAL.get("enwik8" if isinstance(run.config.options, TextOptions) else "shd", ())
        missing = [file.name for file in files if not (cache_directory() / file.name).exists()]
        if missing:
            raise ElmnetError(f"{missing[0]} is not in the cache; `elmnet data get` fetches it")
    return run.task()


def sample(task: Task) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first test sequences of a task: x, y and lengths, where they differ, of at most 8 sequences; streams are
    joined to 600 steps or more."""
    x: list[Tensor] = []
    y: list[Tensor] = []
    lengths: Tensor | None = None
    for batch in task.evaluation_batches("test", whole=True):
        if x and (batch.fresh or batch.y.dim() == 1 or sum(one.shape[1] for one in x) >= STEPS):
            break
        x.append(batch.x[:SEQUENCES])
        y.append(batch.y[:SEQUENCES])
        lengths = batch.lengths if batch.lengths is None else batch.lengths[:SEQUENCES]
        if lengths is not None:
            break
    return torch.cat(x, 1), (y[0] if y[0].dim() == 1 else torch.cat(y, 1)), lengths


def _look(
    section: Section, network: ELMNetwork, task: Task, x: Tensor, y: Tensor, lengths: Tensor | None = None
) -> None:
    """Figures of what the network does with a sample."""
    seen = inside.record(network, x, lengths)
    first, least, most = (int(steps) for steps in (seen.lengths[0], seen.lengths.min(), seen.lengths.max()))
    options = getattr(task, "options", None)
    clock = (options.bin_ms, "ms") if isinstance(options, SpikeOptions) else (1.0, "steps")
    tau, measured = inside.timescales(network), inside.autocorrelation_times(seen.activity, seen.lengths)
    ratio = inside.participation_ratio(seen.valid)
    section.words += [
        f"What the best network does with {len(x)} sequences of "
        f"{f'{most:,}' if least == most else f'{least:,} to {most:,}'} steps from the test data of "
        f"{task.data_name}, from zero state. Raster, traces and samples show the first of them.",
        f"Effective dimension of its activity (participation ratio, Gao et al. 2017): {ratio:.1f} of "
        f"{seen.activity.shape[-1]:,} units.",
    ]
    if isinstance(options, TextOptions):
        section.passages.append(_surprise(task, x, y, seen.outputs))
    if isinstance(options, SpikeOptions):
        spikes, target = x[0].numpy() > 0, int(y[0])
        probability = softmax(seen.outputs[0], -1)
        guess = int(probability[-1].argmax())
        words = (
            f"Input spikes of one sequence, and below them the running probability of the likeliest classes. The true "
            f"class is {target}; at the end the network says {guess} with probability {probability[-1, guess]:.2f}."
        )
        draw = bound(figures.spikes_and_classes, spikes, probability, target, *clock)
        section.figures.append(Figure("classes", "Input spikes and running class probabilities", words, draw))
    unit = int(np.argmax(seen.activity[0, : len(seen.memory)].var(0)) // network.config.layers[0].neuron.outputs)
    name = f"unit {unit}"
    silent = inside.count_silent(seen.valid)
    drawn = [
        ("raster", "Activity raster", "Activity of every unit over time; the most active units are on top.",
         bound(figures.activity_raster, seen.activity[0, :first], *clock)),
        ("activity", "Distribution of activity", f"Histogram over units of their mean activity; {silent} are silent.",
         bound(figures.activity_distribution, seen.valid)),
        ("timescales", "Timescales", f"Timescales of memory, {short(clock[0] * tau.min())} to "
         f"{short(clock[0] * tau.max())} {clock[1]}, beside the time in which the autocorrelation of a unit's "
         f"activity falls to 1/e, median "
         f"{short(clock[0] * _median(measured))} {clock[1]}.",
         bound(figures.timescale_distribution, tau, measured, *clock)),
        ("memory", "Memory traces", f"Memory of {name}, whose activity varies most: a line for each timescale.",
         bound(figures.memory_traces, seen.memory[:, unit], tau[unit], *clock, name)),
        ("branches", "Branch drive", f"What the branches of {name} receive over time.",
         bound(figures.branch_drive, seen.branch[:, unit], *clock, name)),
        ("dimension", "Effective dimension", "Share of the variance of activity along its first principal axes; the "
         f"dashed line is the participation ratio, {ratio:.1f}.", bound(figures.dimension, seen.valid)),
    ]  # fmt: skip
    section.figures += [Figure(*one) for one in drawn]


def _median(values: Any) -> float:
    found = values[np.isfinite(values)]
    return float(np.median(found)) if len(found) else float("nan")


def _surprise(task: Any, x: Tensor, y: Tensor, outputs: Any) -> Passage:
    """A text with the bits of every character as shade."""
    bits = inside.surprise(outputs[0], y[0].numpy())
    vocabulary: Vocabulary = task.vocabulary
    raw = [vocabulary.decode([int(one)]) for one in y[0]]
    pieces: list[tuple[int, str]] = []
    symbol, worst = b"", 0.0
    for byte, cost in zip(raw, bits, strict=True):
        symbol, worst = symbol + byte, max(worst, float(cost))
        try:
            text = symbol.decode()
        except UnicodeDecodeError as error:
            if error.end == len(symbol) and len(symbol) < 4 and error.reason == "unexpected end of data":
                continue  # more bytes of this character follow
            text = symbol.decode(errors="replace")
        level = int(np.searchsorted(SHADES, worst, "right"))
        if pieces and pieces[-1][0] == level:
            pieces[-1] = (level, pieces[-1][1] + text)
        else:
            pieces.append((level, text))
        symbol, worst = b"", 0.0
    shares = np.bincount(np.searchsorted(SHADES, bits, "right"), minlength=5) / len(bits)
    edges = [f"{edge:g}" for edge in SHADES]
    words = (
        f"A sample of the test text, shaded by how surprising each character was: {bits.mean():.2f} bits on average. "
        f"White: below {edges[0]} bits ({shares[0]:.0%}); then from {edges[0]} ({shares[1]:.0%}), {edges[1]} "
        f"({shares[2]:.0%}), {edges[2]} (underlined, {shares[3]:.0%}) and {edges[3]} (doubly, {shares[4]:.0%})."
    )
    return Passage(words, pieces)
