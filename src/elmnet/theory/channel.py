"""Monte-Carlo checks of the closed form against exact Gaussian channels (§2, §8).

Unit i reports y_i = w_iᵀ(s + ξ) + ε_i on features s ~ N(0, I_D): its error has variance 1/η, of which a share ρ (ξ)
is common to all units and the rest (ε) its own. Everything below is simulated from these assumptions: it checks the
algebra, not the world.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tight_frame(N: int, D: int, rng: np.random.Generator) -> Array:
    """N weight vectors that cover D features evenly, WᵀW = (N/D)·I; (N, D), N ≥ D (§2 A4).

    Rows have norm 1 in the mean, exactly 1 only by chance; what follows depends on WᵀW alone.
    """
    q, _ = np.linalg.qr(rng.standard_normal((N, D)))
    return np.asarray(q * np.sqrt(N / D))


def random_frame(N: int, D: int, rng: np.random.Generator) -> Array:
    """N random directions of norm 1; (N, D)."""
    w = rng.standard_normal((N, D))
    return np.asarray(w / np.linalg.norm(w, axis=1, keepdims=True))


def closed_form(N: int, D: int, eta: float, rho: float) -> float:
    """I = (D/2)·log2(1 + η/(ρ + (1 - ρ)·D/N)), bits: exact for a tight frame (§2)."""
    return D / 2 * float(np.log2(1 + eta / (rho + (1 - rho) * D / N)))


def information(W: Array, eta: float | Array, rho: float) -> float:
    """Exact mutual information of features and units in bits, ½ log2 det(I + Wᵀ C⁻¹ W) (§2).

    Args:
        W: weights (N, D).
        eta: signal-to-noise of a unit; or of each, (N,): then ρ is the share of the mean noise that is common.
        rho: share of the error that all units have in common.
    """
    N, D = W.shape
    noise = np.broadcast_to(1 / np.asarray(eta, float), (N,))
    shared = rho * float(noise.mean())
    private = noise - shared if np.ndim(eta) == 0 else (1 - rho) * noise
    # the common noise acts on the features: s + ξ is seen, so I = ½ log2 det((1 + shared)·I + V) / det(shared·I + V)
    V = np.linalg.inv(W.T @ (W / private[:, None]))
    eye = np.eye(D)
    above, below = np.linalg.slogdet((1 + shared) * eye + V)[1], np.linalg.slogdet(shared * eye + V)[1]
    return float((above - below) / 2 / np.log(2))


class Sampled(NamedTuple):
    """What draws from the channel say."""

    information: float
    """Gaussian mutual information of s and z = (D/N)·Wᵀy, bits."""
    error: float
    """Mean squared error per feature of the linear estimate of s from z; 1/(1 + Γ) in theory."""


def sample(W: Array, eta: float, rho: float, draws: int, rng: np.random.Generator) -> Sampled:
    """Draw from the channel and measure (§8 item 2)."""
    N, D = W.shape
    moments = np.zeros((2 * D, 2 * D))
    for size in [10_000] * (draws // 10_000) + ([draws % 10_000] if draws % 10_000 else []):
        s = rng.standard_normal((size, D))
        common = s + np.sqrt(rho / eta) * rng.standard_normal((size, D))
        y = common @ W.T + np.sqrt((1 - rho) / eta) * rng.standard_normal((size, N))
        both = np.concatenate([s, y @ W * (D / N)], 1)
        moments += both.T @ both
    moments /= draws
    ss, sz, zz = moments[:D, :D], moments[:D, D:], moments[D:, D:]
    left = ss - sz @ np.linalg.solve(zz, sz.T)  # covariance of s given z
    bits = (np.linalg.slogdet(ss)[1] - np.linalg.slogdet(left)[1]) / 2 / np.log(2)
    return Sampled(float(bits), float(np.trace(left) / D))
