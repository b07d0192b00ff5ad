"""Getting the official files: from their official addresses, hash-checked, cached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from elmnet.errors import DataError, in_a_line
from elmnet.files import cache_directory


@dataclass(frozen=True)
class RemoteFile:
    """A file as its publisher offers it."""

    name: str
    url: str
    hash: str
    licence: str


OFFICIAL = {
    "enwik8": (
        RemoteFile(
            "enwik8.zip",
            "https://mattmahoney.net/dc/enwik8.zip",
            "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
            "Wikipedia text, GFDL / CC BY-SA",
        ),
    ),
    "shd": (
        RemoteFile(
            "shd_train.h5.zip",
            "https://zenkelab.org/datasets/shd_train.h5.zip",
            "md5:f3252aeb598ac776c1b526422d90eecb",
            "CC BY 4.0, Cramer et al. 2020",
        ),
        RemoteFile(
            "shd_test.h5.zip",
            "https://zenkelab.org/datasets/shd_test.h5.zip",
            "md5:1503a5064faa34311c398fb0a1ed0a6f",
            "CC BY 4.0, Cramer et al. 2020",
        ),
    ),
}


def fetch(dataset: str) -> list[Path]:
    """The official files of `enwik8` or `shd`, downloaded if the cache lacks them, verified in any case.

    Raises:
        DataError: the download failed, or the file's hash is wrong; says what to fetch by hand and where to put it.
    """
    return [_fetch_file(file, cache_directory()) for file in OFFICIAL[dataset]]


def _fetch_file(file: RemoteFile, cache: Path) -> Path:
    place = cache / file.name
    pooch.get_logger().setLevel("WARNING")  # the bar says it better
    if place.exists() and not pooch.hashes.hash_matches(str(place), file.hash):
        raise DataError(f"{place}: damaged or not the official file ({file.hash} expected); delete it and try again")
    try:
        with _DownloadBar(file.name) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar, timeout=30)
            pooch.retrieve(file.url, file.hash, fname=file.name, path=cache, downloader=downloader)
    except (requests.RequestException, OSError, ValueError) as error:
        raise DataError(
            f"could not download {file.url}: {in_a_line(error)[:200]}\n"
            f"Fetch it by hand, put it at {place} ({file.hash}), and run the same command again; "
            "or name a local copy with --data PATH."
        ) from error
    return place


class _DownloadBar:
    """What pooch calls a progress bar (total, update, reset, close), drawn by rich when bytes arrive."""

    def __init__(self, name: str) -> None:
        columns = (TextColumn(f"downloading {name}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, transient=True)
        self._task = self._progress.add_task(name, total=None)
        self._started = False
        self.total = 0

    def __enter__(self) -> "_DownloadBar":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def update(self, amount: int) -> None:
        if not self._started:
            self._progress.start()
            self._started = True
        self._progress.update(self._task, total=self.total, advance=amount)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        if self._started:
            self._progress.stop()
