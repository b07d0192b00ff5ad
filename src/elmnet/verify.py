"""Proof that an installation computes the published model: golden vectors, and a check that needs no files.

A golden file (`.npz`) holds a configuration, parameters, an input, and the outputs, loss, final states and gradients
that two independent implementations agreed on; `verify_file` recomputes them with every backend asked for.
`self_check` compares a small network with a second implementation, written neuron by neuron in NumPy.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from elmnet import wiring
from elmnet.config import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.errors import BackendError, CheckpointError, DataError, ElmnetError, in_a_line
from elmnet.files import BAD_ARCHIVE
from elmnet.interop.pytorch import neuron_of
from elmnet.layer import ELMLayer
from elmnet.network import ELMNetwork
from elmnet.ops import BACKENDS, Masks
from elmnet.train.objective import mlp_magnitude, population_activity

Arrays = Mapping[str, NDArray[Any]]

_DAMAGE = (*BAD_ARCHIVE, CheckpointError, LookupError, ValueError, RuntimeError)

OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Check:
    """One tensor compared: ‖got - wanted‖ / ‖wanted‖, or ‖got‖ where wanted is zero."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Within tolerance; not a number never is."""
        return self.error <= self.tolerance


def verify_file(path: Path, *, backend: str = "auto", dtype: torch.dtype = torch.float64) -> list[Check]:
    """Recompute a golden file.

    Raises:
        DataError: the file is missing, damaged, or not a golden file.
        BackendError: the backend refuses.
    """
    if path.exists() and not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a readable golden file: it is no .npz archive")
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(str(arrays["config"]))
        run = _verify_neuron if "input_to_synapse_routing" in config else _verify_network
        return run(config, arrays, backend, dtype)
    except BackendError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: not a readable golden file: {type(error).__name__}: {error}") from error


@contextmanager
def _running(backend: str) -> Iterator[None]:
    """What breaks in here is the backend, not the file."""
    try:
        yield
    except ElmnetError:
        raise
    except Exception as error:  # of a driver, of a compiler: they have many kinds
        raise BackendError(f"backend {backend!r} broke while it ran: {in_a_line(error)}") from error


def _verify_network(config: dict[str, Any], arrays: Arrays, backend: str, dtype: torch.dtype) -> list[Check]:
    layers = tuple(
        LayerConfig(units=c["N"], recurrent_connect=c["recurrent_connect"], neuron=_neuron(c["c"]))
        for c in config["layers"]
    )
    shape = NetworkConfig(
        inputs=config["n_in"],
        outputs=config["n_out"],
        token_scale=config["scale"],
        layers=layers[:1],
        readout=layers[1] if len(layers) > 1 else "linear",
    )
    device = device_of(backend)
    network = ELMNetwork(shape, seed=0, backend=backend).to(device, dtype)
    names = _parameter_names(network)
    with torch.no_grad():
        for golden, own in names.items():
            _copy(network.get_parameter(own), arrays[golden])
        for i in range(len(layers)):  # timescales anew: those of a float32 network are not exact in float64
            neurons = cast(ELMLayer, network.layers[i]).neurons
            neurons.set_timescales(torch.tensor(layers[i].neuron.timescales, dtype=torch.float64))
            _copy(network.get_buffer(f"layers.{i}.connectome"), arrays[f"layer{i}.connectome"])
    masks = [
        Masks(*(torch.from_numpy(arrays[f"layer{i}.{kind}_mask"]).to(device, dtype) for kind in ("input", "recurrent")))
        for i in range(len(layers))
    ]
    x = torch.from_numpy(arrays["x"]).to(device)
    with _running(backend):
        out, state, signals = network(
            x if config["kind"] == "token" else x.to(dtype), masks=masks, monitor=("branch", "mlp", "activity")
        )

    logits = out.flatten(0, 1) if config["loss"] == "sequence" else out[:, -1]
    targets, smoothing = torch.from_numpy(arrays["y"]).flatten().to(device), config["label_smoothing"]
    entropy = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    reg_mlp, reg_activity = mlp_magnitude(signals[0]["mlp"]), population_activity(signals[0]["activity"])
    weights = config["regularisers"]
    loss = entropy + weights["mlp"] * reg_mlp + weights["act"] * reg_activity
    with _running(backend):
        loss.backward()

    got = {
        "logits": out,
        "hidden_activity": signals[0]["activity"],
        "cross_entropy": entropy,
        "reg_mlp": reg_mlp,
        "reg_activity": reg_activity,
        "loss": loss,
    }
    for i, layer_state in enumerate(state.layers):
        got[f"layer{i}.final_state.m"] = layer_state.memory
        got[f"layer{i}.final_state.b"] = signals[i]["branch"][:, -1]
        got[f"layer{i}.final_state.a"] = layer_state.activity
        if layers[i].neuron.tau_highpass is not None:
            got[f"layer{i}.final_state.r"] = layer_state.highpass
    checks = [_check(name, tensor, arrays[name], OUTPUT_TOLERANCE[dtype]) for name, tensor in got.items()]
    for golden, own in names.items():
        gradient = network.get_parameter(own).grad
        assert gradient is not None
        checks.append(_check(f"grad.{golden}", gradient, arrays[f"grad.{golden}"], GRADIENT_TOLERANCE[dtype]))
    return checks


def _parameter_names(network: ELMNetwork) -> dict[str, str]:
    """Golden name → own name of every trained parameter."""
    names = {}
    for own, parameter in network.named_parameters():
        if parameter.requires_grad:
            golden = own.replace("affine.", "linear.")
            if own.startswith("layers."):
                _, index, _, rest = own.split(".", 3)
                golden = f"layer{index}.{rest}"
            names[golden] = own
    return names


def _neuron(c: dict[str, Any]) -> NeuronConfig:
    return NeuronConfig(
        memory=c["d_m"],
        hidden=c["d_mlp"],
        branches=c["d_tree"],
        synapses=c["d_s"],
        hidden_layers=c["mlp_layers"],
        mlp_activation="relu2" if c["mlp_act"] == "relu_squared" else c["mlp_act"],
        timescale_ratio=c["lam"],
        lambda_as_timescale_ratio=c["lam_ratio"],
        tau_min=c["tau_min"],
        tau_max=c["tau_max"],
        tau_branch=c["tau_b"],
        tau_highpass=c["tau_r"],
        activation=c["act"],
        input_scale=c["input_scale"],
        dt=c["dt"],
    )


def _verify_neuron(config: dict[str, Any], arrays: Arrays, backend: str, dtype: torch.dtype) -> list[Check]:
    """A pretrained neuron of the first ELM paper: ReLU MLP, λ-scaled update, one synaptic filter for all synapses.

    Its outputs were recorded in float32, so no dtype can agree with them beyond float32's tolerance.
    """
    state = {
        name.removeprefix("state."): torch.from_numpy(arrays[name]) for name in arrays if name.startswith("state.")
    }
    elm = neuron_of(config, state, where="state", backend=backend).to(device_of(backend), dtype)
    with torch.no_grad():
        out, _ = elm(torch.from_numpy(arrays["input"]).to(device_of(backend), dtype))
    final = torch.stack([torch.sigmoid(out[..., 0]), out[..., 1] * 10], -1)  # spike probability, soma voltage
    drawn = wiring.draw(elm.layer.config, elm.layer.inputs)
    tolerance = OUTPUT_TOLERANCE[torch.float32]
    return [
        _check("routing", drawn.double(), elm.layer.connectome.double().numpy(), 0.0),
        _check("output", out, arrays["output"], tolerance),
        _check("eval_output", final, arrays["eval_output"], tolerance),
    ]


def device_of(backend: str) -> torch.device:
    """Where a backend runs: a GPU for one that runs nowhere else, if there is one."""
    devices = BACKENDS[backend].devices if backend in BACKENDS else ()
    gpu = bool(devices) and "cpu" not in devices and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _copy(target: Tensor, source: NDArray[Any]) -> None:
    target.copy_(torch.from_numpy(source).reshape(target.shape))


def _check(name: str, got: Tensor, wanted: NDArray[Any], tolerance: float) -> Check:
    reference = np.asarray(wanted, dtype=np.float64)
    difference = got.detach().double().cpu().numpy().reshape(reference.shape) - reference
    scale = float(np.linalg.norm(reference))
    return Check(name, float(np.linalg.norm(difference)) / (scale or 1.0), tolerance)


def self_check(*, backend: str = "auto", dtype: torch.dtype = torch.float64) -> list[Check]:
    """Compare a small network with an independent implementation, and its gradient with central differences."""
    config = NetworkConfig(
        inputs=6,
        outputs=3,
        layers=(
            LayerConfig(
                units=5,
                recurrent_connect=0.5,
                neuron=NeuronConfig(
                    memory=3, branches=4, synapses=2, tau_max=20.0, tau_highpass=5.0, tau_branch=3.0, input_scale=2.0
                ),
            ),
        ),
    )
    device = device_of(backend)
    network = ELMNetwork(config, seed=1, backend=backend).to(device, dtype)
    x = torch.rand(2, 11, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    out, _ = network(x.to(device, dtype))
    expected = plain_network(network, x.numpy())
    checks = [_check("logits against plain NumPy", out, expected, OUTPUT_TOLERANCE[dtype])]

    carried, pieces = None, []
    for t in range(x.shape[1]):
        piece, carried = network.step(x[:, t].to(device, dtype), carried)
        pieces.append(piece)
    streamed = torch.stack(pieces, 1)
    checks.append(
        _check("streaming against whole", streamed, out.detach().double().cpu().numpy(), OUTPUT_TOLERANCE[dtype])
    )

    out.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    along = sum(float(g.double().square().sum()) for g in gradient.values())
    steps = []
    for sign in (1, -1):
        moved = ELMNetwork(config, seed=1).double()
        moved.load_state_dict(network.state_dict())
        with torch.no_grad():
            for name, g in gradient.items():
                moved.get_parameter(name).add_(g.double().cpu(), alpha=sign * 1e-6 / along**0.5)
        steps.append(float(np.square(plain_network(moved, x.numpy())).sum()))
    slope = (steps[0] - steps[1]) / 2e-6
    tolerance = max(GRADIENT_TOLERANCE[dtype], 1e-6)  # a central difference is no better than that
    checks.append(_check("gradient against central difference", torch.tensor(along**0.5), np.array(slope), tolerance))
    return checks


def plain_network(network: ELMNetwork, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The network once more, neuron by neuron in NumPy float64, from the equations alone.

    Dense input, ReLU² MLPs, outputs relu or identity, one output per neuron; x (B, T, n_in) → (B, T, n_out).
    """
    value = {name: tensor.detach().double().cpu().numpy() for name, tensor in network.state_dict().items()}
    result = np.empty((*x.shape[:2], network.config.outputs))
    for b in range(len(x)):
        memories: dict[tuple[int, int, str], Any] = {}
        activity = [np.zeros(layer.units) for layer in network.config.stack]
        for t in range(x.shape[1]):
            h = x[b, t]
            for i, layer in enumerate(network.config.stack):
                sources = np.concatenate([h, activity[i]])
                h = np.array([_plain_neuron(layer, value, i, n, sources, memories) for n in range(layer.units)])
                activity[i] = h
            result[b, t] = value["affine.weight"] @ h + value["affine.bias"]
    return result


def _plain_neuron(layer: LayerConfig, value: Arrays, i: int, n: int, sources: Any, memories: dict[Any, Any]) -> float:
    c, p = layer.neuron, f"layers.{i}.neurons."
    low, high = c.tau_min / c.tau_range_scale, c.tau_max * c.tau_range_scale**0.5
    tau = low + (high - low) / (1 + np.exp(-value[p + "tau_logit"][n]))
    drive = sources[value[f"layers.{i}.connectome"][n].astype(int)].reshape(c.branches, c.synapses)
    branch = c.input_scale * (value[p + "w_s"][n] * drive).sum(1)
    if c.tau_branch:
        branch = np.exp(-c.dt / c.tau_branch) * memories.get((i, n, "b"), 0.0) + branch
        memories[i, n, "b"] = branch
    decayed = np.exp(-c.dt / tau) * memories.get((i, n, "m"), np.zeros(c.memory))
    u = np.concatenate([branch, decayed])
    for k in range(c.hidden_layers + 1):
        u = value[f"{p}mlp.{k}.weight"][n] @ u + value[f"{p}mlp.{k}.bias"][n]
        if k < c.hidden_layers:
            u = np.maximum(u, 0) ** 2
    memory = decayed + (1 - np.exp(-c.timescale_ratio * c.dt / tau)) * 1.7159 * np.tanh(2 * u / 3)
    memories[i, n, "m"] = memory
    y = float(value[p + "readout"][n, 0] @ memory)
    drive_out = y + float(value[p + "bias"][n, 0])
    if c.tau_highpass:
        keep = np.exp(-c.dt / c.tau_highpass)
        memories[i, n, "r"] = keep * memories.get((i, n, "r"), 0.0) + (1 - keep) * y
        drive_out -= memories[i, n, "r"]
    return max(drive_out, 0.0) if c.activation == "relu" else drive_out
