import math

import pytest
import torch
from conftest import neuron

from elmnet.neuron import Neurons


def test_initialisation_bounds():
    neurons = Neurons(neuron(memory=6, branches=10, synapses=9), 200, torch.Generator().manual_seed(0))
    for tensor, bound in [
        (neurons.w_s, 1 / 3),
        (neurons.mlp[0].weight, 1 / 4),
        (neurons.mlp[0].bias, 1 / 4),
        (neurons.mlp[1].weight, 1 / math.sqrt(12)),
        (neurons.readout, 1 / math.sqrt(6)),
    ]:
        assert 0.98 * bound < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (neurons.bias == 0).all()


def test_neuronio_initialisation():
    neurons = Neurons(neuron(synapses=4, synapse_init=0.5, outputs=2, bias_init=(-5.0, 0.0)), 2)
    assert (neurons.w_s == 0.25).all()
    assert neurons.bias.tolist() == [[-5.0, 0.0]] * 2


def test_timescales_survive_their_sigmoid():
    config = neuron(memory=15, tau_min=0.1, tau_max=100.0)
    tau = Neurons(config, 3).timescales()
    assert torch.allclose(tau, torch.tensor(config.timescales).expand(3, -1), rtol=2e-6)


def test_timescales_outside_the_range_are_refused():
    with pytest.raises(ValueError, match="must lie inside"):
        Neurons(neuron(), 1).set_timescales(torch.tensor([1.0, 2.0, 1000.0]))


def test_decay_and_gain_of_both_update_forms():
    first, second = (Neurons(neuron(lambda_as_timescale_ratio=flag), 1) for flag in (True, False))
    tau = first.timescales()
    assert torch.allclose(first().decay, torch.exp(-1 / tau))
    assert torch.allclose(first().gain, 1 - torch.exp(-5 / tau), atol=1e-6)
    assert torch.allclose(second().gain, 5 * (1 - torch.exp(-1 / tau)), atol=1e-6)


def test_half_precision_leaves_timescales_exact():
    neurons = Neurons(neuron(tau_max=5000.0), 2)
    exact = neurons.tau_logit.detach().clone()
    neurons.to(torch.bfloat16)
    assert neurons.w_s.dtype == torch.bfloat16
    assert torch.equal(neurons.tau_logit, exact)
    assert (neurons().decay < 1).all()


def test_a_gradient_goes_with_its_timescales():
    neurons = Neurons(neuron(learn_timescales=True), 2)
    neurons().decay.sum().backward()
    neurons.to(torch.bfloat16)
    assert neurons.tau_logit.grad.dtype == torch.float32
    torch.optim.Adam([neurons.tau_logit]).step()


def test_learnable_timescales_get_gradients():
    neurons = Neurons(neuron(learn_timescales=True), 2)
    neurons().decay.sum().backward()
    assert neurons.tau_logit.grad.abs().min() > 0
    assert not Neurons(neuron(), 2).tau_logit.requires_grad
