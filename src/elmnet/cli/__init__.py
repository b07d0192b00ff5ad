"""The command line: one thin function per command. Heavy imports wait until a command needs them."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import Annotated, Any

import typer
from rich.console import Console

from elmnet.cli import bench, compare, data, inspect, interop, plan, report, runs, sweep, theory
from elmnet.cli.output import say
from elmnet.errors import ConfigError, ElmnetError

app = typer.Typer(
    name="elmnet",
    help="Recurrent networks of expressive neurons (arXiv:2605.12049): train, evaluate, count, plan, verify.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Data sources: list, download, inspect; turn sound into spikes.", no_args_is_help=True)
app.add_typer(data_app, name="data")
sweep_app = typer.Typer(
    help="Many runs: described in a few lines of YAML, run anywhere, collected into one table.", no_args_is_help=True
)
app.add_typer(sweep_app, name="sweep")
_COMMANDS: dict[str, Any] = {
    "train": runs.train,
    "eval": runs.evaluate_,
    "predict": runs.predict,
    "generate": runs.generate,
    "params": inspect.params,
    "compare": compare.compare,
    "fit": theory.fit,
    "plan": plan.plan,
    "report": report.report,
    "watch": report.watch,
    "import": interop.import_,
    "export": interop.export,
    "verify": inspect.verify,
    "bench": bench.bench,
    "doctor": inspect.doctor,
}
_SWEEPS: dict[str, Any] = {
    "plan": sweep.plan,
    "run": sweep.run,
    "status": sweep.status,
    "collect": sweep.collect,
    "query": sweep.query,
}
_DATA: dict[str, Any] = {
    "list": data.list_,
    "get": data.get,
    "info": data.info,
    "encode-audio": data.encode_audio,
}


def _help(command: Callable[..., Any]) -> str:
    """A command's docstring with its paragraphs in one line each, to be broken where the terminal ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (getdoc(command) or "").split("\n\n"))


for group, commands in ((app, _COMMANDS), (sweep_app, _SWEEPS), (data_app, _DATA)):
    for name, function in commands.items():
        group.command(name, help=_help(function))(function)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors a user can cause are printed without a traceback.

    Exit codes: 0 success; 1 failure; 2 wrong usage or configuration; 128 + n stopped by signal n.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every locale has a ×
    try:
        app(args=None if arguments is None else list(arguments))
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ElmnetError, OSError) as error:  # OSError: a full disk, a folder that cannot be read or written
        say(f"error: {error}", "red", console=Console(stderr=True))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if version:
        from elmnet import __version__

        say(f"elmnet {__version__}")
        raise typer.Exit
