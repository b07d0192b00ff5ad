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
from numpy.typing import ArrayLike

from elmnet.budget import LEAST_MEMORY
from elmnet.errors import TheoryError
from elmnet.theory.model import SNRR, Array, Optimum, ends
from elmnet.theory.runs import Runs
from elmnet.theory.solve import BOUNDS, PRIOR, Problem

POOR = 0.3
"""R² below which a fit is said to explain little."""


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

    @property
    def cautions(self) -> list[str]:
        """What makes the law doubtful, and what is planned by it."""
        words = [] if self.runs.caution is None else [self.runs.caution]
        if self.r2 < POOR:
            words.append(f"R² is {self.r2:.2f}: the law explains little of how these runs differ")
        left = len(self.excluded)
        if left >= len(self.runs):
            words.append(f"{left} of {left + len(self.runs)} runs are left out of the law; `elmnet fit` says why")
        return words

    def interval(self, value: Callable[[SNRR], Any], level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval of anything computed from a model, e.g. `lambda law: law.D`."""
        if self.worlds is None:
            return None
        low, high = ends(np.ravel(value(self.worlds)), level)
        return float(low), float(high)

    def predict(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Loss with the interval of the law, not of a single run (add `sd` for that): three arrays (networks,)."""
        N, k_e, k_c = (np.atleast_1d(np.asarray(value, float)) for value in (N, k_e, k_c))
        loss = self.law.loss(N, k_e, k_c)
        if self.worlds is None:
            return loss, np.full_like(loss, np.nan), np.full_like(loss, np.nan)
        low, high = ends(self.worlds.loss(N, k_e, k_c), level)
        return loss, low, high

    def front(self, law: SNRR, hidden: ArrayLike) -> Optimum:
        """The best of budgets P' under one of the models: k_c is free where κ_c was fitted, else the runs'."""
        hidden = np.asarray(hidden, float)
        if "kappa_c" in self.free:
            return law.optimum_free(hidden)
        return law.optimum(hidden, np.full_like(hidden, float(self.runs.neuron.connectivity)))

    @property
    def fitted_range(self) -> tuple[float, float]:
        """Budgets P' up to which a loss is interpolated: those of the runs, times and by 3 where a was fitted to them
        (§9); otherwise a tenth more or less.
        """
        factor = 3.0 if "a" in self.free else 1.1
        return float(self.runs.hidden.min() / factor), float(self.runs.hidden.max() * factor)

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
            reach = "times and by 3" if "a" in self.free else "a tenth more or less: what budgets buy they cannot tell"
            words.append(
                f"P' = {hidden:,.0f} lies outside {least:,.0f} to {most:,.0f}, where the fitted runs reach ({reach})"
            )
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
            "cautions": self.cautions,
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
        TheoryError: too few runs; networks whose outputs fix N; a constant nobody knows; a d_m below 1.
    """
    if least_memory < 1:
        raise TheoryError(f"least_memory must be at least 1, got {least_memory}")
    if runs.network.readout == "none":
        raise TheoryError(
            f"{runs.source}: these networks have no read-out, so that their outputs fix the number of units; the model "
            "is of how a budget is split between units and their complexity"
        )
    held = _held(fixed or {})
    collapsed = {} if keep_collapsed else runs.collapsed(least_memory)
    excluded = {runs.names[i]: why for i, why in collapsed.items()}
    kept = runs.at(np.array([i not in collapsed for i in range(len(runs))]))
    if len(kept) < 5:
        words = f"; left out: {'; '.join(f'{name}: {why}' for name, why in excluded.items())}" if excluded else ""
        raise TheoryError(f"{runs.source}: {len(kept)} usable runs, a fit needs at least 5{words}")
    free, reasons = _design(kept, held)
    problem = Problem(kept, free, {"kappa_c": 0.0, "a": 1.0, **held})
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
    problem = Problem(runs, found.free, {"kappa_c": 0.0, "a": 1.0, **held})
    law = found.law
    start = [problem.share(law.L_inf), *(np.log(getattr(law, name)) for name in problem.logs)]
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
            f"0: k_c varies by a factor {spread:.2g} only (2 is needed); its effect is absorbed in the others, mostly "
            "kappa_e and L_inf, whose intervals leave that out"
        )
    budgets = runs.hidden.max() / runs.hidden.min()
    if "a" in held:
        reasons["a"] = f"{held['a']:g}, as asked"
    elif budgets >= 3:
        free.append("a")
    else:
        reasons["a"] = (
            f"1: the budgets P' span a factor {budgets:.2g} (3 is needed); "
            "one budget tells how to spend it, not what more would buy; the interval of L_inf holds at this a alone"
        )
    return tuple(free), reasons
