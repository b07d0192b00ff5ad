"""Synthetic: the closed form against exact and sampled Gaussian channels (docs/theory.md §8)."""

import numpy as np
import pytest

from elmnet.theory import channel


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("N", "D", "eta", "rho"), [(512, 8, 4, 0.05), (64, 64, 1, 0.5), (40, 3, 30, 0.01)])
def test_a_tight_frame_carries_what_the_closed_form_says(rng, N, D, eta, rho):
    W = channel.tight_frame(N, D, rng)
    assert pytest.approx(np.eye(D) * N / D, abs=1e-9) == W.T @ W
    assert channel.information(W, eta, rho) == pytest.approx(channel.closed_form(N, D, eta, rho), rel=1e-9)


def test_golden_channel(shared, rng):
    assert channel.closed_form(512, 8, 4, 0.05) == pytest.approx(23.880354, abs=1e-6)


def test_information_equals_its_definition(rng):
    """½ log2 det(I + Wᵀ C⁻¹ W) with the full covariance of the units' errors."""
    N, D, eta, rho = 30, 4, 5.0, 0.2
    W = channel.random_frame(N, D, rng)
    C = rho / eta * W @ W.T + (1 - rho) / eta * np.eye(N)
    bits = np.linalg.slogdet(np.eye(D) + W.T @ np.linalg.solve(C, W))[1] / 2 / np.log(2)
    assert channel.information(W, eta, rho) == pytest.approx(bits, rel=1e-9)


def test_sampled(rng):
    N, D, eta, rho = 128, 4, 4.0, 0.05
    drawn = channel.sample(channel.tight_frame(N, D, rng), eta, rho, 200_000, rng)
    gamma = eta / (rho + (1 - rho) * D / N)
    assert drawn.information == pytest.approx(channel.closed_form(N, D, eta, rho), rel=2e-3)
    assert drawn.error == pytest.approx(1 / (1 + gamma), rel=1e-2)


@pytest.mark.parametrize(
    ("ratio", "low", "high"), [(1, 0.15, 0.30), (4, 0.03, 0.05), (16, 0.006, 0.01), (64, 0.0, 0.003)]
)
def test_random_directions_carry_little_less(rng, ratio, low, high):
    D = 16
    W = [channel.random_frame(ratio * D, D, rng) for _ in range(20)]
    got = np.mean([channel.information(w, 4.0, 0.05) for w in W])
    short = 1 - got / channel.closed_form(ratio * D, D, 4.0, 0.05)
    assert low <= short <= high


def test_private_noise_only_wants_a_constant_complexity():
    """§8 item 6: with ρ = 0 the best k_e is √(κ_e k_c), whatever the budget, by brute force."""
    kappa, k_c, D = 250.0, 240.0, 8
    for budget in (2e4, 2e5, 2e6, 2e7):
        k_e = np.arange(20, 2000)
        N, eta = budget / (k_e + k_c), 30 / (1 + kappa / k_e)
        bits = D / 2 * np.log2(1 + eta * N / D)
        assert abs(k_e[bits.argmax()] - np.sqrt(kappa * k_c)) <= 1


@pytest.mark.parametrize(("P", "best"), [(1e5, 333), (5e5, 561)])
def test_the_planned_complexity_is_that_of_the_exact_channel(rng, P, best):
    """§8 item 5: brute force over whole networks on the exact log det, beside k_e* = √(κ(k_c + P/N_r))."""
    D, rho, kappa, k_c, ceiling = 12, 0.02, 300.0, 200.0, 10.0
    assert np.sqrt(kappa * (k_c + P / (D * (1 - rho) / rho))) == pytest.approx(best, abs=1)
    k_e = np.geomspace(best / 3, best * 3, 60)
    bits = [
        channel.information(channel.tight_frame(int(P / (k + k_c)), D, rng), ceiling / (1 + kappa / k), rho)
        for k in k_e
    ]
    assert k_e[int(np.argmax(bits))] == pytest.approx(best, rel=0.08)


def test_spread_of_unit_noise_makes_the_closed_form_a_safe_bound(rng):
    """§8 item 4: log-normal unit noise (sd 0.5) carries more than the same mean noise everywhere."""
    N, D, rho = 256, 8, 0.02
    noise = np.exp(0.5 * rng.standard_normal(N))
    eta = 10.0 / noise * noise.mean()
    W = channel.tight_frame(N, D, rng)
    mean = channel.closed_form(N, D, 1 / float(np.mean(1 / eta)), rho)
    assert mean < channel.information(W, eta, rho) < 1.06 * mean
