"""Notebooks kept as scripts (Jupytext's percent format) → Markdown pages with what their cells print and draw.

Cells run in this process, one after the other; a page is written anew when its script has changed.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import jupytext

from elmnet.report import figures


def write_pages(directory: Path) -> list[Path]:
    """Run every script in a directory and write NAME.md, and NAME-1.svg and so on, beside it."""
    return [write_page(script) for script in sorted(directory.glob("*.py"))]


def write_page(script: Path) -> Path:
    """Run one script; returns its page."""
    page = script.with_suffix(".md")
    if page.exists() and page.stat().st_mtime > script.stat().st_mtime:
        return page
    names: dict[str, Any] = {"__name__": "__main__"}
    parts, drawn = [], 0
    for cell in jupytext.read(script, fmt="py:percent").cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        printed, pictures = run_cell(cell.source, names, f"{script.name}")
        parts.append(f"```python\n{cell.source}\n```")
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
        for picture in pictures:
            drawn += 1
            file = script.with_name(f"{script.stem}-{drawn}.svg")
            file.write_text(picture, encoding="utf-8")
            parts.append(f"![What the cell above draws]({file.name})")
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def run_cell(source: str, names: dict[str, Any], name: str) -> tuple[str, list[str]]:
    """What a cell prints, and the figures it leaves open, as SVG."""
    figures.without_a_screen()
    from matplotlib import pyplot as plt

    from elmnet.report.figures.style import STYLE, svg_of

    printed = io.StringIO()
    with plt.rc_context(STYLE), contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), names)
        pictures = [svg_of(plt.figure(number)) for number in plt.get_fignums()]
    plt.close("all")
    return printed.getvalue(), pictures
