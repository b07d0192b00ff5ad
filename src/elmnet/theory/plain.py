"""Plain least squares: the limit of high signal-to-noise, for comparison (docs/theory.md §6), and single neurons."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from elmnet.theory.model import SNRR, Array
from elmnet.theory.runs import Runs
from elmnet.theory.solve import STARTS


class Plain(NamedTuple):
    """A least-squares fit of the limit Γ ≫ 1."""

    law: SNRR
    rmse: float
    r2: float


def fit_plain(runs: Runs, a: float = 1.0) -> Plain:
    """Least squares of L_inf + u·(D/2)·X at κ_c = 0 and a given a, without priors or bounds (§6, §10 F1, F2).

    (L_inf, D) enter linearly and are solved for exactly at every (κ_e, N_r).
    """

    def solved(z: Array) -> tuple[SNRR, Array]:
        kappa_e, N_r = np.exp(z).tolist()
        trial = SNRR(L_inf=runs.H0, D=1.0, kappa_e=kappa_e, N_r=N_r, a=a, H0=runs.H0, unit=runs.unit)
        X = trial.lost_bits(runs.N, runs.k_e, runs.k_c)
        (L_inf, slope), *_ = np.linalg.lstsq(np.stack([np.ones_like(X), X], 1), runs.y, rcond=None)
        ceiling = max(runs.H0, float(L_inf))  # of the bounded form, which a plain fit is not
        law = replace(trial, L_inf=float(L_inf), D=max(float(2 * slope / runs.unit), 1e-12), H0=ceiling)
        return law, L_inf + slope * X - runs.y

    box = (np.log([1e-2, 1e-3]), np.log([1e7, 1e7]))
    starts = [np.log(pair) for pair in STARTS]
    tolerance = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
    found = [least_squares(lambda z: solved(z)[1] * 1e3, start, bounds=box, **tolerance) for start in starts]
    law, residuals = solved(min(found, key=lambda one: float(one.cost)).x)
    total = float(np.sum((runs.y - runs.y.mean()) ** 2))
    return Plain(law, float(np.sqrt(np.mean(residuals**2))), 1 - float(np.sum(residuals**2)) / total)


class UnitFit(NamedTuple):
    """Signal-to-noise of single neurons, 1/η = (1/η_inf)·[1 + (κ_e/k_e)^a]."""

    eta_inf: float
    kappa_e: float
    a: float
    rms: float
    """Of ln(1/η)."""
    error: dict[str, float]
    """Standard errors of ln η_inf, ln κ_e and, where it was free, a."""


def fit_unit(k_e: ArrayLike, eta: ArrayLike, *, free_exponent: bool = False) -> UnitFit:
    """Least squares on ln(1/η) (§6 NeuronIO, §10 F3).

    Args:
        k_e: complexity of each neuron (neurons,).
        eta: its signal-to-noise ratio, EV/(1 - EV) for an explained variance EV.
        free_exponent: fit a, too; else it is 1.
    """
    k_e, target = np.asarray(k_e, float), -np.log(np.asarray(eta, float))

    def residuals(z: Array) -> Array:
        a = z[2] if free_exponent else 1.0
        return np.asarray(np.log1p((np.exp(z[1]) / k_e) ** a) - z[0] - target)

    start = np.array([-target.min(), np.log(np.median(k_e)), 1.0][: 3 if free_exponent else 2])
    found = least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    freedom = max(len(k_e) - len(start), 1)
    covariance = np.linalg.inv(found.jac.T @ found.jac) * 2 * found.cost / freedom
    errors = dict(zip(("ln eta_inf", "ln kappa_e", "a"), np.sqrt(np.diag(covariance)).tolist(), strict=False))
    a = float(found.x[2]) if free_exponent else 1.0
    rms = float(np.sqrt(2 * found.cost / len(k_e)))
    return UnitFit(float(np.exp(found.x[0])), float(np.exp(found.x[1])), a, rms, errors)
