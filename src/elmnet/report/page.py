"""The page: sections of words, tables, passages and figures, as HTML that needs nothing else."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from elmnet.errors import ConfigError
from elmnet.report.interactive import Picture, picture
from elmnet.tables import Table

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Figure:
    """A figure, and what it shows in words."""

    name: str
    title: str
    words: str
    draw: "Callable[[], Axes]"


@dataclass(frozen=True)
class Passage:
    """A text whose pieces are shaded from 0 (not at all) to 4, and what that means."""

    words: str
    pieces: Sequence[tuple[int, str]]


@dataclass
class Section:
    """What is reported of one thing."""

    title: str
    words: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class _Drawn:
    title: str
    words: str
    picture: Picture


def render(title: str, sections: Sequence[Section]) -> str:
    """The HTML page. Names from outside are escaped; a policy in the page lets its own script run and no other.

    Raises:
        ConfigError: Jinja or matplotlib is missing.
    """
    page, shown, count = template("page.html.j2"), [], 0
    for section in sections:
        drawn = []
        for figure in section.figures:
            count += 1
            drawn.append(_Drawn(figure.title, figure.words, picture(figure.draw, f"f{count}")))
        parts = {"tables": section.tables, "passages": section.passages, "figures": drawn}
        shown.append({"title": section.title, "words": section.words, **parts})
    script = asset("page.js")
    return page.render(
        title=title,
        sections=shown,
        style=asset("page.css"),
        script=script,
        script_hash=digest(script),
        date=date.today().isoformat(),
        version=metadata.version("elmnet"),
    )


def template(name: str) -> "Template":
    """A template of this package, escaping whatever is put into it.

    Raises:
        ConfigError: Jinja is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise ConfigError("reports need Jinja and matplotlib: pip install 'elmnet[report]'") from None
    loader = PackageLoader("elmnet.report", ".")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def asset(name: str) -> Any:
    """A style or script of this package, to be put into a page as it is.

    Raises:
        ConfigError: Jinja is missing.
    """
    try:
        from markupsafe import Markup
    except ImportError:
        raise ConfigError("reports need Jinja and matplotlib: pip install 'elmnet[report]'") from None
    return Markup(resources.files("elmnet.report").joinpath(name).read_text(encoding="utf-8"))


def digest(script: str) -> str:
    """What a Content-Security-Policy calls an inline script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def bound(function: "Callable[..., Axes]", *arguments: Any) -> "Callable[[], Axes]":
    """A drawing function with its arguments."""
    return lambda: function(*arguments)
