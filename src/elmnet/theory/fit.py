"""Fitting the model to runs: robust, with priors where data are silent, and with intervals that say what is known.

Procedure: docs/theory.md §9. Which constants a table can tell depends on its design, so `fit` decides from the data
which are free, and says in words why the others are not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elmnet.errors import TheoryError
from elmnet.theory.model import SNRR, Optimum
from elmnet.theory.runs import LEAST_MEMORY, Runs

Array = NDArray[np.float64]

BOUNDS = {"D": (1e-4, 1e3), "kappa_e": (1.0, 1e6), "N_r": (0.05, 1e6), "kappa_c": (1e-2, 1e6), "a": (0.2, 3.0)}
"""§1. L_inf lies between 0 and min y + (H0 - min y)/4."""
PRIOR = {"D": (0.3, 2.0), "kappa_e": (300.0, 1.0), "N_r": (70.0, 1.25), "kappa_c": (100.0, 1.25), "a": (1.0, 0.35)}
"""Median and standard deviation of the logarithm (§1), weak: what a fit says where the data do not."""
STARTS = [(kappa_e, N_r) for kappa_e in (30.0, 300.0, 3000.0) for N_r in (7.0, 70.0, 700.0)]
HUBER = 2.0
"""Robust standard deviations beyond which a residual counts linearly."""
ROUNDS = 4


@dataclass(frozen=True)
class Fit:
    """The model fitted to runs."""

    law: SNRR
    """The best constants."""
    runs: Runs
    """What was fitted, without the excluded."""
    free: tuple[str, ...]
    """Constants the data could move."""
    fixed: Mapping[str, str]
    """Why the others could not, by name."""
    excluded: Mapping[str, str]
    """Runs left out, and why."""
    sd: float
    """Standard deviation of one run, in the score's unit."""
    worlds: SNRR | None
    """Models of the bootstrap, constants of shape (draws, 1); None where there are too few runs for intervals."""
    no_intervals: str | None = None
    """Why there are none."""
    least_memory: int = LEAST_MEMORY
    """Smallest d_m that was fitted, and that a plan considers."""

    @cached_property
    def residuals(self) -> Array:
        """Score minus prediction."""
        return self.runs.y - self.law.loss(self.runs.N, self.runs.k_e, self.runs.k_c)

    @property
    def rmse(self) -> float:
        """In the score's unit."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def r2(self) -> float:
        """Share of the scores' variance that is explained; NaN where they do not vary."""
        spread = float(np.sum((self.runs.y - self.runs.y.mean()) ** 2))
        return float(1 - np.sum(self.residuals**2) / spread) if spread else float("nan")

    def interval(self, value: Callable[[SNRR], Any], level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of anything computed from a model, e.g. `lambda law: law.D`."""
        if self.worlds is None:
            return None
        low, high = np.quantile(np.asarray(value(self.worlds), float), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def predict(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Loss with the interval of the law, not of a single run (add `sd` for that): three arrays (networks,)."""
        N, k_e, k_c = (np.atleast_1d(np.asarray(value, float)) for value in (N, k_e, k_c))
        loss = self.law.loss(N, k_e, k_c)
        if self.worlds is None:
            return loss, np.full_like(loss, np.nan), np.full_like(loss, np.nan)
        low, high = np.quantile(self.worlds.loss(N, k_e, k_c), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return loss, low, high

    def front(self, law: SNRR, hidden: ArrayLike) -> Optimum:
        """The best of budgets P' under one of the models: k_c is free where κ_c was fitted, else the runs'."""
        hidden = np.asarray(hidden, float)
        if "kappa_c" in self.free:
            return law.optimum_free(hidden)
        return law.optimum(hidden, np.full_like(hidden, float(self.runs.neuron.connectivity)))

    @property
    def fitted_range(self) -> tuple[float, float]:
        """Budgets P' up to which a loss is interpolated: those of the runs, times and by 3 (§9)."""
        return float(self.runs.hidden.min() / 3), float(self.runs.hidden.max() * 3)

    @property
    def wired_range(self) -> tuple[float, float]:
        """Connectivities k_c up to which a loss is interpolated: those of the runs, times and by 2 where κ_c was
        fitted to them; otherwise a tenth more or less.
        """
        factor = 2.0 if "kappa_c" in self.free else 1.1
        return float(self.runs.k_c.min() / factor), float(self.runs.k_c.max() * factor)

    def outside(self, hidden: float, k_c: float) -> str | None:
        """Why the loss of a network would be an extrapolation; None within the ranges.

        Args:
            hidden: P' of the network.
            k_c: synapses of a unit.
        """
        words = []
        (least, most), (few, many) = self.fitted_range, self.wired_range
        if not least <= hidden <= most:
            reach = f"{least:,.0f} to {most:,.0f}, where the fitted runs reach (times and by 3)"
            words.append(f"P' = {hidden:,.0f} lies outside {reach}")
        if not few <= k_c <= many:
            runs = dict.fromkeys(f"{value:,.0f}" for value in (self.runs.k_c.min(), self.runs.k_c.max()))
            lacking = "" if "kappa_c" in self.free else ", and what synapses are worth they cannot tell"
            words.append(f"k_c = {k_c:,.0f} is not that of the fitted runs ({' to '.join(runs)}{lacking})")
        return "; ".join(words) or None

    def to_dict(self) -> dict[str, Any]:
        """Constants with 95 % intervals, quality, and who was left out, as plain values."""
        return {
            "source": self.runs.source,
            "score": self.runs.score,
            "constants": self.law.to_dict(),
            "intervals": {name: self.interval(attrgetter(name)) for name in self.free},
            "fixed": dict(self.fixed),
            "runs": len(self.runs),
            "rmse": self.rmse,
            "r2": None if np.isnan(self.r2) else self.r2,
            "sd": self.sd,
            "left_out": dict(self.excluded),
        }


def fit(
    runs: Runs,
    *,
    draws: int = 300,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
    least_memory: int = LEAST_MEMORY,
    keep_collapsed: bool = False,
) -> Fit:
    """Robust maximum-a-posteriori least squares from nine starts, and a residual bootstrap (§9).

    Args:
        runs: at least 5, of one score.
        draws: of the bootstrap; 0: no intervals.
        fixed: constants held at a value, e.g. {"a": 0.8}.
        seed: of the bootstrap.
        least_memory: smallest d_m to fit, and for plans to choose.
        keep_collapsed: also fit runs that look collapsed.

    Raises:
        TheoryError: too few runs; a constant nobody knows; a d_m below 1.
    """
    if least_memory < 1:
        raise TheoryError(f"least_memory must be at least 1, got {least_memory}")
    held = _held(fixed or {})
    collapsed = {} if keep_collapsed else runs.collapsed(least_memory)
    excluded = {runs.names[i]: why for i, why in collapsed.items()}
    kept = runs.at(np.array([i not in collapsed for i in range(len(runs))]))
    if len(kept) < 5:
        words = f"; left out: {'; '.join(f'{name}: {why}' for name, why in excluded.items())}" if excluded else ""
        raise TheoryError(f"{runs.source}: {len(kept)} usable runs, a fit needs at least 5{words}")
    free, reasons = _design(kept, held)
    problem = _Problem(kept, free, {"kappa_c": 0.0, "a": 1.0, **held})
    z, sd = problem.solve(kept.seed_sd())
    law = problem.law(z)
    found = Fit(law, kept, free, reasons, excluded, sd, None, least_memory=least_memory)
    least = len(z) + 3
    if len(kept) < least:
        why = f"intervals need at least {least} runs for {len(z)} free constants, there are {len(kept)}"
        return replace(found, no_intervals=why)
    if not draws:
        return replace(found, no_intervals="no bootstrap was asked for")
    return replace(found, worlds=problem.worlds(z, kept.y - found.residuals, sd, draws, np.random.default_rng(seed)))


def _held(fixed: Mapping[str, float]) -> dict[str, float]:
    """Constants to hold, checked."""
    unknown = set(fixed) - {"kappa_c", "a"}
    if unknown:
        raise TheoryError(f"only kappa_c and a can be held, got {', '.join(sorted(unknown))}")
    for name, value in fixed.items():
        low, high = BOUNDS[name]
        if not low <= value <= high and (name, value) != ("kappa_c", 0):
            off = ", or be 0 (connectivity does not limit)" if name == "kappa_c" else ""
            raise TheoryError(f"{name} must lie in {low:g}..{high:g}{off}, got {value:g}")
    return dict(fixed)


def open_worlds(found: Fit, *, draws: int = 300, seed: int = 0) -> SNRR:
    """Bootstrap worlds in which also those constants vary that the runs cannot tell: drawn from their prior, the rest
    fitted given them. What a design needs to know (which runs would tell?); constants of shape (draws, 1).
    """
    rng, runs = np.random.default_rng(seed), found.runs
    names = [name for name in ("kappa_c", "a") if name not in found.free]
    medians, sds = np.array([PRIOR[name] for name in names]).reshape(-1, 2).T
    values = np.exp(np.log(medians) + sds * rng.standard_normal((draws, len(names))))
    held = {name: np.clip(values[:, [i]], *BOUNDS[name]) for i, name in enumerate(names)}
    problem = _Problem(runs, found.free, {"kappa_c": 0.0, "a": 1.0, **held})
    law = found.law
    start = [law.L_inf / problem.ceiling, *(np.log(getattr(law, name)) for name in problem.logs)]
    return problem.worlds(problem.inside(np.array(start, float)), runs.y - found.residuals, found.sd, draws, rng)


def _design(runs: Runs, held: Mapping[str, float]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Which constants these runs can tell apart, and why not the others (§7, §9)."""
    free, reasons = ["L_inf", "D", "kappa_e", "N_r"], {}
    spread = runs.k_c.max() / max(runs.k_c.min(), 1e-9)
    if "kappa_c" in held:
        reasons["kappa_c"] = f"{held['kappa_c']:g}, as asked"
    elif spread >= 2:
        free.append("kappa_c")
    else:
        reasons["kappa_c"] = (
            f"0: k_c varies by a factor {spread:.2g} only (2 is needed); its effect is absorbed in kappa_e and L_inf"
        )
    budgets = runs.hidden.max() / runs.hidden.min()
    if "a" in held:
        reasons["a"] = f"{held['a']:g}, as asked"
    elif budgets >= 3:
        free.append("a")
    else:
        reasons["a"] = (
            f"1: the budgets P' span a factor {budgets:.2g} (3 is needed); "
            "one budget tells how to spend it, not what more would buy"
        )
    return tuple(free), reasons


@dataclass(frozen=True)
class _Problem:
    """Least squares in z = (share of L_inf in its bounds, ln D, ln κ_e, ln N_r[, ln κ_c][, ln a]).

    Many problems are solved at once, rows of z (problems, constants) and of the scores y (problems, runs): a bootstrap
    is one call.
    """

    runs: Runs
    free: tuple[str, ...]
    held: Mapping[str, Any]
    """κ_c and a where they are not free: numbers, or one for each problem, (problems, 1)."""

    @property
    def ceiling(self) -> float:
        """The largest L_inf."""
        least = float(self.runs.y.min())
        return least + 0.25 * (self.runs.H0 - least)

    @property
    def logs(self) -> tuple[str, ...]:
        """Constants whose logarithm is fitted."""
        return self.free[1:]

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Of z."""
        logs = np.log([BOUNDS[name] for name in self.logs])
        return np.concatenate([[0.0], logs[:, 0]]), np.concatenate([[1.0], logs[:, 1]])

    @cached_property
    def prior(self) -> tuple[Array, Array]:
        """Median and standard deviation of z; flat (infinite) for L_inf."""
        pairs = np.array([PRIOR[name] for name in self.logs])
        return np.concatenate([[0.0], np.log(pairs[:, 0])]), np.concatenate([[np.inf], pairs[:, 1]])

    def inside(self, z: Array) -> Array:
        """z within its bounds."""
        return np.clip(z, *self.bounds)

    def constants(self, z: Array) -> dict[str, Any]:
        """All constants by name, (problems, 1) each."""
        logs = {name: np.exp(z[:, [i]]) for i, name in enumerate(self.logs, 1)}
        return {**self.held, "L_inf": z[:, [0]] * self.ceiling, **logs}

    def law(self, z: Array) -> SNRR:
        """The model of one z (constants,)."""
        values = {name: float(np.squeeze(value)) for name, value in self.constants(z[None]).items()}
        return SNRR(H0=self.runs.H0, unit=self.runs.unit, **values)

    def loss_and_slopes(self, z: Array) -> tuple[Array, Array]:
        """L (problems, runs) and ∂L/∂z (problems, runs, constants)."""
        runs, c = self.runs, self.constants(z)
        a, D, u, ln2 = c["a"], c["D"], runs.unit, np.log(2)
        with np.errstate(divide="ignore"):  # κ_c = 0: connectivity does not limit
            per_e, per_c, per_r = (
                np.log(c[name] / of) for name, of in (("kappa_e", runs.k_e), ("kappa_c", runs.k_c), ("N_r", runs.N))
            )
        e, s, r = np.exp(a * per_e), np.exp(a * per_c), np.exp(a * per_r)
        lost = np.log2(1 + e + s) + np.log2(1 + r)
        limit = 2 * (runs.H0 - c["L_inf"]) / (D * u)
        shrink = -np.expm1(-limit * ln2)
        log2_snr = limit + np.log2(shrink) - lost
        loss = runs.H0 - u * D / 2 * np.logaddexp2(0, log2_snr)
        share = 1 / (1 + np.exp2(-log2_snr))  # Γ/(1 + Γ)
        per_bit = u * D / 2 * share
        slopes = {
            "L_inf": share / shrink * self.ceiling,
            "D": loss - runs.H0 + per_bit * limit / shrink,
            "kappa_e": per_bit * a * e / (1 + e + s) / ln2,
            "N_r": per_bit * a * r / (1 + r) / ln2,
            "kappa_c": per_bit * a * s / (1 + e + s) / ln2,
        }
        if "a" in self.free:
            per_unit = (e * per_e + np.where(s > 0, s * np.where(s > 0, per_c, 0.0), 0.0)) / (1 + e + s)
            slopes["a"] = per_bit * a * (per_unit + r * per_r / (1 + r)) / ln2
        return loss, np.stack([slopes[name] for name in self.free], 2)

    def cost(self, z: Array, y: Array, weights: Array, sd: float) -> Array:
        """Half the sum of squares, residuals and prior, of every problem; (problems,)."""
        median, prior_sd = self.prior
        misfit = np.sum(weights * ((self.loss_and_slopes(z)[0] - y) / sd) ** 2, 1)
        return np.asarray((misfit + np.sum(((z - median) / prior_sd) ** 2, 1)) / 2)

    def minimise(self, z: Array, y: Array, weights: Array, sd: float, steps: int = 200) -> tuple[Array, Array]:
        """Levenberg and Marquardt's method on all problems side by side, within the bounds; z and costs.

        A constant at its bound stays there while the slope pushes it outwards.
        """
        (low, high), (median, prior_sd) = self.bounds, self.prior
        z, precision = self.inside(z), np.diag(prior_sd**-2.0)
        damping, cost = np.full(len(z), 1e-2), self.cost(z, y, weights, sd)
        quiet = np.zeros(len(z), int)  # steps in a row without progress
        for _ in range(steps):
            loss, slopes = self.loss_and_slopes(z)
            scaled = slopes * (weights / sd**2)[:, :, None]
            gradient = np.einsum("wnp,wn->wp", scaled, loss - y) + (z - median) @ precision
            curvature = np.einsum("wnp,wnq->wpq", scaled, slopes) + precision
            stuck = ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
            diagonal = np.einsum("wpp->wp", curvature)
            curvature = curvature + np.eye(z.shape[1]) * (damping[:, None] * diagonal + 1e-12)[:, None, :]
            moves = ~stuck
            curvature = curvature * moves[:, :, None] * moves[:, None, :] + np.eye(z.shape[1]) * stuck[:, None, :]
            step = np.linalg.solve(curvature, -(gradient * moves)[:, :, None])[:, :, 0]
            trial = np.clip(z + np.clip(step, -2.0, 2.0), low, high)
            after = self.cost(trial, y, weights, sd)
            better = after < cost
            quiet = np.where(cost - after > 1e-10 * (1 + cost), 0, quiet + 1)
            z, cost = np.where(better[:, None], trial, z), np.where(better, after, cost)
            damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e12)
            if np.all(quiet >= 8):
                break
        return z, cost

    def best(self, starts: Array, y: Array, weights: Array, sd: float) -> Array:
        """The best end of several starts (starts, problems, constants), for each problem."""
        count = len(starts)
        y, weights = np.tile(y, (count, 1)), np.tile(weights, (count, 1))
        held = {name: np.tile(value, (count, 1)) if np.ndim(value) else value for name, value in self.held.items()}
        z, cost = replace(self, held=held).minimise(starts.reshape(-1, starts.shape[2]), y, weights, sd)
        winner = cost.reshape(count, -1).argmin(0)
        return np.asarray(z.reshape(starts.shape)[winner, np.arange(starts.shape[1])])

    def solve(self, sd: float | None) -> tuple[Array, float]:
        """z and the standard deviation of a run, which is estimated where it is not known; weights and z in turn."""
        guesses = [self.start(*pair) for pair in STARTS]
        starts = np.array([z for z, _ in guesses])[:, None]
        known, y, weights = sd, self.runs.y[None], np.ones((1, len(self.runs)))
        sd = min(error for _, error in guesses) if known is None else known
        z = self.best(starts, y, weights, sd)
        for _ in range(ROUNDS - 1):
            residuals = y - self.loss_and_slopes(z)[0]
            weights = _huber(residuals)
            if known is None:
                freedom = max(y.size - z.shape[1], 1)
                sd = max(float(np.sqrt(np.sum(weights * residuals**2) / freedom)), 1e-9)
            z = self.best(np.concatenate([z[None], starts]), y, weights, sd)
        return z[0], sd

    def start(self, kappa_e: float, N_r: float) -> tuple[Array, float]:
        """A start with L_inf and D from linear least squares on X, and its root mean square error."""
        guess = {**self.held, **{name: PRIOR[name][0] for name in self.logs}, "kappa_e": kappa_e, "N_r": N_r}
        guess.pop("D")
        runs = self.runs
        trial = SNRR(L_inf=0.0, D=1.0, H0=runs.H0, **guess)
        X = trial.lost_bits(runs.N, runs.k_e, runs.k_c)
        (L_inf, slope), *_ = np.linalg.lstsq(np.stack([np.ones_like(X), X], 1), runs.y, rcond=None)
        guess["D"] = np.clip(2 * slope / runs.unit, 10 * BOUNDS["D"][0], BOUNDS["D"][1] / 10)
        error = float(np.sqrt(np.mean((L_inf + slope * X - runs.y) ** 2)))
        z = np.array([np.clip(L_inf / self.ceiling, 0.01, 0.99), *(np.log(guess[name]) for name in self.logs)])
        return self.inside(z), max(error, 1e-9)

    def worlds(self, z: Array, centre: Array, sd: float, draws: int, rng: np.random.Generator) -> SNRR:
        """Residual bootstrap: models of scores redrawn around `centre`, refitted from z and a jittered start (§9)."""
        runs = self.runs
        residuals = (runs.y - centre) * np.sqrt(len(runs) / max(len(runs) - len(z), 1))
        y = centre + rng.choice(residuals, (draws, len(runs)))
        jitter = rng.normal(0, 0.3, (draws, len(z))) * np.where(np.arange(len(z)) == 0, 0.1, 1.0)
        starts = np.stack([np.tile(z, (draws, 1)), self.inside(z + jitter)])
        drawn = self.best(starts, y, np.ones_like(y), sd)
        weights = _huber(y - self.loss_and_slopes(drawn)[0])
        drawn, _ = self.minimise(drawn, y, weights, sd)
        columns = {name: np.broadcast_to(value, (draws, 1)) for name, value in self.constants(drawn).items()}
        return SNRR(H0=runs.H0, unit=runs.unit, **columns)


def _huber(residuals: Array) -> Array:
    """Weights (problems, runs): 1 up to HUBER robust standard deviations, then falling as 1/|residual|."""
    centre = np.median(residuals, 1, keepdims=True)
    sd = 1.4826 * np.median(np.abs(residuals - centre), 1, keepdims=True)
    return np.asarray(np.minimum(1.0, HUBER * sd / np.maximum(np.abs(residuals), 1e-300)) + (sd == 0))
