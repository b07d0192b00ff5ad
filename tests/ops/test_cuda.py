"""The Triton backend without a GPU: interpreted kernels, the planner, refusals, compilation for absent GPUs."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import neuron

from elmnet import ELMLayer, LayerConfig, ops
from elmnet.errors import BackendError
from elmnet.ops import cuda
from elmnet.ops.cuda.plan import A100, H100, Limits, Sizes, alternatives, plan, refuses

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: elmnet[cuda]")


@needs_triton
@pytest.mark.timeout(600)
def test_interpreted_kernels_equal_the_reference():
    """interpreted_cuda.py in a process of its own: Triton looks at TRITON_INTERPRET when it is imported."""
    file = Path(__file__).with_name("interpreted_cuda.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--override-ini",
               "addopts=--import-mode=importlib", str(file)]  # fmt: skip
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=environment, cwd=file.parents[2], capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def sizes(units, *, batch=8, memory=15, branches=50, recurrent=True):
    return Sizes(batch, units, branches, memory, 2 * memory, 1, recurrent)


def test_the_planner_keeps_weights_on_the_chip_where_they_fit():
    chosen = plan(sizes(1024), H100)
    assert (chosen.regime, chosen.block, chosen.programs, chosen.kept) == ("resident", 8, 128, True)
    assert chosen.programs * chosen.tiles <= H100.multiprocessors
    assert "weights stay on a multiprocessor" in chosen.in_words()


def test_the_planner_streams_what_does_not_fit():
    for chosen, limits in ((plan(sizes(1024), A100), A100), (plan(sizes(20_000), H100), H100)):
        assert (chosen.regime, chosen.kept, chosen.barrier) == ("streamed", False, True)
        assert chosen.programs * chosen.tiles <= limits.multiprocessors
    assert "241,250 KiB of weights do not fit" in plan(sizes(20_000), H100).why


def test_nobody_waits_without_recurrence_or_with_few_units():
    assert plan(sizes(1024, recurrent=False), H100).regime == "independent"
    few = plan(sizes(6), H100)
    assert (few.regime, few.programs, few.barrier) == ("whole", 1, False)


def test_step_by_step_where_programs_cannot_wait():
    many = plan(sizes(64, batch=16 * 100), H100)
    assert (many.regime, many.tiles, many.launches) == ("stepwise", 100, "one launch a step")
    assert plan(sizes(64), Limits("old", 80, 100_000, waits=False)).regime == "stepwise"


@pytest.mark.parametrize("limits", [H100, A100])
@pytest.mark.parametrize("batch", [1, 3, 16, 17, 64, 3000])
@pytest.mark.parametrize("units", [1, 7, 57, 1024, 5000])
def test_every_plan_covers_all_units_and_sequences_and_fits(limits, batch, units):
    size = sizes(units, batch=batch)
    chosen = plan(size, limits)
    assert chosen.blocks * chosen.block >= units > (chosen.blocks - 1) * chosen.block
    assert chosen.tiles * chosen.lanes >= batch > (chosen.tiles - 1) * chosen.lanes
    assert size.shared_bytes(chosen.block) <= limits.shared_bytes
    if chosen.barrier:
        assert chosen.programs * chosen.tiles <= limits.multiprocessors


@pytest.mark.parametrize("limits", [H100, A100, Limits("old", 80, 100_000, waits=False)])
@pytest.mark.parametrize("batch", [1, 17, 3000])
@pytest.mark.parametrize("units", [1, 57, 1024, 5000])
@pytest.mark.parametrize("recurrent", [True, False])
def test_alternatives_cover_everything_and_fit(limits, batch, units, recurrent):
    size = sizes(units, batch=batch, recurrent=recurrent)
    first, *others = alternatives(size, limits)
    assert first == plan(size, limits)
    assert others
    assert len({(p.regime, p.block, p.lanes, p.warps) for p in (first, *others)}) == len(others) + 1
    for p in others:
        assert p.blocks * p.block >= units > (p.blocks - 1) * p.block
        assert p.tiles * p.lanes >= batch > (p.tiles - 1) * p.lanes
        assert size.shared_bytes(p.block) <= limits.shared_bytes
        assert (p.regime == "independent") != recurrent
        if p.barrier:
            assert limits.waits
            assert p.programs * p.tiles <= limits.multiprocessors


def test_a_neuron_too_large_for_any_plan_is_refused():
    assert refuses(50, 15, 30, 1, H100) is None
    assert "about 8,604 KiB of a multiprocessor's shared memory, H100 has 227" in refuses(400, 300, 600, 1, H100)
    huge = ops.Dynamics.of(neuron(branches=400, memory=300))
    with pytest.raises(BackendError, match="backend 'cuda' cannot run this: a neuron with d_tree 400"):
        ops.select("cuda", torch.device("cuda"), torch.float32, huge)


@needs_triton
def test_refusals_name_the_reason():
    gpu, ordinary = torch.device("cuda"), ops.Dynamics.of(neuron())
    for device, dtype, dynamics, words in [
        (torch.device("cpu"), torch.float32, ordinary, "the weights are on cpu, it runs on cuda"),
        (gpu, torch.float64, ordinary, "weights are torch.float64, it computes in float32"),
        (gpu, torch.float32, ops.Dynamics.of(neuron(hidden_layers=2)), "MLP has 2 hidden layers"),
    ]:
        with pytest.raises(BackendError, match=words):
            ops.select("cuda", device, dtype, dynamics)


def test_without_triton_the_reference_runs_with_a_line(monkeypatch, caplog):
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    ops._passed_over.cache_clear()
    ordinary = ops.Dynamics.of(neuron())
    assert ops.select("auto", torch.device("cuda"), torch.float32, ordinary).name == "reference"
    assert caplog.messages == [
        "elmnet: backend 'cuda' is not used: Triton is not installed; pip install 'elmnet[cuda]'"
    ]


@needs_triton
@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_kernels_compile_without_spills_for_gpus_that_are_not_here(capability, monkeypatch):
    """A small layer that waits; `pytest -m slow` compiles those of the benchmark cases. The assembly shows what the
    interpreter does not have: maxima that lose NaN, a way out of a wait, loads begun before their time; gathers that
    read four numbers at once and hand none from thread to thread."""
    import triton

    from elmnet.bench.cuda_compile import compile_layer

    code = []
    whole = triton.compile

    def compile_(*arguments, **options):
        made = whole(*arguments, **options)
        code.append(made.asm["ptx"])
        return made

    monkeypatch.setattr(triton, "compile", compile_)
    layer = ELMLayer(LayerConfig(units=600, neuron=neuron(branches=50), recurrent_connect=0.5), 3)
    for bf16 in (False, True):
        chosen, compiled = compile_layer(layer, 5, capability, bf16=bf16)
        assert chosen.barrier
        names = {"feed", "forward", "backward", "synapse_gradient", "source_gradient"}
        assert {c.kernel for c in compiled} == names
        assert all(c.spilled_bytes == 0 and 0 < c.registers <= 255 for c in compiled), compiled
    assert not any("max.f32" in ptx or "cp.async" in ptx for ptx in code)
    assert sum("max.NaN.f32" in ptx for ptx in code) == sum("trap;" in ptx for ptx in code) == 4
    gathers = {ptx: [body for body in innermost_loops(ptx) if "ld.global.v4" in body] for ptx in code}
    for ptx, bodies in gathers.items():
        assert len(bodies) >= 1, ptx
        handed = [word for word in ("bar.sync", "shfl", "st.shared") for body in bodies if word in body]
        assert not handed or "synapse_gradient" in ptx  # which shares one row among a branch's synapses


def innermost_loops(ptx):
    """The lines between a label and a branch back to it that hold no other such pair."""
    lines = ptx.splitlines()
    labels = {line.split(":")[0]: at for at, line in enumerate(lines) if line.startswith("$L")}
    jumps = [
        (labels[line.split()[-1].rstrip(";")], at) for at, line in enumerate(lines) if " bra " in f" {line.strip()}"
    ]
    back = [(start, end) for start, end in jumps if start < end]
    inner = [a for a in back if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in back)]
    return ["\n".join(lines[start : end + 1]) for start, end in inner]


def test_weights_of_half_the_bytes_take_half_the_room():
    for memory in (10, 40):
        full = sizes(500, memory=memory, batch=1)
        half = replace(full, number_bytes=2)
        assert full.shared_bytes(4) > 1.9 * half.shared_bytes(4)
        assert plan(full, H100).block <= plan(half, H100).block
    large = sizes(200, memory=40, batch=2)
    assert plan(large, H100).regime == "streamed"
    assert plan(replace(large, number_bytes=2), H100).regime == "resident"


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [90, 80])
def test_kernels_of_the_benchmark_cases_compile_without_spills(capability):
    from elmnet.bench.cases import CASES
    from elmnet.bench.cuda_compile import compile_layer
    from elmnet.ops.cuda.plan import GPUS

    for case in CASES.values():
        for layer in case.build("reference").layers:
            for bf16 in (False, True):
                _, compiled = compile_layer(layer, case.batch, capability, bf16=bf16)
                assert all(c.spilled_bytes == 0 for c in compiled), (case.name, compiled)
                assert all(c.shared_bytes <= GPUS[capability].shared_bytes for c in compiled), (case.name, compiled)


LAUNCHES = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Driver:  # stands in for a GPU's: kernels are compiled as for a launch, none is started
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=0: 0)


driver.set_active(Driver())
from elmnet import ELMLayer, LayerConfig, NeuronConfig
from elmnet.ops.cuda import launch
from elmnet.ops.cuda.plan import H100
from elmnet.bench.cuda_tune import both_ways, example

compiled = []


def warm(kernel, grid, arguments, options):
    made = kernel.warmup(**arguments, **options, grid=grid)
    compiled.append((kernel.__name__, made.hash))
    if kernel.__name__ in ("forward", "backward"):
        assert made.metadata.launch_cooperative_grid


neuron = NeuronConfig(memory=3, branches=3, synapses=2)
for units, batch in ((100, 5), (100, 8), (101, 7)):
    layer = ELMLayer(LayerConfig(units=units, neuron=neuron, recurrent_connect=0.5), 3)
    both_ways(launch.Layer(*example(layer, batch, 2), H100, warm))
assert len(compiled) == 18, compiled
print(len(set(compiled)))
"""


@needs_triton
@pytest.mark.slow
def test_no_batch_size_and_no_number_of_units_is_compiled_in():
    done = subprocess.run([sys.executable, "-c", LAUNCHES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6"  # five kernels; one is also called with a list that begins at an odd place
