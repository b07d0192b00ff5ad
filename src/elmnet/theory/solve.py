"""Least squares of the model: many problems side by side, from several starts, robustly (docs/theory.md §9)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from elmnet.theory.model import SNRR, Array
from elmnet.theory.runs import Runs

BOUNDS = {"D": (1e-4, 1e3), "kappa_e": (1.0, 1e6), "N_r": (0.05, 1e6), "kappa_c": (1e-2, 1e6), "a": (0.2, 3.0)}
"""§1. L_inf lies between the least score there can be and min y + (H0 - min y)/4; under a logarithm's, which has no
least, an infinite network may know twice what the best of the runs does."""
PRIOR = {"D": (0.3, 2.0), "kappa_e": (300.0, 1.0), "N_r": (70.0, 1.25), "kappa_c": (100.0, 1.25), "a": (1.0, 0.35)}
"""Median and standard deviation of the logarithm (§1), weak: what a fit says where the data do not."""
STARTS = [(kappa_e, N_r) for kappa_e in (30.0, 300.0, 3000.0) for N_r in (7.0, 70.0, 700.0)]
HUBER = 2.0
"""Robust standard deviations beyond which a residual counts linearly."""
ROUNDS = 4


@dataclass(frozen=True)
class Problem:
    """Least squares in z = (share of L_inf in its bounds, ln D, ln κ_e, ln N_r[, ln κ_c][, ln a]).

    Many problems are solved at once, rows of z (problems, constants) and of the scores y (problems, runs): a bootstrap
    is one call.
    """

    runs: Runs
    free: tuple[str, ...]
    held: Mapping[str, Any]
    """κ_c and a where they are not free: numbers, or one for each problem, (problems, 1)."""
    medians: Array | None = None
    """Of the priors, where every problem has its own, (problems, constants); None: those of `PRIOR`."""

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The least and the largest L_inf."""
        best = float(self.runs.y.min())
        gained = self.runs.H0 - best
        least = self.runs.floor if np.isfinite(self.runs.floor) else best - gained
        return least, best + 0.25 * gained

    def share(self, L_inf: float) -> float:
        """Where L_inf lies between its limits, 0 to 1."""
        least, most = self.limits
        return (L_inf - least) / (most - least)

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
        median = np.concatenate([[0.0], np.log(pairs[:, 0])]) if self.medians is None else self.medians
        return median, np.concatenate([[np.inf], pairs[:, 1]])

    def inside(self, z: Array) -> Array:
        """z within its bounds."""
        return np.clip(z, *self.bounds)

    def constants(self, z: Array) -> dict[str, Any]:
        """All constants by name, (problems, 1) each."""
        logs = {name: np.exp(z[:, [i]]) for i, name in enumerate(self.logs, 1)}
        least, most = self.limits
        return {**self.held, "L_inf": least + z[:, [0]] * (most - least), **logs}

    def law(self, z: Array) -> SNRR:
        """The model of one z (constants,)."""
        values = {name: float(np.squeeze(value)) for name, value in self.constants(z[None]).items()}
        return SNRR(H0=self.runs.H0, unit=self.runs.unit, **values)

    def loss_and_slopes(self, z: Array) -> tuple[Array, Array]:
        """L (problems, runs) and ∂L/∂z (problems, runs, constants)."""
        runs, c = self.runs, self.constants(z)
        a, D, u, ln2 = c["a"], c["D"], runs.unit, np.log(2)
        least, most = self.limits
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
            "L_inf": share / shrink * (most - least),
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
        medians = None if self.medians is None else np.tile(self.medians, (count, 1))
        z, cost = replace(self, held=held, medians=medians).minimise(
            starts.reshape(-1, starts.shape[2]), y, weights, sd
        )
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
        trial = SNRR(L_inf=runs.H0, D=1.0, H0=runs.H0, **guess)
        X = trial.lost_bits(runs.N, runs.k_e, runs.k_c)
        (L_inf, slope), *_ = np.linalg.lstsq(np.stack([np.ones_like(X), X], 1), runs.y, rcond=None)
        guess["D"] = np.clip(2 * slope / runs.unit, 10 * BOUNDS["D"][0], BOUNDS["D"][1] / 10)
        error = float(np.sqrt(np.mean((L_inf + slope * X - runs.y) ** 2)))
        z = np.array([np.clip(self.share(L_inf), 0.01, 0.99), *(np.log(guess[name]) for name in self.logs)])
        return self.inside(z), max(error, 1e-9)

    def worlds(self, z: Array, centre: Array, sd: float, draws: int, rng: np.random.Generator) -> SNRR:
        """Residual bootstrap: models of scores redrawn around `centre`, refitted from z and a jittered start (§9).

        Every world has priors around medians drawn from the priors: with the same ones in all, worlds would agree on
        what the runs cannot tell. Where the model is linear that makes them draws from the posterior
        (randomize-then-optimize: Bardsley, Solonen, Haario, Laine, SIAM J. Sci. Comput. 36, A1895, 2014).
        """
        runs, (median, prior_sd) = self.runs, self.prior
        prior_sd = np.where(np.isfinite(prior_sd), prior_sd, 0.0)
        own = replace(self, medians=median + prior_sd * rng.standard_normal((draws, len(z))))
        residuals = (runs.y - centre) * np.sqrt(len(runs) / max(len(runs) - len(z), 1))
        y = centre + rng.choice(residuals, (draws, len(runs)))
        jitter = rng.normal(0, 0.3, (draws, len(z))) * np.where(np.arange(len(z)) == 0, 0.1, 1.0)
        starts = np.stack([np.tile(z, (draws, 1)), self.inside(z + jitter)])
        drawn = own.best(starts, y, np.ones_like(y), sd)
        weights = _huber(y - own.loss_and_slopes(drawn)[0])
        drawn, _ = own.minimise(drawn, y, weights, sd)
        columns = {name: np.broadcast_to(value, (draws, 1)) for name, value in own.constants(drawn).items()}
        return SNRR(H0=runs.H0, unit=runs.unit, **columns)


def _huber(residuals: Array) -> Array:
    """Weights (problems, runs): 1 up to HUBER robust standard deviations, then falling as 1/|residual|."""
    centre = np.median(residuals, 1, keepdims=True)
    sd = 1.4826 * np.median(np.abs(residuals - centre), 1, keepdims=True)
    return np.asarray(np.minimum(1.0, HUBER * sd / np.maximum(np.abs(residuals), 1e-300)) + (sd == 0))
