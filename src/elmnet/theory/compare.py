"""The model against what else could describe a fixed-budget curve (§6): by AICc, left-out runs, and ends only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

from elmnet.errors import TheoryError
from elmnet.theory.plain import fit_plain
from elmnet.theory.runs import Runs
from elmnet.theory.unit import complexity_of, memory_of

Array = NDArray[np.float64]
Predictor = Callable[[Array, Array, Array, Array], Array]
"""(N, k_e, k_c, d_m) → score."""


@dataclass(frozen=True)
class Description:
    """A form the curve may have."""

    name: str
    constants: int
    learn: Callable[[Runs], Predictor]


class Judgement(NamedTuple):
    """How well a form describes a table of runs; errors in the score's unit."""

    name: str
    constants: int
    rmse: float
    aicc: float
    left_out_rmse: float
    """Each run predicted from all others."""
    best_d_m: float
    """Where its curve is lowest at the runs' budget."""
    ends_best_d_m: float
    """The same, learned from the ends only."""
    ends_rmse: float
    """Of the runs between the ends, predicted from the ends only."""


def aicc(rss: float, count: int, constants: int) -> float:
    """Akaike's criterion, corrected for few runs; the noise's variance counts as a constant."""
    k = constants + 1
    if count <= k + 1:
        return float("nan")
    return count * float(np.log(rss / count)) + 2 * k + 2 * k * (k + 1) / (count - k - 1)


def judge(runs: Runs, low: float, high: float) -> list[Judgement]:
    """Every form, on runs at one budget.

    Args:
        runs: differing in d_m, at one budget P and one wiring per unit.
        low: the ends are the runs with d_m ≤ low ...
        high: ... or d_m ≥ high.

    Raises:
        TheoryError: the ends hold fewer than 5 runs, or leave none between them.
    """
    ends = (runs.d_m <= low) | (runs.d_m >= high)
    if ends.sum() < 5 or ends.all():
        raise TheoryError(f"the ends must hold at least 5 of the {len(runs)} runs and leave some, got {ends.sum()}")
    return [_judge(form, runs, ends) for form in FORMS]


def _judge(form: Description, runs: Runs, ends: NDArray[np.bool_]) -> Judgement:
    whole, half = form.learn(runs), form.learn(runs.at(ends))
    errors = predict(whole, runs) - runs.y
    everyone = np.arange(len(runs))
    left_out = [predict(form.learn(runs.at(everyone != i)), runs.at(everyone == i))[0] - runs.y[i] for i in everyone]
    missed = predict(half, runs.at(~ends)) - runs.y[~ends]
    return Judgement(
        form.name,
        form.constants,
        _rms(errors),
        aicc(float(np.sum(errors**2)), len(runs), form.constants),
        _rms(np.array(left_out)),
        lowest(whole, runs),
        lowest(half, runs),
        _rms(missed),
    )


def _rms(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def predict(predictor: Predictor, runs: Runs) -> Array:
    """Scores of runs."""
    return predictor(runs.N, runs.k_e, runs.k_c, runs.d_m)


def lowest(predictor: Predictor, runs: Runs) -> float:
    """d_m, continuous, at which the curve of the runs' median budget P' and wiring is lowest."""
    spend, k_c, neuron = float(np.median(runs.hidden)), float(np.median(runs.k_c)), runs.neuron

    def score(x: float) -> float:
        d_m = np.exp(np.array([x]))
        k_e = complexity_of(d_m, neuron)
        return float(predictor(spend / (k_e + k_c), k_e, np.array([k_c]), d_m)[0])

    grid = np.linspace(np.log(2), np.log(100), 60)
    i = int(np.argmin([score(x) for x in grid]))
    around = (grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)])
    return float(np.exp(minimize_scalar(score, bounds=around, method="bounded").x))


def _snrr(runs: Runs) -> Predictor:
    law = fit_plain(runs).law
    return lambda N, k_e, k_c, d_m: law.loss_high_snr(N, k_e, k_c)


def _linear(columns: Callable[[Array, Array, Array], list[Array]]) -> Callable[[Runs], Predictor]:
    """A form linear in all its constants; columns(N, k_e, d_m)."""

    def learn(runs: Runs) -> Predictor:
        design = np.stack(columns(runs.N, runs.k_e, runs.d_m), 1)
        constants, *_ = np.linalg.lstsq(design, runs.y, rcond=None)
        return lambda N, k_e, k_c, d_m: np.stack(columns(N, k_e, d_m), 1) @ constants

    return learn


def _powers(count: int) -> Callable[[Runs], Predictor]:
    """L + A·N^-b + B·k_e^-c, with c = b if `count` is 1; linear but for the exponents."""

    def columns(z: Array, N: Array, k_e: Array) -> Array:
        b, c = np.exp(z[0]), np.exp(z[-1])
        return np.stack([np.ones_like(N), N**-b, k_e**-c], 1)

    def learn(runs: Runs) -> Predictor:
        def solved(z: Array) -> tuple[Any, Array]:
            design = columns(z, runs.N, runs.k_e)
            constants, *_ = np.linalg.lstsq(design, runs.y, rcond=None)
            return constants, design @ constants - runs.y

        box = (np.full(count, np.log(0.02)), np.full(count, np.log(5.0)))
        grid = np.log([0.2, 0.6, 1.5])
        starts = np.stack(np.meshgrid(*[grid] * count), -1).reshape(-1, count)
        found = [least_squares(lambda z: solved(z)[1] * 1e3, start, bounds=box, x_scale=0.1) for start in starts]
        z = min(found, key=lambda one: float(one.cost)).x
        constants, _ = solved(z)
        return lambda N, k_e, k_c, d_m: columns(z, N, k_e) @ constants

    return learn


def _distortion(runs: Runs) -> Predictor:
    """L_inf + (H0 - L_inf)/(1 + Γ): the same Γ, with error instead of information as the link."""

    def gamma(z: Array, N: Array, k_e: Array) -> Array:
        return np.asarray(np.exp(z[2]) / ((1 + np.exp(z[0]) / k_e) * (1 + np.exp(z[1]) / N)))

    def solved(z: Array) -> tuple[float, Array]:
        share = 1 / (1 + gamma(z, runs.N, runs.k_e))
        # y - H0·share = L_inf·(1 - share)
        L_inf = float(np.sum((runs.y - runs.H0 * share) * (1 - share)) / np.sum((1 - share) ** 2))
        return L_inf, L_inf + (runs.H0 - L_inf) * share - runs.y

    starts = [np.log([k, n, g]) for k in (30.0, 300.0) for n in (7.0, 70.0) for g in (10.0, 100.0)]
    found = [least_squares(lambda z: solved(z)[1] * 1e3, start, x_scale=0.1) for start in starts]
    z = min(found, key=lambda one: float(one.cost)).x
    L_inf, _ = solved(z)
    return lambda N, k_e, k_c, d_m: L_inf + (runs.H0 - L_inf) / (1 + gamma(z, N, k_e))


FORMS = (
    Description("SNRR, a = 1", 4, _snrr),
    Description("A/N + B/k_e", 3, _linear(lambda N, k_e, d_m: [np.ones_like(N), 1 / N, 1 / k_e])),
    Description("A N^-b + B k_e^-b", 4, _powers(1)),
    Description("A N^-b + B k_e^-c", 5, _powers(2)),
    Description("quadratic in ln d_m", 3, _linear(lambda N, k_e, d_m: [np.log(d_m) ** i for i in range(3)])),
    Description("cubic in ln d_m", 4, _linear(lambda N, k_e, d_m: [np.log(d_m) ** i for i in range(4)])),
    Description("distortion link", 4, _distortion),
)


class Profile(NamedTuple):
    """What a fixed exponent says, one row per value of a."""

    a: float
    rmse: float
    d_m: float
    """d_m* at the runs' budget P'."""
    d_m_tenfold: float
    """d_m* at ten times that."""
    loss_tenfold: float
    """L* there, k_c held: what the exponent decides and one budget cannot."""


def profile(runs: Runs, exponents: list[float]) -> list[Profile]:
    """Plain fits with `a` held at each of several values (§7)."""
    rows = []
    for a in exponents:
        found = fit_plain(runs, a)
        spend, k_c = float(np.median(runs.hidden)), float(np.median(runs.k_c))
        here, there = found.law.optimum(spend, k_c), found.law.optimum(10 * spend, k_c)
        d_m, tenfold = (float(memory_of(best.complexity, runs.neuron)) for best in (here, there))
        loss = float(found.law.loss_high_snr(there.units, there.complexity, k_c))
        rows.append(Profile(a, found.rmse, d_m, tenfold, loss))
    return rows
