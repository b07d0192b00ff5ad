"""What single steps depend on, and what whole networks are made of, in combinations that others have tried."""

import gc
import runpy
import sys
from collections import OrderedDict

import pytest
import torch
from conftest import network_config
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from elmnet import ELMLayer, ELMNetwork, LayerConfig, NeuronConfig, streaming
from elmnet.errors import BackendError, ShapeError
from elmnet.replicas import Replicas

X = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))


def network(**changes):
    return ELMNetwork(network_config(**changes), seed=0).eval()


@torch.no_grad()
def same(net, x=X):
    torch.testing.assert_close(net.step(x)[0], net(x[None])[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cast", ["double", "bfloat16"])
def test_layers_of_several_types_stream_as_they_run(cast):
    net = network()
    same(net)
    getattr(net.layers[1], cast)()
    x = X.to(torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(net.step(x)[0], net(x[None])[0][0])


@pytest.mark.parametrize("spoil", ["type", "shape", "connectome"])
def test_weights_of_another_type_or_shape_are_refused(spoil):
    net = network()
    neurons = net.layers[0].neurons
    if spoil == "type":
        neurons.bias = torch.nn.Parameter(neurons.bias.double())
    elif spoil == "shape":
        neurons.readout = torch.nn.Parameter(torch.zeros(1, 1, 1))
    else:
        net.layers[0].connectome = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        for call in (lambda: net.step(X), lambda: net(X[None])):
            with pytest.raises(ShapeError, match="must be"):
                call()


def test_streaming_sees_what_an_optimiser_did_before_it_died():
    net = network()
    same(net)

    def train():
        optimiser = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
        net(X[None])[0].sum().backward()
        optimiser.step()

    train()
    gc.collect()
    same(net)


@pytest.fixture
def hooks(monkeypatch):
    """Those of all optimisers, as in a process that has not streamed yet."""
    found = OrderedDict()
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], "_global_optimizer_post_hooks", found)
    streaming._watch_optimizers.cache_clear()
    yield found
    streaming._watch_optimizers.cache_clear()


def test_streaming_sees_an_optimiser_that_stepped_before_the_first_step(hooks):
    net = network()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    for steps in range(3):
        assert len(hooks) == (steps > 0)
        net(X[None])[0].sum().backward()
        optimiser.step()
        same(net)


def test_only_who_streams_has_optimisers_watched(hooks):
    runpy.run_path(streaming.__file__)
    assert not hooks
    network().step(X)  # with gradients, so another way
    assert not hooks
    same(network())
    assert len(hooks) == 1


@torch.no_grad()
def test_eval_makes_ready_anew_what_changed_unseen():
    net = network()
    same(net)
    for parameter in net.parameters():
        parameter.data.mul_(0.5)  # of which nobody counts the changes
    same(net.eval())


@torch.no_grad()
def test_a_wrapped_layer_runs():
    net = network(layers=2)
    before, state = net(X[None])
    net.layers[1] = torch.compile(net.layers[1], backend="eager")
    after, wrapped = net(X[None])
    assert len(wrapped.layers) == len(state.layers) == 3
    torch.testing.assert_close(after, before)
    same(net)


def doubled(output):
    return output[0] * 2, *output[1:]


@pytest.mark.parametrize("whose", ["network", "layer", "all modules"])
def test_hooks_are_called_in_every_step(whose):
    net = network()
    same(net)
    if whose == "all modules":
        layers = tuple(net.layers)
        handle = register_module_forward_hook(lambda module, _, output: doubled(output) if module in layers else None)
    else:
        handle = (net if whose == "network" else net.layers[0]).register_forward_hook(lambda *given: doubled(given[2]))
    try:
        same(net)
    finally:
        handle.remove()
    same(net)


@pytest.mark.parametrize("whose", ["layer", "neurons"])
def test_a_replaced_forward_is_called_in_every_step(whose):
    """As of libraries that move or wrap modules in place."""
    net = network()
    same(net)
    before, layer = net.step(X)[0], net.layers[0]
    forward = layer.forward if whose == "layer" else layer.neurons.forward
    if whose == "layer":
        layer.forward = lambda *given, **named: doubled(forward(*given, **named))
    else:
        layer.neurons.forward = lambda: forward()._replace(synapse=2 * forward().synapse)
    same(net)
    assert not torch.equal(net.step(X)[0], before)


@torch.no_grad()
def test_a_backend_demanded_later_is_obeyed_or_refused():
    net = network()
    same(net)
    net.layers[0].backend = "reference"
    same(net)
    net.layers[0].backend = "no such"
    for call in (lambda: net.step(X), lambda: net(X[None])):
        with pytest.raises(BackendError, match="no backend 'no such'"):
            call()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
@pytest.mark.parametrize("of", ["input", "state"])
@torch.no_grad()
def test_tangents_are_refused_not_lost(of):
    net = network()
    _, state = net.step(X)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(state.layers[0].memory, torch.ones_like(state.layers[0].memory))
        hidden, *others = state.layers
        state = state._replace(layers=(hidden._replace(memory=dual), *others)) if of == "state" else state
        x = forward_ad.make_dual(X, torch.ones_like(X)) if of == "input" else X
        with pytest.raises(BackendError, match="no forward-mode derivatives"):
            net.step(x, state)
    same(net)


def test_streaming_keeps_to_its_device():
    net = network()
    before = net.step(X)[0].detach()
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            assert torch.allclose(net.step(X)[0], before, atol=1e-6)
    finally:
        torch.set_default_device(None)


def test_streaming_reads_lazy_tensors_as_they_are():
    net = network()
    lazy = torch.complex(torch.zeros(1, 6), torch.ones(1, 6)).conj().imag
    assert lazy.is_neg()
    same(net, lazy)
    same(net, torch._efficientzerotensor((1, 6)))
    with torch.no_grad():
        _, state = net.step(X)
        memory = torch._efficientzerotensor(state.layers[0].memory.shape)
        layers = (state.layers[0]._replace(memory=memory), *state.layers[1:])
        zeroed = state._replace(layers=layers)
        torch.testing.assert_close(net.step(X, zeroed)[0], net(X[None], zeroed)[0][0])
    for call in (net.step, lambda z: net(z[None])):
        with pytest.raises(ShapeError, match="floating point or bool"), torch.no_grad():
            call(X + 1j)


def test_parametrisations_are_called_in_every_step():
    class Gain(torch.nn.Module):
        k = 1.0

        def forward(self, w):
            return w * self.k

    net = network()
    same(net)
    parametrize.register_parametrization(net.layers[0].neurons, "readout", Gain())
    same(net)
    net.layers[0].neurons.parametrizations.readout[0].k = 30.0
    same(net)


def test_steps_are_recorded_by_tracers():
    net = network()
    with torch.no_grad():
        traced = make_fx(lambda x: net.step(x)[0])(X)
        torch.testing.assert_close(traced(2 * X), net.step(2 * X)[0])


def test_what_holds_no_numbers_has_shapes():
    with FakeTensorMode():
        net = ELMNetwork(network_config(token_scale=3.0), seed=0)
        tokens, lengths = torch.zeros(2, 5, dtype=torch.long), torch.tensor([5, 3])
        assert net(tokens, lengths=lengths)[0].shape == (2, 5, 3)
        assert net.step(tokens[:1, 0])[0].shape == (1, 3)
    meta = ELMNetwork(network_config(token_scale=3.0, layer=None), seed=0, backend="reference").to("meta")
    assert meta(torch.zeros(2, 5, dtype=torch.long, device="meta"))[0].shape == (2, 5, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_lengths_of_any_integer_type_count(dtype, backend):
    layer = ELMLayer(LayerConfig(units=2), inputs=2, backend=backend, seed=0)
    x = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
    out, state = layer(x, lengths=torch.tensor([100, 20], dtype=dtype))
    torch.testing.assert_close(state.memory[1], layer(x[1:, :20])[1].memory[0])
    assert not out[0, 100:].any() and out[0, :100].any()


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_lengths_count_in_networks_too(dtype):
    net, x = network(), torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    want = net(x, lengths=[9, 4])[0]
    assert torch.equal(net(x, lengths=torch.tensor([9, 4], dtype=dtype))[0], want)


def test_an_exported_program_without_gradients_says_so():
    net = ELMNetwork(network_config(), seed=0, backend="cpu")
    with torch.no_grad():
        program = torch.export.export(net, (X[None],)).module()
    with pytest.raises(BackendError, match="made without gradients"):
        program(X[None])[0].sum().backward()


@pytest.mark.parametrize("changes", [{"hidden_layers": 2}, {"activation": "spike"}, {}])
def test_compiles_whole_whatever_backend_is_chosen(changes):
    net = network(**changes)
    net = net if changes else net.bfloat16()
    whole = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = X[None].to(net.dtype)
    torch.testing.assert_close(whole(x)[0], net(x)[0])


def test_replicas_compile_whole():
    replicas = Replicas([network(), network()])
    x = torch.stack([X[None], X[None]])
    whole = torch.compile(replicas, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x)[0], replicas(x)[0])


def test_spikes_can_be_transformed():
    neuron = NeuronConfig(memory=2, activation="spike")
    layer = ELMLayer(LayerConfig(units=3, neuron=neuron), inputs=2, backend="reference")

    def told(x):
        out, state = layer(x)
        return out.sum() + state.memory.sum()

    x = torch.randn(3, 1, 4, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(sum(map(told, x)), x)
    each = torch.func.vmap(torch.func.grad(told))(x.detach())
    torch.testing.assert_close(each, expected)


def test_states_are_reckoned_with_in_their_layers_precision():
    layer = ELMLayer(LayerConfig(units=2), inputs=2, backend="reference", seed=0)
    x = torch.randn(1, 5, 2)
    rounded = layer(x)[1].to(torch.bfloat16)
    exact = layer(x, rounded.to(torch.float32))
    torch.testing.assert_close(layer(x, rounded)[0], exact[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[None].to_sparse(), "must be a dense tensor, got a sparse_coo one"),
        (torch.nested.nested_tensor([X, X], layout=torch.jagged), "got a nested one"),
    ],
    ids=["sparse", "nested"],
)
def test_tensors_that_are_not_dense_are_refused(x, words):
    with pytest.raises(ShapeError, match=words):
        network()(x)


def test_states_and_steps_of_another_kind_are_refused():
    net = network()
    with pytest.raises(ShapeError, match="state must be a NetworkState"):
        net(X[None], tuple(net.initial_state(1)))
    with pytest.raises(ShapeError, match="a single number"):
        net.step(torch.tensor(1.0))


def test_padding_of_nan_is_silent_in_the_reference():
    layer = ELMLayer(LayerConfig(units=1), inputs=1, backend="reference", seed=0)
    layer.connectome.zero_()
    out, _ = layer(torch.full((1, 3, 1), float("nan")), lengths=torch.tensor([1]))
    assert out[0, 0].isnan() and not out[0, 1:].isnan().any()
