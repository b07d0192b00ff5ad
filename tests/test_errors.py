"""Other people's errors in a line."""

import pytest

from elmnet.errors import DataError, in_a_line


def chained(outer, inner):
    try:
        try:
            raise inner
        except type(inner) as error:
            raise outer from error
    except type(outer) as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no\nmore"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (chained(RuntimeError("at 23:20:"), TypeError("of another type")), "TypeError: of another type"),
        (RuntimeError("at 3:20:\n  a + b\n  ^\nof another type"), "RuntimeError: at 3:20: of another type"),
        (chained(DataError("the file is damaged"), ValueError("invalid literal")), "DataError: the file is damaged"),
    ],
)
def test_in_a_line(error, words):
    assert in_a_line(error) == words
