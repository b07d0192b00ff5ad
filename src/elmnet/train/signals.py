"""Stopping politely: the first SIGINT, SIGTERM or SIGHUP asks, the second one acts as it always did."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any


class StopRequested(Exception):
    """Raised at a safe point after a signal."""


class Interrupted(Exception):
    """A signal asked to stop; everything is saved."""

    def __init__(self, number: int, checkpoints: Sequence[Path]) -> None:
        saved = str(checkpoints[0]) if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"
        super().__init__(f"stopped by {signal.Signals(number).name}; saved {saved}")
        self.number = number


def heeded() -> list[int]:
    """The signals that ask to stop: Ctrl-C, SIGTERM and, unless `nohup` says otherwise, a terminal that is closed."""
    found = [int(signal.SIGINT), int(signal.SIGTERM)]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        found.append(int(signal.SIGHUP))
    return found


class StopSignals:
    """A context in which `heeded` signals only set `number`; `check` then raises at a safe point.

    Signals can be caught in the main thread alone; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._old = {n: signal.signal(n, self._ask) for n in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = number  # nothing else here: a handler must not print or save
        signal.signal(number, self._old[number])

    @property
    def asked(self) -> int:
        """The signal that has come; 0: none."""
        return self.number or _everywhere or 0

    def check(self) -> None:
        """Raise StopRequested if a signal has come."""
        if self.asked:
            raise StopRequested


_everywhere: int | None = None


def stop_everywhere(number: int | None) -> None:
    """Stop all training of this process as the signal would, also outside the main thread; None: no longer."""
    global _everywhere
    _everywhere = None if number is None else int(number)
