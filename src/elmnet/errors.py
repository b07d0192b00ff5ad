"""Errors a user can cause, each with words that say which value was wrong and what to do.

The command line prints them without a traceback; everything else that escapes is a bug.
"""


class ElmnetError(Exception):
    """Base of every error that elmnet raises on purpose."""


def in_a_line(error: BaseException) -> str:
    """What an exception of somebody else's says, as far as a line has room; of a chain, what began it."""
    while error.__cause__ is not None and not isinstance(error, ElmnetError):
        error = error.__cause__
    first, *others = str(error).strip().splitlines() or [""]
    if first.endswith(":") and others:  # a compiler's place in a source
        first += f" {others[-1].strip()}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def one_line(error: BaseException) -> str:
    """The whole message of an exception without its line breaks; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class ConfigError(ElmnetError, ValueError):
    """A configuration holds a value that cannot be built."""


class TaskError(ConfigError):
    """A task is not known to this installation, or cannot be imported."""


class BudgetError(ElmnetError, ValueError):
    """No network of the asked shape fits the budget."""


class ShapeError(ElmnetError, ValueError):
    """A tensor handed to a module does not have the shape, type or range it needs."""


class BackendError(ElmnetError, RuntimeError):
    """The demanded backend cannot run what was asked of it."""


class DataError(ElmnetError):
    """A data source is missing, damaged, or does not hold what its format promises."""


class CheckpointError(ElmnetError):
    """Saved weights or training state are missing, damaged, or belong to another configuration."""


class DivergedError(ElmnetError):
    """Training met a loss or gradient that is not finite."""


class RunError(ElmnetError):
    """A run directory cannot be used as asked."""


class RunTakenError(RunError):
    """A run directory belongs to another process, or holds a run already."""


class TheoryError(ElmnetError, ValueError):
    """The theory was given constants or data it cannot work with."""
