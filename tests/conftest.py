"""What several tests share: the golden data's place, small configurations, small data files, synthetic sweeps."""

import os
import random
import struct
from copy import copy
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch.utils.checkpoint import checkpoint

from elmnet import LayerConfig, NetworkConfig, NeuronConfig, scores, tasks
from elmnet.cli import main
from elmnet.theory import SNRR, table

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ELMNET_SHARED", ROOT.parent / "shared"))

settings.register_profile("elmnet", deadline=None)  # these machines are shared
settings.load_profile("elmnet")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(autouse=True)
def _repeatable():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data; tests that need it skip where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED} (set ELMNET_SHARED)")
    return SHARED


def neuron(**changes) -> NeuronConfig:
    """A small neuron with every filter on."""
    settings = {
        "memory": 3,
        "branches": 4,
        "synapses": 2,
        "tau_min": 1.0,
        "tau_max": 30.0,
        "tau_highpass": 4.0,
        "tau_branch": 3.0,
        "input_scale": 2.0,
    }
    return NeuronConfig(**{**settings, **changes})


def gradients_with_and_without_checkpoint(layer, x) -> list[list[torch.Tensor]]:
    """Of all parameters that learn, as autograd keeps what it needs and as `torch.utils.checkpoint` makes it anew."""
    gradients = []
    for run in (layer, partial(checkpoint, layer, use_reentrant=False)):
        layer.zero_grad()
        run(x)[0].square().sum().backward()
        gradients.append([p.grad for p in layer.parameters() if p.requires_grad])
    return gradients


def as_data_parallel_runs(module: torch.nn.Module) -> torch.nn.Module:
    """A copy as `nn.DataParallel` makes it on GPUs: weights are plain attributes, `parameters()` is empty."""
    copied = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        copied._modules[name] = as_data_parallel_runs(child)
    for name, parameter in module._parameters.items():
        setattr(copied, name, None if parameter is None else parameter.clone())
    return copied


@pytest.fixture
def registries(monkeypatch):
    """Tasks and scores that a test makes known are forgotten after it."""
    monkeypatch.setattr(tasks, "TASKS", copy(tasks.TASKS))
    for name in ("UNITS", "_LARGER", "_OWN"):
        monkeypatch.setattr(scores, name, copy(getattr(scores, name)))
    tasks._load_own.cache_clear()


def network_config(*, inputs=6, outputs=3, units=5, token_scale=None, readout="elm", layers=1, layer=None, **changes):
    """A small network; `layer` changes LayerConfig fields, the rest NeuronConfig fields."""
    hidden = LayerConfig(units=units, neuron=neuron(**changes), **{"recurrent_connect": 0.4, **(layer or {})})
    return NetworkConfig(
        inputs=inputs, outputs=outputs, layers=(hidden,) * layers, readout=readout, token_scale=token_scale
    )


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """60 kB of text with some structure and a few newlines."""
    rng = random.Random(0)
    words = ["neuron", "branch", "synapse", "memory", "leaky", "tree", "the", "a", "of", "é"]
    text = " ".join(rng.choice(words) + ("\n" if rng.random() < 0.05 else "") for _ in range(10_000))
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_bytes(text.encode())
    return path


def wav(samples, *, rate=8000, channels=1, code=1, bits=16) -> bytes:
    """A WAV file of these samples (an array or raw bytes), whatever its header then says of them."""
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def neuronio_document(*, segments, seconds, simulations, seed=0):
    """What a NeuronIO simulation file holds, with random spikes."""
    rng = np.random.default_rng(seed)
    steps = round(1000 * seconds)

    def inputs():
        return {i: rng.integers(steps, size=rng.integers(8)).tolist() for i in range(segments)}

    def simulation():
        return {
            "exInputSpikeTimes": inputs(),
            "inhInputSpikeTimes": inputs(),
            "outputSpikeTimes": np.sort(rng.choice(steps, 3, replace=False)) + 0.9,
            "somaVoltageLowRes": rng.normal(-62, 6, steps).astype(np.float32),
        }

    parameters = {"allSegmentsType": ["basal"] * segments, "totalSimDurationInSec": seconds}
    return {
        "Params": parameters,
        "Results": {"listOfSingleSimulationDicts": [simulation() for _ in range(simulations)]},
    }


def write_spikes(path: Path, *, count=40, classes=10, seed=0, **replace) -> Path:
    """A small file in SHD's layout; `replace` overrides datasets (None leaves one out)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    sizes = rng.integers(5, 40, size=count)
    content = {
        "spikes/times": [np.sort(rng.random(n) * 0.9).astype(np.float16) for n in sizes],
        "spikes/units": [rng.integers(700, size=n).astype(np.uint16) for n in sizes],
        "labels": labels.astype(np.int64),
        "extra/speaker": rng.integers(4, size=count).astype(np.uint8),
        "extra/keys": np.array([b"k"] * classes),
        **replace,
    }
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is None:
                continue
            if isinstance(values, list):
                kind = h5py.vlen_dtype(values[0].dtype)
                dataset = file.create_dataset(name, (len(values),), kind)
                for i, value in enumerate(values):
                    dataset[i] = value
            else:
                file[name] = values
    return path


@pytest.fixture(scope="session")
def spike_directory(tmp_path_factory) -> Path:
    """A small training and test file in SHD's layout."""
    directory = tmp_path_factory.mktemp("spikes")
    write_spikes(directory / "small_train.h5", count=60)
    write_spikes(directory / "small_test.h5", count=20, seed=1)
    return directory


TRUTH = SNRR(L_inf=1.6, D=0.3, kappa_e=250, N_r=65, kappa_c=40, a=0.8, H0=5.05)


def simulated(budgets, synapses, *, noise=0.0, seed=0, law=TRUTH, memories=(3, 6, 10, 16, 25, 40), repeats=1):
    """Synthetic runs of networks with 50 branches."""
    start, rng, networks = NetworkConfig.preset("enwik8"), np.random.default_rng(seed), []
    for budget in budgets:
        for d_s in synapses:
            for d_m in memories:
                k_e = 4 * d_m**2 + 104 * d_m + 1
                units = int(budget / (k_e + 50 * d_s))
                if units >= 4:
                    networks += [start.with_hidden(units=units, memory=d_m, synapses=d_s)] * repeats
    runs = table(networks, [0.0] * len(networks), source="synthetic", score="valid_bpc", H0=law.H0, unit=law.unit)
    return runs.with_scores(law.loss(runs.N, runs.k_e, runs.k_c) + noise * rng.standard_normal(len(runs)))


def run(capsys, *arguments):
    """Exit code, standard output, standard error of one command."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err
