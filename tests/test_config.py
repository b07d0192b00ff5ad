import math

import numpy as np
import pytest
from conftest import network_config

from elmnet import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.errors import ConfigError


def test_dictionaries_round_trip_for_every_preset():
    for name in ("enwik8", "shd-adding", "neuronio"):
        preset = NetworkConfig.preset(name)
        assert NetworkConfig.from_dict(preset.to_dict()) == preset


def test_own_readout_round_trips():
    config = network_config(readout=LayerConfig(units=3, recurrent_connect=0.0))
    assert NetworkConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: NeuronConfig(memory=0), "memory must be at least 1, got 0"),
        (lambda: NeuronConfig(memory=2.5), "memory must be a whole number, got 2.5"),
        (lambda: NeuronConfig(memory=True), "memory must be a whole number, got True"),
        (lambda: NeuronConfig(mlp_activation="gelu"), "'relu2', 'relu', 'silu'"),
        (lambda: NeuronConfig(tau_min=10, tau_max=1), "tau_min 10.0 exceeds tau_max 1.0"),
        (lambda: NeuronConfig(tau_highpass=-1), "tau_highpass must be positive, got -1.0"),
        (lambda: NeuronConfig(tau_max=1e39), r"tau_max must lie in 1e-10\.\.1e30, where float32 .*, got 1e\+39"),
        (lambda: NeuronConfig(tau_min=1e-30), r"tau_min must lie in 1e-10\.\.1e30, where float32 .*, got 1e-30"),
        (lambda: NeuronConfig(tau_max=math.nan), "tau_max must be finite"),
        (lambda: NeuronConfig(outputs=2, bias_init=(1.0,)), "one value per output"),
        (lambda: NeuronConfig(memory_dropout=1.0), r"memory_dropout must lie in \[0, 1\)"),
        (lambda: LayerConfig(units=0), "units must be at least 1"),
        (lambda: LayerConfig(units=3, recurrent_connect=1.5), r"recurrent_connect must lie in \[0, 1\]"),
        (lambda: NetworkConfig(inputs=3, outputs=2, layers=()), "at least one layer"),
        (lambda: network_config(readout="none"), "5 channels must equal outputs = 3"),
        (lambda: network_config(readout="lineer"), "'elm', 'linear', 'none'"),
        (lambda: NetworkConfig.preset("imagenet"), "no preset 'imagenet'"),
        (lambda: NeuronConfig.from_dict({"memry": 3}), "did you mean 'memory'"),
        (lambda: NeuronConfig().replace(memry=3), "did you mean 'memory'"),
        (lambda: NeuronConfig().replace(d_tree=3), "unknown setting 'd_tree'; write branches"),
        (lambda: LayerConfig(units=3).replace(tau_max=3), "unknown setting 'tau_max'; write neuron.tau_max"),
        (
            lambda: NetworkConfig.from_dict({**network_config().to_dict(), "N": 3}),
            "unknown setting 'N'; write layers.0.units",
        ),
        (lambda: NeuronConfig(tau_min=10).replace(tau_max=1), "tau_min 10.0 exceeds tau_max 1.0"),
        (lambda: network_config().replace(readout="none"), "5 channels must equal outputs = 3"),
        (lambda: LayerConfig.from_dict({}), "missing setting units"),
        (lambda: NetworkConfig.from_dict({"inputs": 1, "outputs": 1, "layers": [{"units": "x"}]}), r"layers.0.*units"),
        (lambda: NetworkConfig.from_dict([1]), "expected a mapping"),
    ],
)
def test_limits_are_refused_in_words(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_numbers_of_numpy_are_numbers():
    layer = LayerConfig(units=np.int64(8), input_dropout=np.float32(0.25))
    assert type(layer.units) is int
    assert layer == LayerConfig(units=8, input_dropout=0.25)
    with pytest.raises(ConfigError, match="units must be a whole number"):
        LayerConfig(units=np.float32(8.5))


def test_a_changed_copy_is_what_would_have_been_built():
    base = network_config()
    assert base.stack  # is kept by the one that was asked, and not handed on
    wider = base.replace(inputs=7.0, layers=[{"units": 4, "wiring": "modular"}])
    built = NetworkConfig.from_dict({**base.to_dict(), "inputs": 7, "layers": [{"units": 4, "wiring": "modular"}]})
    assert wider == built != base
    assert wider.stack == built.stack
    layer = LayerConfig(units=4).replace(wiring="modular")
    assert layer == LayerConfig(units=4, wiring="modular") == built.layers[0]


def test_timescales_are_log_spaced_with_both_ends():
    tau = NeuronConfig(memory=4, tau_min=0.1, tau_max=100.0).timescales
    assert tau == pytest.approx((0.1, 1.0, 10.0, 100.0))
    assert NeuronConfig(memory=1, tau_min=2.0).timescales == (2.0,)


def test_default_readout_follows_the_hidden_layer():
    config = network_config()
    readout = config.stack[-1]
    assert (readout.units, readout.neuron.memory, readout.neuron.hidden_layers) == (3, 3, 0)
    assert readout.recurrent_connect == 0
    assert readout.neuron.activation == "identity"
    assert readout.neuron.tau_highpass is None
    assert (readout.neuron.branches, readout.neuron.synapses, readout.neuron.input_scale) == (4, 2, 2.0)
    changed = config.with_hidden(branches=7)
    assert changed.stack[-1].neuron.branches == 7
