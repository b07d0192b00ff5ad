"""Runs of older versions go on as they began."""

import numpy as np

from elmnet.chance import Draw


def test_streams_keep_their_numbers():
    names = Draw.__members__
    assert {name: int(draw) for name, draw in names.items()} == {
        "PAIRS": 1,
        "EVALUATED_PAIRS": 2,
        "RECORDINGS": 4,
        "JITTER": 5,
        "RESETS": 5,
        "SEQUENCES": 6,
        "FILES": 6,
        "WINDOWS": 7,
    }
    for draw in Draw:
        want = np.random.default_rng([int(draw), 3, 9]).random(4)
        assert np.array_equal(np.random.default_rng([draw, 3, 9]).random(4), want)
