import io
import json

import numpy as np
import pytest
import torch
from conftest import network_config

from elmnet import ELMNetwork, LayerConfig, NetworkConfig
from elmnet.errors import CheckpointError
from elmnet.interop import equinox, import_checkpoint
from elmnet.interop.leaves import read_leaves, write_leaves


def build(**changes):
    return ELMNetwork(network_config(**changes), seed=3).eval()


def outputs(network, seed=0):
    draw, inputs = torch.Generator().manual_seed(seed), network.config.inputs
    x = torch.randn(2, 9, inputs, generator=draw)
    if network.config.token_scale is not None:
        x = torch.randint(inputs, (2, 9), generator=draw)
    with torch.no_grad():
        return network(x)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_scale": 3.0, "hidden_layers": 0},
        {"layers": 4, "mlp_activation": "silu"},
        {"readout": "linear", "nonnegative_synapses": True, "synapse_init": 0.5},
        {"readout": "none", "units": 3, "tau_highpass": None, "tau_branch": None, "lambda_as_timescale_ratio": False},
        {"hidden": 7, "hidden_layers": 2, "activation": "spike", "learn_timescales": True, "dt": 0.5},
        {"readout": LayerConfig(units=4), "layer": {"recurrent_connect": None, "input_dropout": 0.2}},
    ],
)
def test_a_network_comes_back_from_an_eqx_file(tmp_path, changes):
    network = build(**changes)
    equinox.write_network(network, tmp_path / "best.eqx")
    again = import_checkpoint(tmp_path)
    assert torch.equal(outputs(again), outputs(network))
    assert again.count_parameters() == network.count_parameters()
    if changes.get("layer") is None:
        assert again.config == network.config


def test_the_published_networks_have_the_published_settings(tmp_path):
    for name in ("enwik8", "shd-adding"):
        config = NetworkConfig.preset(name)
        assert equinox.config_of(equinox.settings_of(config), "here") == config


def test_settings_left_out_take_the_authors_defaults():
    config = equinox.config_of(
        {
            "num_input": 700,
            "num_output": 19,
            "num_hidden": 30,
            "output_embedding": "linear_layer",
            "layer_config": {"neuron_config": {"num_memory": 4}, "input_wiring_args": {"recurrent_connect": 0.5}},
            "last_layer_override": {"neuron_config": {"num_memory": 3, "mlp_num_hidden_layer": 0}},
        },
        "here",
    )
    hidden, last = config.stack
    assert (hidden.units, hidden.recurrent_connect, last.units, last.recurrent_connect) == (30, 0.5, 19, 0.0)
    assert (hidden.neuron.memory, hidden.neuron.branches, hidden.neuron.synapses) == (4, 16, 16)
    assert (hidden.neuron.tau_highpass, hidden.neuron.activation, hidden.neuron.tau_max) == (5.0, "relu", 1000.0)
    assert (last.neuron.branches, last.neuron.tau_highpass, last.neuron.activation) == (12, None, "identity")
    assert config.token_scale is None


def test_leaves_stand_in_the_order_of_the_authors_fields(tmp_path):
    """The file by hand: one `.npy` record for every array field of their modules, depth first."""
    network = build(units=2, branches=3, synapses=2, memory=2)
    equinox.write_network(network, tmp_path / "best.eqx")
    file, found = io.BytesIO((tmp_path / "best.eqx").read_bytes()), []
    while file.tell() < len(file.getvalue()):
        found.append(np.load(file, allow_pickle=False))
    hidden = [(2, 6), (2, 4, 5), (2, 4), (2, 2, 4), (2, 2), (2, 1, 2), (2, 1), (2, 2), (2, 6)]
    last = [(3, 6), (3, 3, 6), (3, 3), (3, 1, 3), (3, 1), (3, 3), (3, 6)]
    assert [array.shape for array in found] == [*hidden, *last, (3, 3), (3,)]
    assert [array.dtype.str for array in found] == [*["<f4"] * 8, "<i4", *["<f4"] * 6, "<i4", "<f4", "<f4"]
    assert (found[0].reshape(2, 3, 2) == network.layers[0].neurons.w_s.detach().numpy()).all()


def test_numbers_are_leaves_without_dimensions(tmp_path):
    file = tmp_path / "x.eqx"
    file.write_bytes(write_leaves({"a": np.asarray(True), "b": np.asarray(3), "c": np.asarray(0.5)}))
    read = read_leaves(file, {"a": ((), "b"), "b": ((), "i"), "c": ((), "f")})
    assert [value.item() for value in read.values()] == [True, 3, 0.5]


def header(shape, dtype="'<f4'"):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not fit its configuration, which describes 18 values; the file has 0 bytes"),
        (header((2, 3)) + b"\0" * 24, r"leaf 'second' at byte 152: the file ends here"),
        (
            header((2, 3)) + b"\0" * 24 + header((12,)) + b"\0" * 47,
            "leaf 'second' at byte 152: the file ends in the middle",
        ),
        (
            header((2, 3)) + b"\0" * 24 + header((11,)) + b"\0" * 44,
            r"'second' at byte 152: is \(11,\) of float32.*says \(12,\)",
        ),
        (header((10**15,)) + b"\0" * 99, r"leaf 'first' at byte 0: is \(1000000000000000,\) of float32"),
        (header((2, 3), "'|O'") + b"\0" * 99, "leaf 'first' at byte 0: is .* of object"),
        (header((2, 3), "'<i4'") + b"\0" * 99, "is .* of int32, the configuration says .* floats"),
        (header((2, 3), "'<f16'") + b"\0" * 99, "leaf 'first' at byte 0"),
        (header((2, 3), "'|V2'") + b"\0" * 99, "leaf 'first' at byte 0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 70000, "leaf 'first' at byte 0: no .npy record"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"{" * 99, "leaf 'first' at byte 0"),
        (b"\x93NUMPY\x03\x00" + b" " * 99, r"\.npy format 3\.0 is not used"),
        (b"PK\x03\x04" + b"\0" * 99, "leaf 'first' at byte 0: no .npy record"),
        (header((2, 3)) + b"\0" * 24 + header((12,)) + b"\0" * 49, "goes on after 'second', the last of the 2 leaves"),
    ],
)
def test_damaged_files_are_refused_with_the_leaf_at_fault(tmp_path, data, words):
    path = tmp_path / "bad.eqx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_leaves(path, {"first": ((2, 3), "f"), "second": ((12,), "f")})


def test_a_configuration_of_another_network_is_refused_before_anything_is_built(tmp_path):
    equinox.write_network(build(), tmp_path / "best.eqx")
    file = tmp_path / "model_config.json"
    settings = json.loads(file.read_text())

    def refusal(**changes):
        file.write_text(json.dumps({**settings, **changes}))
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(tmp_path / "best.eqx")
        return str(caught.value)

    assert "which describes" in refusal(first_layer_override={**settings["first_layer_override"], "num_neuron": 10**9})
    first = {**settings["first_layer_override"], "num_neuron": 4}
    assert "leaf 'layers[0].ensemble._w_s' at byte 0: is (5, 8) of float32, the configuration says (4, 8)" in refusal(
        first_layer_override=first
    )
    assert "input_embedding must be one of None, one_hot to be imported, got 'scaled'" in refusal(
        input_embedding="scaled"
    )
    assert "unknown setting 'num_hiden'" in refusal(num_hiden=3)
    neuron = {"neuron_config": {"synapse_rect": "exp"}}
    assert "synapse_rect must be one of None, identity, relu to be imported, got 'exp'" in refusal(
        last_layer_override=neuron
    )
    assert "tau_max must be a number, got 'long'" in refusal(
        last_layer_override={"neuron_config": {"memory_tau_max": "long"}}
    )
    assert "layer_config must be a JSON object, got [1]" in refusal(layer_config=[1])
    assert "layers must hold at least one layer" in refusal(num_layers=0, output_embedding=None)
    assert "num_layers must be a whole number from 0 to 100, got 1000000000" in refusal(num_layers=10**9)
    assert "num_branch must be a whole number from 1 to 2147483648, got {}" in refusal(
        last_layer_override={"neuron_config": {"num_branch": {}}}
    )


def test_a_connectome_out_of_range_is_refused(tmp_path):
    network = build()
    network.layers[1].connectome[0, 0] = 8  # it reads 5 units, and its own 3
    equinox.write_network(network, tmp_path / "best.eqx")
    with pytest.raises(CheckpointError, match=r"layer 1's input_connectome names sources outside 0\.\.7"):
        import_checkpoint(tmp_path)


def test_what_an_eqx_file_cannot_say_is_refused(tmp_path):
    network = build()
    network.layers[0].connectome[0, 0] = -1
    with pytest.raises(CheckpointError, match="layer 0 has unconnected synapses"):
        equinox.write_network(network, tmp_path / "best.eqx")
    with pytest.raises(CheckpointError, match="one output each, these have 2"):
        equinox.write_network(ELMNetwork(NetworkConfig.preset("neuronio"), seed=0), tmp_path / "best.eqx")
    assert list(tmp_path.iterdir()) == []


def test_other_wirings_arrive_with_their_connectome(tmp_path):
    network = build(layer={"wiring": "small-world", "recurrent_connect": 0.5}, units=12)
    equinox.write_network(network, tmp_path / "best.eqx")
    file = tmp_path / "model_config.json"
    settings = json.loads(file.read_text())
    settings["first_layer_override"] |= {"input_wiring": "dir_selective", "input_wiring_args": {"p_rewire": 0.1}}
    file.write_text(json.dumps(settings))
    again = import_checkpoint(tmp_path)
    assert again.config.layers[0].wiring == "given"
    assert torch.equal(outputs(again), outputs(network))


def test_jax_writes_the_same_bytes(tmp_path):
    jnp = pytest.importorskip("jax.numpy", reason="needs jax (extra `bench`)")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asarray([1, 2], dtype=np.int32)}
    file = io.BytesIO()
    for array in arrays.values():
        jnp.save(file, jnp.asarray(array))
    assert file.getvalue() == write_leaves(arrays)
