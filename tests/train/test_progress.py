import errno
import io
import re

from rich.console import Console

from elmnet.train import progress
from elmnet.train.progress import Reporter, SteadyConsole


def told(terminal, quiet=False):
    """What a reporter writes during two steps and an evaluation."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    reporter = Reporter(console, quiet=quiet)
    reporter.note("hello")
    with reporter.training(0, 10):
        reporter.step(1, "loss 2.5  bpc 3.6", 800, "characters")
        with reporter.phase("scoring valid", 3) as advance:
            advance()
        reporter.step(2, "loss 2.4  bpc 3.5", 800, "characters")
    reporter.warn("careful")
    return console.file.getvalue()


def test_plain_lines_without_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", -1.0)
    lines = told(False).splitlines()
    assert lines[0] == "hello"
    assert re.fullmatch(r"step 1/10  loss 2\.5  bpc 3\.6  [\d,]+ characters/s  0:00:00 left", lines[1])
    assert lines[-1] == "warning: careful"
    assert "\x1b" not in "".join(lines)


def test_plain_lines_are_rare():
    assert sum("step" in line for line in told(False).splitlines()) <= 1


def test_a_terminal_that_was_closed_ends_nothing():
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    console = SteadyConsole(file=Closed(), force_terminal=True)
    reporter = Reporter(console)
    reporter.note("nobody reads this")
    with reporter.training(0, 2):
        reporter.step(1, "nor this", 1, "characters")
    assert console.quiet


def test_a_live_bar_on_a_terminal():
    shown = told(True)
    assert "training" in shown
    assert "2/10" in shown
    assert "characters/s" in shown


def test_quiet_says_only_warnings():
    assert told(True, quiet=True) == "warning: careful\n"
