"""Telling people how training goes: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 15.0


class SteadyConsole(Console):
    """A console on standard error that may go away: training must not end because `tee` or the terminal did."""

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:  # EIO: of a terminal that was closed
            self.quiet = True
            super()._check_buffer()


class Reporter:
    """Prints a run's progress to a console; quiet ones print nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or SteadyConsole(stderr=True)
        self.quiet = quiet
        self._live = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._rate: _Rate | None = None
        self._last_line = 0.0

    def named(self, name: str, *, first: bool) -> "Reporter":
        """For one of several runs trained together: lines begin with its name, the first one's bar stands for all."""
        return _Named(self, name, first)

    def note(self, text: str) -> None:
        """One line of information."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that matters; printed even when quiet."""
        self.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def training(self, done: int, total: int) -> Iterator[None]:
        """Around the whole loop."""
        self._rate = _Rate(done, total)
        if self._live:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),  # leaves room for the words on 80 columns
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[words]}"),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("training", total=total, completed=done, words="")
            self._progress.start()
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def step(self, step: int, words: str, items: int, unit: str) -> None:
        """After every step: what to show, and how many targets it took."""
        assert self._rate is not None, "step() belongs inside training()"
        self._rate.count(step, items)
        if self._progress is not None and self._task is not None:
            text = f"{words}  {self._rate.speed():,.0f} {unit}/s"
            self._progress.update(self._task, completed=step, words=text)
        elif not self.quiet and time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            left = _clock(self._rate.seconds_left())
            self.note(f"step {step}/{self._rate.total}  {words}  {self._rate.speed():,.0f} {unit}/s  {left} left")

    def logged(self, record: Mapping[str, Any]) -> None:
        """After every line of metrics.jsonl, with what it says; of runs trained together, also their `run`.

        Nothing here: a subclass may send it elsewhere. What it raises ends the training.
        """

    def validated(self, step: int, score: float) -> None:
        """After a validation, with the score that decides; what it raises ends the training."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Around an evaluation; yields what to call after each of its batches."""
        started = time.monotonic()
        with self._bar(name, total) as advance:
            yield advance
        if self._rate is not None:
            self._rate.pause(time.monotonic() - started)

    @contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of its own, below that of the training if there is one; a plain line for what takes long."""
        if not self._live:
            if total > 500:
                self.note(f"{name} ({total:,} batches)")
            yield lambda: None
            return
        bar = self._progress or Progress(console=self.console, transient=True)
        if bar is not self._progress:
            bar.start()
        task = bar.add_task(name, total=total, words="")
        try:
            yield lambda: bar.advance(task)
        finally:
            bar.remove_task(task)
            if bar is not self._progress:
                bar.stop()


class _Named(Reporter):
    """Speaks through another reporter."""

    def __init__(self, through: Reporter, name: str, first: bool) -> None:
        super().__init__(through.console, quiet=through.quiet or not first)
        self._through, self._name = through, name

    def note(self, text: str) -> None:
        self._through.note(f"{self._name}: {text}")

    def warn(self, text: str) -> None:
        self._through.warn(f"{self._name}: {text}")

    def logged(self, record: Mapping[str, Any]) -> None:
        self._through.logged({**record, "run": self._name})


class _Rate:
    """Speed since the loop began, evaluations not counted."""

    def __init__(self, done: int, total: int) -> None:
        self.total = total
        self._first, self._step, self._items = done, done, 0
        self._start = time.monotonic()

    def count(self, step: int, items: int) -> None:
        self._step = step
        self._items += items

    def pause(self, seconds: float) -> None:
        self._start += seconds

    def speed(self) -> float:
        return self._items / max(time.monotonic() - self._start, 1e-9)

    def seconds_left(self) -> float:
        per_step = (time.monotonic() - self._start) / max(self._step - self._first, 1)
        return per_step * (self.total - self._step)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
