"""The other networks: contract, exact budgets, streaming, padding, gradients."""

import pytest
import torch
from conftest import as_data_parallel_runs

from elmnet import NetworkConfig, models
from elmnet.baselines.config import KINDS, BaselineConfig, spend
from elmnet.baselines.network import Baseline
from elmnet.baselines.scan import scan
from elmnet.errors import BackendError, BudgetError, CheckpointError, ConfigError, ShapeError

every_kind = pytest.mark.parametrize("kind", KINDS)


def config(kind, **changes):
    settings = {"inputs": 5, "outputs": 3, "width": 9, "layers": 2}
    if kind == "transformer":
        settings |= {"heads": 2, "context": 6}
    return BaselineConfig(kind=kind, **{**settings, **changes})


def network(kind, **changes):
    return Baseline(config(kind, **changes), seed=1).double().eval()


def test_a_scan_is_the_recurrence_step_by_step():
    decay, drive, start = torch.rand(2, 13, 4).double(), torch.randn(2, 13, 4).double(), torch.randn(2, 4).double()
    h, expected = start, []
    for t in range(13):
        h = decay[:, t] * h + drive[:, t]
        expected.append(h)
    torch.testing.assert_close(scan(decay, drive, start), torch.stack(expected, 1))


@every_kind
def test_streaming_and_pieces_equal_the_whole(kind):
    net, x = network(kind), torch.randn(2, 17, 5).double()
    whole, end = net(x)
    state, steps = None, []
    for t in range(17):
        y, state = net.step(x[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), whole)
    first, state_ = net(x[:, :4])
    second, state_ = net(x[:, 4:], state_.detach())
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for name, tensor in end.tensors().items():
        torch.testing.assert_close(state.tensors()[name], tensor)
        torch.testing.assert_close(state_.tensors()[name], tensor)


@every_kind
def test_runs_in_data_parallel(kind):
    net, x = network(kind), torch.randn(2, 4, 5).double()
    copied = as_data_parallel_runs(net)
    assert not list(copied.parameters())
    torch.testing.assert_close(copied(x)[0], net(x)[0])


@every_kind
def test_a_state_goes_on_in_another_type(kind):
    """That of mixed precision in float32, and the other way round."""
    net, x = network(kind).float(), torch.randn(2, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        _, mixed = net(x[:, :3])
    want, _ = net(x[:, 3:], net(x[:, :3])[1])
    for state in (mixed, mixed.to(torch.float64), mixed.to(torch.bfloat16)):
        out, end = net(x[:, 3:], state)
        torch.testing.assert_close(out, want, rtol=0, atol=0.05)
        assert all(tensor.dtype == torch.float32 for tensor in end.tensors().values())


@every_kind
def test_padding_changes_nothing(kind):
    net, lengths = network(kind), torch.tensor([7, 11, 1])
    x = torch.randn(3, 11, 5).double()
    x[0, 7:], x[2, 1:] = torch.nan, torch.inf
    start = net(torch.randn(3, 4, 5).double())[1].detach()
    out, end = net(x, start, lengths)
    (out.sum() + sum(tensor.sum() for tensor in end.tensors().values())).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())
    for i, length in enumerate(lengths.tolist()):
        mine = start.map(lambda tensor, i=i: tensor[i : i + 1])
        alone, alone_end = net(x[i : i + 1, :length], mine)
        torch.testing.assert_close(out[i, :length], alone[0])
        assert not bool(out[i, length:].any())
        for name, tensor in alone_end.tensors().items():
            torch.testing.assert_close(end.tensors()[name][i], tensor[0])


@every_kind
def test_reset_sequences_begin_anew(kind):
    net, x = network(kind), torch.randn(2, 5, 5).double()
    _, state = net(x)
    out, _ = net(x, state.reset(torch.tensor([True, False])))
    torch.testing.assert_close(out[0], net(x)[0][0])
    assert not torch.allclose(out[1], net(x)[0][1])


@every_kind
def test_the_future_has_no_influence(kind):
    net, x = network(kind), torch.randn(1, 9, 5).double()
    y = x.clone()
    y[:, 6:] += 1
    before, after = net(x)[0], net(y)[0]
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_a_transformer_sees_its_context_and_no_further():
    net, x = network("transformer", layers=1), torch.randn(1, 12, 5).double()
    y = x.clone()
    y[:, 2] += 1
    same = (net(x)[0] - net(y)[0]).abs().amax(2)[0] < 1e-12
    assert same.tolist() == [True, True, *[False] * 6, *[True] * 4]


@every_kind
def test_gradients_are_those_of_finite_differences(kind):
    net = Baseline(config(kind, inputs=2, outputs=2, width=4, layers=1), seed=1).double()
    x = torch.randn(2, 4, 2).double().requires_grad_()
    start = net(torch.randn(2, 3, 2).double())[1].detach()
    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def run(x, *values):
        out, end = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x, start))
        return out, *end.layers[0][:2]

    assert torch.autograd.gradcheck(run, (x, *weights))


@every_kind
@pytest.mark.parametrize("tokens", [False, True])
def test_counts_are_exact_and_a_budget_is_spent(kind, tokens):
    for width in (1, 2, 7, 32):
        one = config(kind, tokens=tokens, width=width)
        assert Baseline(one).count_parameters() == one.parameters == models.counts(one).parameters
    start = BaselineConfig(kind=kind, inputs=199 if tokens else 700, outputs=199 if tokens else 19, tokens=tokens)
    spent = spend(start, 60_000)
    wider = spent.replace(width=spent.width + 1)
    assert spent.parameters <= 60_000 < wider.parameters
    assert Baseline(spent).count_parameters() == spent.parameters
    with pytest.raises(BudgetError, match="width = 1 already takes"):
        spend(start, 100)


@every_kind
def test_counted_flops_grow_with_the_matrices(kind):
    one = config(kind, width=64, inputs=700, outputs=19)
    assert 1.8 * one.parameters < one.flops < 3 * one.parameters


@every_kind
def test_tokens_are_their_embeddings(kind):
    net = network(kind, tokens=True)
    tokens = torch.randint(5, (2, 7))
    out, _ = net(tokens, None, torch.tensor([7, 3]))
    soft = torch.nn.functional.one_hot(tokens, 5).double()
    torch.testing.assert_close(out, net(soft, None, torch.tensor([7, 3]))[0])
    torch.testing.assert_close(net.step(tokens[:, 0])[0], out[:, 0])


@every_kind
def test_saved_networks_come_back(kind, tmp_path):
    net, x = network(kind), torch.randn(2, 4, 5).double()
    net.save_pretrained(tmp_path)
    back = models.load(tmp_path)
    assert isinstance(back, Baseline) and back.config == net.config and back.dtype == torch.float64
    assert torch.equal(back(x)[0], net(x)[0])
    _, state = net(x)
    again = net.state_of(state.tensors())
    assert [[*map(torch.Tensor.tolist, layer)] for layer in again.layers] == [
        [*map(torch.Tensor.tolist, layer)] for layer in state.layers
    ]
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        models.load(tmp_path)


def test_seeds_decide_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (Baseline(config("gru"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.head.weight, b.head.weight) and not torch.equal(a.head.weight, c.head.weight)


@pytest.mark.parametrize(
    ("x", "lengths", "words"),
    [
        (torch.zeros(2, 3, 4), None, r"input must be \(B, T, 5\)"),
        (torch.zeros(2, 3, 5, dtype=torch.long), None, "must be floating point or bool"),
        (torch.zeros(2, 3, 5), torch.tensor([0, 3]), r"lengths must lie in 1\.\.3"),
    ],
)
def test_wrong_input_is_refused_in_words(x, lengths, words):
    with pytest.raises(ShapeError, match=words):
        Baseline(config("lstm"))(x, None, lengths)


def test_wrong_tokens_states_and_settings_are_refused_in_words():
    with pytest.raises(ShapeError, match=r"tokens must lie in 0\.\.4, got 0\.\.7"):
        Baseline(config("rnn", tokens=True))(torch.tensor([[0, 7]]))
    with pytest.raises(ShapeError, match="belong to ELM neurons"):
        Baseline(config("rnn"))(torch.zeros(2, 3, 5), monitor=("memory",))
    with pytest.raises(BackendError, match="a lstm runs on torch"):
        Baseline(config("lstm"), backend="cpu")
    with pytest.raises(ConfigError, match="context belongs to the transformer"):
        config("lstm", context=5)
    with pytest.raises(ConfigError, match="'lstm', 'gru'"):
        config("mlp")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (tuple, "state must be a BaselineState, as a call returns it, got tuple"),
        (lambda state: network("gru").initial_state(2), r"state must hold 0\.0, 0\.1, 0\.2, 0\.3, got 0\.0, 0\.1"),
        (lambda state: network("lstm").initial_state(3), r"state\.0\.0 must be \(2, 9\), got \(3, 9\)"),
        (lambda state: state.to("meta"), r"state\.0\.0 is on meta, the weights are on cpu"),
    ],
)
def test_other_states_are_refused_in_words(spoil, words):
    net = network("lstm")
    with pytest.raises(ShapeError, match=words):
        net(torch.zeros(2, 3, 5), spoil(net.initial_state(2)))


@every_kind
def test_tensors_of_another_state_are_refused(kind):
    net = network(kind)
    tensors = net.initial_state(2).tensors()
    (first, value), *others = tensors.items()
    for wrong in (dict(others), {**tensors, "7.0": value}, {"memory": value}):
        with pytest.raises(CheckpointError, match=rf"a state of this network holds {first}"):
            net.state_of(wrong)


def test_leaky_units_are_the_simplest_elm_neurons_with_the_same_wiring():
    elm = NetworkConfig.preset("enwik8").with_hidden(units=6, branches=4, synapses=3)
    leaky = models.choose("leaky", elm)
    (layer,), unit = leaky.layers, leaky.layers[0].neuron
    assert (unit.memory, unit.hidden_layers, unit.branches, unit.synapses) == (1, 0, 1, 12)
    assert (layer.units, layer.recurrent_connect, unit.tau_highpass) == (6, 0.8, 2.0)
    assert leaky.stack[1] == elm.stack[1]
    assert models.kind_of(leaky) == "leaky" and models.kind_of(elm) == "elm"
    net = models.build(leaky, seed=0)
    assert net.count_parameters() == models.counts(leaky).parameters
    assert torch.allclose(net.layers[0].neurons.timescales(), torch.tensor(10**0.5))
    with pytest.raises(ConfigError, match="needs an ELM network to start from, not a gru"):
        models.choose("leaky", config("gru"))
    with pytest.raises(ConfigError, match="no model 'mlp'; known: elm, leaky, lstm"):
        models.choose("mlp", elm)
