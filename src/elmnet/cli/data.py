"""Data sources: list, get, info, encode-audio."""

import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from elmnet.cli.output import say, show
from elmnet.errors import ConfigError
from elmnet.machine import cores
from elmnet.tables import Table


def list_() -> None:
    """Data that can be fetched or made, and whether they are here."""
    from elmnet.data.download import OFFICIAL
    from elmnet.files import cache_directory

    cache = cache_directory()
    rows = [
        ("enwik8", "python-stdlib (default)", "Python's own library sources", "always"),
        ("shd, shd-adding", "synthetic (default)", "synthetic spoken-digit-like spikes", "generated on first use"),
    ]
    for task, dataset, what in (
        ("enwik8", "enwik8", "enwik8"),
        ("shd, shd-adding", "shd", "Spiking Heidelberg Digits"),
    ):
        here = all((cache / file.name).exists() for file in OFFICIAL[dataset])
        licence = OFFICIAL[dataset][0].licence
        rows.append((task, "official", f"{what} ({licence})", "yes" if here else f"elmnet data get {dataset}"))
    cell = "an ELM neuron with hidden parameters"
    rows += [
        ("enwik8", "PATH", "a raw, xz, gz or zip text file", ""),
        ("neuronio", "synthetic-cell (default)", cell, "generated on first use"),
        ("neuronio", "PATH", "a folder of published simulation files, or one file", ""),
        ("shd, shd-adding", "PATH", "a directory with *train*.h5 and *test*.h5 in SHD's layout", ""),
        ("sequence", "PATH", "a file of your own sequences, or a folder with a file for each (docs/own-data.md)", ""),
    ]
    show(Table(f"cache: {cache}", ("task", "--data", "what", "here"), rows))


def get(
    dataset: Annotated[str, typer.Argument(help="enwik8, shd or synthetic", metavar="DATASET")],
) -> None:
    """Download (or generate) a dataset into the cache."""
    from elmnet.data.download import OFFICIAL, fetch
    from elmnet.data.spikes import synthetic_directory

    if dataset == "synthetic":
        say(synthetic_directory())
    elif dataset in OFFICIAL:
        for path in fetch(dataset):
            say(path)
    else:
        raise ConfigError(f"no dataset {dataset!r}; known: {', '.join((*OFFICIAL, 'synthetic'))}")


def info(
    task: Annotated[
        str,
        typer.Argument(
            help="enwik8, shd-adding, shd, neuronio or sequence; or just a file of sequences", metavar="TASK"
        ),
    ],
    source: Annotated[str | None, typer.Argument(help="data source; default: the task's own")] = None,
) -> None:
    """Read and check a data source as its task would, and print what it holds."""
    from elmnet.data.sequence_files import SEQUENCE_FILES
    from elmnet.files import ending
    from elmnet.tasks import TASKS, find_task, in_words, open_task

    if source is None and task not in TASKS:
        if ending(Path(task)) in SEQUENCE_FILES:
            task, source = "sequence", task
        elif Path(task).exists():
            raise ConfigError(f"{task} is no task but a place; name its task first: elmnet data info TASK {task}")
    kind = find_task(task)
    opened = open_task(task, kind.Options(), source or kind.default_data)
    facts = opened.facts()
    symbols = facts.pop("symbols", None)
    if symbols is not None:
        facts["symbols"] = len(symbols)
    for name, value in facts.items():
        say(f"{name}: {value}")
    for name, scores in opened.baselines().items():
        say(f"{name}, test: {in_words(scores['test'])}")


def encode_audio(
    source: Annotated[Path, typer.Argument(help="a WAV file, a folder or a zip archive of them", metavar="IN")],
    path: Annotated[Path, typer.Option("--out", help="the HDF5 file to write, in SHD's layout", metavar="FILE")],
    match: Annotated[
        list[str] | None, typer.Option(help="take only these file names, e.g. '*_0.wav'", metavar="PATTERN")
    ] = None,
    label_from: Annotated[str, typer.Option(help="name (before the first _) or folder")] = "name",
    like: Annotated[
        Path | None,
        typer.Option(help="number labels and speakers as in this spike file, e.g. that of the training part"),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the nerve fibres' random firing")] = 0,
    threads: Annotated[int | None, typer.Option(help="recordings encoded at a time; default: all cores")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="leave out recordings that cannot be used, with a warning")
    ] = False,
) -> None:
    """Turn sound into spikes of 700 cochlear channels, as SHD was made (extra `audio`)."""
    from elmnet.data.encode import encode_recordings
    from elmnet.data.sound import Recordings
    from elmnet.train.progress import Reporter

    if label_from not in ("name", "folder"):
        raise ConfigError(f"--label-from must be name or folder, got {label_from!r}")
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, got {seed}")
    threads = min(cores(), 256) if threads is None else threads
    if not 1 <= threads <= 256:
        raise ConfigError(f"--threads must lie in 1..256, got {threads}")
    reporter = Reporter()
    wall, cpu = time.monotonic(), time.process_time()
    recordings = Recordings(source, match or ())
    with reporter.phase("encoding", len(recordings.names)) as advance:
        done = encode_recordings(
            recordings,
            path,
            label_from=cast(Any, label_from),
            seed=seed,
            threads=threads,
            skip_bad=skip_bad,
            like=like,
            advance=advance,
        )
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    for reason in done.refused:
        reporter.warn(f"left out: {reason}")
    say(
        f"{path}: {done.recordings:,} recordings, {done.seconds:,.1f} s of sound, {done.spikes:,} spikes, "
        f"{len(done.labels)} labels; {wall:.1f} s, {cpu / done.seconds:.2f} s of computation per second of sound"
    )
