"""Networks as C headers: compiled, and run beside the network."""

import shutil
import subprocess

import pytest
import torch
from conftest import network_config, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elmnet import ELMNetwork
from elmnet.errors import CheckpointError
from elmnet.interop import c
from elmnet.interop.c import COMPILERS, check_c, export_c, name_of
from elmnet.tasks.standard import Standard

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C compiler")


@given(
    units=st.integers(1, 5),
    memory=st.integers(1, 4),
    branches=st.integers(1, 4),
    synapses=st.integers(1, 3),
    hidden_layers=st.integers(0, 2),
    layers=st.integers(1, 2),
    outputs=st.integers(1, 3),
    tau_highpass=st.none() | st.floats(0.5, 50),
    tau_branch=st.none() | st.floats(0.5, 50),
    token_scale=st.none() | st.just(3.0),
    readout=st.sampled_from(["elm", "linear"]),
    mlp_activation=st.sampled_from(["relu2", "relu", "silu"]),
    activation=st.sampled_from(["identity", "relu"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_compiled_header_says_what_the_network_says(tmp_path, seed, **changes):
    network = ELMNetwork(network_config(**changes), seed=seed).eval()
    export_c(network, tmp_path / "net.h")
    assert check_c(network, tmp_path / "net.h", seed=seed) < 1e-5


def test_spikes_and_unconnected_synapses(tmp_path):
    network = ELMNetwork(network_config(activation="spike", readout="linear"), seed=0).eval()
    network.layers[0].connectome[:, ::2] = -1
    export_c(network, tmp_path / "1 net-2.h")
    assert name_of(tmp_path / "1 net-2.h") == "elm_1_net_2"
    assert check_c(network, tmp_path / "1 net-2.h") < 1e-5


def test_nan_stays_nan(tmp_path, monkeypatch):
    """A broken sensor is heard to be broken, as by the network itself."""
    monkeypatch.setattr(c, "difference", lambda got, *_: got)
    monkeypatch.setattr(c, "trial", lambda network, *_: (x, network(x)[0].detach()))
    x = torch.ones(1, 4, 6)
    x[:, 2] = torch.nan
    for activation in ("relu2", "relu", "silu"):
        network = ELMNetwork(network_config(mlp_activation=activation), seed=0).eval()
        export_c(network, tmp_path / "net.h")
        got = check_c(network, tmp_path / "net.h")
        assert torch.equal(got.isnan(), network(x)[0].isnan()), activation
        assert got.isnan().any() and not got[:, :2].isnan().any()


def test_tables_of_any_size_compile_without_a_warning(tmp_path):
    """Four times as many places as inputs: GCC takes the bytes of the inputs for a number of places."""
    network = ELMNetwork(network_config(inputs=2, units=5, token_scale=1.0, readout="linear"), seed=0).eval()
    export_c(network, tmp_path / "net.h")
    assert check_c(network, tmp_path / "net.h") < 1e-5


def test_a_header_speaks_the_data_s_units(tmp_path):
    network = ELMNetwork(network_config(), seed=0).eval()
    mean, scale = torch.arange(6.0) * 100, torch.linspace(1, 60, 6)
    standard = Standard(mean, scale, torch.tensor([5.0, -3.0, 0.0]), torch.tensor([2.0, 10.0, 1.0]), {})
    export_c(network, tmp_path / "net.h", standard=standard)
    assert check_c(network, tmp_path / "net.h", standard=standard) < 1e-5
    assert check_c(network, tmp_path / "net.h") > 1e-2  # it would see if they were left out


def test_data_too_far_from_zero_for_float32_are_refused(tmp_path):
    network = ELMNetwork(network_config(inputs=2, outputs=1), seed=0).eval()
    facts = {"mean": [0.0, 1.7e9], "scale": [1.0, 20.0], "target_mean": [], "target_scale": []}
    with pytest.raises(CheckpointError, match=r"channel 1 has mean 1\.7e\+09 and standard deviation 20: gra"):
        export_c(network, tmp_path / "net.h", standard=Standard.of(facts))
    facts = {"mean": [9e3], "scale": [1.0], "target_mean": [-3e5], "target_scale": [20.0], "values": ["watts"]}
    with pytest.raises(CheckpointError, match="value watts has mean -300000"):
        Standard.of(facts).in_float32()
    assert Standard.of({**facts, "target_mean": [-1e5]}).in_float32().mean.dtype == torch.float32


def test_a_wrong_header_is_seen(tmp_path):
    network, other = (ELMNetwork(network_config(), seed=seed).eval() for seed in (0, 1))
    export_c(other, tmp_path / "net.h")
    assert check_c(network, tmp_path / "net.h") > 1e-3
    (tmp_path / "net.h").write_text("int net_step(")
    with pytest.raises(CheckpointError, match="does not compile here"):
        check_c(network, tmp_path / "net.h")


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_it_is_c_plus_plus_too(tmp_path):
    export_c(ELMNetwork(network_config(token_scale=2.0), seed=0), tmp_path / "net.h")
    (tmp_path / "main.cpp").write_text(
        '#include "net.h"\nint main() { net_state s = {}; float out[net_outputs]; net_step(&s, 99, out); return 0; }\n'
    )
    command = ["g++", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "main.cpp", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "main"], check=True)  # a token that there is not is silence


def test_on_the_command_line(tmp_path, capsys):
    ELMNetwork(network_config(), seed=0).save_pretrained(tmp_path / "saved")
    command = ["export", tmp_path / "saved", "--out", tmp_path / "net.h", "--format", "c"]
    code, out, err = run(capsys, *command)
    assert code == 0 and "when compiled" in out, err
    assert "config: {" in (tmp_path / "net.h").read_text()
    code, _, err = run(capsys, *command, "--sequence")
    assert code == 2 and "a C header holds one step" in err
