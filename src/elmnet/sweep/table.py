"""The collected table: Parquet through DuckDB, asked in SQL."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from elmnet import sql, tables
from elmnet.errors import ConfigError, RunError, one_line
from elmnet.files import ending
from elmnet.scores import ALWAYS, leading
from elmnet.sweep.store import LOST, Seen, Sweep, columns, row
from elmnet.tables import Table

SHAPE = ("model", "N", "d_m", "d_tree", "d_s", "P'", "P")
"""What a table shows of a network."""
_SIZES = ("N", "d_m", "d_tree", "d_s", "k_e", "k_c", "hidden", "P", "steps", "learning_rate")
SAME = ("configuration", "setting", "task", "data", "model", *_SIZES)
"""Columns that seeds of one configuration share; the first says all of it (`elmnet.train.identity`)."""
FARTHEST = ("done", *LOST, "begun", "waiting")
"""States, that in which a trial has come farthest first."""
NEED = "tables need DuckDB"


def write(sweeps: Sequence[Sweep], target: Path) -> list[dict[str, Any]]:
    """Collect every trial of sweeps into a Parquet or CSV file, written aside first; returns the rows.

    A trial that several of them have, which its name tells, is in the table once: finished, if it is so in one.

    Raises:
        ConfigError: the extra is missing, or the ending is neither .parquet nor .csv.
        RunError: the file cannot be written.
    """
    duckdb = sql.duckdb(NEED)
    forms = {".parquet": "parquet", ".csv": "csv, header"}
    if ending(target) not in forms:
        raise ConfigError(f"--out must end in .parquet or .csv, got {target}")
    looked: dict[str, tuple[Sweep, Seen]] = {}
    for sweep in sweeps:
        for seen in sweep.look():
            _, known = looked.get(seen.trial.name, (None, None))
            if known is None or FARTHEST.index(seen.state) < FARTHEST.index(known.state):
                looked[seen.trial.name] = (sweep, seen)
    others = {kind for _, seen in looked.values() for kind in (seen.result or {}).get("valid", ())} - {*ALWAYS}
    scores = (*ALWAYS, *sorted(others))
    kinds, rows = columns(scores), [row(sweep, seen, scores) for sweep, seen in looked.values()]
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with tempfile.TemporaryDirectory() as place:
            lines = Path(place) / "rows.csv"
            with lines.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, kinds)
                writer.writeheader()
                writer.writerows(rows)
            with duckdb.connect() as connection:
                connection.read_csv(str(lines), header=True, dtype=kinds).create("trials")
                connection.execute(f"COPY trials TO {sql.quoted(aside)} (FORMAT {forms[ending(target)]})")
        aside.replace(target)
    except (duckdb.Error, OSError) as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RunError(f"cannot write {target} ({one_line(error)}); --out FILE.parquet writes it elsewhere") from error
    return rows


def aggregate(file: Path) -> list[dict[str, Any]]:
    """Means and standard errors over seeds of finished trials, a row for every configuration."""
    known, _ = ask(file, "SELECT * FROM trials LIMIT 0")
    means = ", ".join(
        f"avg({name}::DOUBLE) AS {name}, "
        f"CASE WHEN count({name}) > 1 THEN stddev_samp({name}::DOUBLE) / sqrt(count({name})) END AS {name}_se"
        for name in known
        if name.startswith(("valid_", "test_"))  # in a CSV file a score that nobody has looks like text
    )
    key = ", ".join(SAME)
    question = f"SELECT {key}, count(*) AS seeds, {means} FROM trials WHERE state = 'done' GROUP BY {key} "
    names, rows = ask(file, question + "ORDER BY task, model, d_tree, d_s, steps, d_m, N")
    return [dict(zip(names, values, strict=True)) for values in rows]


def distinguishing(means: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns besides shapes and steps that a table of means needs, so that nobody takes one row for another."""
    varied = [name for name in ("task", "data", "learning_rate") if len({row[name] for row in means}) > 1]
    told = [tuple(row[name] for name in ("model", *_SIZES, *varied)) for row in means]
    return varied if len(set(told)) == len(told) else [*varied, "configuration"]


def leading_score(rows: Sequence[Mapping[str, Any]]) -> str:
    """The column that stands for what these rows reached: `valid_bpc`, ..."""
    names = {name for row in rows for name, value in row.items() if name.startswith("valid_") and value is not None}
    return f"valid_{leading({name.removeprefix('valid_') for name in names})}"


def means_over_seeds(means: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The leading score of validation and test, a row for every configuration (`aggregate`)."""
    score, others = leading_score(means), distinguishing(means)
    names = ("N", "d_m", "d_tree", "d_s", "hidden", "P", "steps", "seeds")
    scores = (score, score.replace("valid", "test"))
    rows = [
        (
            *(str(one[name]) for name in (*others, "model")),
            *(tables.whole(one[name]) for name in names),
            *(tables.score(one[name], one[f"{name}_se"]) for name in scores),
        )
        for one in means
    ]
    return Table(title, (*others, *SHAPE, "steps", "seeds", *scores), rows)


def ask(file: Path, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query on the table `trials`.

    Raises:
        ConfigError: DuckDB does not understand it.
        RunError: the file is damaged.
    """
    duckdb = sql.duckdb(NEED)
    if not question.strip(" ;\n\t"):
        raise ConfigError("query: ask something, such as SELECT * FROM trials")
    try:
        with duckdb.connect() as connection:
            _load(connection, file)
            connection.execute("SET enable_external_access = false")  # a query reads the table and nothing else
            answer = connection.execute(question)
            return [column[0] for column in answer.description or []], answer.fetchall()
    except duckdb.Error as error:
        hint = "the table is called trials; DESCRIBE trials names its columns"
        raise ConfigError(f"query: {one_line(error)} ({hint})") from error


def _load(connection: Any, file: Path) -> None:
    """A collected file as the table `trials`."""
    if not file.is_file():
        raise RunError(f"there is no file {file}")
    reader = "read_parquet" if ending(file) == ".parquet" else "read_csv"
    try:
        connection.execute(f"CREATE TABLE trials AS FROM {reader}({sql.one_file(file)})")
    except sql.duckdb(NEED).Error as error:
        words = one_line(error)
        raise RunError(f"{file}: damaged: {words}; `elmnet sweep collect` writes it anew") from error
