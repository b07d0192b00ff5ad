"""Where commands print, and how."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Drawn

from elmnet.files import write_atomic
from elmnet.tables import Table

STDOUT = Path("-")
out = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 160)


def _make_way(file: Path | None) -> Path | None:
    """Before a command begins: who gets JSON from the standard output wants nothing else there."""
    out.stderr = file == STDOUT
    return file


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="write the numbers to this file; -: to standard output, and all else to standard error",
        metavar="FILE",
        callback=_make_way,
    ),
]


def write_json(file: Path, numbers: object) -> None:
    """What `JsonOption` asks for."""
    text = json.dumps(numbers, indent=2) + "\n"
    if file == STDOUT:
        sys.stdout.write(text)
    else:
        write_atomic(file, text)


def say(words: object, style: str | None = None, *, console: Console = out) -> None:
    """Print a line as it is: not broken, and nothing in it taken for markup."""
    console.print(str(words), style=style, highlight=False, markup=False, soft_wrap=True)


def drawn(table: Table, bad: str | None = None) -> Drawn:
    """A table for the terminal, rows with a cell that says `bad` in red. Words may be folded, numbers not."""
    shown = Drawn(title=escape(table.title), title_justify="left", box=SIMPLE_HEAD)
    for i, (name, side) in enumerate(zip(table.columns, table.sides, strict=True)):
        cells = [name, *(row[i] for row in table.rows)]
        if side == "left":
            shown.add_column(escape(name), overflow="fold")
        else:
            shown.add_column(escape(name), justify="right", no_wrap=True, min_width=max(map(cell_len, cells)))
    for row in table.rows:
        wrong = bad is not None and any(bad in cell for cell in row)
        shown.add_row(*map(escape, row), style="red" if wrong else None)
    return shown


def show(table: Table, bad: str | None = None) -> None:
    """Print a table (`drawn`). On a narrow terminal its lines wrap before a number does."""
    shown = drawn(table, bad)
    least = Measurement.get(out, out.options.update(max_width=10_000), shown).minimum
    Console(width=max(out.width, least), stderr=out.stderr).print(shown)
