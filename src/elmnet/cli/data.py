"""Data sources: list, get, info."""

from typing import Annotated

import typer
from rich.table import Table

from elmnet.cli.output import out
from elmnet.errors import ConfigError


def list_() -> None:
    """Every data source, and whether it is here."""
    from elmnet.data.download import OFFICIAL, cache_directory

    cache = cache_directory()
    table = Table("task", "--data", "what", "here", title=f"cache: {cache}", title_justify="left")
    table.add_row("enwik8", "python-stdlib (default)", "Python's own library sources", "always")
    table.add_row(
        "shd, shd-adding", "synthetic (default)", "synthetic spoken-digit-like spikes", "generated on first use"
    )
    for task, dataset, what in (
        ("enwik8", "enwik8", "enwik8"),
        ("shd, shd-adding", "shd", "Spiking Heidelberg Digits"),
    ):
        here = all((cache / file.name).exists() for file in OFFICIAL[dataset])
        licence = OFFICIAL[dataset][0].licence
        table.add_row(task, "official", f"{what} ({licence})", "yes" if here else f"elmnet data get {dataset}")
    table.add_row("enwik8", "PATH", "a raw, xz, gz or zip text file", "")
    table.add_row("shd, shd-adding", "PATH", "a directory with *train*.h5 and *test*.h5 in SHD's layout", "")
    out.print(table)


def get(
    dataset: Annotated[str, typer.Argument(help="enwik8, shd or synthetic", metavar="DATASET")],
) -> None:
    """Download (or generate) a dataset into the cache."""
    from elmnet.data.download import OFFICIAL, fetch
    from elmnet.data.spikes import synthetic_directory

    if dataset == "synthetic":
        out.print(str(synthetic_directory()), highlight=False, soft_wrap=True)
    elif dataset in OFFICIAL:
        for path in fetch(dataset):
            out.print(str(path), highlight=False, soft_wrap=True)
    else:
        raise ConfigError(f"no dataset {dataset!r}; known: {', '.join((*OFFICIAL, 'synthetic'))}")


def info(
    task: Annotated[str, typer.Argument(help="enwik8, shd-adding or shd", metavar="TASK")],
    source: Annotated[str | None, typer.Argument(help="data source; default: the task's own")] = None,
) -> None:
    """Read and check a source as a task would, and say what it holds."""
    from elmnet.tasks import find_task, in_words, open_task

    kind = find_task(task)
    opened = open_task(task, kind.Options(), source or kind.default_data)
    facts = opened.facts()
    symbols = facts.pop("symbols", None)
    if symbols is not None:
        facts["symbols"] = len(symbols)
    for name, value in facts.items():
        out.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    for name, scores in opened.baselines().items():
        out.print(f"{name}, test: {in_words(scores['test'])}", highlight=False, soft_wrap=True)
