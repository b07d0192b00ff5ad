"""The style of all figures, and files and SVG of them."""

import io
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elmnet.errors import ConfigError
from elmnet.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of series, in order; Okabe and Ito's, which colour-blind readers tell apart."""
MARKERS = "osD^vP*X"
STYLE: Any = {
    "figure.figsize": (6.0, 4.0),
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "savefig.bbox": "tight",
    "svg.fonttype": "none",
    "svg.hashsalt": "elmnet",
}
BELOW: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
"""Where a legend goes that would hide what is drawn."""
FORMATS = ("png", "svg")


def axis(ax: "Axes | None") -> "Axes":
    """The given axis, or a new one.

    Raises:
        ConfigError: matplotlib is missing.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'elmnet[report]'") from None
    return plt.subplots()[1] if ax is None else ax


def save(figures: Mapping[str, Callable[[], "Axes"]], directory: Path) -> list[Path]:
    """Draw figures and write each as PNG and SVG; returns the files.

    Raises:
        ConfigError: matplotlib is missing.
    """
    without_a_screen()
    from matplotlib import pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    with plt.rc_context(STYLE):
        for name, draw in figures.items():
            figure: Any = draw().figure
            for suffix in FORMATS:
                path = directory / f"{name}.{suffix}"
                metadata = {"Date": None} if suffix == "svg" else None  # equal figures, equal files
                content = io.BytesIO()
                figure.savefig(content, format=suffix, metadata=metadata)
                write_atomic(path, content.getvalue())
                files.append(path)
            plt.close(figure)
    return files


def without_a_screen() -> None:
    """Draw into files, whatever display there is.

    Raises:
        ConfigError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'elmnet[report]'") from None
    matplotlib.use("agg")


def svg(draw: Callable[[], "Axes"]) -> str:
    """A figure as an <svg> element.

    Raises:
        ConfigError: matplotlib is missing.
    """
    without_a_screen()
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure: Any = draw().figure
        text = svg_of(figure)
        plt.close(figure)
    return text


def svg_of(figure: Any) -> str:
    """A drawn figure as an <svg> element."""
    from matplotlib import pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"savefig.bbox": None}):  # all of one size; what lies outside has its place in the layout
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def source(text: str) -> str:
    """Where data come from, in lines that fit a title."""
    return "\n".join(textwrap.wrap(plain(text), 66))


def few_numbers(ax: "Axes", names: str = "xy") -> None:
    """1, 2 and 5 of every decade on logarithmic axes, written plainly."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for one in (getattr(ax, f"{name}axis") for name in names):
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        one.set_minor_formatter(NullFormatter())


def decades(ax: "Axes", values: tuple[int, ...]) -> None:
    """Plain numbers on a logarithmic x axis."""
    from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """A number to three digits, without an exponent where people would write none."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def whole_numbers(ax: "Axes") -> None:
    """No fractions on the y axis."""
    from matplotlib.ticker import MaxNLocator

    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
