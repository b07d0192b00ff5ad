"""Reports."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from elmnet.cli.output import out


def report(
    sources: Annotated[list[str], typer.Argument(help="runs, sweeps, published:TASK", metavar="PATH...")],
    path: Annotated[Path, typer.Option("--out", help="the HTML file", metavar="FILE")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="also every figure, PNG and SVG", metavar="DIR")] = None,
    title: Annotated[str | None, typer.Option(help="of the page")] = None,
) -> None:
    """One self-contained HTML file about runs, sweeps and published tables; no network needed to read it."""
    from elmnet.report.build import report as build
    from elmnet.report.build import write

    with Console(stderr=True).status("drawing"):
        sections = build(sources)
        files = write(path, title or ", ".join(Path(s).name or s for s in sources), sections, figures)
    for file in files:
        out.print(str(file), highlight=False, markup=False, soft_wrap=True)
