import pytest
import torch
from conftest import neuron

from elmnet import LayerConfig, wiring
from elmnet.errors import ConfigError


def draw(inputs=20, seed=0, **changes):
    layer = LayerConfig(**{"units": 30, "neuron": neuron(branches=10, synapses=20), **changes})
    return wiring.draw(layer, inputs, torch.Generator().manual_seed(seed))


def test_random_wiring_is_repeatable_and_in_range():
    a = draw(recurrent_connect=0.3)
    assert a.shape == (30, 200)
    assert torch.equal(a, draw(recurrent_connect=0.3))
    assert not torch.equal(a, draw(recurrent_connect=0.3, seed=1))
    assert a.min() == 0
    assert a.max() == 49


@pytest.mark.parametrize(("rho", "expected"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (None, 30 / 50)])
def test_fraction_of_recurrent_synapses(rho, expected):
    recurrent = (draw(recurrent_connect=rho) >= 20).double().mean().item()
    assert recurrent == pytest.approx(expected, abs=4 * (0.25 / 6000) ** 0.5 if 0 < expected < 1 else 0)


def test_sources_are_uniform():
    counts = torch.bincount(draw(recurrent_connect=0.0).flatten(), minlength=20).double()
    chi_square = ((counts - 300) ** 2 / 300).sum().item()
    assert chi_square < 43.8  # 99.9 % point for 19 degrees of freedom


def test_full_wiring_reads_every_source_once():
    connectome = draw(inputs=23, wiring="full", recurrent_connect=None)
    assert all(sorted(row[:53].tolist()) == list(range(53)) for row in connectome)
    assert (connectome[:, 53:] == -1).all()
    assert draw(inputs=23, wiring="full", recurrent_connect=0.0).max() == 22


def test_refusals_say_what_to_do():
    with pytest.raises(ConfigError, match="synapses = 43"):
        draw(inputs=400, wiring="full")
    with pytest.raises(ConfigError, match="no wiring 'small-world'; known: full, neuronio, random"):
        draw(wiring="small-world")
    with pytest.raises(ConfigError, match="21 is odd"):
        draw(inputs=21, wiring="neuronio")


def test_neuronio_routing_interleaves_and_overlaps():
    layer = LayerConfig(units=1, neuron=neuron(branches=3, synapses=6))
    rows = wiring.neuronio(layer, 8, None).view(3, 6)  # interleaved order 0 4 1 5 2 6 3 7; branches start at 0, 3, 6
    assert rows.tolist() == [[0, 4, 1, 5, 2, 6], [5, 2, 6, 3, 7, -1], [3, 7, -1, -1, -1, -1]]


def test_a_wiring_of_ones_own_can_be_registered(monkeypatch):
    monkeypatch.setattr(wiring, "WIRINGS", dict(wiring.WIRINGS))
    wiring.register("first-input")(lambda layer, inputs, generator: torch.zeros(layer.units, 200, dtype=torch.int64))
    assert draw(wiring="first-input").sum() == 0
