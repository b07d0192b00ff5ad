"""What a sweep's trials say, and what the information model makes of them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elmnet import models
from elmnet.errors import ConfigError, RunError, TheoryError
from elmnet.report.figures import curves
from elmnet.report.of_theory import theory
from elmnet.report.page import Figure, Section, bound
from elmnet.sweep import table as collected
from elmnet.sweep.compare import compare
from elmnet.sweep.store import LOST, Sweep, own_seconds
from elmnet.tables import Table
from elmnet.train.journal import read_metrics
from elmnet.train.results import Finished, as_runs, described, finished


def sections(sweep: Sweep) -> list[Section]:
    """The sweep, and its fit where there are runs enough.

    Raises:
        RunError: the sweep is damaged.
    """
    with tempfile.TemporaryDirectory() as place:  # a report only reads
        file = Path(place) / "table.parquet"
        rows = collected.write([sweep], file)
        means = collected.aggregate(file)
    section = Section(f"Sweep {sweep.name}")
    counts = {
        state: sum(one["state"] == state for one in rows) for state in dict.fromkeys(one["state"] for one in rows)
    }
    section.words.append(f"{len(rows)} trials: " + ", ".join(f"{n} {state}" for state, n in counts.items()) + ".")
    done = [one for one in rows if one["state"] == "done"]
    whole = finished(sweep.path)
    if done:
        section.words.append(_what(done))
        _scores(section, sweep, rows, means)
        _kinds(section, whole[0])
    lost = [one for one in rows if one["state"] in LOST]
    if lost:
        cells = [(str(one["trial"]), _shape(one), str(one["reason"])) for one in lost]
        section.tables.append(Table("Failed, damaged or stopped early", ("trial", "shape", "why"), cells))
    try:
        learned, skipped = described(*whole)
        runs = as_runs(learned, sweep.path, skipped=skipped)
    except (TheoryError, RunError) as error:
        section.words.append(f"No fit of the theory: {error}.")
        return [section]
    try:
        found = [section, theory(runs)]
    except TheoryError as error:
        section.words.append(f"No fit of the theory: {str(error).partition('; left out')[0]}.")
        collapsed = [(runs.names[i], why) for i, why in runs.collapsed().items()]
        if collapsed:
            section.tables.append(Table("Runs that no smooth law describes", ("run", "why"), collapsed))
        return [section]
    failed = {str(one["trial"]) for one in lost}
    others = {name: why for name, why in skipped.items() if not any(trial in name for trial in failed)}
    if others:
        found[1].tables.append(Table("Directories left out of the fit", ("run", "why"), list(others.items())))
    return found


def _shape(row: dict[str, Any]) -> str:
    units = f"{row['model']}, N {row['N']}"
    return units if row["d_m"] is None else f"{units}, d_m {row['d_m']}"


def _what(done: list[dict[str, Any]]) -> str:
    """Task, data, versions and cost of the finished trials."""

    def of(name: str) -> str:
        return ", ".join(dict.fromkeys(str(one[name]) for one in done if one[name] is not None)) or "unknown"

    hours = sum(map(own_seconds, done)) / 3600
    return (
        f"{of('task')} on {of('data')}; elmnet {of('elmnet')}, torch {of('torch')}, commit {of('git')}; "
        f"{hours:,.2f} hours of training and evaluation in all."
    )


def _scores(section: Section, sweep: Sweep, rows: list[dict[str, Any]], means: list[dict[str, Any]]) -> None:
    """Means over seeds, their spread, learning, and the curves that the sweep's design allows."""
    done = [one for one in rows if one["state"] == "done"]
    score = collected.leading_score(done)
    section.tables.append(collected.means_over_seeds(means, "Means over seeds ± standard error"))
    means = [one for one in means if one["d_m"] is not None]  # the figures are about ELM neurons
    rows = [one for one in rows if one["d_m"] is not None]
    if curves.budgets(means, score):
        words = f"{score.replace('_', ' ')} against d_m, one line for each budget, wiring and training length."
        section.figures.append(Figure("budgets", "Fixed budgets", words, bound(curves.budget_curves, means, score)))
    for varied in curves.AXES:
        if curves.series(means, varied, score):
            words = f"{score.replace('_', ' ')} against {varied} where nothing else varies."
            draw = bound(curves.axis_curve, means, varied, score)
            section.figures.append(Figure(f"axis_{varied}", f"{varied} alone", words, draw))
    if curves.seeds(rows, score):
        words = f"{score.replace('_', ' ')} of every seed of configurations that have several, with mean and error."
        section.figures.append(Figure("seeds", "Spread over seeds", words, bound(curves.seed_spread, rows, score)))
    learned = [
        (one["d_m"], read_metrics(file))
        for one in rows
        if (file := sweep.path / "trials" / one["trial"] / "metrics.jsonl").is_file()
    ]
    if learned:
        words = "Validation score of every run by training step, coloured by d_m; failed runs as far as they got."
        draw = bound(curves.learning_curves, learned, score.partition("_")[2])
        section.figures.append(Figure("learning", "Learning curves", words, draw))


def _kinds(section: Section, runs: Sequence[Finished]) -> None:
    """Kinds of network against the first, where there are several."""
    if len({models.kind_of(run.config.model) for run in runs}) < 2:
        return
    try:
        comparison = compare(runs, "model")
    except ConfigError as error:  # a score that is no number
        section.words.append(f"Kinds of network are not compared: {error}.")
        return
    section.tables.append(comparison.table())
    words = f"Each dot is the difference within a pair of runs; {'; '.join(comparison.remarks())}."
    section.figures.append(Figure("kinds", "Kinds of network", words, bound(curves.differences, comparison)))
