"""DuckDB, which reads and writes tables; the extra `sweep`."""

import re
from pathlib import Path
from typing import Any

from elmnet.errors import ConfigError


def duckdb(need: str) -> Any:
    """The module.

    Args:
        need: what needs it, for the error's words: `tables need DuckDB`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise ConfigError(f"{need}: pip install 'elmnet[sweep]'") from None
    return duckdb


def quoted(path: Path) -> str:
    """A path as a text of SQL."""
    return "'{}'".format(str(path).replace("'", "''"))


def one_file(path: Path) -> str:
    """A path to read, as a text of SQL: *, ? and [ would make a pattern of several there."""
    return re.sub(r"[\[*?]", r"[\g<0>]", quoted(path))
