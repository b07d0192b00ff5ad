"""Power laws along an axis: local exponents, the knee between them, the next value foretold."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Growth(NamedTuple):
    """How a quantity grows along an axis: local log-log exponents at its ends, and where they change."""

    small: float
    large: float
    knee: float | None
    """Where the local exponent passes midway from `small` to `large`; None: it never changes by `LEAST_CHANGE`."""


LEAST_CHANGE = 0.25


def exponents(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Local exponents d log y / d log x: a straight line through every three neighbours (or all, if there are fewer).

    Returns:
        log x at which they hold, and the exponents.
    """
    a, b = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    width = min(3, len(a))
    if width < 2:
        return [], []
    windows = [slice(i, i + width) for i in range(len(a) - width + 1)]
    return [float(a[w].mean()) for w in windows], [float(np.polyfit(a[w], b[w], 1)[0]) for w in windows]


def growth(x: Sequence[float], y: Sequence[float]) -> Growth:
    """Exponents at the ends and the knee between them; nan from fewer than two points."""
    places, slopes = exponents(x, y)
    if not slopes:
        return Growth(math.nan, math.nan, None)
    small, large = slopes[0], slopes[-1]
    if abs(large - small) < LEAST_CHANGE:
        return Growth(small, large, None)
    middle, sign = (small + large) / 2, math.copysign(1, large - small)
    i = next(i for i in range(1, len(slopes)) if sign * (slopes[i] - middle) >= 0)
    share = (middle - slopes[i - 1]) / (slopes[i] - slopes[i - 1])
    return Growth(small, large, math.exp(places[i - 1] + share * (places[i] - places[i - 1])))


def foretold(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """y at the next point of an axis, from the last two: a power law between a proportion and a square."""
    if not x:
        return 0.0
    slope = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2]) if len(x) > 1 else 1.0
    return float(y[-1] * (at / x[-1]) ** min(max(1.0, slope), 2.0))
