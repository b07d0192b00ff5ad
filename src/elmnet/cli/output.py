"""Where commands print."""

import sys

from rich.console import Console

out = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 160)
