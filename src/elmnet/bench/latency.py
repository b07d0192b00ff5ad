"""Microseconds per streamed step on this machine: measured, and predicted from measurements for a plan."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import nnls

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError
from elmnet.network import ELMNetwork
from elmnet.theory.fit import Fit
from elmnet.theory.limits import Wiring
from elmnet.theory.planner import Plan, plan

SIZES = [(units, memory) for units in (16, 128, 512, 2048) for memory in (3, 10, 30) if units * memory <= 16_384]
"""(N, d_m) of the networks that are measured."""


def measured(network: NetworkConfig, *, seconds: float = 0.25) -> float:
    """Median time of `net.step` on one sequence, in microseconds; as many steps as fit into `seconds`, at least 20."""
    net = ELMNetwork(network, seed=0).eval()
    x = torch.zeros(1, dtype=torch.long) if network.token_scale is not None else torch.rand(1, network.inputs)
    times: list[float] = []
    with torch.no_grad():
        _, state = net.step(x)
        for _ in range(5):
            _, state = net.step(x, state)
        end = time.perf_counter() + seconds
        while len(times) < 20 or time.perf_counter() < end:
            start = time.perf_counter()
            _, state = net.step(x, state)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def calibrate(start: NetworkConfig) -> Callable[[NetworkConfig], float]:
    """Measure a few networks like `start`; returns a prediction in microseconds for others, which grows with N.

    A constant for the call and the read-out, and non-negative prices of a unit, of a synapse and of every other
    parameter, by least squares on relative errors.

    Raises:
        ConfigError: the times do not grow with the networks.
    """
    networks = [start.with_hidden(units=units, memory=memory, hidden=2 * memory) for units, memory in SIZES]
    times = np.array([measured(network) for network in networks])
    prices, _ = nnls(np.array([_features(network) for network in networks]) / times[:, None], np.ones(len(times)))
    if not prices[1:].any():
        raise ConfigError(
            "the measured times do not tell large networks from small ones: close other programs and repeat"
        )
    return lambda network: float(_features(network) @ prices)


def fast_enough(
    one: Plan, start: NetworkConfig, wiring: Sequence[Wiring], known: Fit | None, *, tries: int = 4
) -> Plan:
    """A plan whose network has been measured: where the prediction was too fast, it is corrected and planned again.

    Args:
        one: a plan for a budget of microseconds, priced by `calibrate`.
        start: as for `elmnet.theory.planner.plan`, as are `wiring` and `known`.
        wiring: see there.
        known: see there.
        tries: corrections, at most.
    """
    limit, spent = one.limit, measured(one.network)
    for _ in range(tries):
        if spent <= limit.value:
            break
        factor = 1.02 * spent / limit.price(one.network)
        limit = replace(limit, price=_scaled(limit.price, factor))
        one = plan(start, limit, wiring, known)
        spent = measured(one.network)
    return replace(one, price=spent)


def _scaled(price: Callable[[NetworkConfig], float], factor: float) -> Callable[[NetworkConfig], float]:
    return lambda network: factor * price(network)


def _features(network: NetworkConfig) -> np.ndarray:
    first = network.layers[0]
    units = first.units
    return np.array([1.0, units, units * first.neuron.connectivity, units * budget.complexity(first.neuron)])
