"""The compiled backend against the reference: values and every gradient, odd sizes, memory poisoned with NaN."""

import concurrent.futures
import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import gradients_with_and_without_checkpoint, network_config, neuron
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elmnet import ELMNetwork, LayerConfig, LayerState, Masks, ops
from elmnet.errors import BackendError, ShapeError
from elmnet.layer import ELMLayer
from elmnet.ops import operands
from elmnet.ops.cpu import library, operator

pytestmark = pytest.mark.skipif(
    not isinstance(library.LIBRARY, library.Library), reason=f"no compiled kernels: {library.LIBRARY}"
)

EVERYTHING: tuple[ops.Signal, ...] = ops.SIGNALS


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """Lent memory starts as NaN; the smallest work is shared among threads."""
    monkeypatch.setattr(library.MEMORY, "poison", True)
    monkeypatch.setattr(operator, "WORTH_A_WAIT", 1)
    monkeypatch.setattr(operator, "WORTH_A_THREAD", 1)


def pull(layer, x, state, lengths, masks, monitor, backend):
    """Outputs, state and signals of one backend, and the gradients of a random function of all of them."""
    layer.backend = backend
    layer.zero_grad()
    x, state = x.detach().requires_grad_(), LayerState(*(s.detach().requires_grad_() for s in state))
    out, last, signals = layer(x, state, lengths, masks=masks, monitor=monitor)
    results = {"out": out, **last._asdict(), **{f"signal {name}": signal for name, signal in signals.items()}}
    generator = torch.Generator().manual_seed(1)
    total = sum((r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results.values())
    total.backward()
    gradients = {"x": x.grad, **{f"initial {name}": s.grad for name, s in state._asdict().items()}}
    gradients |= {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.requires_grad}
    found = {name: result.detach() for name, result in results.items()}
    return {**found, **{f"grad {name}": g for name, g in gradients.items() if g is not None}}


def relative(got, want):
    return ((got - want).norm() / want.norm().clamp(min=1e-30)).item() if want.numel() else 0.0


def assert_equal(layer, x, state, *, lengths=None, masks=None, monitor=EVERYTHING, tolerance=1e-11):
    masks = masks or Masks()
    want = pull(layer, x, state, lengths, masks, monitor, "reference")
    got = pull(layer, x, state, lengths, masks, monitor, "cpu")
    assert got.keys() == want.keys()
    errors = {name: relative(got[name], want[name]) for name in want}
    wrong = {name: error for name, error in errors.items() if not error < tolerance}
    assert not wrong, wrong


def random_state(layer, batch):
    return LayerState(*(torch.randn_like(tensor) for tensor in layer.initial_state(batch)))


SIZES = {
    "batch": st.integers(1, 20),
    "steps": st.integers(1, 9),
    "inputs": st.integers(1, 20),
    "units": st.integers(1, 9),
    "memory": st.integers(1, 6),
    "branches": st.integers(1, 11),
    "synapses": st.integers(1, 19),
    "outputs": st.integers(1, 7),
}
OPTIONS = {
    "hidden_layers": st.sampled_from([0, 1]),
    "hidden": st.sampled_from([None, 1, 17]),
    "mlp_activation": st.sampled_from(["relu2", "relu", "silu"]),
    "activation": st.sampled_from(["identity", "relu", "spike"]),
    "tau_branch": st.sampled_from([None, 3.0]),
    "tau_highpass": st.sampled_from([None, 4.0]),
    "lambda_as_timescale_ratio": st.booleans(),
    "nonnegative_synapses": st.booleans(),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.fixed_dictionaries(SIZES),
    options=st.fixed_dictionaries(OPTIONS),
    rho=st.sampled_from([0.0, 0.5, 1.0]),
    dropout=st.sampled_from([0.0, 0.4]),
    varied=st.booleans(),
    unconnected=st.booleans(),
    segment=st.sampled_from([None, 1, 3]),
    threads=st.integers(1, 3),
    monitor=st.sets(st.sampled_from(EVERYTHING)),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference_in_float64(
    monkeypatch, sizes, options, rho, dropout, varied, unconnected, segment, threads, monitor, seed
):
    """Every option, in every combination hypothesis finds, with gradients of everything through everything."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    sizes = dict(sizes)
    batch, steps, inputs, units = (sizes.pop(name) for name in ("batch", "steps", "inputs", "units"))
    cell = neuron(**sizes, **options, learn_timescales=True, synapse_dropout=dropout, memory_dropout=dropout)
    config = LayerConfig(
        units=units, neuron=cell, recurrent_connect=rho, input_dropout=dropout, recurrent_dropout=dropout
    )
    layer = ELMLayer(config, inputs).double()
    if unconnected:
        layer.connectome[torch.rand(layer.connectome.shape) < 0.3] = -1
    masks = layer.draw_masks(batch)
    lengths = torch.randint(1, steps + 1, (batch,)) if varied else None
    x, state = torch.randn(batch, steps, inputs, dtype=torch.double), random_state(layer, batch)
    if segment is not None:
        monkeypatch.setattr(operator.Plan, "segment", property(lambda plan: min(segment, plan.steps)))
    else:
        monkeypatch.setattr(operator.Plan, "segment", SEGMENT)
    assert_equal(layer, x, state, lengths=lengths, masks=masks, monitor=tuple(sorted(monitor)))


SEGMENT = operator.Plan.segment


@pytest.mark.parametrize("batch", [1, 7, 8, 9, 16, 17, 24, 32, 33, 64, 70])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_reference_in_float32_at_every_tile_width(batch, seed):
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    cell = neuron(memory=5, branches=7, synapses=6, activation="identity")  # no kink for rounding to cross
    layer = ELMLayer(LayerConfig(units=13, neuron=cell, recurrent_connect=0.6), 21)
    x = torch.randn(batch, 19, 21)
    assert_equal(layer, x, random_state(layer, batch), lengths=torch.randint(1, 20, (batch,)), tolerance=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {"units": 3, "memory": 200, "branches": 4, "synapses": 3},
        {"units": 2, "memory": 2, "branches": 45, "synapses": 100},
        {"units": 1, "memory": 20, "branches": 4500, "synapses": 1},
        {"units": 600, "memory": 1, "branches": 1, "synapses": 1},
    ],
    ids=str,
)
def test_extreme_sizes(sizes):
    units = sizes.pop("units")
    layer = ELMLayer(LayerConfig(units=units, neuron=neuron(**sizes), recurrent_connect=0.3), 5).double()
    assert_equal(layer, torch.randn(3, 4, 5, dtype=torch.double), random_state(layer, 3))


def test_a_long_sequence_is_cut_into_segments(monkeypatch):
    layer = ELMLayer(LayerConfig(units=5, neuron=neuron(), recurrent_connect=0.5), 4).double()
    x, state = torch.randn(2, 300, 4, dtype=torch.double), random_state(layer, 2)
    plan = operator.Plan(2, 300, 4, 5, 4, 2, 3, 6, 1, 8)
    monkeypatch.setattr(operator, "TAPE_LIMIT", 50 * plan.step_bytes)
    assert len(plan.segments) == 6
    assert_equal(layer, x, state, lengths=torch.tensor([300, 120]))


def test_same_seed_and_threads_same_bits_other_threads_within_rounding():
    layer = ELMLayer(LayerConfig(units=37, neuron=neuron(activation="identity"), recurrent_connect=0.5), 11)
    x, state = torch.randn(9, 23, 11), random_state(layer, 9)
    runs = []
    for threads in (1, 1, 3, 3):
        torch.set_num_threads(threads)
        runs.append(pull(layer, x, state, None, Masks(), (), "cpu"))
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name])
        assert torch.equal(runs[2][name], runs[3][name])
        assert relative(runs[2][name], runs[0][name]) < 1e-5


def test_gradients_are_those_of_finite_differences():
    layer = ELMLayer(
        LayerConfig(units=2, neuron=neuron(activation="identity"), recurrent_connect=0.5), 3, backend="cpu"
    )
    layer.double()
    state = LayerState(*(tensor.requires_grad_() for tensor in random_state(layer, 2)))
    x = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)

    def function(x, *state):
        out, last = layer(x, LayerState(*state))
        return out, last.memory

    assert torch.autograd.gradcheck(function, (x, *state))


def arguments(*, batch=2, steps=5, keep=True, see="mlp", **options):
    """Of the operator, for a layer with everything switched on."""
    layer = ELMLayer(LayerConfig(units=4, neuron=neuron(**options), recurrent_connect=0.5), 3).double()
    weights = layer.neurons()
    (weight1, bias1), (weight2, bias2) = weights.mlp
    tensors = [
        torch.randn(batch, steps, 3, dtype=torch.double),
        *random_state(layer, batch),
        *(weights.synapse, weight1, bias1, weight2, bias2, weights.readout, weights.bias, weights.decay, weights.gain),
    ]
    tensors = [tensor.detach().requires_grad_(keep) for tensor in tensors]
    dynamics = layer.dynamics
    return (
        *tensors,
        *(torch.ones(batch, 3).double(), None, None, None, layer.connectome, torch.tensor([steps] * batch)),
        *(dynamics.branch_decay, dynamics.highpass_decay, dynamics.input_scale, dynamics.surrogate_gain),
        *(dynamics.mlp_activation, dynamics.activation, see, keep),
    )


@pytest.mark.parametrize("keep", [True, False])
def test_opcheck_of_the_operator(monkeypatch, keep):
    monkeypatch.setattr(library.MEMORY, "poison", False)  # it compares outputs, the tape's unused corners included
    torch.library.opcheck(torch.ops.elmnet.cpu_recurrence.default, arguments(keep=keep))


def test_opcheck_of_its_gradient(monkeypatch):
    given = arguments()
    out, *_, tape, _, mlp, _, _ = torch.ops.elmnet.cpu_recurrence(*given)
    grads = [torch.randn_like(out), None, None, None, None, None, torch.randn_like(mlp), None, None]
    given = [a.detach() if isinstance(a, torch.Tensor) else a for a in given]
    torch.library.opcheck(
        torch.ops.elmnet.cpu_recurrence_backward.default,
        (*given, out.detach(), [tape.detach()], grads, [True] * 13 + [False]),
    )


def test_compiles_whole():
    torch._dynamo.reset()
    network = ELMNetwork(network_config(), seed=0, backend="cpu").double()
    x = torch.randn(3, 6, 6, dtype=torch.double)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    want, got = network(x)[0], compiled(x)[0]
    assert torch.allclose(got, want, rtol=1e-12)
    grads = [torch.autograd.grad(out.square().sum(), network.layers[0].neurons.w_s)[0] for out in (want, got)]
    assert torch.allclose(*grads, rtol=1e-12)


def test_compiles_and_exports_whole_with_tokens_and_lengths():
    torch._dynamo.reset()
    network = ELMNetwork(network_config(token_scale=2.0), seed=0, backend="cpu")
    tokens, lengths = torch.randint(6, (3, 5)), torch.tensor([5, 2, 3])
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, lengths=lengths)[0], network(tokens, lengths=lengths)[0])
    with pytest.raises(ShapeError, match=r"lengths must lie in 1\.\.5"):
        compiled(tokens, lengths=lengths + 1)
    exported = torch.export.export(network, (tokens,))
    torch.testing.assert_close(exported.module()(tokens)[0], network(tokens)[0])


def test_one_network_twice_in_a_graph():
    networks = [ELMNetwork(network_config(), seed=0, backend=name).double() for name in ("reference", "cpu")]
    x, y = torch.randn(2, 5, 6, dtype=torch.double), torch.randn(3, 4, 6, dtype=torch.double)
    grads = []
    for network in networks:
        (network(x)[0].square().sum() * network(y)[0].sum()).backward()
        grads.append([p.grad for p in network.parameters() if p.requires_grad])
    assert all(relative(got, want) < 1e-11 for want, got in zip(*grads, strict=True))


def test_threads_may_share_a_network():
    network = ELMNetwork(network_config(units=40), seed=0, backend="cpu").double()
    batches = [torch.randn(5, 30, 6, dtype=torch.double) for _ in range(8)]

    def work(x):
        out, _ = network(x)
        return torch.autograd.grad(out.square().sum(), network.layers[0].neurons.w_s)[0]

    alone = [work(x) for x in batches]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, batches))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_backward_twice_over_a_kept_graph():
    network = ELMNetwork(network_config(), seed=0, backend="cpu").double()
    loss = network(torch.randn(2, 5, 6, dtype=torch.double))[0].square().sum()
    loss.backward(retain_graph=True)
    first = network.layers[0].neurons.w_s.grad.clone()
    loss.backward()
    assert torch.equal(network.layers[0].neurons.w_s.grad, 2 * first)


def test_a_checkpointed_layer_learns_the_same():
    assert all(map(torch.equal, *gradients_with_and_without_checkpoint(small_layer(), torch.randn(3, 4, 5))))


def elsewhere(tensor):
    """The same numbers in the same order, at an address that is no multiple of a register."""
    return torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("limit", [operator.TAPE_LIMIT, 1])
def test_hooks_may_keep_what_the_way_back_reads_wherever_they_like(monkeypatch, limit):
    """As those that compress it, or keep it in a file, do; it was a segmentation fault."""
    monkeypatch.setattr(operator, "TAPE_LIMIT", limit)
    layer, x, gradients = small_layer(), torch.randn(3, 9, 5), []
    for unpack in (torch.Tensor.detach, elsewhere):
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, unpack):
            out, _, seen = layer(x, monitor=EVERYTHING)
        total = out.square().sum() + sum(signal.square().sum() for signal in seen.values())
        gradients.append(torch.autograd.grad(total, [p for p in layer.parameters() if p.requires_grad]))
    assert all(map(torch.equal, *gradients))


def test_gradients_may_arrive_anywhere():
    given = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments(see="branch mlp memory readout")]
    results = torch.ops.elmnet.cpu_recurrence(*given)
    tape = results.pop(operands.TAPE_PLACE)
    grads, wanted, found = list(map(torch.randn_like, results)), [True] * len(operands.DIFFERENTIABLE), []
    for place in (torch.clone, elsewhere):
        after = (results[0], [tape], list(map(place, grads)), wanted)
        found.append(torch.ops.elmnet.cpu_recurrence_backward(*given, *after))
    assert all(map(torch.equal, *found))


def test_monitored_activity_is_not_the_output_itself():
    with torch.no_grad():
        out, _, seen = small_layer()(torch.randn(3, 4, 5), monitor=("activity",))
        want = out.clone()
        out.zero_()
    assert torch.equal(seen["activity"], want) and want.any()


def test_memory_comes_back(monkeypatch):
    memory = library.Memory(keep=3 * 2**21)
    first = memory.take(2**21, torch.float32)  # 8 MiB, more than is kept
    address = first.data_ptr()
    view = first[10:]
    del first
    assert memory._idle == []  # a view still lives
    del view
    assert memory._idle == []  # too large to keep
    second = memory.take(2**18, torch.float32)
    address = second.data_ptr()
    del second
    third = memory.take(2**18 - 5, torch.float32)
    assert third.data_ptr() == address
    memory.poison = True
    assert memory.take(3, torch.float64).isnan().all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_writes_into_its_own_memory():
    memory = library.Memory()
    memory.poison = False
    lent = memory.take(2**20, torch.float32).fill_(1)
    child = os.fork()
    if child == 0:
        lent.numpy()[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (lent == 1).all()


def test_refusals_name_the_reason():
    deep = ELMLayer(LayerConfig(units=2, neuron=neuron(hidden_layers=2)), 3, backend="cpu")
    with pytest.raises(BackendError, match="MLP has 2 hidden layers, it has kernels for 0 and 1"):
        deep(torch.zeros(1, 1, 3))
    half = ELMLayer(LayerConfig(units=2, neuron=neuron()), 3, backend="cpu").to(torch.bfloat16)
    with pytest.raises(BackendError, match=r"weights are torch\.bfloat16"):
        half(torch.zeros(1, 1, 3))


def test_auto_falls_back_with_a_line(caplog):
    ops._passed_over.cache_clear()
    layer = ELMLayer(LayerConfig(units=2, neuron=neuron(hidden_layers=2)), 3)
    layer(torch.zeros(1, 1, 3))
    layer(torch.zeros(1, 1, 3))
    assert caplog.messages == [
        "elmnet: backend 'cpu' is not used: the neurons' MLP has 2 hidden layers, it has kernels for 0 and 1"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"hidden_layers": 0, "activation": "spike", "tau_branch": None}], ids=str)
def test_streaming_equals_the_whole(dtype, options):
    config = network_config(units=21, branches=7, memory=19, outputs=5, layers=2, **options)
    network = ELMNetwork(config, seed=0, backend="cpu").to(dtype).eval()
    network.layers[0].connectome[0, :3] = -1
    x = torch.randn(1, 12, 6, dtype=dtype)
    whole, last = network(x)
    state = None
    with torch.no_grad():
        for t in range(12):
            out, state = network.step(x[:, t], state)
            assert torch.allclose(out, whole[:, t], rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-11)
    for got, want in zip(state.layers, last.layers, strict=True):
        assert all(relative(g, w) < (1e-5 if dtype == torch.float32 else 1e-12) for g, w in zip(got, want, strict=True))


def test_streaming_sees_changed_weights_and_survives_copies():
    network = ELMNetwork(network_config(), seed=0, backend="cpu").eval()
    x = torch.randn(1, 6)
    with torch.no_grad():
        before, _ = network.step(x)
        network.layers[0].neurons.tau_logit.add_(1.0)
        after, _ = network.step(x)
        assert not torch.equal(before, after)
        assert torch.allclose(after, network(x[:, None])[0][:, 0], rtol=1e-4, atol=1e-6)
        assert torch.equal(copy.deepcopy(network).step(x)[0], after)
        with pytest.raises(ShapeError, match=r"layer 1: state\.memory must be \(1, 3, 3\), got \(1, 5, 3\)"):
            state = network.initial_state(1)
            network.step(x, type(state)((state.layers[0], state.layers[0])))
        with pytest.raises(ShapeError, match="input must be"):
            network.step(torch.zeros(1, 7))


@pytest.mark.parametrize("name", library.INSTRUCTION_SETS)
def test_every_instruction_set_this_machine_has(name):
    """Each compiled library, in a process of its own, passes the self-check."""
    if not library.LIBRARY.machine_has(name):
        pytest.skip(f"this machine has no {name}")
    code = (
        "import torch; from elmnet.ops.cpu.library import LIBRARY; from elmnet.verify import self_check\n"
        f"assert LIBRARY.name == {name!r}, LIBRARY\n"
        "for dtype in (torch.float32, torch.float64):\n"
        "    bad = [check for check in self_check(backend='cpu', dtype=dtype) if not check.passed]\n"
        "    assert not bad, bad\n"
    )
    environment = {**os.environ, "ELMNET_INSTRUCTION_SET": name}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_an_unknown_instruction_set_is_a_reason_to_refuse():
    code = "from elmnet.ops import cpu; import torch, elmnet; print(cpu.LIBRARY)"
    environment = {**os.environ, "ELMNET_INSTRUCTION_SET": "mmx"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "ELMNET_INSTRUCTION_SET must be one of avx512, avx2, plain, got 'mmx'"


def test_without_kernels_the_reference_runs(tmp_path):
    """As after an installation without a compiler: a line says so, training and streaming go on."""
    code = (
        "import torch\n"
        "from elmnet.ops.cpu import library\n"
        f"library.Path = lambda *_: __import__('pathlib').Path({str(tmp_path)!r}) / 'x'\n"
        "import elmnet.ops.cpu as cpu\n"
        "cpu.LIBRARY = library._load()\n"
        "from elmnet import ELMNetwork, NetworkConfig\n"
        "net = ELMNetwork(NetworkConfig.preset('neuronio'), seed=0).eval()\n"
        "out, state = net(torch.zeros(1, 2, 1278))\n"
        "with torch.no_grad(): net.step(torch.zeros(1, 1278))\n"
        "print(net.backends())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['reference']"
    assert "elmnet: backend 'cpu' is not used: its kernels were not compiled" in result.stderr
    assert result.stderr.count("\n") == 1


def small_layer(backend="cpu"):
    return ELMLayer(LayerConfig(units=6, neuron=neuron(), recurrent_connect=0.5), 5, backend=backend, seed=0)


@pytest.mark.parametrize(
    "masks",
    [
        lambda: Masks(input=torch.rand(3, 5) > 0.5),  # bools
        lambda: Masks(recurrent=torch.rand(1, 6).double()),  # one for all sequences, in another precision
        lambda: Masks(memory=torch.rand(3, 1, 1)),
    ],
)
def test_masks_of_any_type_and_broadcast(masks):
    given, x = masks(), torch.randn(3, 4, 5)
    want = small_layer("reference")(x, masks=given)[0]
    torch.testing.assert_close(small_layer()(x, masks=given)[0], want, rtol=1e-5, atol=1e-6)


def test_a_connectome_of_int32_is_read_and_one_of_sources_that_are_not_there_is_refused():
    layer, x = small_layer(), torch.randn(3, 4, 5)
    want = layer(x)[0]
    layer.connectome = layer.connectome.int()
    assert torch.equal(layer(x)[0], want)
    layer.connectome = layer.connectome + 7
    with pytest.raises(ShapeError, match=r"connectome must name sources in -1\.\.10, got 7\.\."):
        layer(x)


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("memory0", lambda t: t[:2], "memory0 must be"),
        ("decay", lambda t: t[:, :1], "decay must be"),
        ("gain", lambda t: t.double(), r"gain must be torch\.float32"),
        ("mask_memory", lambda t: t > 0, r"mask_memory must be torch\.float32"),
        ("connectome", lambda t: t[:, 1:], "connectome must be"),
        ("lengths", lambda t: t + 4, r"lengths must lie in 1\.\.4"),
        ("lengths", lambda t: t[:1], "lengths must be"),
    ],
)
def test_the_operator_refuses_what_a_kernel_would_read_wrong(name, spoil, words):
    layer = small_layer()
    arguments = (torch.randn(3, 4, 5), layer.initial_state(3), layer.connectome, layer.neurons())
    masks = Masks(memory=torch.ones(3, 6, layer.config.neuron.memory))
    inputs, numbers = operands.operands(*arguments, layer.dynamics, masks, torch.tensor([1, 2, 4]), (), torch.float32)
    torch.ops.elmnet.cpu_recurrence(*inputs, *numbers)
    spoilt = inputs._replace(**{name: spoil(getattr(inputs, name))})
    with pytest.raises(ShapeError, match=words):
        torch.ops.elmnet.cpu_recurrence(*spoilt, *numbers)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
def test_second_and_forward_derivatives_are_refused_not_zero():
    layer, x = small_layer(), torch.randn(3, 4, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(BackendError, match="no second derivatives; use backend='reference'"):
        slope.square().sum().backward()
    with pytest.raises(BackendError, match="no forward-mode derivatives; use backend='reference'"):
        torch.func.jvp(lambda x: layer(x)[0], (x.detach(),), (torch.ones_like(x),))
    with pytest.raises(BackendError, match=r"cannot be transformed by torch\.func; use backend='reference'"):
        torch.func.grad(lambda x: layer(x)[0].sum())(x.detach())
    with pytest.raises(BackendError, match="cannot take many gradients at once"):
        torch.autograd.functional.jacobian(lambda x: layer(x)[0][:, -1], x.detach(), vectorize=True)
    masks = Masks(input=torch.ones(3, 5, requires_grad=True))
    with pytest.raises(BackendError, match="no gradients of masks; use backend='reference'"):
        layer(x, masks=masks)


def test_streams_in_inference_mode():
    with torch.inference_mode():
        network = ELMNetwork(network_config(), seed=0)
        x = torch.randn(1, 3, network.config.inputs)
        out, _ = network.step(x[:, 0])
        torch.testing.assert_close(out, network(x)[0][:, 0])
