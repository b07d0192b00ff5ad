"""The cuda backend's kernels under Triton's interpreter; test_cuda.py runs this file with TRITON_INTERPRET=1."""

import importlib
import inspect
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import gradients_with_and_without_checkpoint, network_config, neuron
from side_by_side import side_by_side

from elmnet import ELMNetwork, LayerConfig, LayerState, Masks, ops
from elmnet.bench import cuda_tune as tune
from elmnet.layer import ELMLayer
from elmnet.ops import cuda
from elmnet.ops.cuda import check, kept, launch, operator
from elmnet.ops.cuda.plan import alternatives, plan


@pytest.fixture(autouse=True)
def _checked(monkeypatch):
    """What is not initialised starts as NaN; what programs and threads read and write must be ordered."""

    def empty(shape, **options):
        return torch.full(shape, torch.nan, **options)

    monkeypatch.setattr(launch, "empty", empty)
    with side_by_side():
        yield


def planned(regime, *, lanes, block=2):
    """The planner's answer, forced into a regime and small tiles; "streamed" are two programs."""

    def choose(sizes, limits):
        chosen, blocks = plan(sizes, limits), -(-sizes.units // block)
        if chosen.regime != "independent":
            chosen = replace(chosen, regime=regime)
        tiles = -(-sizes.batch // lanes)
        programs = {"whole": 1, "streamed": 2}.get(chosen.regime, blocks)
        return replace(chosen, block=block, blocks=blocks, programs=programs, lanes=lanes, tiles=tiles)

    return choose


def pull(layer, backend, x, state, lengths, masks, monitor=ops.SIGNALS):
    """Everything a backend returns, and the gradients of a random function of it."""
    layer.backend = backend
    layer.zero_grad()
    x, state = x.detach().requires_grad_(), LayerState(*(s.detach().requires_grad_() for s in state))
    out, last, signals = layer(x, state, lengths, masks=masks, monitor=monitor)
    results = {"out": out, **last._asdict(), **{f"signal {name}": signal for name, signal in signals.items()}}
    generator = torch.Generator().manual_seed(1)
    sum((r * torch.randn(r.shape, generator=generator)).sum() for r in results.values()).backward()
    gradients = {"x": x.grad, **{f"initial {name}": s.grad for name, s in state._asdict().items()}}
    gradients |= {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.requires_grad}
    return {name: r.detach() for name, r in results.items()} | {f"grad {k}": g for k, g in gradients.items()}


def assert_equal(layer, x, state, lengths=None, masks=None, monitor=ops.SIGNALS, tolerance=3e-6):
    want = pull(layer, "reference", x, state, lengths, masks or Masks(), monitor)
    got = pull(layer, "cuda", x, state, lengths, masks or Masks(), monitor)
    assert got.keys() == want.keys()
    errors = {name: float((got[name] - w).norm() / w.norm().clamp(min=1e-30)) for name, w in want.items() if w.numel()}
    wrong = {name: error for name, error in errors.items() if not error < tolerance}
    assert not wrong, wrong


def random_state(layer, batch):
    return LayerState(*(torch.randn_like(tensor) for tensor in layer.initial_state(batch)))


CASES = {
    "everything": {"outputs": 2, "activation": "identity"},
    "one map": {"hidden_layers": 0, "activation": "spike", "tau_branch": None},
    "published": {"tau_branch": None, "memory": 5, "branches": 7, "synapses": 3},
    "relu": {"mlp_activation": "relu", "tau_highpass": None, "lambda_as_timescale_ratio": False},
    "silu": {"mlp_activation": "silu", "hidden": 17, "outputs": 3, "nonnegative_synapses": True},
}


def layer_of(case, units=3):
    """With every kind of dropout, and timescales that learn."""
    cell = neuron(**CASES[case], learn_timescales=True, synapse_dropout=0.3, memory_dropout=0.3)
    config = LayerConfig(units=units, neuron=cell, recurrent_connect=0.5, input_dropout=0.3, recurrent_dropout=0.3)
    return ELMLayer(config, 4)


@pytest.mark.parametrize(
    ("case", "regime", "units"),
    [
        *((case, "whole", 3) for case in CASES),
        *((case, regime, 5) for case in ("everything", "published") for regime in ("resident", "streamed")),
        ("everything", "stepwise", 3),
    ],
)
def test_equals_the_reference(monkeypatch, case, regime, units):
    """Values and every gradient; sizes no tile divides, unconnected synapses, masks, lengths, carried state."""
    lanes = 4 if regime == "whole" else 2  # one tile that is not full, or two
    monkeypatch.setattr(launch, "plan", planned(regime, lanes=lanes))
    layer = layer_of(case, units)
    layer.connectome[torch.rand(layer.connectome.shape) < 0.2] = -1
    masks = layer.draw_masks(3) if case in ("everything", "silu") else Masks()
    lengths = torch.tensor([3, 1, 2]) if case != "published" else None
    assert_equal(layer, torch.randn(3, 3, 4), random_state(layer, 3), lengths, masks)


def module_of(kernel):
    return importlib.import_module(f"elmnet.ops.cuda.kernels.{kernel}")


@pytest.mark.parametrize(
    ("function", "old", "new", "words"),
    [
        ("arrive", "tl.debug_barrier()", "pass", "unordered"),
        ("arrive", '"release"', '"relaxed"', "unordered"),
        ("arrive", "program_id(1), 1", "program_id(1), 0", "wait for each other"),
        ("wait", '"acquire"', '"relaxed"', "unordered"),
        ("wait", "done * programs", "done * programs - 1", "unordered"),
        ("wait", "    tl.debug_barrier()", "    pass", "unordered"),
        ("slot", "t % 2", "t // 2 % 2", "unordered"),
        ("inside", "(u < units)[:, None, None] & ", "", "unordered"),
        ("inside", " & (b < batch)[None, None, :]", "", "in no tensor"),
    ],
)
@pytest.mark.parametrize("regime", ["resident", "streamed"])
def test_what_the_kernels_need_is_missed(monkeypatch, tmp_path, regime, function, old, new, words):
    """A word less in what they share, and the checks of this file fail: they do see races."""
    source = inspect.getsource(getattr(module_of("tile"), function).fn)
    assert source.count(old) == 1
    file = tmp_path / "changed.py"
    file.write_text(source.replace(old, new))
    changed = {**vars(module_of("tile"))}
    exec(compile(file.read_text(), file, "exec"), changed)
    for kernel in ("forward", "backward"):
        monkeypatch.setattr(module_of(kernel), function, changed[function])
    monkeypatch.setattr(launch, "plan", planned(regime, lanes=2))
    layer = layer_of("published", 5)
    with pytest.raises(Exception, match=words):
        assert_equal(layer, torch.randn(3, 3, 4), random_state(layer, 3))


@pytest.mark.parametrize("lanes", [8, 16])
def test_many_sequences_and_many_synapses_of_one_source(monkeypatch, lanes):
    """Rows of several quads, tiles that are not full, more readers of a channel than are added at once."""
    monkeypatch.setattr(launch, "plan", planned("whole", lanes=lanes))
    cell = neuron(branches=8, synapses=12, synapse_dropout=0.2, activation="identity")
    layer = ELMLayer(LayerConfig(units=3, neuron=cell, recurrent_connect=0.9), 4)
    layer.connectome[:, ::7] = -1
    readers = torch.bincount(layer.connectome[layer.connectome >= 4])
    wires = launch.wires_of(layer.connectome, 4, 7, (3, 8, 12))
    assert int(readers.max()) > 4 * 16 and wires.lateral.longest > 4
    assert_equal(layer, torch.randn(19, 2, 4), random_state(layer, 19), None, layer.draw_masks(19))


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_layers_of_one_kind_of_synapse(rho):
    layer = ELMLayer(LayerConfig(units=3, neuron=neuron(activation="identity"), recurrent_connect=rho), 2)
    assert_equal(layer, torch.randn(2, 3, 2), random_state(layer, 2))


@pytest.mark.parametrize("case", ["everything", "one map", "silu"])
def test_a_tape_in_segments_equals_the_whole(monkeypatch, case):
    """Two steps at a time; one sequence ends in the first segment, one between two, one after the last."""
    layer = layer_of(case)
    x, state, masks = torch.randn(3, 5, 4), random_state(layer, 3), layer.draw_masks(3)
    cell = layer.config.neuron
    rows = cell.branches + 2 * cell.memory + 2 * cell.outputs + (cell.mlp_widths[1] if cell.hidden_layers else 0)
    monkeypatch.setattr(operator, "TAPE_LIMIT", 2 * 4 * 3 * 3 * rows)
    whole, tapes = launch.Layer.forward, []
    monkeypatch.setattr(launch.Layer, "forward", lambda layer: tapes.append(whole(layer)) or tapes[-1])
    for lengths in (torch.tensor([5, 1, 2]), None):
        assert_equal(layer, x, state, lengths, masks, monitor=(), tolerance=5e-6)
        assert [list(tensor.shape) for tensor in tapes.pop()[5:7]] == [[2, sum(s.numel() for s in state)], [0]]


def test_places_of_64_bits(monkeypatch):
    monkeypatch.setattr(launch, "shape_of", lambda *given: SHAPE_OF(*given)._replace(wide=True))
    layer = ELMLayer(LayerConfig(units=3, neuron=neuron(activation="identity"), recurrent_connect=0.5), 2)
    assert_equal(layer, torch.randn(2, 3, 2), random_state(layer, 2), torch.tensor([3, 2]))


@pytest.fixture
def _bfloat16_products(monkeypatch):
    """Triton 3.7's interpreter keeps bfloat16 in 16-bit integers, which its products then multiply as such."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    multiply = InterpreterBuilder.create_dot

    def create_dot(self, a, b, d, *rest):
        def wide(factor):
            if factor.dtype.scalar != tl.bfloat16:
                return factor
            return TensorHandle((factor.data.astype("uint32") << 16).view("float32"), tl.float32)

        return multiply(self, wide(a), wide(b), d, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.usefixtures("_bfloat16_products")
@pytest.mark.parametrize("case", ["one map", "published", "silu"])
def test_autocast_rounds_what_the_mlps_multiply_and_nothing_else(case):
    """Everything comes back in float32, off by what rounding to 8 bits does."""
    layer = ELMLayer(LayerConfig(units=5, neuron=neuron(**{**CASES[case], "activation": "identity"})), 4)
    x, state = torch.randn(3, 4, 4), random_state(layer, 3)
    exact = pull(layer, "reference", x, state, None, Masks())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = pull(layer, "cuda", x, state, None, Masks())
    for name, want in exact.items():
        assert got[name].dtype == torch.float32
        if want.numel():
            assert (got[name] - want).norm() < 2e-2 * want.norm(), name
    assert not torch.allclose(got["out"], exact["out"], rtol=1e-5, atol=1e-6)


SHAPE_OF = launch.shape_of


def test_streaming_and_inference_in_pieces_equal_the_whole(monkeypatch):
    network = ELMNetwork(network_config(), seed=0, backend="cuda").eval()
    x, lengths = torch.randn(2, 4, 6), torch.tensor([4, 1])
    want, last = ELMNetwork(network_config(), seed=0, backend="reference")(x, lengths=lengths)
    monkeypatch.setattr(operator, "CHUNK_BYTES", 3 * 4 * 2 * 5 * 4)  # three steps of the first layer
    with torch.no_grad():
        got, state = network(x, lengths=lengths)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        for a, b in zip(state.layers, last.layers, strict=True):
            for name, tensor in a._asdict().items():
                torch.testing.assert_close(tensor, getattr(b, name), rtol=1e-5, atol=1e-6)
        state = None
        for t in range(2):
            out, state = network.step(x[:, t], state)
            torch.testing.assert_close(out[:1], want[:1, t], rtol=1e-5, atol=1e-6)


def test_a_checkpointed_layer_learns_the_same():
    layer = ELMLayer(LayerConfig(units=2, neuron=neuron()), 3, backend="cuda", seed=0)
    assert all(map(torch.equal, *gradients_with_and_without_checkpoint(layer, torch.randn(2, 3, 3))))


@pytest.mark.parametrize("limit", [operator.TAPE_LIMIT, 1])
def test_the_operator_is_what_it_says(monkeypatch, limit):
    monkeypatch.setattr(operator, "TAPE_LIMIT", limit)
    layer = ELMLayer(LayerConfig(units=2, neuron=neuron(), recurrent_connect=0.5), 3, backend="cuda")
    calls, names = {}, ("cuda_recurrence", "cuda_recurrence_backward")
    originals = {name: getattr(torch.ops.elmnet, name) for name in names}

    def spy(name):
        def call(*given):
            calls[name] = given
            return originals[name](*given)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops, "elmnet", SimpleNamespace(**{name: spy(name) for name in names}))
        x = torch.randn(1, 3, 2).transpose(1, 2)  # as a convolution leaves it
        out, *_ = layer(x.requires_grad_(), monitor=("mlp",) if limit > 1 else ())  # what is monitored is not cut
        out.sum().backward()
    for name, checks in zip(names, (("test_autograd_registration",), ()), strict=True):
        given = tuple(
            a.detach().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in calls[name]
        )
        assert not given[0].is_contiguous()
        torch.library.opcheck(originals[name].default, given, test_utils=("test_schema", "test_faketensor", *checks))


def test_the_first_check_passes_and_sees_a_difference():
    assert check.disagreement(cuda.recurrence, torch.device("cpu"), (3,)) is None

    torch.set_default_dtype(torch.float64)
    try:
        for around in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta")):
            check.disagreement.cache_clear()
            with around:
                assert check.disagreement(cuda.recurrence, torch.device("cpu"), (3,)) is None
    finally:
        torch.set_default_dtype(torch.float32)

    def wrong(*given):
        out, state, signals = cuda.recurrence(*given)
        return out * 1.01, state, signals

    assert "output of 3 units is off by" in check.disagreement(wrong, torch.device("cpu"), (3,))

    def broken(*given):
        raise RuntimeError("no such device\nat all")

    assert check.disagreement(broken, torch.device("cpu"), (3,)).endswith("broke: RuntimeError: no such device")


@pytest.fixture
def _nothing_tuned(monkeypatch, tmp_path):
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "ROUNDS", 1)
    kept.kept.cache_clear()
    yield
    kept.kept.cache_clear()


def laid_out(layer):
    """The plan of three sequences of this layer, and its near alternatives."""
    gpu = operator.limits(torch.device("cpu"))
    run = launch.Layer(*tune.example(layer, 3, 2), gpu)
    return run.plan, alternatives(run.sizes, gpu)


@pytest.mark.usefixtures("_nothing_tuned")
def test_the_fastest_plan_is_kept_and_used(caplog):
    """By a clock under which the last plan is the fastest; the file may be damaged, or another Triton's."""
    layer = ELMLayer(LayerConfig(units=5, neuron=neuron(), recurrent_connect=0.5), 3)
    chosen, others = laid_out(layer)
    assert chosen == others[0]
    readings = itertools.accumulate(pace for k in range(1, 100) for pace in (1, 1 / k))  # start and end of each trial
    trials = tune.tune(layer, 3, 2, clock=lambda: next(readings))
    assert [trial.plan for trial in trials] == others
    assert min(trials, key=lambda trial: trial.milliseconds) is trials[-1]
    assert laid_out(layer)[0] == others[-1] != others[0]
    assert_equal(layer, torch.randn(3, 2, 3), random_state(layer, 3))
    file = kept.place(operator.limits(torch.device("cpu")))
    good = file.read_text()
    for text, words in [
        (good[:-9], "is damaged and not used"),
        (good.replace('"block": ', '"block": 0.'), "is damaged and not used"),
        (good.replace("whole", "hole").replace("stepwise", "steps"), "is damaged and not used"),
        ('{"triton": "0"}', ""),
        (good.replace('"block": ', '"block": 4096'), ""),  # as of a GPU with more memory
    ]:
        file.write_text(text)
        kept.kept.cache_clear()
        caplog.clear()
        assert laid_out(layer)[0] == others[0]
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)


@pytest.mark.usefixtures("_nothing_tuned")
def test_a_plan_that_breaks_or_is_wrong_is_not_kept(monkeypatch):
    layer = ELMLayer(LayerConfig(units=5, neuron=neuron(), recurrent_connect=0.5), 3)
    first, broken, wrong, *rest = laid_out(layer)[1]
    passes = tune.both_ways

    def spoilt(run):
        if run.plan == broken:
            raise RuntimeError("out of resource: shared memory\nRequired: 300000")
        return [tensor * (1.01 if run.plan == wrong else 1.0) for tensor in passes(run)]

    monkeypatch.setattr(tune, "both_ways", spoilt)
    readings = itertools.accumulate(range(100))  # ever slower
    trials = tune.tune(layer, 3, 2, clock=lambda: next(readings))
    assert [trial.milliseconds is None for trial in trials] == [False, True, True, *[False] * len(rest)]
    assert str(trials[1]).startswith("RuntimeError: out of resource: shared memory: ")
    assert trials[2].why == "differs by 1.0e-02"
    assert laid_out(layer)[0] in (first, replace(first, why="by trial, not by arithmetic"))
