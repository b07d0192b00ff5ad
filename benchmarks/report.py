"""What the benchmarks' reports share: where a measurement comes from, rows as CSV, lines of 120 characters."""

import csv
import dataclasses
import io
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from elmnet.train.run import environment

ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Processor, instruction set and cores, as far as the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def commit() -> str:
    """The checkout that was measured; `-dirty` where it differs from its commit."""
    name, dirty, _ = (environment()["git"] or "no checkout").partition("-dirty")
    return name[:10] + dirty


def today() -> str:
    """The date, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def command() -> str:
    """What was typed."""
    return shlex.join(["python", *sys.argv])


def as_csv(rows: Sequence[Any]) -> str:
    """Every field of every row, to six digits; rows are dataclasses of one kind, at least one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = dataclasses.asdict(row).items()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values})
    return text.getvalue()


def wrap(text: str) -> list[str]:
    """The words in lines, however they were broken before."""
    return textwrap.wrap(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def short(value: float) -> str:
    """Three significant digits, and whole numbers from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
