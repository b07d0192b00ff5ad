"""Figures for the page: an <svg> each, and what the page's script needs to name points, hide series and change axes.

The script redraws nothing. It finds a series by its id, a point by the limits of its axes, and changes an axis by
showing another <svg> of the same figure, drawn here.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from elmnet.report.figures.style import STYLE, svg_of, without_a_screen

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

POINTS = 1000
"""Of a series that the script can name; of more, evenly chosen ones."""
WORTHWHILE = 5.0
"""Ratio of the largest to the smallest value from which a logarithmic axis shows more."""


@dataclass(frozen=True)
class Picture:
    """A figure as text."""

    svg: str
    others: dict[str, str]
    """The same with other axes, by what differs: `x`, `y`, `xy`."""
    data: dict[str, Any]
    """Plain values: axes, their series, the limits of every view."""


def picture(draw: "Callable[[], Axes]", key: str) -> Picture:
    """Draw a figure for the page.

    Args:
        draw: makes the figure.
        key: unique on the page; begins every id inside.

    Raises:
        ConfigError: matplotlib is missing.
    """
    shown, limits = {}, {}
    with _drawn(draw) as figure:
        axes = [one for ax in figure.axes for one in (ax, *ax.child_axes) if _series(one)]
        described = [_describe(ax, key, place) for place, ax in enumerate(axes)]
        switches = _switches(axes[0]) if figure.axes == axes else {}
        svg, limits[""] = _with_unique_ids(svg_of(figure), key), [_limits(ax) for ax in axes]
    for view in _views(switches):
        with _drawn(draw) as figure:
            ax = figure.axes[0]
            _describe(ax, key, 0)
            for name in view:
                _rescale(ax, name, switches[name])
            shown[view], limits[view] = _with_unique_ids(svg_of(figure), key), [_limits(ax)]
    return Picture(svg, shown, {"axes": described, "switches": switches, "views": limits})


@contextmanager
def _drawn(draw: "Callable[[], Axes]") -> Iterator[Any]:
    without_a_screen()
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure = draw().figure
        try:
            yield figure
        finally:
            plt.close(figure)  # type: ignore[arg-type]


def _series(ax: "Axes") -> "dict[str, list[Artist]]":
    """What is drawn under each label; what is labelled `_NAME` belongs to NAME and has no entry in the legend."""
    artists: list[Any] = [*ax.get_lines(), *ax.collections, *ax.patches]
    found: dict[str, list[Artist]] = {}
    for container in ax.containers:
        found[str(container.get_label())] = list(container.get_children())
    grouped = {id(artist) for group in found.values() for artist in group}
    for artist in artists:
        label = str(artist.get_label())
        if id(artist) not in grouped and not label.startswith("_"):
            found.setdefault(label, []).append(artist)
    for artist in artists:
        label = str(artist.get_label())
        if label.startswith("_") and label[1:] in found:
            found[label[1:]].append(artist)
    return {label: group for label, group in found.items() if group and label and not label.startswith("_")}


def _describe(ax: "Axes", key: str, place: int) -> dict[str, Any]:
    """An axis with its series, whose artists get ids."""
    ax.patch.set_gid(f"p{place}")
    series = []
    for number, (label, artists) in enumerate(_series(ax).items()):
        mark = f"s{place}.{number}."
        for part, artist in enumerate(artists):
            artist.set_gid(f"{mark}{part}")
        described = {"id": f"{key}-{mark}", "name": label, "colour": _colour(artists[0]), "points": _points(artists[0])}
        series.append(described)
    return {"id": f"{key}-p{place}", "x": ax.get_xlabel(), "y": ax.get_ylabel(), "series": series}


def _colour(artist: Any) -> str:
    from matplotlib.colors import to_hex

    if hasattr(artist, "get_color"):
        colour = artist.get_color()
    else:
        colour = artist.get_facecolor() if getattr(artist, "fill", True) else artist.get_edgecolor()
    if not isinstance(colour, str):
        colour = colour[0] if np.ndim(colour) == 2 and len(colour) else colour
    return str(to_hex(colour)) if np.size(colour) else "#666666"


def _points(artist: Any) -> list[list[float]]:
    """Of a line, a scatter, or steps (at their middles); an area has none."""
    if hasattr(artist, "get_xydata"):
        points = np.asarray(artist.get_xydata(), float)
    elif type(artist).__name__ == "PathCollection":
        points = np.asarray(artist.get_offsets(), float)
    elif type(artist).__name__ == "StepPatch":
        values, edges, _ = artist.get_data()
        points = np.column_stack([(edges[1:] + edges[:-1]) / 2, values])
    else:
        return []
    points = points[np.isfinite(points).all(1)]
    chosen = np.unique(np.linspace(0, len(points) - 1, POINTS).astype(int)) if len(points) > POINTS else slice(None)
    return [[float(f"{x:.6g}"), float(f"{y:.6g}")] for x, y in points[chosen]]


def _switches(ax: "Axes") -> dict[str, str]:
    """The other scale that each axis can take, where that shows more."""
    if ax.images or any(type(one).__name__ in ("QuadContourSet", "QuadMesh") for one in ax.collections):
        return {}
    values = [point for artists in _series(ax).values() for point in _points(artists[0])]
    found: dict[str, str] = {}
    for place, name in enumerate("xy"):
        scale = getattr(ax, f"get_{name}scale")()
        if getattr(ax, f"get_{name}label")().startswith(("time (", "configuration")):  # the latter are places
            continue
        column = np.array([point[place] for point in values])
        if scale == "log":
            found[name] = "linear"
        elif len(column) and column.min() > 0 and column.max() / column.min() >= WORTHWHILE:
            found[name] = "log"
    return found


def _views(switches: dict[str, str]) -> list[str]:
    """Every way to change some of the axes."""
    return ["".join(names) for count in range(1, len(switches) + 1) for names in combinations(switches, count)]


def _rescale(ax: "Axes", name: str, scale: str) -> None:
    """Change an axis and let its limits follow the data."""
    getattr(ax, f"set_{name}scale")(scale)
    ax.autoscale(True, axis=name)  # type: ignore[arg-type]


def _limits(ax: "Axes") -> list[Any]:
    return [*map(float, ax.get_xlim()), ax.get_xscale(), *map(float, ax.get_ylim()), ax.get_yscale()]


def _with_unique_ids(svg: str, key: str) -> str:
    """Every id and every reference to one begins with the key: several figures share a page."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", tag[0]), svg)
