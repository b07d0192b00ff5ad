"""What a run writes down as it goes: metrics.jsonl, TensorBoard's events, and the time it took.

metrics.jsonl has one line per logged step and per evaluation, and no clock in it: equal runs write equal bytes.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from elmnet.errors import RunError
from elmnet.files import naming
from elmnet.train.run import RunDirectory


class MetricsLog:
    """Appends JSON lines; can go back to where a checkpoint was written."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._file = path, path.open("ab")
        self._file.truncate(min(size, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    def sync(self) -> int:
        """Flush to disk; returns the bytes written so far."""
        with naming(self._path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        with naming(self._path):
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; what did not fit on a full disk does not fit now, either."""
        with naming(self._path):
            self._file.close()


class Journal:
    """Of one run, across interruptions.

    Args:
        run: where it is written.
        tensorboard: write its events, too.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, run: RunDirectory, *, tensorboard: bool = False) -> None:
        self._run, self._writer = run, _summary_writer() if tensorboard else None
        self.training_seconds = 0.0  # spent in training steps alone
        self._window: dict[str, float] = {}  # sums since the last logged step
        self._bytes = 0  # of metrics.jsonl that belong to the checkpoint the run goes on from
        self._earlier = {"wall_seconds": 0.0, "cpu_seconds": 0.0}  # spent by processes before this one
        self._log: MetricsLog | None = None
        self._board: Any = None
        self.start_clocks()

    def load(self, numbers: Mapping[str, Any]) -> None:
        """Go on from what `numbers` gave for a checkpoint."""
        self.training_seconds, self._window = numbers["training_seconds"], dict(numbers["window"])
        self._bytes = int(numbers["metrics_bytes"])
        self._earlier = {name: numbers[name] for name in self._earlier}

    def start_clocks(self) -> None:
        """From here on this process's time counts."""
        self._started, self._cpu_started = time.monotonic(), time.process_time()

    def open(self, step: int) -> None:
        """Cut off what was written after this step's checkpoint, and begin to write; without it nothing is."""
        self._log = MetricsLog(self._run.metrics_file, self._bytes)
        if self._writer is not None:
            self._board = self._writer(os.fspath(self._run.path / "tensorboard"), purge_step=step)

    def close(self) -> None:
        """Close the files."""
        for file in (self._log, self._board):
            if file is not None:
                file.close()

    def write(self, record: dict[str, Any]) -> None:
        """One line; needs "event" and "step"."""
        if self._log is not None:
            self._log.write(record)
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def count(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add a step's; returns the means since the last `forget`."""
        for name, value in {**values, "steps": 1.0}.items():
            self._window[name] = self._window.get(name, 0.0) + value
        return {name: total / self._window["steps"] for name, total in self._window.items() if name != "steps"}

    def forget(self) -> None:
        """Begin new means."""
        self._window = {}

    def cost(self) -> dict[str, float]:
        """Seconds of wall clock and processor, with those of processes before this one."""
        return {
            "wall_seconds": self._earlier["wall_seconds"] + time.monotonic() - self._started,
            "cpu_seconds": self._earlier["cpu_seconds"] + time.process_time() - self._cpu_started,
        }

    def numbers(self) -> dict[str, Any]:
        """For a checkpoint; what was written so far is on disk by then."""
        assert self._log is not None
        return {
            "window": self._window,
            "metrics_bytes": self._log.sync(),
            "training_seconds": self.training_seconds,
            **self.cost(),
        }


def peak_memory() -> int | None:
    """Largest resident size of this process, bytes; None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard is not installed; pip install 'elmnet[tensorboard]'") from error
    return SummaryWriter


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a torn last one is left out. Empty where there is no file."""
    lines: list[dict[str, Any]] = []
    if not file.is_file():
        return lines
    for line in file.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            lines.append(record)
    return lines


def validations(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a run's metrics the steps and scores of its validations."""
    return [line for line in lines if line.get("event") == "valid"]
