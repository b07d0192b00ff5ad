"""Tables as text, and how numbers are written in them; `cli/output.py` and `report/page.py` show them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def sides(self) -> list[str]:
        """`left` for columns of words, `right` for those of numbers, in the first one nothing else."""
        starts = [[row[place][:1] for row in self.rows] for place in range(len(self.columns))]
        return [
            "left" if any(map(str.isalpha, column)) or not (place or all(map(str.isdigit, column))) else "right"
            for place, column in enumerate(starts)
        ]


def whole(number: int | None) -> str:
    """A whole number; nothing for None."""
    return "" if number is None else f"{number:,}"


def digits(value: float) -> str:
    """How a score of this size is written: four digits after the point, or in all where its unit is far from it."""
    return ".4f" if not value or 1e-3 <= abs(value) < 1e6 else ".4g"


def score(value: float | None, error: float | None = None) -> str:
    """A score and, where it is known, its standard error; nothing for None."""
    if value is None:
        return ""
    form = digits(value)
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form}}"


def between(ends: tuple[float, float] | None, form: str) -> str:
    """Both ends of an interval; nothing for None."""
    return "" if ends is None else f"{ends[0]:{form}} … {ends[1]:{form}}"


def duration(seconds: float) -> str:
    """Time that something takes, roughly."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
