import json
import time
from dataclasses import replace

import pytest
import torch
from conftest import network_config

from elmnet import cli, ops
from elmnet.bench import cases, contenders, harness
from elmnet.bench.cases import Case
from elmnet.bench.contenders import Jax, Torch
from elmnet.ops.cpu.library import LIBRARY, Library

SMALL = Case("small", network_config(tau_branch=None, token_scale=3.0), batch=2, steps=4, last_step=False)
SPIKES = Case("spikes", network_config(tau_branch=None), batch=3, steps=5, last_step=True)


def test_published_cases():
    sizes = {name: case.build().count_parameters() for name, case in cases.CASES.items()}
    assert sizes == {"enwik8-small": 789580, "enwik8-paper": 3516748, "shd": 76551, "shd-64": 76551}


def test_rounds_are_interleaved_and_the_slow_sit_out(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(harness.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def contender(name, seconds):
        def call():
            calls.append(name)
            clock[0] += seconds

        return call

    times = harness.measure({"slow": contender("slow", 10), "fast": contender("fast", 1)}, rounds=6, seconds=20)
    assert calls[:6] == ["slow", "fast"] * 3
    assert times == {"slow": [10.0] * 3, "fast": [1.0] * 6}


def test_statistics():
    result = harness.Result("x", seconds=[3.0, 1.0, 2.0])
    assert result.median == 2.0
    assert result.spread == (1.2, 2.8)
    assert harness.Result("x", seconds=[3.0]).spread == (3.0, 3.0)


def test_a_wrong_backend_gets_no_number(monkeypatch):
    reference = ops.BACKENDS["reference"]

    def wrong(*arguments, **options):
        out, state, signals = reference.run(*arguments, **options)
        return out * 1.001, state, signals

    liar = ops.Backend("liar", wrong, lambda device, dtype, dynamics: None, "")
    monkeypatch.setattr(ops, "BACKENDS", {"liar": liar, "reference": reference})
    entrants = [Torch("liar"), Torch("reference")]
    bad, good = harness.run(SMALL, entrants, rounds=1)
    assert "failed verification" in bad.refused
    assert bad.seconds == []
    assert good.refused is None
    assert len(good.seconds) == 1


def test_wrong_only_at_the_timed_batch_gets_no_number(monkeypatch):
    case = replace(SMALL, batch=7)
    reference = ops.BACKENDS["reference"]

    def wrong(x, *arguments, **options):
        out, state, signals = reference.run(x, *arguments, **options)
        return out * (1.5 if len(x) == case.batch else 1.0), state, signals

    liar = ops.Backend("liar", wrong, lambda device, dtype, dynamics: None, "")
    monkeypatch.setattr(ops, "BACKENDS", {"liar": liar, "reference": reference})
    (result,) = harness.run(case, [Torch("liar")], rounds=1)
    assert "failed verification" in result.refused
    assert result.seconds == []


def test_a_wrong_stream_gets_no_number(monkeypatch):
    reference = ops.BACKENDS["reference"]

    class Stream:
        def __init__(self, inputs, layers):
            self.outputs = layers[-1][1].synapse.shape[0]

        def step(self, x, states):
            return torch.ones(1, self.outputs), tuple(states)

    liar = replace(reference, name="liar", stream=Stream)
    monkeypatch.setattr(ops, "BACKENDS", {"liar": liar, "reference": reference})
    (result,) = harness.run(SMALL, [Torch("liar")], streaming=True, rounds=1)
    assert "failed verification" in result.refused
    assert result.seconds == []


def test_one_that_breaks_does_not_stop_the_others(monkeypatch):
    reference = ops.BACKENDS["reference"]

    def broken(*arguments, **options):
        raise RuntimeError("no [luck] today\nand a long trace")

    monkeypatch.setattr(
        ops, "BACKENDS", {"broken": replace(reference, name="broken", run=broken), "reference": reference}
    )
    bad, good = harness.run(SMALL, [Torch("broken"), Torch("reference")], rounds=1)
    assert bad.refused == "broke while it was verified: RuntimeError: no [luck] today"
    assert good.seconds


def test_compiling_stops_at_its_limit(monkeypatch):
    monkeypatch.setattr(ops, "BACKENDS", dict(ops.BACKENDS))
    monkeypatch.setattr(contenders, "COMPILE_SECONDS", 0.01)
    monkeypatch.setattr(contenders.Compiled, "_compile", lambda self: ops.BACKENDS["reference"])
    monkeypatch.setattr(contenders.Compiled, "verify", lambda self, case: time.sleep(60))
    assert "cannot compile: TimeoutError: not done after" in contenders.Compiled().refuses(SMALL)


def test_old_or_missing_jax_is_refused(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    assert "pip install 'elmnet[bench]'" in Jax("A").refuses(SMALL)
    monkeypatch.setattr(contenders, "find_spec", lambda name: name)
    monkeypatch.setattr(contenders.metadata, "version", lambda name: "0.6.2")
    assert "this is 0.6.2" in Jax("A").refuses(SMALL)


@pytest.mark.parametrize("case", [SMALL, SPIKES], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", ["A", "B"])
def test_jax_baselines_are_the_same_network(case, kind):
    pytest.importorskip("jax", reason="JAX is not installed (extra `bench`)")
    pytest.importorskip("optax", reason="optax is not installed (extra `bench`)")
    assert Jax(kind).verify(case) < 1e-5
    step = Jax(kind).training(case)
    assert step() > step() > 0


def test_steps_train():
    for contender in (Torch("cpu"), Torch("reference"), contenders.Lstm()):
        step = contender.training(SMALL)
        first = step()
        assert all(step() < first for _ in range(3))
        contender.streaming(SMALL)()


def test_reasons_are_printed_whole(monkeypatch, capsys):
    monkeypatch.setattr(cases, "CASES", {"small": SMALL})
    monkeypatch.setattr(harness.os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(harness, "attainable", lambda: 1e9)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        cli.main(["bench", "--contender", "JAX A", "--no-streaming", "--rounds", "1"])
    assert "not timed: JAX A (vmap, scan): needs JAX: pip install 'elmnet[bench]'" in capsys.readouterr().out


def test_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it
    monkeypatch.setattr(cases, "CASES", {"small": SMALL})
    monkeypatch.setattr(harness.os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(harness, "attainable", lambda: 1e9)
    arguments = [
        "bench",
        "--case",
        "small",
        "--contender",
        "elmnet",
        "--rounds",
        "2",
        "--json",
        str(tmp_path / "b.json"),
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "synthetic input" in shown
    assert "elmnet cpu" in shown
    written = json.loads((tmp_path / "b.json").read_text())
    ours = {one["contender"]: one for one in written["small training"]}
    if isinstance(LIBRARY, Library):
        assert len(ours["elmnet cpu"]["seconds"]) == 2
    assert any(len(one["seconds"]) == 2 for one in ours.values())
    assert written["small streaming"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "mnist"], "--case must be one of"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--contender", "nobody"], "--contender matches nobody"),
    ],
)
def test_wrong_usage(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(harness.os, "sched_setaffinity", lambda *_: None, raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_machine_is_described():
    described = harness.machine()
    assert described["threads"] == str(torch.get_num_threads())
    assert "cores" in described["CPU"]
