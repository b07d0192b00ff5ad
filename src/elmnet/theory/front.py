"""The front: the least loss of every budget, read off a sweep's runs (§9).

Preferred is the surface of a fit to all runs (`SNRR.front`, the planner). What is here checks it without the model,
and gives the power law of the literature for comparison.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, linprog

from elmnet.errors import TheoryError
from elmnet.theory.fit import Fit
from elmnet.theory.model import Array, ends

LEAST_POINTS = 8
EXPONENTS = (0.1, 0.25, 0.5, 1.0)
FINE, COARSE = (tuple(np.geomspace(0.05, 1.5, count)) for count in (40, 10))
"""Exponents that the pinball curve tries: of all runs, and of every resampled set."""


def near_front(P: ArrayLike, y: ArrayLike, sd: float) -> NDArray[np.bool_]:
    """Runs that no run of at most 1.05 times their P beats by more than 2 sd (§9); (runs,)."""
    P, y = np.asarray(P, float), np.asarray(y, float)
    beats = (P[None, :] <= 1.05 * P[:, None]) & (y[:, None] - y[None, :] > 2 * sd)
    return np.asarray(~beats.any(1))


class PowerLaw(NamedTuple):
    """L_inf + (P_c/P)^α, an effective law over a range of P, for comparison with the literature."""

    L_inf: float
    alpha: float
    """Effective exponent over [P_min, P_max]; strongly correlated with L_inf."""
    P_c: float
    P_min: float
    P_max: float

    def loss(self, P: ArrayLike) -> Array:
        """At budgets P."""
        return np.asarray(self.L_inf + (self.P_c / np.asarray(P, float)) ** self.alpha)


def power_law(P: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Soft-L1 fit from several starts, in the decorrelated variables (L_inf, ln A, ln α), A at the middle of P (§9).

    Raises:
        TheoryError: fewer than 8 points, or they span less than two decades of P.
    """
    P, y = np.asarray(P, float), np.asarray(y, float)
    if len(P) < LEAST_POINTS:
        raise TheoryError(f"a power law needs at least {LEAST_POINTS} points on the front, there are {len(P)}")
    if P.max() < 100 * P.min():
        raise TheoryError(f"a power law needs two decades of P, the front spans a factor {P.max() / P.min():.3g}")
    middle, spread = float(np.exp(np.log(P).mean())), float(y.max() - y.min())
    if spread == 0:
        raise TheoryError(f"a power law needs losses that differ, all of the front are {y[0]:g}")

    def residuals(z: Array) -> Array:
        return np.asarray(z[0] + np.exp(z[1] - np.exp(z[2]) * np.log(P / middle)) - y)

    starts = [
        np.array([y.min() - share * spread, np.log(spread * (0.3 + share)), np.log(alpha)])
        for alpha in EXPONENTS
        for share in (0.05, 0.5, 1.5)
    ]
    box = ([-np.inf, -np.inf, np.log(0.01)], [float(y.min()), np.inf, np.log(3.0)])
    scale = max(spread / 20, 1e-9)
    found = [
        least_squares(residuals, start, bounds=box, loss="soft_l1", f_scale=scale, x_scale="jac") for start in starts
    ]
    L_inf, log_A, log_alpha = min(found, key=lambda one: float(one.cost)).x
    alpha = float(np.exp(log_alpha))
    P_c = float(middle * np.exp(log_A / alpha))
    return PowerLaw(float(L_inf), alpha, P_c, float(P.min()), float(P.max()))


def power_law_worlds(
    P: ArrayLike,
    y: ArrayLike,
    sd: float,
    *,
    draws: int = 300,
    seed: int = 0,
) -> list[PowerLaw]:
    """The law of `near_front` in resampled sets of runs (§9); draws whose front is too short are left out."""
    P, y = np.asarray(P, float), np.asarray(y, float)
    rng, worlds = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = rng.integers(0, len(P), len(P))
        kept = chosen[near_front(P[chosen], y[chosen], sd)]
        with suppress(TheoryError):
            if len(np.unique(kept)) >= LEAST_POINTS:
                worlds.append(power_law(P[kept], y[kept]))
    return worlds


class Front(NamedTuple):
    """What a sweep's runs say of the front without the model."""

    near: NDArray[np.bool_]
    """Near-front runs, (runs,)."""
    law: PowerLaw
    """Through the near-front runs."""
    alpha: tuple[float, float] | None
    """95 % interval of its exponent, over resampled runs; None where fewer than half of them have a front."""
    kept: int
    """Resampled sets of runs that have one."""
    quantile: PowerLaw
    """A tenth of all runs lie below it."""


def read_front(P: ArrayLike, y: ArrayLike, sd: float, *, draws: int = 300, seed: int = 0) -> Front:
    """Near-front set, effective power law with its bootstrap, and the pinball curve.

    Raises:
        TheoryError: too few runs, or they span too little (see `power_law`).
    """
    P, y = np.asarray(P, float), np.asarray(y, float)
    near = near_front(P, y, sd)
    law = power_law(P[near], y[near])
    alphas = [world.alpha for world in power_law_worlds(P, y, sd, draws=draws, seed=seed)] if draws else []
    interval = None
    if len(alphas) >= max(20, draws / 2):
        low, high = ends(alphas)
        interval = (float(low), float(high))
    return Front(near, law, interval, len(alphas), pinball(P, y))


class Gap(NamedTuple):
    """The model's front and the pinball curve at a budget, with 95 % of their bootstraps."""

    hidden: float
    """P'."""
    model: float
    model_interval: tuple[float, float]
    pinball: float
    pinball_interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """What a gap beyond both intervals means (§9); empty where there is none."""
        if self.pinball_interval[1] < self.model_interval[0]:
            return "runs lie lower: SNRR is wrong here"
        if self.model_interval[1] < self.pinball_interval[0]:
            return "runs lie higher: SNRR is wrong here, or no run is near the best"
        return ""


def gaps(known: Fit, *, draws: int = 100, seed: int = 0, budgets: int = 5) -> list[Gap]:
    """The model's front beside the pinball curve of the same runs, over the budgets of the runs (§9).

    Args:
        known: a fit with a bootstrap.
        draws: resampled sets of runs.
        seed: of the resampling.
        budgets: how many to compare, evenly in logarithm.

    Raises:
        TheoryError: fewer than 8 runs; a fit without a bootstrap.
    """
    if known.worlds is None:
        raise TheoryError(f"the model's front has no interval: {known.no_intervals}")
    P, y = known.runs.hidden, known.runs.y
    at = np.geomspace(P.min(), P.max(), budgets)
    rng = np.random.default_rng(seed)
    chosen = [rng.integers(0, len(P), len(P)) for _ in range(draws)]
    curves = np.array([pinball(P[index], y[index], exponents=COARSE).loss(at) for index in chosen])
    rows = zip(
        at,
        known.front(known.law, at).loss,
        ends(known.front(known.worlds, at).loss).T,
        pinball(P, y).loss(at),
        ends(curves).T,
        strict=True,
    )
    return [
        Gap(float(p), float(model), (float(a), float(b)), float(curve), (float(c), float(d)))
        for p, model, (a, b), curve, (c, d) in rows
    ]


def pinball(P: ArrayLike, y: ArrayLike, quantile: float = 0.1, exponents: Sequence[float] = FINE) -> PowerLaw:
    """L_inf + (P_c/P)^α below which `quantile` of all runs lie (§9): a check on a surface's front, not to be
    extrapolated. Exact linear quantile regression at every exponent of a grid.

    Raises:
        TheoryError: fewer than 8 runs.
    """
    P, y = np.asarray(P, float), np.asarray(y, float)
    if len(P) < 8:
        raise TheoryError(f"the pinball check needs at least 8 runs, there are {len(P)}")
    middle, n = float(np.exp(np.log(P).mean())), len(P)
    best: tuple[float, float, float, float] | None = None
    for alpha in exponents:
        x = (middle / P) ** alpha
        # minimise Σ q·u + (1-q)·v with y - (L_inf + A·x) = u - v; A, u, v ≥ 0
        cost = np.concatenate([[0, 0], np.full(n, quantile), np.full(n, 1 - quantile)])
        equal = np.concatenate([np.ones((n, 1)), x[:, None], np.eye(n), -np.eye(n)], 1)
        found = linprog(cost, A_eq=equal, b_eq=y, bounds=[(None, None), *[(0, None)] * (2 * n + 1)], method="highs")
        if found.success and (best is None or found.fun < best[0]):
            best = (float(found.fun), float(alpha), float(found.x[0]), float(found.x[1]))
    if best is None:
        raise TheoryError("the pinball check found no solution")
    _, alpha, L_inf, A = best
    P_c = middle * A ** (1 / alpha) if A > 0 else 0.0
    return PowerLaw(L_inf, alpha, P_c, float(P.min()), float(P.max()))
