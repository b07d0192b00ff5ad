"""Several runs side by side: scores, what differs in their settings, and how they learned."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elmnet import models, tables
from elmnet.report import figures
from elmnet.report.page import Figure, Section, bound
from elmnet.scores import leading
from elmnet.tables import Table
from elmnet.train.identity import BOOKKEEPING, IRRELEVANT
from elmnet.train.trained import Run

MOST = 12
"""Settings shown that differ, and curves in a figure."""
_BY_THE_WAY = (
    *(name for name in IRRELEVANT if name not in ("device", "backend")),
    *(f"training.{name}" for name in BOOKKEEPING),
    "init",
)
"""Settings not shown: they decide neither the result nor its speed, or are shown in other words (`init`)."""


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """A table and a figure for every task and data that several runs share; None: none is shared."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.config.task, str(run.facts.get("name", run.config.data))), []).append(run)
    section = Section("Side by side")
    for number, ((task, data), group) in enumerate(groups.items()):
        if len(group) < 2:
            continue
        differing = _differing(group)
        shown = dict(list(differing.items())[:MOST])
        section.tables.append(_scores(group, shown, f"{task} on {data}: scores, and settings that differ"))
        if len(differing) > MOST:
            section.words.append(f"{task} on {data}: these settings differ, too: {', '.join(list(differing)[MOST:])}.")
        named = list(zip(_names(group), group, strict=True))[:MOST]
        curves = {name: lines for name, run in named if (lines := run.validations)}
        if len(curves) > 1:
            score = leading(next(iter(curves.values()))[0])
            words = f"Validation {score} by training step, {task} on {data}."
            words += f" The first {MOST} of {len(group)} runs." if len(group) > MOST else ""
            draw = bound(figures.run_curves, curves, score)
            section.figures.append(Figure(f"together_{number}", "Learning, side by side", words, draw))
    return section if section.tables else None


def _scores(runs: Sequence[Run], settings: Mapping[str, Sequence[Any]], title: str) -> Table:
    """Settings, parameters and scores of runs of one task."""
    results = [run.result or {"valid": {}, "test": {}} for run in runs]
    names = dict.fromkeys(score for result in results for score in result["test"])
    rows = [
        (
            called,
            *("" if values[i] is None else str(values[i]) for values in settings.values()),
            tables.whole(models.counts(run.config.model).parameters),
            *(tables.score(result[part].get(name)) for part in ("valid", "test") for name in names),
        )
        for i, (called, run, result) in enumerate(zip(_names(runs), runs, results, strict=True))
    ]
    scores = [f"{part} {name}" for part in ("valid", "test") for name in names]
    return Table(title, ["run", *settings, "P", *scores], rows)


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not equal in all runs; nothing where a run has no such setting.

    Of models of several kinds, which share few settings, the kind alone.
    """
    flat = [dict(_flat(run.config.to_dict())) | {"begins with": _beginning(run)} for run in runs]
    kinds = [models.kind_of(run.config.model) for run in runs]
    names = [name for one in flat for name in one if name not in _BY_THE_WAY and not name.startswith("init.")]
    if len(set(kinds)) > 1:
        names = [name for name in names if not name.startswith("model.")]
    found = {name: [one.get(name, "") for one in flat] for name in dict.fromkeys(names)}
    found = {name: values for name, values in found.items() if any(value != values[0] for value in values)}
    short = Counter(name.rpartition(".")[2] for name in found)
    named = {last if short[last := name.rpartition(".")[2]] == 1 else name: values for name, values in found.items()}
    return {"model": kinds, **named} if len(set(kinds)) > 1 else named


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by path; a list of numbers is one."""
    inner = values if isinstance(values, dict) else dict(enumerate(values)) if isinstance(values, list) else {}
    if inner and (isinstance(values, dict) or isinstance(inner[0], dict)):
        for name, value in inner.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, values


def _beginning(run: Run) -> str:
    init = run.config.init
    return "" if init is None else Path(init.path).parent.name


def _names(runs: Sequence[Run]) -> list[str]:
    """The directories' own, with the one above where that leaves two alike, or where it is a seed's."""
    paths = [run.path.resolve() for run in runs]
    count = Counter(path.name for path in paths)
    above = [count[path.name] > 1 or path.name.startswith("seed-") for path in paths]
    return [f"{path.parent.name}/{path.name}" if long else path.name for path, long in zip(paths, above, strict=True)]
