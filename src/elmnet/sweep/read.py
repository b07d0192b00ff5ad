"""A table of runs, read for fits: that of `elmnet sweep collect`, or one of any origin."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, RunError
from elmnet.files import ending
from elmnet.sweep import table
from elmnet.theory.kinds import given
from elmnet.theory.rows import runs_of_rows
from elmnet.theory.runs import Runs
from elmnet.train.config import RunConfig
from elmnet.train.results import Finished, as_runs, described, none_finished

Row = Mapping[str, Any]


def read_table(
    file: str | Path, score: str | None = None, *, network: NetworkConfig | None = None, H0: float | None = None
) -> tuple[Runs, dict[str, str], list[Finished]]:
    """The finished runs of a table as a fit takes them, why others were left out, and how they were trained.

    Args:
        file: .csv or .parquet, of `elmnet sweep collect`, or of any origin: then with sizes and scores by name, as
            `elmnet.theory.rows.runs_of_rows` says.
        score: as for `elmnet.train.results.as_runs`.
        network: for a table of other origin, the network whose hidden layer its rows vary.
        H0: the same, score of a network that knows nothing.

    Returns:
        The last is empty for a table of other origin.

    Raises:
        RunError: the file is damaged.
        ConfigError: network and H0 are missing, or given though the table has its own.
        TheoryError: no finished run; runs of several tasks; a score or size is missing or wrong.
    """
    file = Path(file)
    names, lines = _rows(file)
    if _whole(names):
        if network is not None or H0 is not None:
            raise ConfigError(
                f"{file} tells its networks and what knowing nothing scores; leave out --network and --h0"
            )
        found, skipped = described(*_runs(file, lines))
        return as_runs(found, file, score, skipped), skipped, found
    rows, skipped = _finished(lines)
    if network is None or H0 is None:
        raise ConfigError(
            f"{file} does not tell its networks whole, as tables of `elmnet sweep collect` do: name the one whose "
            "hidden layer its rows vary (--network), and what a network that knows nothing scores (--h0)"
        )
    for name in [name for name, row in rows.items() if _said(row, "model")]:
        if (model := str(rows[name]["model"]).lower()) not in ("elm", "leaky"):
            skipped[name] = f"a {model}; the model is of ELM networks"
            del rows[name]
    if not rows:
        raise none_finished(file, skipped)
    source = f"{file} ({len(rows)} runs)"
    named = [{**row, "name": row["name"] if _said(row, "name") else name} for name, row in rows.items()]
    return runs_of_rows(named, network, H0=H0, source=source, score=score), skipped, []


def read_finished(file: str | Path) -> tuple[list[Finished], dict[str, str]]:
    """The finished runs of a table of `elmnet sweep collect`, of whatever network, and why others were left out.

    Raises:
        RunError: the file is damaged.
        ConfigError: it is of another origin, and does not tell its runs' settings.
    """
    file = Path(file)
    names, lines = _rows(file)
    if not _whole(names):
        raise ConfigError(f"{file} does not tell its runs' settings, as tables of `elmnet sweep collect` do")
    return _runs(file, lines)


def _whole(names: Sequence[str]) -> bool:
    """Whether a table with these columns tells its runs whole."""
    return {"config", "baselines"} <= set(names)


def _runs(file: Path, lines: Sequence[Row]) -> tuple[list[Finished], dict[str, str]]:
    """The finished runs of a collected table's rows, and why others were left out."""
    rows, skipped = _finished(lines)
    found = []
    for name, row in rows.items():
        try:
            found.append(_run(name, row))
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # ConfigError is a ValueError
            raise RunError(f"{file}: {name} is damaged: {error}; `elmnet sweep collect` writes it anew") from error
    return found, skipped


def _run(name: str, row: Row) -> Finished:
    """A finished run from its row of a collected table."""
    scores: dict[str, dict[str, float]] = {"valid": {}, "test": {}}
    for column, value in row.items():
        split, _, kind = column.partition("_")
        if split in scores and given(row, column):
            scores[split][kind] = float(value)
    config, baselines = RunConfig.from_dict(json.loads(row["config"])), json.loads(row["baselines"])
    floors = [{split: dict(floor[split]) for split in scores} for floor in baselines.values()]
    return Finished(name, config, str(row["data"]), scores, floors)


def _finished(rows: Sequence[Row]) -> tuple[dict[str, Row], dict[str, str]]:
    """Rows of finished runs by name, and why others were left out; each trial of a sweep once."""
    found: dict[str, Row] = {}
    skipped: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name = str(row["trial"]) if {"trial", "configuration"} <= row.keys() else f"row {number}"
        if _said(row, "state") and row["state"] != "done":
            skipped[name] = str(row["reason"] if _said(row, "reason") else row["state"])
        elif name in found:
            skipped[f"row {number}"] = f"the same run as {name}"
        else:
            found[name] = row
    return found, skipped


def _said(row: Row, name: str) -> bool:
    """Whether a row has something there."""
    return given(row, name) and str(row[name]).lower() != "nan"


def _rows(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """A table's columns, and its rows by column; of a CSV file as text."""
    if ending(file) == ".parquet":
        names, rows = table.ask(file, "SELECT * FROM trials")
        return names, [dict(zip(names, values, strict=True)) for values in rows]
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            names, found = next(reader, []), []
            for values in reader:
                if len(values) not in (0, len(names)):
                    raise csv.Error(f"line {reader.line_num} has {len(values)} values for {len(names)} columns")
                found += [dict(zip(names, values, strict=True))] if values else []
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no text
        raise RunError(f"{file}: not a table of comma-separated values: {error}") from error
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RunError(f"{file}: has several columns {twice[0]!r}; keep one")
    return names, found
