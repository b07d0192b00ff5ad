import numpy as np
import pytest
import torch
from conftest import network_config, neuron
from torch.nn.utils import prune

from elmnet import ELM, ELMLayer, ELMNetwork, LayerConfig, TopographicWiring
from elmnet.errors import BackendError, ShapeError


def layer(units=4, inputs=5, **changes):
    config = LayerConfig(units=units, recurrent_connect=0.5, neuron=neuron(**changes))
    return ELMLayer(config, inputs, seed=3).double()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_activation": "silu", "lambda_as_timescale_ratio": False},
        {"hidden_layers": 0, "activation": "identity", "tau_branch": None},
        {"hidden_layers": 2, "mlp_activation": "relu", "tau_highpass": None},
        {"learn_timescales": True, "outputs": 2, "nonnegative_synapses": True, "synapse_init": 0.5},
    ],
    ids=["default", "silu", "affine", "two-hidden", "learned-tau"],
)
def test_gradcheck_of_parameters_input_and_state(changes):
    module = layer(units=3, inputs=4, **changes)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = [module.get_parameter(name).detach().requires_grad_() for name in names]
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    state = module.initial_state(2).map(lambda s: (0.3 * torch.randn_like(s)).requires_grad_())

    def run(x, *rest):
        values = dict(zip(names, rest[:-4], strict=True))
        out, new, seen = torch.func.functional_call(
            module, values, (x, type(state)(*rest[-4:])), {"monitor": ("mlp", "branch")}
        )
        return (out, *new, *seen.values())

    assert torch.autograd.gradcheck(run, (x, *parameters, *state))


def test_streaming_equals_whole_sequence():
    module = layer()
    x = torch.randn(3, 17, 5, dtype=torch.float64)
    whole, final = module(x)
    state, pieces = None, []
    for t in range(17):
        piece, state = module.step(x[:, t], state)
        pieces.append(piece)
    assert torch.equal(torch.stack(pieces, 1), whole)
    assert all(map(torch.equal, state, final))


def test_padding_changes_nothing():
    module = layer()
    x = torch.randn(3, 12, 5, dtype=torch.float64)
    lengths = torch.tensor([12, 5, 1])
    out, final, seen = module(x, lengths=lengths, monitor=("memory",))
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = 1e6
        alone, alone_final, alone_seen = module(x[row : row + 1, :length], monitor=("memory",))
        assert torch.allclose(out[row, :length], alone[0], rtol=0, atol=1e-14)
        assert (out[row, length:] == 0).all()
        assert torch.allclose(seen["memory"][row, :length], alone_seen["memory"][0], rtol=0, atol=1e-14)
        assert all(torch.allclose(a[row], b[0], rtol=0, atol=1e-14) for a, b in zip(final, alone_final, strict=True))
    again, again_final = module(poisoned, lengths=lengths)
    assert torch.equal(again, out)
    assert all(map(torch.equal, again_final, final))


def test_padding_gets_no_gradient_even_where_it_is_nan():
    module = layer()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    x[1, 2:] = float("nan")
    x.requires_grad_()
    out, state = module(x, lengths=torch.tensor([6, 2]))
    (out.sum() + state.memory.sum()).backward()
    assert (x.grad[1, 2:] == 0).all()
    assert (x.grad[1, :2] != 0).any()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)


def test_permuting_units_permutes_the_output():
    module, other = layer(units=6), layer(units=6)
    order = torch.randperm(6)
    inverse = torch.argsort(order)
    with torch.no_grad():
        for mine, theirs in zip(module.neurons.parameters(), other.neurons.parameters(), strict=True):
            theirs.copy_(mine[order])
        sources = module.connectome[order]
        own = sources >= 5
        other.connectome.copy_(torch.where(own, inverse[(sources - 5).clamp(min=0)] + 5, sources))
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    assert torch.allclose(other(x)[0], module(x)[0][..., order], rtol=0, atol=1e-13)


def test_unconnected_synapses_read_nothing_and_learn_nothing():
    module = layer()
    module.connectome[:, 0] = -1
    out, _ = module(torch.randn(2, 5, 5, dtype=torch.float64))
    out.sum().backward()
    assert (module.neurons.w_s.grad[:, 0, 0] == 0).all()
    assert (module.neurons.w_s.grad[:, 0, 1] != 0).any()


def test_dropout_masks_are_variational_and_only_in_training():
    config = LayerConfig(
        units=4, input_dropout=0.5, recurrent_dropout=0.25, neuron=neuron(memory_dropout=0.5, synapse_dropout=0.2)
    )
    module = ELMLayer(config, 50)
    masks = module.draw_masks(30)
    assert [tuple(mask.shape) for mask in masks] == [(30, 50), (30, 4), (30, 4, 4, 2), (30, 4, 3)]
    for mask, p, power in zip(masks, (0.5, 0.25, 0.2, 0.5), (1, 1, 1, 0.5), strict=True):
        kept = mask != 0
        assert mask[kept].unique().item() == pytest.approx((1 - p) ** -power)
        assert kept.double().mean().item() == pytest.approx(1 - p, abs=4 * (0.25 / mask.numel()) ** 0.5)
    exact = ELMLayer(LayerConfig(units=4, input_dropout=0.1, neuron=neuron()), 50).double().draw_masks(30).input
    assert exact.max().item() == 1 / 0.9
    x = torch.ones(2, 8, 50)
    torch.manual_seed(1)
    first = module(x)[0]
    torch.manual_seed(1)
    assert torch.equal(module(x)[0], first)
    module.eval()
    assert module.draw_masks(3) == (None, None, None, None)
    assert torch.equal(module(x)[0], module(x)[0])


def test_monitor_returns_what_is_asked_and_changes_nothing():
    module = layer(outputs=2)
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    out, _ = module(x)
    names = ("branch", "mlp", "memory", "readout", "activity")
    monitored, state, seen = module(x, monitor=names)
    assert torch.equal(monitored, out)
    shapes = [tuple(seen[name].shape) for name in names]
    assert shapes == [(2, 7, 4, 4), (2, 7, 4, 3), (2, 7, 4, 3), (2, 7, 4, 2), (2, 7, 8)]
    assert torch.equal(seen["memory"][:, -1], state.memory)
    assert torch.equal(seen["activity"], out)


def test_state_helpers():
    module = layer()
    _, state = module(torch.randn(3, 4, 5, dtype=torch.float64))
    assert state.memory.requires_grad
    assert not state.detach().memory.requires_grad
    reset = state.reset(torch.tensor([True, False, True]))
    assert all(
        (tensor[0] == 0).all() and torch.equal(tensor[1], old[1]) for tensor, old in zip(reset, state, strict=True)
    )
    assert state.to(torch.float32).memory.dtype == torch.float32
    with pytest.raises(AttributeError):
        state.memory = None


def test_bfloat16_weights_keep_a_float32_memory_that_decays():
    module = layer(tau_max=2000.0).to(torch.bfloat16)
    out, state = module(torch.randn(2, 3, 5))
    assert state.memory.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert out.dtype == torch.bfloat16  # as of nn.LSTM, so that the next module takes it
    with torch.no_grad():  # nothing but decay: no weights, no input
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.zero_()
    start = state._replace(memory=torch.ones_like(state.memory))
    _, after = module(torch.zeros(2, 400, 5), start)
    want = np.exp(-400 / np.array(module.config.neuron.timescales))
    assert after.memory.detach().numpy() == pytest.approx(np.broadcast_to(want, after.memory.shape), rel=1e-3, abs=1e-6)


def test_default_dtype_and_device_of_torch_are_heeded():
    want = layer(tau_max=2000.0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        neurons = ELMLayer(want.config, want.inputs).neurons
    finally:
        torch.set_default_dtype(torch.float32)
    assert (neurons.w_s.dtype, neurons.tau_logit.dtype) == (torch.bfloat16, torch.float32)
    assert (neurons().decay < 1).all()
    with torch.device("meta"):  # stands for a GPU: generators are on the CPU
        away = ELMLayer(want.config, want.inputs, seed=0)
    assert {tensor.device.type for tensor in away.state_dict().values()} == {"meta"}


def test_pruned_weights_can_be_trained():
    module = layer()
    prune.random_unstructured(module.neurons, "w_s", 0.5)
    prune.l1_unstructured(module.neurons.mlp[0], "weight", 0.5)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.rand(2, 4, 5, dtype=torch.double))[0].sum().backward()
        optimizer.step()
    module(torch.rand(2, 4, 5, dtype=torch.double))
    for weight in (module.neurons.w_s, module.neurons.mlp[0].weight):
        assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_bool_input_equals_float_input():
    module = layer()
    x = torch.rand(2, 5, 5) < 0.4
    assert torch.equal(module(x)[0], module(x.double())[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m(x[..., :4]), r"input must be \(B, T, 5\), got \(2, 6, 4\)"),
        (lambda m, x: m(x[:, 0]), r"got \(2, 5\)"),
        (lambda m, x: m(x[:, :0]), "at least one sequence and one step"),
        (lambda m, x: m(x.long()), "floating point or bool, got torch.int64"),
        (lambda m, x: m(x, m.initial_state(3)), r"state.memory must be \(2, 4, 3\), got \(3, 4, 3\)"),
        (lambda m, x: m(x, tuple(m.initial_state(2))), "state must be a LayerState, as a call returns it, got tuple"),
        (lambda m, x: m(x, m.initial_state(2)._replace(memory=None)), "state.memory must be a tensor, got NoneType"),
        (lambda m, x: m(x, masks=(None,) * 4), "masks must be a Masks, as `draw_masks` returns it, got tuple"),
        (lambda m, x: m(x, lengths=torch.tensor([6])), "lengths must be 2 integers"),
        (lambda m, x: m(x, lengths=torch.tensor([0, 6])), r"lengths must lie in 1..6, got \[0, 6\]"),
        (lambda m, x: m(x, lengths=torch.tensor([1.0, 2.0])), "lengths must be 2 integers"),
        (lambda m, x: m(x, monitor=("voltage",)), "no signal 'voltage'; known: branch"),
    ],
)
def test_wrong_arguments_are_refused_in_words(call, words):
    with pytest.raises(ShapeError, match=words):
        call(layer(), torch.randn(2, 6, 5, dtype=torch.float64))


def test_unknown_backend_is_refused():
    module = ELMLayer(LayerConfig(units=2), 3, backend="fpga")
    with pytest.raises(BackendError, match="no backend 'fpga'; this installation has: cuda, cpu, reference"):
        module(torch.zeros(1, 1, 3))


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: ELMLayer(LayerConfig(units=4, neuron=neuron()), 5, seed=seed),
        lambda seed: ELM(neuron(), 8, wiring="random", seed=seed),
        lambda seed: ELMNetwork(network_config(), seed=seed),
    ],
    ids=["layer", "neuron", "network"],
)
def test_a_seed_is_a_number_or_a_generator(build):
    def drawn(seed):
        return list(build(seed).state_dict().values())

    want, other = drawn(3), drawn(4)
    generator = torch.Generator().manual_seed(3)
    for seed in (3, generator):
        assert all(map(torch.equal, drawn(seed), want))
    assert not all(map(torch.equal, want, other))
    assert not all(map(torch.equal, drawn(generator), want))  # it went on


def test_a_neuron_takes_a_wiring_with_settings():
    elm = ELM(neuron(), 8, wiring=TopographicWiring(fields=1), seed=0)
    assert elm.layer.config.wiring_name == "topographic"
    assert elm(torch.rand(2, 5, 8))[0].shape == (2, 5, 1)


def test_single_neuron():
    elm = ELM(neuron(outputs=2, branches=3), inputs=8, seed=0)
    out, state = elm(torch.rand(2, 5, 8))
    assert out.shape == (2, 5, 2)
    piece, _ = elm.step(torch.rand(2, 8), state)
    assert piece.shape == (2, 2)
