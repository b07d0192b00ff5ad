"""k networks as one: equal to k networks alone, also when trained."""

import pytest
import torch
from conftest import network_config

from elmnet import ELMNetwork, Masks, ops
from elmnet.errors import ShapeError
from elmnet.replicas import Replicas

DROPOUT = {"layer": {"input_dropout": 0.3, "recurrent_dropout": 0.3}, "memory_dropout": 0.2, "synapse_dropout": 0.2}


def networks(count=3, backend="reference", **changes):
    return [ELMNetwork(network_config(**changes), seed=s, backend=backend) for s in range(count)]


def backends():
    return ops.usable(torch.device("cpu"))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("token_scale", [None, 2.0])
def test_equals_each_network_alone(backend, token_scale):
    """Outputs, states, signals and gradients, with carried states, lengths, masks and an unconnected synapse."""
    alone = [n.double() for n in networks(backend=backend, token_scale=token_scale, layers=2, **DROPOUT)]
    alone[1].layers[0].connectome[0, 0] = -1
    x = torch.randn(3, 4, 5, 6).double() if token_scale is None else torch.randint(6, (3, 4, 5))
    lengths = torch.tensor([5, 1, 3, 4])
    masks = [[layer.draw_masks(4) for layer in n.layers] for n in alone]
    together = Replicas(alone)
    states = [n(own)[1].detach() for n, own in zip(alone, x, strict=True)]
    out, after, signals = together(x, states, lengths, masks=masks, monitor=("mlp", "activity"))
    out.square().sum().backward()
    got = [[p.grad.clone() for p in n.parameters() if p.requires_grad] for n in alone]
    together.zero_grad()
    for i, network in enumerate(alone):
        want, last, seen = network(x[i], states[i], lengths, masks=masks[i], monitor=("mlp", "activity"))
        torch.testing.assert_close(out[i], want, rtol=1e-12, atol=1e-12)
        for a, b in zip(after[i].layers, last.layers, strict=True):
            torch.testing.assert_close(tuple(a), tuple(b), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(signals[i], seen, rtol=1e-12, atol=1e-12)
        want.square().sum().backward()
        for g, parameter in zip(got[i], (p for p in network.parameters() if p.requires_grad), strict=True):
            torch.testing.assert_close(g, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [(True, False), (False, True)])
def test_masks_of_one_network_leave_the_other_alone(masked):
    alone, x = networks(2, **DROPOUT), torch.randn(2, 4, 5, 6)
    masks = [n.draw_masks(4) if here else [Masks()] * len(n.layers) for n, here in zip(alone, masked, strict=True)]
    out, _ = Replicas(alone)(x, masks=masks)
    for i, network in enumerate(alone):
        torch.testing.assert_close(out[i], network(x[i], masks=masks[i])[0])


def train(run, trained, steps=8):
    """Clip and step every network by itself; returns all parameters."""
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.01) for network in trained]
    generator = torch.Generator().manual_seed(0)
    states = None
    for _ in range(steps):
        x = torch.randn(len(trained), 4, 5, 6, generator=generator)
        outs, states = run(x, states)
        states = [state.detach() for state in states]
        sum(out.square().mean() for out in outs).backward()
        for network, optimizer in zip(trained, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for network in trained for p in network.parameters()]


@pytest.mark.parametrize("backend", backends())
def test_training_together_is_training_alone(backend):
    together, alone = networks(backend=backend), networks(backend=backend)
    got = train(Replicas(together), together)

    def one_by_one(x, states):
        pairs = [n(own, None if states is None else states[i]) for i, (n, own) in enumerate(zip(alone, x, strict=True))]
        return [out for out, _ in pairs], [state for _, state in pairs]

    want = train(one_by_one, alone)
    assert any((a - b.detach()).norm() > 1e-2 for a, b in zip(got, _parameters(networks()), strict=True))  # it moved
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_loaded_connectomes_are_heard():
    ours, theirs = Replicas(networks()), Replicas([ELMNetwork(network_config(), seed=9 + i) for i in range(3)])
    x = torch.randn(3, 2, 3, 6)
    assert not torch.allclose(ours(x)[0], theirs(x)[0])
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    assert not any("connectome_" in name for name in ours.state_dict())


def test_narrow_connectomes_are_counted_in_wide_numbers():
    """As a save holds them, where all networks' channels are more than such numbers count."""
    alone, x = networks(2, inputs=20_000), torch.randn(2, 1, 2, 20_000)
    want = Replicas(alone)(x)[0]
    for layer in (layer for network in alone for layer in network.layers):
        layer.connectome = layer.connectome.to(torch.int16)
    torch.testing.assert_close(Replicas(alone)(x)[0], want)


def test_replaced_connectomes_are_heard():
    """Also where the new one lies where an old one lay."""
    together, x = Replicas(networks()), torch.randn(3, 1, 2, 6)
    for seed in range(20):
        for layer in (network.layers[0] for network in together.networks):
            for _ in range(2):
                layer.connectome = layer.connectome[torch.randperm(len(layer.connectome))].clone()
        want = Replicas(list(together.networks))(x)[0]
        assert torch.equal(together(x)[0], want), seed


def _parameters(of):
    return [p for network in of for p in network.parameters()]


def test_one_replica_fails_alone():
    """NaN in one network's input reaches no other."""
    together = Replicas(networks())
    x = torch.randn(3, 2, 3, 6)
    want = together(x)[0]
    x[1] = torch.nan
    got = together(x)[0]
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    assert got[1].isnan().any()


def test_networks_that_differ_are_refused():
    with pytest.raises(ShapeError, match="network 1 has another config than network 0"):
        Replicas([*networks(1), *networks(1, units=4)])
    with pytest.raises(ShapeError, match="network 1 has another dtype"):
        Replicas([networks(1)[0], networks(1)[0].double()])
    with pytest.raises(ShapeError, match="network 1 has another backend"):
        Replicas([*networks(1), *networks(1, backend="auto")])
    drops = [ELMNetwork(network_config(layer={"input_dropout": 0.5}), seed=seed) for seed in range(2)]
    drops[0].eval()
    with pytest.raises(ShapeError, match="some networks are in training mode, some in evaluation mode"):
        Replicas(drops)(torch.zeros(2, 1, 1, 6))
    with pytest.raises(ShapeError, match="one batch for each of 3 networks"):
        Replicas(networks())(torch.zeros(2, 1, 1, 6))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lengths": [9, 9, 9, 9]}, r"lengths must lie in 1\.\.5"),
        ({"lengths": [0, 1, 1, 1]}, r"lengths must lie in 1\.\.5"),
        ({"lengths": [1, 1]}, "lengths must be 4 integers"),
        ({"states": 1}, "states must be one for each of 2 networks, got 1"),
        ({"states": 3}, r"state\.memory must be"),  # of another batch
        ({"masks": [[]] * 2}, "masks must be one per layer"),
        ({"monitor": ("thought",)}, "no signal 'thought'"),
        ({"x": torch.zeros(4, 5, 6)}, "one batch for each of 2 networks"),
        ({"x": torch.zeros(2, 0, 5, 6)}, "at least one sequence"),
        ({"x": [torch.zeros(4, 5, 6)] * 2}, "input must be a tensor, got list"),
        ({"x": torch.zeros(2, 4, 5, 7)}, r"input must be \(B, T, 6\)"),
    ],
)
def test_refuses_in_words(arguments, words):
    alone = networks(2, backend="auto")
    x = arguments.pop("x", torch.zeros(2, 4, 5, 6))
    if count := arguments.get("states"):
        arguments["states"] = [alone[0].initial_state(4 if count == 1 else 3)] * min(count, 2)
    with pytest.raises(ShapeError, match=words):
        Replicas(alone)(x, **arguments)


def test_states_of_another_kind_are_refused():
    alone = networks(2)
    for wrong in (tuple(alone[0].initial_state(4)), alone[0].initial_state(4).layers):
        with pytest.raises(ShapeError, match="state must be a NetworkState, as a call returns it, got tuple"):
            Replicas(alone)(torch.zeros(2, 4, 5, 6), [wrong] * 2)
