"""What the command line prints: results as rich tables and lines."""

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from elmnet.verify import Check


def scores(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Final scores of a run, or of some that differ in their seed, beside the baselines, in the scores they share."""
    first = next(iter(results.values()))
    baselines = first["baselines"]
    shared = [name for name in first["test"] if all(name in row["test"] for row in baselines.values())]
    columns = list(product(("valid", "test"), shared))
    table = _table(f"{first['task']} on {first['data']}", "", *(f"{split} {name}" for split, name in columns))
    trained = {"elm": "ELM network", "leaky": "leaky units"}.get(kind := first.get("model", "elm"), kind)
    words = f"{trained}, P {first['parameters']:,}"
    for name, row in results.items():
        table.add_row(f"{words} {name}".strip(), *(f"{row[split][score]:.4f}" for split, score in columns))
    if len(results) > 1:
        samples = [[row[split][score] for row in results.values()] for split, score in columns]
        root = len(results) ** 0.5
        table.add_row("mean ± s.e.", *(f"{fmean(sample):.4f} ± {stdev(sample) / root:.4f}" for sample in samples))
    for name, row in baselines.items():
        table.add_row(name, *(f"{row[split][score]:.4f}" for split, score in columns))
    return table


def cost(result: Mapping[str, Any]) -> str:
    """What a run took, in a line."""
    peak = result["peak_memory_bytes"]
    memory = "" if peak is None else f", peak memory {peak / 2**20:.0f} MiB"
    return (
        f"{result['steps']} steps in {result['wall_seconds']:.0f} s with all evaluations, "
        f"best at {result['best_step']}; {result['steps_per_second']:.2f} training steps/s{memory}"
    )


def numbers(title: str, rows: Sequence[Mapping[str, int]]) -> Table:
    """Whole numbers, a column for every key."""
    table = _table(title, *rows[0])
    for row in rows:
        table.add_row(*(f"{number:,}" for number in row.values()))
    return table


def checks(title: str, by_dtype: Mapping[str, Sequence["Check"]]) -> Table:
    """Every relative error of a verification, for each dtype."""
    columns = [column for dtype in by_dtype for column in (dtype, "tolerance")]
    table = _table(title, "relative error of", *columns)
    for row in zip(*by_dtype.values(), strict=True):
        cells = []
        for check in row:
            colour, word = ("green", "") if check.passed else ("bold red", " FAILED")
            cells += [f"[{colour}]{check.error:.1e}{word}[/]", f"{check.tolerance:.0e}"]
        table.add_row(row[0].name, *cells)
    return table


def checks_in_a_line(title: str, by_dtype: Mapping[str, Sequence["Check"]]) -> str:
    """The worst error of each dtype, measured by its tolerance."""
    good = all(check.passed for row in by_dtype.values() for check in row)
    words = []
    for dtype, row in by_dtype.items():
        worst = max(row, key=lambda check: check.error / (check.tolerance or 1e-300))
        words.append(f"{dtype}: {worst.error:.1e} ({worst.name})")
    return f"{'ok    ' if good else 'FAILED'} {title}: {'  '.join(words)}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        words = column in ("", "relative error of")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table
