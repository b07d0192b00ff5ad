"""Loads the scripts of benchmarks/, which are no package."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_script(monkeypatch):
    """A function from a script's name to its module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module
