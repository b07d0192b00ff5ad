"""Running one trial, wherever: begin or continue it, and write down why if it cannot be done."""

import errno
import json
import re
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from elmnet.errors import DivergedError, ElmnetError, RunError, RunTakenError, one_line
from elmnet.files import write_atomic
from elmnet.scores import larger_is_better
from elmnet.sweep import halving
from elmnet.tasks import find_task
from elmnet.train import loop
from elmnet.train.config import RunConfig
from elmnet.train.progress import Reporter
from elmnet.train.run import RunDirectory

Outcome = Literal["done", "failed", "stopped early", "elsewhere", "stopped"]
FAILED = "failed.json"
_TRAINING = threading.Lock()
"""Torch's random numbers and threads belong to the process: a worker of several threads trains one pack at a time."""
_FAILURES = (ElmnetError, MemoryError, torch.OutOfMemoryError, OSError, RuntimeError)
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE}


@dataclass(frozen=True)
class Job:
    """What a worker gets: plain values."""

    directory: str
    """Of the run."""
    config: dict[str, Any]
    threads: int
    retry: bool = False
    """Try again what failed before."""
    halving: bool = False
    """Stop what lags behind the others (`elmnet.sweep.halving`)."""


def run(job: Job) -> Outcome:
    """Bring a trial to its end; never raises for what belongs to the trial alone.

    A finished one is left alone, an interrupted one continues to the byte, one that another process trains is left to
    it.
    """
    directory, config = Path(job.directory), _config(job)
    reporter = Reporter(quiet=True)
    try:
        settled = _settled(job)
        if settled is not None:
            return settled
        if job.halving:
            larger, every = larger_is_better(find_task(config.task).metric), config.training.eval_every
            reporter = halving.Halving(directory, every=every, larger_is_better=larger)
        if RunDirectory(directory).config_file.exists():
            loop.resume(directory, data=config.data, reporter=reporter)
        else:
            loop.start(config, directory, config.open_task(), reporter=reporter)
    except loop.Interrupted:
        return "stopped"
    except halving.StoppedEarly as reason:
        halving.stop(directory, reason)
        return "stopped early"
    except RunTakenError:
        return "elsewhere"
    except _FAILURES as error:
        _raise_if_the_disks(error)
        record_failure(directory, error)
        return "failed"
    return "done"


def run_together(jobs: Sequence[Job]) -> list[Outcome]:
    """Bring trials of equal shape to their ends, as many as are left of them step by step together.

    Where that cannot be done, because one is damaged, trained elsewhere or too large, each is run by itself. A process
    that trains already leaves all of them for later.
    """
    if not _TRAINING.acquire(blocking=False):
        return ["elsewhere"] * len(jobs)
    try:
        return _run_together(jobs)
    finally:
        _TRAINING.release()


def _run_together(jobs: Sequence[Job]) -> list[Outcome]:
    if len(jobs) > 1:
        try:
            left = [job for job in jobs if _settled(job) is None]
            runs = {Path(job.directory): _config(job) for job in left} if len(left) > 1 else {}
            ends = loop.together(runs, reporter=Reporter(quiet=True))
        except loop.Interrupted:
            return ["stopped"] * len(jobs)
        except RunTakenError:
            pass
        except _FAILURES as error:
            _raise_if_the_disks(error)
        else:
            for directory, end in ends.items():
                if isinstance(end, DivergedError):
                    record_failure(directory, end)
            jobs = [replace(job, retry=False) for job in jobs]
    return [run(job) for job in jobs]


def _raise_if_the_disks(error: BaseException) -> None:
    """A full disk or a lost file system is not a trial's fault, whatever it was wrapped in."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause is error or cause.errno in _OF_DISKS):
            raise error
        told = re.search(r"os error (\d+)", str(cause)) if isinstance(cause, SafetensorError) else None
        if told and int(told[1]) in _OF_DISKS:
            raise error
        cause = cause.__cause__


def _settled(job: Job) -> Outcome | None:
    """How a trial has ended before; None: there is something to do.

    Raises:
        RunTakenError: another process is about to try again what failed.
    """
    directory = Path(job.directory)
    if _finished(RunDirectory(directory)):
        return "done"
    if halving.reason_of(directory) is not None:
        return "stopped early"
    if (directory / FAILED).exists():
        if not job.retry:
            return "failed"
        _set_aside(directory)
    return None


def _config(job: Job) -> RunConfig:
    return RunConfig.from_dict(job.config).replace(threads=job.threads)


def record_failure(directory: Path, error: BaseException) -> None:
    """Write down why a trial failed."""
    trace = traceback.format_exception(error)
    kind, reason = type(error).__name__, one_line(error)
    document = {"kind": kind, "reason": reason, "time": time.time(), "trace": "".join(trace)[-4000:]}
    write_atomic(directory / FAILED, json.dumps(document, indent=2) + "\n")


def read_failure(directory: Path) -> str | None:
    """Why a trial failed; None: it has not."""
    try:
        document = json.loads((directory / FAILED).read_text(encoding="utf-8"))
        return f"{document['kind']}: {document['reason']}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable {FAILED}: {error}"


def _finished(place: RunDirectory) -> bool:
    """Whether a run has a result. A damaged one is set aside, so that the last checkpoint is evaluated again.

    Raises:
        RunTakenError: another process is about to do so.
    """
    try:
        return place.read_result() is not None
    except RunError:
        lock = place.lock()
    try:
        return place.read_result() is not None  # if another process was faster
    except RunError:
        place.result_file.replace(place.result_file.with_name(f"damaged-{place.result_file.name}"))
        return False
    finally:
        lock.release()


def _set_aside(directory: Path) -> None:
    """Keep what a failed trial left behind, out of the way of a new attempt."""
    lock = RunDirectory(directory).lock()
    try:
        if not (directory / FAILED).exists():
            return  # another process has done so
        for number in range(1, 1000):
            aside = directory.with_name(f"{directory.name}.failed-{number}")
            if not aside.exists():
                directory.rename(aside)
                return
        raise RunError(f"{directory} failed a thousand times")
    finally:
        lock.release()
