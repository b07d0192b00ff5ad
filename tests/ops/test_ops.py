import pytest
import torch
from conftest import neuron

from elmnet import ops
from elmnet.errors import BackendError

DYNAMICS = ops.Dynamics.of(neuron())
CPU = torch.device("cpu")


@pytest.fixture
def picky(monkeypatch):
    """A registered backend that only takes float32."""
    reference = ops.BACKENDS["reference"]
    monkeypatch.setattr(ops, "BACKENDS", {"reference": reference})
    ops._passed_over.cache_clear()

    def refuses(device, dtype, dynamics):
        return None if dtype == torch.float32 else "float32 only"

    backend = ops.Backend("picky", reference.run, refuses, "", ("cpu",))
    ops.register(backend)
    return backend


def test_auto_takes_the_first_that_does_not_refuse(picky):
    assert list(ops.BACKENDS) == ["picky", "reference"]
    assert ops.select("auto", CPU, torch.float32, DYNAMICS) is picky
    assert ops.select("auto", CPU, torch.float64, DYNAMICS).name == "reference"


def test_auto_says_once_what_it_passed_over(picky, caplog):
    for _ in range(2):
        ops.select("auto", CPU, torch.float64, DYNAMICS)
    ops.select("auto", torch.device("meta"), torch.float64, DYNAMICS)  # not made for it: nothing to say
    assert caplog.messages == ["elmnet: backend 'picky' is not used: float32 only"]


def test_a_named_backend_of_another_device_is_refused(picky):
    with pytest.raises(BackendError, match="the weights are on meta, it runs on cpu"):
        ops.select("picky", torch.device("meta"), torch.float32, DYNAMICS)


def test_a_named_backend_is_obeyed_or_refused(picky):
    assert ops.select("reference", CPU, torch.float32, DYNAMICS).name == "reference"
    with pytest.raises(BackendError, match="backend 'picky' cannot run this: float32 only; use backend='auto'"):
        ops.select("picky", CPU, torch.float64, DYNAMICS)


def test_dynamics_hold_the_decays():
    assert pytest.approx(2.718281828459045 ** (-1 / 3)) == DYNAMICS.branch_decay
    assert pytest.approx(2.718281828459045 ** (-1 / 4)) == DYNAMICS.highpass_decay
    assert ops.Dynamics.of(neuron(tau_branch=None)).branch_decay is None


@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
def test_dynamics_count_the_hidden_layers_of_the_mlp(hidden_layers):
    assert ops.Dynamics.of(neuron(hidden_layers=hidden_layers)).mlp_layers == hidden_layers
