import json

import pytest
import torch
from conftest import as_data_parallel_runs, network_config
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from elmnet import ELMNetwork, NetworkConfig, network
from elmnet.errors import BackendError, CheckpointError, ShapeError
from elmnet.replicas import Replicas
from elmnet.verify import plain_network


def build(seed=0, **changes):
    return ELMNetwork(network_config(**changes), seed=seed).double()


@given(
    units=st.integers(1, 6),
    memory=st.integers(1, 4),
    branches=st.integers(1, 4),
    synapses=st.integers(1, 3),
    hidden_layers=st.integers(0, 2),
    layers=st.integers(1, 2),
    tau_highpass=st.none() | st.floats(0.5, 50),
    tau_branch=st.none() | st.floats(0.5, 50),
    dt=st.floats(0.1, 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_equals_a_second_implementation(seed, **changes):
    network = build(seed, **changes)
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    got = network(x)[0].detach().numpy()
    assert abs(got - plain_network(network, x.numpy())).max() < 1e-11


def test_same_seed_same_network():
    a, b, c = (build(seed) for seed in (1, 1, 2))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.layers[0].connectome, c.layers[0].connectome)
    torch.manual_seed(5)
    d = ELMNetwork(network_config())
    torch.manual_seed(5)
    assert torch.equal(ELMNetwork(network_config()).affine.weight, d.affine.weight)


def test_tokens_are_scaled_one_hot():
    network = build(token_scale=3.0)
    tokens = torch.randint(0, 6, (2, 7))
    dense = 3.0 * torch.nn.functional.one_hot(tokens, 6).double()
    assert torch.equal(network(tokens)[0], network(dense)[0])
    assert torch.equal(network(tokens.to(torch.uint8))[0], network(tokens)[0])


def test_streaming_with_tokens_equals_whole_sequence():
    network = build(token_scale=3.0, layers=2)
    tokens = torch.randint(0, 6, (2, 9))
    whole, final = network(tokens)
    state, pieces = None, []
    for t in range(9):
        piece, state = network.step(tokens[:, t], state)
        pieces.append(piece)
    assert torch.allclose(torch.stack(pieces, 1), whole, rtol=0, atol=1e-14)
    for mine, theirs in zip(state.layers, final.layers, strict=True):
        assert all(map(torch.equal, mine, theirs))


def step_by_step(network, x):
    state = None
    with torch.no_grad():
        for x_t in x.unbind(1):
            out, state = network.step(x_t, state)
        torch.testing.assert_close(out, network(x)[0][:, -1])


@pytest.mark.parametrize("fused", [False, True])
def test_streaming_sees_what_an_optimiser_did(fused):
    network, x = ELMNetwork(network_config(), seed=0), torch.randn(1, 4, 6)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=fused)
    step_by_step(network, x)
    for _ in range(2):
        network(x)[0].square().mean().backward()
        optimizer.step()
        step_by_step(network, x)


def test_streaming_sees_an_optimiser_of_other_parameters_too():
    network, x = ELMNetwork(network_config(), seed=0), torch.randn(1, 4, 6)
    others = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([others, *network.parameters()], lr=0.1, fused=True)
    step_by_step(network, x)
    (network(x)[0].square().mean() + others.sum()).backward()
    optimizer.step()
    step_by_step(network, x)


def test_streaming_sees_replaced_parameters():
    """Also where the new one lies where an old one lay."""
    network, x = ELMNetwork(network_config(units=64), seed=0), torch.randn(1, 1, 6)
    for _ in range(30):
        step_by_step(network, x)
        for _ in range(2):
            weights = network.layers[0].neurons.w_s
            network.layers[0].neurons.w_s = nn.Parameter(torch.randn_like(weights))


def test_what_a_step_returns_is_the_callers():
    """Without a read-out the activity is both the output and part of the state."""
    network, x = ELMNetwork(network_config(readout="none", outputs=5), seed=0), torch.randn(5, 1, 6)
    ends = []
    for spoil in (False, True):
        state = None
        with torch.no_grad():
            for x_t in x:
                out, state = network.step(x_t, state)
                if spoil:
                    out.zero_()
        ends.append(state.layers[-1])
    assert all(map(torch.equal, *ends))


def test_looking_for_the_fast_path_draws_nothing():
    network = ELMNetwork(network_config(layer={"input_dropout": 0.5}), seed=0)
    outs = []
    for _ in range(3):
        torch.manual_seed(0)
        with torch.no_grad():
            outs.append(network.step(torch.ones(1, 6))[0])
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[1], outs[2])


def test_streaming_sees_other_modules_and_calls_hooks():
    network, other, x = (*(ELMNetwork(network_config(), seed=seed) for seed in (0, 1)), torch.randn(1, 4, 6))
    step_by_step(network, x)
    network.layers[0] = other.layers[0]
    step_by_step(network, x)
    network.affine = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    step_by_step(network, x)
    calls = []
    handle = network.layers[0].register_forward_hook(lambda *_: calls.append(1))
    step_by_step(network, x)
    assert len(calls) == 5
    handle.remove()
    step_by_step(network, x)
    assert len(calls) == 5


def test_going_on_from_a_state_equals_one_sequence():
    network = build()
    x = torch.randn(2, 10, 6, dtype=torch.float64)
    whole, _ = network(x)
    first, state = network(x[:, :4])
    second, _ = network(x[:, 4:], state)
    assert torch.equal(torch.cat([first, second], 1), whole)


def test_padding_changes_nothing():
    network = build(layers=2)
    x = torch.randn(2, 8, 6, dtype=torch.float64)
    out, state = network(x, lengths=torch.tensor([8, 3]))
    alone, alone_state = network(x[1:, :3])
    assert torch.allclose(out[1, :3], alone[0], rtol=0, atol=1e-14)
    assert (out[1, 3:] == 0).all()
    for padded, single in zip(state.layers, alone_state.layers, strict=True):
        assert all(torch.allclose(a[1], b[0], rtol=0, atol=1e-14) for a, b in zip(padded, single, strict=True))


def test_detached_state_cuts_the_gradient():
    network = build()
    x = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    _, state = network(x)
    network(x.detach(), state.detach())[0].sum().backward()
    assert x.grad is None
    network(x.detach(), state)[0].sum().backward()
    assert (x.grad != 0).any()


def test_monitor_gives_one_dictionary_per_layer():
    _, _, seen = build()(torch.randn(1, 4, 6, dtype=torch.float64), monitor=("activity",))
    assert [tuple(s["activity"].shape) for s in seen] == [(1, 4, 5), (1, 4, 3)]


def test_monitored_names_may_come_from_a_generator():
    net, x = build(), torch.randn(1, 4, 6, dtype=torch.float64)

    def names():
        yield from ("memory", "mlp")

    for_layer, for_network = net.layers[0](x, monitor=names())[2], net(x, monitor=names())[2]
    (for_replica,) = Replicas([net])(x[None], monitor=names())[2]
    assert all(tuple(seen) == ("memory", "mlp") for seen in (for_layer, *for_network, *for_replica))


@pytest.mark.parametrize("readout", ["elm", "linear"])
def test_saved_network_comes_back_exactly(tmp_path, readout):
    network = build(readout=readout, learn_timescales=True).eval()
    network.save_pretrained(tmp_path / "net")
    again = ELMNetwork.from_pretrained(tmp_path / "net")
    assert again.config == network.config
    assert not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.equal(again(x)[0], network(x)[0])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_save_that_is_assigned_runs(tmp_path, backend):
    """The file holds its connectome in two bytes a synapse."""
    saved, net = build().float(), ELMNetwork(network_config(), seed=1, backend=backend)
    saved.save_pretrained(tmp_path)
    net.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    assert net.layers[0].connectome.dtype == torch.int16
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(net(x)[0], saved(x)[0])


def damaged(directory, how):
    weights = directory / "model.safetensors"
    data = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "missing":
        weights.unlink()
    elif how == "pickle":
        torch.save({"a": torch.zeros(1)}, weights)
    elif how == "config":
        (directory / "config.json").write_text("{")
    elif how == "other":
        settings_ = json.loads((directory / "config.json").read_text())
        settings_["layers"][0]["units"] += 1
        (directory / "config.json").write_text(json.dumps(settings_))
    elif how == "huge":
        settings_ = json.loads((directory / "config.json").read_text())
        settings_["layers"][0]["units"] = 10**12
        (directory / "config.json").write_text(json.dumps(settings_))
    elif how == "header beyond the file":
        weights.write_bytes((2**63 - 1).to_bytes(8, "little") + data[8:])
    elif how == "header of 200 MB":
        weights.write_bytes((2 * 10**8).to_bytes(8, "little") + data[8:])
    elif how in ("lying offsets", "overlapping tensors"):
        count = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + count])
        first, second = [entry for name, entry in header.items() if name != "__metadata__"][:2]
        if how == "lying offsets":
            first["data_offsets"][1] += 2**40
        else:
            second["data_offsets"] = first["data_offsets"]
        text = json.dumps(header).encode()
        weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + count :])
    elif how in ("integers", "complex"):
        tensors = load_file(weights)
        name = "layers.0.neurons.w_s"
        tensors[name] = tensors[name].to(torch.int64 if how == "integers" else torch.complex64)
        save_file(tensors, weights)
    elif how == "another tensor":
        tensors = load_file(weights)
        save_file({**tensors, "layers.7.extra": torch.zeros(2)}, weights)
    elif how == "connectome":
        network = ELMNetwork.from_pretrained(directory)
        network.layers[0].connectome[0, 0] = 10**6
        network.save_pretrained(directory)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "cannot be read as safetensors"),
        ("missing", "cannot be read as safetensors"),
        ("pickle", "cannot be read as safetensors"),
        ("config", "cannot be read as a network configuration"),
        ("other", r"connectome is \(5, 8\), the configuration says \(6, 8\)"),
        ("huge", r"config.json describes .* parameters, the file has .* bytes"),
        ("header beyond the file", "cannot be read as safetensors"),
        ("header of 200 MB", "cannot be read as safetensors"),
        ("lying offsets", "cannot be read as safetensors"),
        ("overlapping tensors", "cannot be read as safetensors"),
        ("integers", r"layers.0.neurons.w_s is torch.int64, not floating point"),
        ("complex", r"layers.0.neurons.w_s is torch.complex64, not floating point"),
        ("another tensor", r"unknown layers\.7\.extra"),
        ("connectome", r"layer 0: connectome must name sources in -1..10"),
    ],
)
def test_damaged_saves_are_refused(tmp_path, how, words):
    build().save_pretrained(tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(CheckpointError, match=words):
        ELMNetwork.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("scale", "x", "words"),
    [
        (3.0, torch.tensor([[0, 6]]), r"tokens must lie in 0..5, got 0..6"),
        (3.0, torch.tensor([[-1, 2]]), r"got -1..2"),
        (3.0, torch.tensor([1, 2]), r"tokens must be \(B, T\)"),
        (None, torch.tensor([[1, 2]]), r"takes \(B, T, 6\) floats or bools, got torch.int64"),
        (None, torch.zeros(1, 2, 7), r"input must be \(B, T, 6\)"),
    ],
)
def test_wrong_input_is_refused_in_words(scale, x, words):
    with pytest.raises(ShapeError, match=words):
        build(token_scale=scale)(x)


def test_state_of_another_network_is_refused():
    with pytest.raises(ShapeError, match="state must be one per layer, 2, got 3"):
        build()(torch.zeros(1, 1, 6), build(layers=2).initial_state(1))


def test_presets_build_and_run():
    for name, x in (
        ("enwik8", torch.zeros(1, 2, dtype=torch.int64)),
        ("shd-adding", torch.zeros(1, 2, 700, dtype=torch.bool)),
        ("neuronio", torch.zeros(1, 2, 1278)),
    ):
        config = NetworkConfig.preset(name)
        out, _ = ELMNetwork(config, seed=0)(x)
        assert out.shape == (1, 2, config.outputs)


@pytest.mark.parametrize("batch", [1, 2])
def test_what_lies_on_another_device_is_refused(batch):
    net, x = ELMNetwork(network_config(), seed=0).eval(), torch.randn(batch, 6)
    with torch.no_grad():
        _, state = net.step(x)
        for call in (
            lambda: net.step(x.to("meta")),
            lambda: net.step(x, state.to("meta")),
            lambda: net(x.unsqueeze(1).to("meta")),
            lambda: net(x.unsqueeze(1), state.to("meta")),
        ):
            with pytest.raises(ShapeError, match="the weights are on cpu"):
                call()


def test_no_tensor_is_refused_with_advice():
    net, tokens = ELMNetwork(network_config(), seed=0), ELMNetwork(network_config(token_scale=2.0), seed=0)
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 6), torch.randn(2, 6)])
    for call in (net, tokens, net.step):
        with pytest.raises(
            ShapeError, match="PackedSequence: pad sequences of unequal length and give their `lengths`"
        ):
            call(packed)
        with pytest.raises(ShapeError, match=r"got ndarray: torch\.as_tensor"):
            call(torch.randn(2, 3, 6).numpy())


def test_a_step_is_traced_whole(tmp_path):
    """Without gradients, where a single sequence would take the fast path; the program can be saved."""
    net, x = ELMNetwork(network_config(), seed=0).eval(), torch.randn(1, 6)

    class Server(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, state):
            return self.net.step(x, state)

    with torch.no_grad():
        want, state = net.step(x)
        torch.export.save(torch.export.export(Server(), (x, state)), tmp_path / "step.pt2")
        loaded = torch.export.load(tmp_path / "step.pt2").module()
        out, new = loaded(x, state)
        again, last = net.step(x, state)
        torch.testing.assert_close((out, *new.layers[0]), (again, *last.layers[0]))
        with pytest.raises(BackendError, match=r"torch\.func"):
            torch.func.vmap(lambda one: net.step(one)[0])(torch.randn(3, 1, 6))
        torch.testing.assert_close(net.step(x)[0], want)
    torch.save(state, tmp_path / "state.pt")
    torch.testing.assert_close(torch.load(tmp_path / "state.pt", weights_only=True), state)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_exported_network_takes_any_batch_and_length(backend):
    net, free = ELMNetwork(network_config(), seed=0, backend=backend).eval(), {0: torch.export.Dim("batch", max=64)}
    if backend == "auto":  # the other is unrolled
        free[1] = torch.export.Dim("steps", max=64)
    with torch.no_grad():
        exported = torch.export.export(net, (torch.randn(3, 4, 6),), dynamic_shapes={"x": free})
        for many in (2, 9, 40):
            x = torch.randn(many, many if backend == "auto" else 4, 6)
            torch.testing.assert_close(exported.module()(x)[0], net(x)[0])


def test_transforms_of_the_reference_take_tokens_and_lengths():
    net, dense = (ELMNetwork(network_config(token_scale=k), seed=0, backend="reference") for k in (2.0, None))
    tokens, lengths = torch.randint(6, (3, 5)), torch.tensor([5, 2, 3])
    x = torch.randn(3, 5, 6)
    torch.testing.assert_close(torch.func.vmap(lambda one: net(one.unsqueeze(0))[0][0])(tokens), net(tokens)[0])
    one = torch.func.vmap(lambda x, steps: dense(x.unsqueeze(0), lengths=steps.unsqueeze(0))[0][0])
    torch.testing.assert_close(one(x, lengths), dense(x, lengths=lengths)[0])


def test_unfreezing_everything_leaves_fixed_timescales():
    net = ELMNetwork(network_config(), seed=0)
    before = [layer.neurons.timescales().clone() for layer in net.layers]
    net.requires_grad_(False).requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    net(torch.randn(2, 3, 6))[0].square().sum().backward()
    optimizer.step()
    assert all(torch.equal(layer.neurons.timescales(), tau) for layer, tau in zip(net.layers, before, strict=True))


@pytest.mark.parametrize("token_scale", [None, 2.0])
def test_runs_in_data_parallel(token_scale):
    net = ELMNetwork(network_config(token_scale=token_scale), seed=0)
    x = torch.randn(2, 4, 6) if token_scale is None else torch.randint(6, (2, 4))
    copied = as_data_parallel_runs(net)
    assert not list(copied.parameters())
    torch.testing.assert_close(copied(x)[0], net(x)[0])
    copied(x)[0].sum().backward()
    assert net.layers[0].neurons.w_s.grad.any()


def test_an_optimiser_of_others_leaves_the_fast_path_alone(monkeypatch):
    net, x = ELMNetwork(network_config(), seed=0).eval(), torch.randn(1, 6)
    made = []
    select = network.ops.select
    monkeypatch.setattr(network.ops, "select", lambda *given: made.append(given) or select(*given))
    other = nn.Linear(1, 1)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (other, net)]
    prepared = []
    for optimizer in (None, None, optimizers[0], optimizers[1], optimizers[0]):
        if optimizer is not None:
            optimizer.step()
        made.clear()
        with torch.no_grad():
            net.step(x)
        prepared.append(bool(made))
    assert prepared == [True, False, False, True, False]


@pytest.mark.parametrize("how", ["head", "pruned", "normed"])
def test_what_could_not_be_read_is_not_saved(tmp_path, how):
    net = ELMNetwork(network_config(), seed=0)
    if how == "head":
        net.affine = nn.Linear(net.affine.in_features, 10)
    elif how == "pruned":
        prune.l1_unstructured(net.layers[0].neurons, "w_s", 0.5)
    else:
        nn.utils.parametrizations.weight_norm(net.affine)
    with pytest.raises(CheckpointError, match=r"not saved.*affine\.weight|not saved.*w_s"):
        net.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_tensors_of_another_state_are_refused():
    net = ELMNetwork(network_config(), seed=0)
    tensors = net.initial_state(2).tensors()
    assert net.state_of(tensors).layers[0].memory.shape == tensors["0.memory"].shape
    for wrong in ({"memory": tensors["0.memory"]}, {**tensors, "7.memory": tensors["0.memory"]}, {}):
        with pytest.raises(CheckpointError, match=r"a state of this network holds 0\.memory"):
            net.state_of(wrong)
