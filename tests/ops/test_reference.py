"""Pieces of the definition by hand; the whole is checked by golden vectors and a second implementation."""

import math

import pytest
import torch
from conftest import neuron

from elmnet.ops import Dynamics, Weights
from elmnet.ops.reference import activate, compress, mlp


def test_compression_is_lecuns_tanh():
    assert compress(torch.tensor(1.0)).item() == pytest.approx(1.7159 * math.tanh(2 / 3))


@pytest.mark.parametrize(("name", "expected"), [("relu2", 9.0), ("relu", 3.0), ("silu", 3 / (1 + math.exp(-3)))])
def test_mlp_is_one_map_per_unit_with_a_linear_output(name, expected):
    one = torch.ones(1, 1, 1)
    weights = Weights(one, ((3 * one, torch.zeros(1, 1)), (-one, torch.ones(1, 1))), one, one, one, one)
    got = mlp(one, weights, Dynamics.of(neuron(mlp_activation=name)))
    assert got.item() == pytest.approx(1 - expected)


def test_spike_has_the_surrogate_gradient():
    dynamics = Dynamics.of(neuron(activation="spike", surrogate_gain=0.7))
    u = torch.tensor([-0.5, -0.01, 0.0, 0.02, 3.0], dtype=torch.float64, requires_grad=True)
    spikes = activate(u, dynamics)
    assert spikes.tolist() == [0, 0, 0, 1, 1]
    spikes.sum().backward()
    assert torch.allclose(u.grad, 0.7 / (100 * u.detach().abs() + 1) ** 2)
