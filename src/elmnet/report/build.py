"""The report: one HTML file that needs nothing else, of runs, sweeps and published tables."""

from collections.abc import Sequence
from pathlib import Path

from elmnet.errors import ConfigError, ElmnetError, RunError, one_line
from elmnet.report import figures, of_run, of_runs, of_sweep
from elmnet.report.of_theory import theory
from elmnet.report.page import Section, render
from elmnet.sweep.store import Sweep
from elmnet.tables import Table
from elmnet.theory.rows import published
from elmnet.train.run import replicas_in
from elmnet.train.trained import Run

LARGEST = 5_000_000
"""Bytes of a report; figures of a sweep of any size stay far below."""


def report(sources: Sequence[str], *, inside: bool = True) -> list[Section]:
    """Sections on runs, directories of runs, sweeps and `published:TASK`; before them one on several runs side by side.

    Args:
        sources: what to report.
        inside: also look inside the best network of every run named.

    Raises:
        ConfigError: a source is none of these.
        RunError: a run or a sweep that was named is damaged; of a directory of runs, those are left out and listed.
    """
    sections: list[Section] = []
    runs: list[Run] = []
    unread: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        if source.startswith("published:"):
            sections.append(theory(published(source.partition(":")[2])))
            continue
        if (path / "sweep.json").is_file():
            sections += of_sweep.sections(Sweep.open(path))
            continue
        replicas = replicas_in(path)
        found = [path] if (path / "config.yaml").is_file() else list(replicas) or _below(path)
        if not found:
            raise ConfigError(f"{source}: neither a run, nor a directory of some, nor a sweep, nor published:TASK")
        for place in found:
            if (place / "config.yaml").is_file():
                try:
                    run = Run(place)
                except RunError as error:
                    if place == path:
                        raise
                    unread[str(place)] = one_line(error)
                    continue
                runs.append(run)
                sections += of_run.sections(run, inside=inside)
            else:
                words = f"Not begun: elmnet train --resume {path} starts it."
                sections.append(Section(f"Run {place.name}", [words]))
    if unread:
        table = Table("Runs that could not be read", ("run", "why"), list(unread.items()))
        sections.append(Section("Left out", tables=[table]))
    compared = of_runs.side_by_side(runs)
    return sections if compared is None else [compared, *sections]


def _below(path: Path) -> list[Path]:
    return [file.parent for file in sorted(path.glob("*/config.yaml"))]


def write(path: Path, title: str, sections: Sequence[Section], directory: Path | None) -> list[Path]:
    """Write the page and, given a directory, every figure as PNG and SVG; returns the files."""
    from elmnet.files import write_atomic

    page = render(title, sections)
    if len(page.encode()) > LARGEST:
        raise ElmnetError(f"the report would take {len(page.encode()):,} bytes; report fewer things at a time")
    write_atomic(path, page)
    drawn = {
        f"{i}_{figure.name}" if len(sections) > 1 else figure.name: figure.draw
        for i, section in enumerate(sections, 1)
        for figure in section.figures
    }
    return [path, *(figures.save(drawn, directory) if directory is not None else [])]
