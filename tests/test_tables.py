"""How numbers are written."""

import pytest

from elmnet.tables import score
from elmnet.tasks import in_words


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, None, ""),
        (0.0, None, "0.0000"),
        (-0.00171, None, "-0.0017"),
        (123456.78, None, "123456.7800"),
        (4.638e-9, None, "4.638e-09"),
        (5.7282e36, None, "5.728e+36"),
        (0.46621, 0.00002, "0.4662 ± 0.0000"),
        (4.638e-9, 2.39e-11, "4.638e-09 ± 2.39e-11"),
    ],
)
def test_a_score_shows_its_digits_whatever_its_unit(value, error, words):
    assert score(value, error) == words


def test_scores_in_words_do_so_too():
    assert in_words({"rmse": 4.638e-9, "r2": 0.5}) == "rmse 4.638e-09  r2 0.5000"
