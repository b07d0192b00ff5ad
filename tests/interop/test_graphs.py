import json

import pytest
import torch
from conftest import network_config
from torch.nn.utils import prune

from elmnet import ELMNetwork, NetworkConfig
from elmnet.errors import ConfigError
from elmnet.interop import graphs

onnx = pytest.importorskip("onnx", reason="needs onnx (extra `interop`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra `interop`)")
pytest.importorskip("onnxscript", reason="needs onnxscript (extra `interop`)")

NETWORKS = {
    "every filter": {},
    "tokens, spikes, no filter, no read-out": {
        **{"token_scale": 3.0, "tau_branch": None, "tau_highpass": None, "hidden_layers": 2},
        **{"activation": "spike", "readout": "none", "units": 3, "mlp_activation": "silu"},
    },
}


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS.keys())
def exported(request, tmp_path_factory):
    """A network, its graph of one step and its graph of a sequence, opened in ONNX Runtime."""
    network = ELMNetwork(network_config(**request.param), seed=0).eval()
    directory = tmp_path_factory.mktemp("onnx")
    for sequence, name in ((False, "step"), (True, "sequence")):
        graphs.export_onnx(network, directory / f"{name}.onnx", sequence=sequence)
    return network, directory


def session(directory, name):
    return onnxruntime.InferenceSession(str(directory / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def inputs(network, batch, steps):
    draw = torch.Generator().manual_seed(1)
    if network.config.token_scale is not None:
        return torch.randint(6, (batch, steps), generator=draw)
    return torch.randn(batch, steps, 6, generator=draw)


def zeros(opened, batch):
    return {i.name: torch.zeros(batch, *i.shape[1:]).numpy() for i in opened.get_inputs()[1:]}


def test_100_streamed_steps_equal_ours(exported):
    network, directory = exported
    opened = session(directory, "step")
    x = inputs(network, 3, 100)
    feed, state, worst = zeros(opened, 3), None, 0.0
    first = opened.get_inputs()[0].name
    for t in range(100):
        out, *new = opened.run(None, {first: x[:, t].numpy(), **feed})
        feed = dict(zip(feed, new, strict=True))
        with torch.no_grad():
            expected, state = network.step(x[:, t], state)
        worst = max(worst, float((torch.from_numpy(out) - expected).abs().max()))
    assert worst < 1e-5
    for name, got in feed.items():
        layer, kind = name.removeprefix("layer").split(".")
        own = getattr(state.layers[int(layer)], kind)
        assert torch.allclose(torch.from_numpy(got), own, atol=1e-5), name


def test_a_sequence_of_200_steps_equals_ours_and_can_go_on(exported):
    network, directory = exported
    opened = session(directory, "sequence")
    x = inputs(network, 4, 200)
    first = opened.get_inputs()[0].name
    with torch.no_grad():
        expected, _ = network(x)
    out, *_ = opened.run(None, {first: x.numpy(), **zeros(opened, 4)})
    assert abs(out - expected.numpy()).max() < 1e-5
    head, *state = opened.run(None, {first: x[:, :7].numpy(), **zeros(opened, 4)})
    tail, *_ = opened.run(None, {first: x[:, 7:].numpy(), **dict(zip(zeros(opened, 4), state, strict=True))})
    assert abs(head - expected[:, :7].numpy()).max() < 1e-5
    assert abs(tail - expected[:, 7:].numpy()).max() < 1e-5


def test_the_model_says_what_it_is(exported):
    network, directory = exported
    for name in ("step", "sequence"):
        opened = session(directory, name)
        about = opened.get_modelmeta().custom_metadata_map
        assert about["elmnet.graph"] == name
        assert NetworkConfig.from_dict(json.loads(about["elmnet.config"])) == network.config
        assert "dt = 1" in about["elmnet.units"]
        for value in opened.get_inputs()[1:]:
            assert value.name in about["elmnet.inputs"]
            assert value.shape[0] == "batch"
        time = ["time"] if name == "sequence" else []
        assert opened.get_outputs()[0].shape == ["batch", *time, 3]
        assert [o.name for o in opened.get_outputs()[1:]] == [i.name + graphs.NEXT for i in opened.get_inputs()[1:]]
        assert graphs.check_onnx(network, directory / f"{name}.onnx") < 1e-5


def test_a_wrong_model_is_noticed(exported):
    network, directory = exported
    other = ELMNetwork(network.config, seed=1).eval()
    assert graphs.check_onnx(other, directory / "step.onnx", steps=40) > 1e-3


def test_torch_export_gives_programs_without_elmnet(tmp_path):
    network = ELMNetwork(network_config(layers=1), seed=0).eval()
    graphs.export_torch(network, tmp_path / "step.pt2")
    graphs.export_torch(network, tmp_path / "sequence.pt2", steps=3)
    x = inputs(network, 3, 3)
    with torch.no_grad():
        expected, _ = network(x)
    about = {"elmnet.json": ""}
    step = torch.export.load(tmp_path / "step.pt2", extra_files=about)
    assert json.loads(about["elmnet.json"])["graph"] == "step"
    assert not any("elmnet" in str(node.target) for node in step.graph.nodes)
    state = graphs.Step(network).example(3)[1:]
    for t in range(3):
        out, *state = step.module()(x[:, t], *state)
        assert torch.allclose(out, expected[:, t], atol=1e-5)
    out, *last = torch.export.load(tmp_path / "sequence.pt2").module()(x, *graphs.Step(network).example(3)[1:])
    assert torch.allclose(out, expected, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(last, state, strict=True))
    with pytest.raises(ConfigError, match="at least one step, got 0"):
        graphs.export_torch(network, tmp_path / "none.pt2", steps=0)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    network = ELMNetwork(network_config(), seed=0)
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install 'elmnet\[interop\]'"):
        graphs.export_onnx(network, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_head_is_refused_and_a_pruned_one_is_folded_in(tmp_path):
    network = ELMNetwork(network_config(), seed=0).eval()
    prune.l1_unstructured(network.affine, "weight", 0.5)
    step = graphs.Step(network)
    x = torch.randn(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(step(x, *step.example()[1:])[0], network.step(x)[0])
    for head in (torch.nn.Linear(3, 10), torch.nn.Identity()):
        network.affine = head
        with pytest.raises(ConfigError, match="the configuration says 3 inputs and 3 outputs"):
            graphs.export_torch(network, tmp_path / "graph.pt2")
