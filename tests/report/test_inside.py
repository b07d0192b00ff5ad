"""What goes on inside a network, computed and drawn."""

import numpy as np
import pytest
import torch
from conftest import network_config

from elmnet import ELMNetwork
from elmnet.errors import ShapeError
from elmnet.report import inside
from elmnet.report.inside import Degrees, ReadoutNorms


@pytest.fixture
def network():
    return ELMNetwork(network_config(token_scale=3.0, inputs=6, outputs=6), seed=0).eval()


def test_a_recording_is_what_the_network_does(network):
    tokens = torch.randint(6, (2, 30))
    seen = inside.record(network, tokens)
    out, _, signals = network(tokens, monitor=("activity", "memory", "branch"))
    expected = (signals[0]["activity"], signals[0]["memory"][0], signals[0]["branch"][0], out)
    assert seen.lengths.tolist() == [30, 30]
    for got, want in zip(seen[:4], expected, strict=True):
        np.testing.assert_allclose(got, want.detach().double().numpy(), atol=1e-6)


def test_a_recording_knows_where_sequences_end(network):
    tokens, lengths = torch.randint(6, (2, 30)), torch.tensor([7, 30])
    seen = inside.record(network, tokens, lengths)
    assert len(seen.memory) == 7
    alone = [inside.record(network, tokens[k : k + 1, :steps]) for k, steps in enumerate((7, 30))]
    np.testing.assert_allclose(seen.valid, np.concatenate([one.activity[0] for one in alone]), atol=1e-6)


def test_a_recording_keeps_to_its_room_and_the_mode(network):
    network.train()
    seen = inside.record(network, torch.randint(6, (2, 30)), room=4 * 5 * (3 + 4) * 10)
    assert seen.memory.shape == (10, 5, 3)
    assert seen.activity.shape == (2, 30, 5)
    assert network.training


def test_effective_dimension_of_known_activity():
    rng = np.random.default_rng(0)
    alone = rng.standard_normal((4000, 1))
    assert inside.participation_ratio(alone * np.ones(7)) == pytest.approx(1)
    assert inside.participation_ratio(rng.standard_normal((4000, 7))) == pytest.approx(7, rel=0.01)
    scaled = rng.standard_normal((4000, 2)) * [2, 1]
    assert inside.participation_ratio(scaled) == pytest.approx(25 / 17, rel=0.03)  # (4 + 1)² / (16 + 1)
    assert inside.participation_ratio(np.ones((10, 3))) == 0
    few = rng.standard_normal((5, 40))  # fewer samples than units: the same eigenvalues, from the smaller matrix
    values = np.linalg.eigvalsh(np.cov(few.T))
    assert inside.participation_ratio(few) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert inside.variance_spectrum(scaled) == pytest.approx([0.8, 0.2], abs=0.02)


def test_autocorrelation_times_of_leaky_noise():
    rng, taus = np.random.default_rng(0), np.array([3.0, 12.0])
    x = np.zeros((4, 8000, 3))
    noise = rng.standard_normal(x.shape)
    for t in range(1, x.shape[1]):
        x[:, t, :2] = np.exp(-1 / taus) * x[:, t - 1, :2] + noise[:, t, :2]
    times = inside.autocorrelation_times(x)
    assert times[:2] == pytest.approx(taus, rel=0.1)
    assert np.isnan(times[2])  # silent
    lengths = np.array([8000, 4000, 6000, 8000])
    cut = np.where((np.arange(8000) < lengths[:, None])[:, :, None], x, 0.0)
    assert inside.autocorrelation_times(cut, lengths)[:2] == pytest.approx(taus, rel=0.1)
    one, short = x[:1, :2000], np.array([2000, 1])
    padded = np.concatenate([one, np.zeros_like(one)])
    padded[1, 0] = one.mean((0, 1))  # a single step tells nothing of time
    assert inside.autocorrelation_times(padded, short)[:2] == pytest.approx(inside.autocorrelation_times(one)[:2], 1e-3)


def test_silent_units_are_never_active():
    """Not those whose activity, of any sign, is small on average."""
    activity = np.zeros((2, 5, 4))
    activity[:, :, 0] = -1.0
    activity[0, 0, 1], activity[0, 1, 1] = 1.0, -1.0
    activity[1, 4, 2] = 1e-3
    assert inside.count_silent(activity) == 1


def test_timescales_are_in_steps():
    network = ELMNetwork(network_config(dt=0.5, tau_min=1.0, tau_max=30.0), seed=0)
    assert inside.timescales(network)[0, [0, -1]] == pytest.approx([2, 60], rel=1e-4)


def test_degrees_count_every_synapse_once(network):
    counted = inside.degrees(network)
    synapses = network.config.layers[0].neuron.connectivity
    assert (counted.from_inputs + counted.from_units == synapses).all()
    assert counted.of_inputs.sum() == counted.from_inputs.sum()
    assert counted.of_units.sum() == counted.from_units.sum()


def test_readout_norms_follow_the_weights(network):
    own, following = inside.readout_norms(network)
    with torch.no_grad():
        network.layers[0].neurons.readout[2] *= 10
        network.layers[1].neurons.w_s[network.layers[1].connectome.view_as(network.layers[1].neurons.w_s) == 3] *= 5
    scaled = inside.readout_norms(network)
    assert scaled.own / own == pytest.approx([1, 1, 10, 1, 1])
    assert (scaled.next / following)[following > 0] == pytest.approx(np.array([1, 1, 1, 5, 1])[following > 0])


def test_surprise_is_the_cross_entropy_in_bits():
    outputs, targets = torch.randn(2, 5, 4), torch.randint(4, (2, 5))
    nats = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    bits = inside.surprise(outputs.double().numpy(), targets.numpy())
    np.testing.assert_allclose(bits.flatten(), nats.numpy() / np.log(2), rtol=1e-5)
    with pytest.raises(ShapeError, match="targets must be"):
        inside.surprise(np.zeros((2, 3)), np.zeros(3, int))
    assert inside.surprise(np.array([0.0, 800.0]), np.array(0)) == pytest.approx(800 / np.log(2))


def test_figures_draw_what_they_are_given():
    plt = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib (extra `report`)")
    from elmnet.report import figures

    figures.without_a_screen()
    rng = np.random.default_rng(0)
    activity, spikes = rng.random((40, 6)), rng.random((40, 9)) < 0.1
    probability = rng.dirichlet(np.ones(12), 40)
    count = rng.integers(1, 9, 6)
    drawn = [
        figures.activity_raster(activity),
        figures.activity_distribution(activity),
        figures.timescale_distribution(np.full((6, 3), 5.0), np.array([1.0, 2, 3, 4, 5, np.nan])),
        figures.memory_traces(rng.random((40, 20)), np.geomspace(1, 100, 20), 2.0, "ms"),
        figures.branch_drive(rng.standard_normal((40, 5))),
        figures.degree_distribution(Degrees(count, count, count, count)),
        figures.readout_strength(ReadoutNorms(rng.random(6), None)),
        figures.dimension(activity),
        figures.spikes_and_classes(spikes, probability, 11),
    ]
    for ax in drawn[:-1]:
        assert "(" in ax.get_xlabel() + ax.get_ylabel() or "count" in ax.get_ylabel(), ax.get_title()
    labels = [text.get_text() for text in drawn[3].get_legend().get_texts()]
    assert (labels[0], labels[-1], len(labels)) == ("τ = 2", "τ = 200", 8)
    _, below = drawn[-1].child_axes
    assert "class 11 (true)" in [text.get_text() for text in below.get_legend().get_texts()]
    plt.close("all")


def test_any_layer_can_be_looked_into(network):
    tokens = torch.randint(6, (2, 30))
    seen = inside.record(network, tokens, layer=1)
    _, _, signals = network(tokens, monitor=("activity", "memory"))
    np.testing.assert_allclose(seen.activity, signals[1]["activity"].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(seen.memory, signals[1]["memory"][0].detach().numpy(), atol=1e-6)
    last = network.elm_layers[1]
    assert inside.degrees(network, 1).of_inputs.sum() == (last.connectome >= 0).sum()
    assert inside.timescales(network, 1).shape == (last.config.units, last.config.neuron.memory)
    assert inside.readout_norms(network, 1).next is None
    with pytest.raises(ShapeError, match=r"layer must lie in 0\.\.1, got 2"):
        inside.timescales(network, 2)


@pytest.mark.parametrize("layer", [0, 1])
def test_nobody_hears_lesioned_units(network, layer, tmp_path):
    """Whatever they say, the output stays; before, it did not; others are heard as before."""
    tokens, units = torch.randint(6, (2, 30)), [0, 3]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    hurt = inside.lesion(network, units, layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    def told(one, change):
        with torch.no_grad():
            one.elm_layers[layer].neurons.bias[units] += change
            return one(tokens)[0]

    first, whole = told(hurt, 0.0), told(network, 0.0)
    assert not torch.allclose(first, whole)
    torch.testing.assert_close(told(hurt, 1.0), first, rtol=0, atol=0)
    assert not torch.allclose(told(network, 1.0), whole)
    hurt.save_pretrained(tmp_path)
    assert torch.equal(ELMNetwork.from_pretrained(tmp_path)(tokens)[0], hurt(tokens)[0])
    assert torch.equal(inside.lesion(network, [], layer)(tokens)[0], network(tokens)[0])
    with pytest.raises(ShapeError, match="units must lie in"):
        inside.lesion(network, [99], layer)


def test_units_that_are_the_output_cannot_be_cut_off():
    whole = ELMNetwork(network_config(readout="none", outputs=5), seed=0)
    with pytest.raises(ShapeError, match="layer 0 is the network's output"):
        inside.lesion(whole, [0])
