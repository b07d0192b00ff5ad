import pytest
import torch
from conftest import neuron

from elmnet import ELMLayer, ELMNetwork, LayerConfig, NetworkConfig, wiring
from elmnet.config import ModularWiring, SmallWorldWiring, TopographicWiring, WiringConfig
from elmnet.errors import ConfigError
from elmnet.ops import usable
from elmnet.train.config import amend, compose


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
    with pytest.raises(
        ConfigError, match="no wiring 'scale-free'; known: full, full-input, given, modular, neuronio, rand"
    ):
        draw(wiring="scale-free")
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


STRUCTURED = ["topographic", "modular", "small-world", "full-input"]


def split(connectome, inputs=20):
    """Input channels and units that the synapses of every unit read, as boolean mask of recurrent ones and sources."""
    return connectome >= inputs, torch.where(connectome >= inputs, connectome - inputs, connectome)


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_wirings_are_repeatable_and_in_range(name):
    a = draw(wiring=name)
    assert a.shape == (30, 200)
    assert a.dtype == torch.int64
    assert torch.equal(a, draw(wiring=name))
    assert not torch.equal(a, draw(wiring=name, seed=1))
    assert a.min() == 0
    assert a.max() == 49
    assert not torch.equal(a[0].sort().values, a[1].sort().values)


@pytest.mark.parametrize("name", STRUCTURED[:3])
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0, None])
def test_structured_wirings_keep_the_fraction_of_recurrent_synapses(name, rho):
    recurrent = (draw(wiring=name, recurrent_connect=rho) >= 20).double().mean().item()
    expected = 0.6 if rho is None else rho
    assert recurrent == pytest.approx(expected, abs=4 * (0.25 / 6000) ** 0.5 if 0 < expected < 1 else 0)


@pytest.mark.parametrize(
    ("inputs", "fields", "overlap", "expected"),
    [
        (12, 3, 0.0, [[0, 4], [4, 4], [8, 4]]),
        (10, 3, 0.5, [[0, 5], [3, 5], [5, 5]]),  # width 5, stride 2.5
        (7, 1, 0.2, [[0, 7]]),
        (3, 3, 0.9, [[0, 3]] * 3),  # rounded
    ],
)
def test_receptive_fields_cover_the_axis_with_the_asked_overlap(inputs, fields, overlap, expected):
    assert wiring.receptive_fields(inputs, fields, overlap).tolist() == expected


def test_700_channels_in_16_fields_leave_none_out():
    fields = wiring.receptive_fields(700, 16, 0.2)
    first, width = fields.unbind(1)
    assert first[0] == 0
    assert first[-1] + width[-1] == 700
    shared = (first + width)[:-1] - first[1:]
    assert (shared.double() / width[1:] - 0.2).abs().max() < 0.02  # rounding


def test_topographic_units_read_their_own_field_evenly():
    connectome = draw(inputs=100, recurrent_connect=0.0, wiring=TopographicWiring(fields=5, overlap=0.25))
    first, width = wiring.receptive_fields(100, 5, 0.25)[torch.arange(30) * 5 // 30].T.unsqueeze(2)
    assert ((connectome >= first) & (connectome < first + width)).all()
    place = (connectome - first) / width
    assert abs(place.mean() - 0.5) < 0.02
    assert [row.unique().numel() for row in connectome] == width.flatten().tolist()


def test_modular_synapses_leave_their_module_as_often_as_asked():
    layer = {"inputs": 20, "units": 31, "recurrent_connect": 1.0}
    for outside in (0.0, 0.25, 1.0):
        connectome = draw(**layer, wiring=ModularWiring(modules=4, outside=outside)) - 20
        module = torch.arange(31) * 4 // 31
        leaves = module[connectome] != module.unsqueeze(1)
        tolerance = 4 * (outside * (1 - outside) / leaves.numel()) ** 0.5
        assert leaves.double().mean().item() == pytest.approx(outside, abs=tolerance)
        assert all(row.unique().numel() > 1 for row in connectome)
    assert draw(**layer, wiring=ModularWiring(outside=0.25)).unique().numel() == 31  # every unit is read


def test_modules_can_have_receptive_fields_of_their_own():
    connectome = draw(inputs=40, recurrent_connect=0.0, wiring=ModularWiring(modules=2, fields=2, overlap=0.0))
    assert (connectome[:15] < 20).all()
    assert (connectome[15:] >= 20).all()


def test_small_world_is_a_ring_with_shortcuts():
    units = 40
    layer = {"units": units, "recurrent_connect": 1.0}
    here = torch.arange(units).unsqueeze(1)
    ring = draw(**layer, wiring=SmallWorldWiring(neighbours=3, rewire=0.0)) - 20
    distance = torch.minimum((ring - here) % units, (here - ring) % units)
    assert torch.bincount(distance.flatten()).nonzero().flatten().tolist() == [1, 2, 3]
    assert (torch.bincount(ring.flatten(), minlength=units) > 0).all()

    some = draw(**layer, wiring=SmallWorldWiring(neighbours=3, rewire=0.2)) - 20
    distance = torch.minimum((some - here) % units, (here - some) % units)
    assert distance.min() == 1  # nobody reads its own activity
    far = (distance > 3).double().mean().item()
    expected = 0.2 * (units - 1 - 6) / (units - 1)
    assert far == pytest.approx(expected, abs=4 * (expected / distance.numel()) ** 0.5)


def shortest_paths(adjacency):
    """Mean length of the shortest path between two units, by powers of the adjacency matrix."""
    reached = torch.eye(len(adjacency), dtype=torch.bool)
    total = torch.zeros(())
    for length in range(1, len(adjacency)):
        new = (reached.double() @ adjacency.double() > 0) & ~reached
        total = total + length * new.sum()
        reached = reached | new
    assert reached.all()
    return (total / (len(adjacency) * (len(adjacency) - 1))).item()


def test_a_few_shortcuts_shorten_paths_and_keep_clusters():
    """What Watts and Strogatz call a small world, against the ring and against random wiring."""

    def graph(rewire):
        connectome = draw(units=80, recurrent_connect=1.0, wiring=SmallWorldWiring(neighbours=4, rewire=rewire)) - 20
        adjacency = torch.zeros(80, 80, dtype=torch.bool).scatter_(1, connectome, True)
        counts = adjacency.double()
        closed = ((counts @ counts) * counts).sum() / ((counts @ counts).sum() - (counts @ counts).trace())
        return shortest_paths(adjacency), closed.item()

    (ring, ring_closed), (few, few_closed), (many, _) = graph(0.0), graph(0.02), graph(1.0)
    assert few < 0.6 * ring
    assert few_closed > 0.5 * ring_closed
    assert many < few
    assert ring_closed > few_closed


def test_full_input_reads_every_channel_once_and_units_with_the_rest():
    recurrent, source = split(draw(wiring="full-input"))
    assert (recurrent.sum(1) == 180).all()
    for row, mask in zip(source, recurrent, strict=True):
        assert row[~mask].sort().values.tolist() == list(range(20))
    counts = torch.bincount(source[recurrent], minlength=30).double()
    assert ((counts - 180) ** 2 / 180).sum().item() < 58.3  # 99.9 % point for 29 degrees of freedom
    first_branch = (~recurrent)[:, :20].double().mean().item()
    assert first_branch == pytest.approx(0.1, abs=0.05)  # inputs are spread over the branches


def test_units_of_several_outputs_are_read_at_all_of_them():
    layer = LayerConfig(units=12, neuron=neuron(outputs=2, synapses=20), recurrent_connect=1.0, wiring="modular")
    connectome = wiring.draw(layer, 5, torch.Generator().manual_seed(0)) - 5
    assert connectome.unique().tolist() == list(range(24))
    layer = layer.replace(wiring=ModularWiring(outside=0.0))
    connectome = wiring.draw(layer, 5, torch.Generator().manual_seed(0)) - 5
    assert (connectome // 2 // 3 == torch.arange(12).unsqueeze(1) // 3).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"wiring": "full-input", "inputs": 201},
            "'full-input' needs branches · synapses ≥ 201 input channels, got 200",
        ),
        ({"wiring": "full-input", "recurrent_connect": 0.5}, "set recurrent_connect to null, got 0.5"),
        ({"wiring": ModularWiring(modules=31)}, "cannot make 31 modules of 30 units"),
        ({"wiring": SmallWorldWiring(neighbours=15)}, "needs at least 31 units, got 30"),
        ({"wiring": TopographicWiring(fields=31), "inputs": 40}, "31 receptive fields need as many units, got 30"),
        ({"wiring": TopographicWiring(fields=25)}, "20 input channels cannot be shared out to 25 receptive fields"),
    ],
)
def test_wirings_that_do_not_fit_the_layer_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        draw(**changes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "modular", "modules": 1}, "wiring: ModularWiring: modules must be at least 2, got 1"),
        ({"name": "modular", "outside": 1.5}, r"outside must lie in \[0, 1\], got 1.5"),
        ({"name": "small-world", "rewire": -0.1}, r"rewire must lie in \[0, 1\], got -0.1"),
        ({"name": "small-world", "neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"name": "topographic", "overlap": 1.0}, r"overlap must lie in \[0, 1\), got 1.0"),
        ({"name": "topographic", "fields": 0}, "fields must be at least 1, got 0"),
        ({"name": "topographic", "rewire": 0.1}, "TopographicWiring: unknown setting 'rewire'"),
        (
            {"name": "random", "rho": 1},
            r"name must be a wiring that has settings \(topographic, modular, small-world\)",
        ),
        ({}, "name must be a wiring that has settings"),
        (3, "wiring must be a text, got 3"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings, words):
    with pytest.raises(ConfigError, match=words):
        LayerConfig.from_dict({"units": 3, "wiring": settings})


def test_a_name_stands_for_default_settings_and_dictionaries_come_back():
    layer = LayerConfig(units=30, wiring="small-world")
    assert layer.wiring == SmallWorldWiring()
    assert layer.wiring_name == "small-world"
    saved = layer.to_dict()
    assert saved["wiring"] == {"name": "small-world", "fields": None, "overlap": 0.2, "neighbours": 4, "rewire": 0.1}
    assert LayerConfig.from_dict(saved) == layer
    assert WiringConfig.from_dict({"name": "modular", "modules": 3}) == ModularWiring(modules=3)
    assert LayerConfig(units=30).to_dict()["wiring"] == "random"  # as saved configurations have it


def test_given_waits_for_a_connectome():
    assert (draw(wiring="given") == -1).all()


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_structured_wirings_run_in_every_backend_and_are_saved(tmp_path, name, backend):
    if backend not in usable(torch.device("cpu")):
        pytest.skip("no compiled kernels here")
    hidden = LayerConfig(units=20, neuron=neuron(synapses=8), wiring=name)
    network = ELMNetwork(NetworkConfig(inputs=18, outputs=2, layers=(hidden,)), seed=0, backend=backend).eval()
    x = torch.randn(2, 6, 18)
    out, _ = network(x)
    network.save_pretrained(tmp_path)
    again = ELMNetwork.from_pretrained(tmp_path, backend="reference")
    assert again.config == network.config
    assert torch.allclose(again(x)[0], out, atol=1e-5)
    assert f"wiring={name!r}" in repr(ELMLayer(hidden, 18))


def test_wirings_can_be_set_from_the_command_line():
    where = "model.layers.0.wiring"
    assert compose("enwik8", settings=[f"{where}=modular"]).model.layers[0].wiring == ModularWiring()
    run = compose("enwik8", settings=[f"{where}={{name: small-world, rewire: 0.3}}"])
    assert run.model.layers[0].wiring == SmallWorldWiring(rewire=0.3)
    assert amend(run, settings=[f"{where}.neighbours=7"]).model.layers[0].wiring == SmallWorldWiring(
        rewire=0.3, neighbours=7
    )
