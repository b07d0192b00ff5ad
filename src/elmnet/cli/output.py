"""Where commands print."""

import sys

from rich.console import Console

out = Console(width=None if sys.stdout.isatty() else 160)
