"""Reports: a page to keep, and a live one."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from elmnet.cli.output import say

LOCAL = "127.0.0.1"


def report(
    sources: Annotated[list[str], typer.Argument(help="runs, sweeps, published:TASK", metavar="PATH")],
    path: Annotated[Path, typer.Option("--out", help="the HTML file", metavar="FILE")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="also write every figure here, PNG and SVG", metavar="DIR")
    ] = None,
    title: Annotated[str | None, typer.Option(help="title of the page")] = None,
    inside: Annotated[bool, typer.Option(help="look inside the best network of each run")] = True,
) -> None:
    """Write one self-contained HTML file about runs, sweeps and published tables; it can be read offline."""
    from elmnet.report.build import report as build
    from elmnet.report.build import write

    with Console(stderr=True).status("drawing"):
        sections = build(sources, inside=inside)
        files = write(path, title or ", ".join(Path(s).name or s for s in sources), sections, figures)
    for file in files:
        say(file)


def watch(
    directory: Annotated[Path, typer.Argument(help="a run, a sweep, or a directory of these", metavar="DIR")],
    port: Annotated[int, typer.Option(help="0: any free port")] = 0,
    host: Annotated[str, typer.Option(help="address to listen on; any but the default lets others look")] = LOCAL,
    browser: Annotated[bool, typer.Option("--open", help="open it in a browser")] = False,
) -> None:
    """Serve a live page about running sweeps and runs, for this machine only; reads, never writes. Ctrl-C ends it."""
    from elmnet.report.watch import serve

    def announce(address: str) -> None:
        say(f"{address} (Ctrl-C ends it)")
        sys.stdout.flush()
        if browser:
            webbrowser.open(address)

    serve(directory, host=host, port=port, announce=announce)
