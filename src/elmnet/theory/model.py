"""SNRR, the SNR-redundancy model: what a recurrent network of expressive neurons can know, in closed form.

A unit's error has a part that falls with its complexity k_e and its connectivity k_c and saturates (signal-to-noise),
and units share a part of their errors, so that more units help less and less (redundancy):

    Γ = Γ_inf / {[1 + (κ_e/k_e)^a + (κ_c/k_c)^a] · [1 + (N_r/N)^a]}     population signal-to-noise ratio
    I = (D/2)·log2(1 + Γ)                                                information about the target, bits
    L = H0 - u·I                                                         loss

The formulas are this project's own; the problem P ≈ N·(k_e + k_c), the two mechanisms and the recipe d_m ∝ √N come
from Spieler, Martius, Levina (arXiv:2605.12049). `docs/theory.md` derives what is used here, section by section (§).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from elmnet.errors import TheoryError

Array = NDArray[np.float64]
NATS = math.log(2)
"""The unit u of a loss in nats; 1 is that of one in bits."""
MOST_BITS = 500.0
"""Signal-to-noise, in bits, of which nothing that one would call a loss is left to lose; its power of 2 is a float."""


def ends(values: ArrayLike, level: float = 0.95, method: Literal["linear", "nearest"] = "linear") -> Array:
    """Both ends of the central interval that holds this part of the values: (draws, ...) → (2, ...)."""
    shares = [(1 - level) / 2, (1 + level) / 2]
    both: Array = np.quantile(np.asarray(values, float), shares, axis=0, method=method)
    return both


class Optimum(NamedTuple):
    """The best network of a budget, in real numbers."""

    units: Any
    """N*."""
    complexity: Any
    """k_e*, parameters per unit other than synapses."""
    connectivity: Any
    """k_c*, synapses per unit."""
    lost_bits: Any
    """X*."""
    loss: Any
    """L*."""


@dataclass(frozen=True, kw_only=True)
class SNRR:
    """The model with its constants; each a number, or an array of one shape: many models at once, which broadcasts.

    Methods take N, k_e, k_c (and P') as numbers or arrays and broadcast them against the constants.
    """

    L_inf: Any
    """Loss of an infinite network under the same training, in the loss's unit."""
    D: Any
    """Effective number of capacity-limited dimensions of a prediction."""
    kappa_e: Any
    """k_e at which a unit has half its signal-to-noise ceiling, parameters per unit."""
    N_r: Any
    """N at which half the attainable population signal-to-noise is reached, units."""
    H0: float
    """Loss of a network that knows nothing."""
    kappa_c: Any = 0.0
    """Half-saturation connectivity, synapses per unit; 0: connectivity does not limit."""
    a: Any = 1.0
    """Exponent of all three saturations."""
    unit: float = 1.0
    """u: 1 for bits, ln 2 for nats."""

    def __post_init__(self) -> None:
        for name, low in (("D", 0), ("kappa_e", 0), ("N_r", 0), ("a", 0), ("unit", 0)):
            if not np.all(np.asarray(getattr(self, name)) > low):
                raise TheoryError(f"SNRR: {name} must be positive, got {getattr(self, name)}")
        if not np.all(np.asarray(self.kappa_c) >= 0):
            raise TheoryError(f"SNRR: kappa_c must not be negative, got {self.kappa_c}")
        if not np.all(np.asarray(self.L_inf) <= self.H0):
            raise TheoryError(f"SNRR: L_inf {self.L_inf} exceeds H0 = {self.H0}, the loss of knowing nothing")

    def to_dict(self) -> dict[str, Any]:
        """The constants by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The opposite of `to_dict`."""
        known = {field.name for field in fields(cls)}
        if not set(values) <= known:
            raise TheoryError(f"SNRR has no constant {', '.join(sorted(set(values) - known))}; it has {sorted(known)}")
        return cls(**values)

    # §1: signal-to-noise, information, loss --------------------------------------------------------------------------

    def saturation_bits(self, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """log2[1 + (κ_e/k_e)^a + (κ_c/k_c)^a]: signal-to-noise a unit lacks to its ceiling, in bits (§1)."""
        units = (self.kappa_e / np.asarray(k_e, float)) ** self.a
        return np.asarray(np.log2(1 + units + self._lacking_synapses(k_c) ** self.a))

    def _lacking_synapses(self, k_c: ArrayLike) -> Array:
        """κ_c/k_c; connectivity that does not limit (κ_c = 0) lacks nothing, also where there is none."""
        k_c = np.asarray(k_c, float)
        return np.where(np.asarray(self.kappa_c) == 0, 0.0, self.kappa_c / np.where(k_c > 0, k_c, 1e-300))

    def redundancy_bits(self, N: ArrayLike) -> Array:
        """log2[1 + (N_r/N)^a]: signal-to-noise that averaging over N units has not yet gained, in bits (§1)."""
        return np.asarray(np.log2(1 + (self.N_r / np.asarray(N, float)) ** self.a))

    def lost_bits(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """X = log2(Γ_inf/Γ) ≥ 0, the sum of both (§1)."""
        return np.asarray(self.saturation_bits(k_e, k_c) + self.redundancy_bits(N))

    @property
    def log2_snr_limit(self) -> Array:
        """log2 Γ_inf, Γ_inf = 2^{2(H0 - L_inf)/(D·u)} - 1 (§1); Γ_inf itself may exceed 2^30."""
        bits = np.asarray(2 * (self.H0 - self.L_inf) / (self.D * self.unit), float)
        with np.errstate(divide="ignore"):
            return bits + np.log2(-np.expm1(-bits * math.log(2)))

    def log2_snr(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """log2 Γ, population signal-to-noise ratio (§1)."""
        return self.log2_snr_limit - self.lost_bits(N, k_e, k_c)

    def information(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """I in bits (§1)."""
        return self._information(self.lost_bits(N, k_e, k_c))

    def loss(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """L in the loss's unit (§1)."""
        return self.loss_of(self.lost_bits(N, k_e, k_c))

    def loss_of(self, lost_bits: ArrayLike) -> Array:
        """L of X (§1)."""
        return self.H0 - self.unit * self._information(np.asarray(lost_bits, float))

    def _information(self, lost_bits: Array) -> Array:
        return np.asarray(self.D / 2 * np.logaddexp2(0.0, self.log2_snr_limit - lost_bits))

    def loss_high_snr(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> Array:
        """L_inf + u·(D/2)·X, the limit Γ ≫ 1 (§1): linear in (L_inf, D)."""
        return np.asarray(self.L_inf + self.unit * self.D / 2 * self.lost_bits(N, k_e, k_c))

    def elasticities(self, N: ArrayLike, k_e: ArrayLike, k_c: ArrayLike) -> dict[str, Array]:
        """∂lnΓ/∂ln of N, k_e and k_c: what one per cent more of each buys, in per cent of Γ (§3)."""
        e, c = (self.kappa_e / np.asarray(k_e, float)) ** self.a, self._lacking_synapses(k_c) ** self.a
        return {
            "N": np.asarray(self.a / (1 + (np.asarray(N, float) / self.N_r) ** self.a)),
            "k_e": np.asarray(self.a * e / (1 + e + c)),
            "k_c": np.asarray(self.a * c / (1 + e + c)),
        }

    # §4: the best network of a budget P' = N·(k_e + k_c) -------------------------------------------------------------

    def optimum(self, budget: ArrayLike, k_c: ArrayLike) -> Optimum:
        """The best N and k_e where k_c is given (§4): in closed form for a = 1, else where the slope of X vanishes.

        Args:
            budget: P', parameters of the hidden layer.
            k_c: synapses per unit.
        """
        budget, k_c = np.asarray(budget, float), np.asarray(k_c, float)
        if np.all(np.asarray(self.a) == 1):
            k_e = np.sqrt(self.kappa_e / (1 + self._lacking_synapses(k_c)) * (k_c + budget / self.N_r))
        else:
            k_e = self._stationary(budget, k_c)
        return self._optimum(budget, k_e, k_c)

    def _stationary(self, budget: Array, k_c: Array) -> Array:
        """k_e where more of it gains what the units it costs lose: ∂X/∂ln k_e has one root, which halving finds."""
        with np.errstate(over="ignore"):
            c = self._lacking_synapses(k_c) ** self.a
        low, high = np.asarray(-20.0), np.log(budget) + 20
        for _ in range(64):
            x = (low + high) / 2
            k_e = np.exp(x)
            e, r = (self.kappa_e / k_e) ** self.a, (self.N_r * (k_e + k_c) / budget) ** self.a
            costs = r / (1 + r) * k_e / (k_e + k_c) > e / (1 + e + c)
            low, high = np.where(costs, low, x), np.where(costs, x, high)
        return np.asarray(np.exp((low + high) / 2))

    def optimum_free(self, budget: ArrayLike) -> Optimum:
        """The best N, k_e and k_c where all are free (§4), in closed form for any a."""
        budget = np.asarray(budget, float)
        e = self.a / (1 + self.a)
        kappa = (self.kappa_e**e + self.kappa_c**e) ** (1 / e)
        total = np.sqrt(kappa * budget / self.N_r)  # q* = k_e* + k_c*
        k_c = total * self.kappa_c**e / (self.kappa_e**e + self.kappa_c**e)
        return self._optimum(budget, total - k_c, k_c)

    def _optimum(self, budget: Array, k_e: Array, k_c: Array) -> Optimum:
        units = budget / (k_e + k_c)
        lost = self.lost_bits(units, k_e, k_c)
        return Optimum(*(value[()] for value in (units, k_e, k_c + 0 * k_e, lost, self.loss_of(lost))))

    def near_optimal(self, budget: float, k_c: float, delta: float) -> tuple[float, float]:
        """Interval of k_e within which the loss is at most `delta` above the best of the budget (§4, flatness).

        Closed form k_e*·e^{∓v} for a = 1 (the limit Γ ≫ 1), root finding otherwise; an end is 0 or infinite where the
        loss does not rise by `delta` on that side.
        """
        if not delta > 0:
            raise TheoryError(f"delta must be positive, got {delta}")
        best = self.optimum(budget, k_c)
        if self.a == 1:
            kappa = float(self.kappa_e / (1 + self._lacking_synapses(k_c)))
            A, B = 1 + self.N_r * k_c / budget, self.N_r * kappa / budget
            half, whole = math.sqrt(A * B), (math.sqrt(A) + math.sqrt(B)) ** 2
            bits = 2 * delta / (self.D * self.unit)
            if bits > MOST_BITS:
                return 0.0, math.inf
            v = math.acosh(1 + whole * math.expm1(bits * math.log(2)) / (2 * half))
            return float(best.complexity * math.exp(-v)), float(best.complexity * math.exp(v))

        def excess(x: float) -> float:
            k_e = math.exp(x)
            return float(self.loss(budget / (k_e + k_c), k_e, k_c) - best.loss) - delta

        middle, low, high = math.log(best.complexity), -20.0, math.log(budget) + 10
        return (
            math.exp(brentq(excess, low, middle)) if excess(low) > 0 else 0.0,
            math.exp(brentq(excess, middle, high)) if excess(high) > 0 else math.inf,
        )

    # §5: the front ---------------------------------------------------------------------------------------------------

    @property
    def critical_budget(self) -> Array:
        """P_c = κ·N_r (§4), where the front bends; all of N, k_e, k_c free."""
        e = self.a / (1 + self.a)
        return np.asarray((self.kappa_e**e + self.kappa_c**e) ** (1 / e) * self.N_r)

    def front(self, budget: ArrayLike) -> Array:
        """L*(P'), the least loss of a budget when N, k_e and k_c are free (§5)."""
        ratio = (self.critical_budget / np.asarray(budget, float)) ** (self.a / 2)
        return self.loss_of(2 * np.log2(1 + ratio))

    def front_exponent(self, budget: ArrayLike) -> Array:
        """-dln(L* - L_inf)/dlnP' where Γ ≫ 1 (§5): rises from 0 to a/2 as the budget grows."""
        x = (self.critical_budget / np.asarray(budget, float)) ** (self.a / 2)
        return np.asarray(self.a / 2 * x / ((1 + x) * np.log1p(x)))

    # Many models -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many models this is."""
        return int(np.prod(np.broadcast_shapes(*(np.shape(getattr(self, name)) for name in CONSTANTS))))


CONSTANTS = {
    "L_inf": "loss of an infinite network under the same training",
    "D": "capacity-limited dimensions",
    "kappa_e": "complexity of half the SNR ceiling, parameters/unit",
    "N_r": "units of half the population SNR",
    "kappa_c": "connectivity of half the SNR ceiling, synapses/unit",
    "a": "saturation exponent",
}
"""What a fit finds, and its meaning in a line."""
CREDIT = (
    "The model (SNRR) is elmnet's own: docs/theory.md. The problem, the two mechanisms it formalises, the recipe and "
    "the published runs are of Spieler, Martius, Levina (arXiv:2605.12049)."
)
"""Said beside every result of the model."""
