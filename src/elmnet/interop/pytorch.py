"""Checkpoints of the first ELM neuron (Spieler et al. 2023, arXiv:2306.16922; github.com/AaronSpieler/elmneuron).

A `.pt` file holds the state dict, `model_config.json` beside it the arguments of the module's constructor. There are
two forms. The first filters every synapse (`tau_s`) and absorbs λ·(1-κ_m); the second filters every branch (`tau_b`)
and absorbs 1-exp(-λ·Δt/τ_m). Filtering is linear: where all synapses share one timescale, filtering them and summing
up is summing up and filtering, which is what our neuron does. Where they do not, there is no such neuron here.
"""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elmnet.config import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.errors import CheckpointError, ConfigError, in_a_line
from elmnet.interop import Settings, read_config
from elmnet.layer import ELM
from elmnet.network import ELMNetwork

_ARGUMENTS: dict[str, Any] = {
    "num_input": ...,
    "num_output": ...,
    "num_memory": 100,
    "lambda_value": 5.0,
    "mlp_num_layers": 1,
    "mlp_hidden_size": None,
    "mlp_activation": "relu",
    "tau_s_value": 5.0,
    "tau_b_value": 5.0,
    "memory_tau_min": 1.0,
    "memory_tau_max": 1000.0,
    "learn_memory_tau": False,
    "w_s_value": 0.5,
    "num_branch": None,
    "num_synapse_per_branch": 1,
    "input_to_synapse_routing": None,
    "delta_t": 1.0,
}

_ROUTINGS = {None: "full", "random_routing": "random", "neuronio_routing": "neuronio"}


def read_network(path: Path, *, backend: str = "auto") -> ELMNetwork:
    """The neuron as a network of one unit without a read-out, which can be saved, exported and trained.

    Raises:
        CheckpointError: as for `read_neuron`.
    """
    neuron = read_neuron(path, backend=backend)
    layer = neuron.layer
    config = NetworkConfig(inputs=layer.inputs, outputs=layer.config.outputs, layers=(layer.config,), readout="none")
    network = ELMNetwork(config, seed=0, backend=backend)
    network.layers[0] = layer
    return network.eval()


def read_neuron(path: Path, *, backend: str = "auto") -> ELM:
    """Read a checkpoint of either form; the neuron gives what the other implementation's `forward` gives.

    Raises:
        CheckpointError: a file is missing or damaged, holds anything but tensors, or does not fit its configuration;
            or the neuron filters its synapses with different timescales.
    """
    path = Path(path)
    config = read_config(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: refused or read, that is said below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:  # torch's own words advise to read it all the same
        words = "it holds objects other than tensors, which could run code when read, or is damaged"
        raise CheckpointError(f"{path}: refused: {words}") from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read as a PyTorch checkpoint: {in_a_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict, names and tensors, got {type(state).__name__}")
    return neuron_of(config, state, where=str(path), backend=backend)


def neuron_of(config: Mapping[str, Any], state: Mapping[str, Tensor], *, where: str, backend: str = "auto") -> ELM:
    """Our neuron from the other one's constructor arguments and state dict; `where` is named in messages.

    Raises:
        CheckpointError: as for `read_neuron`.
    """
    said = Settings(config, _ARGUMENTS, where)
    tau_branch, per_synapse = _filter(state, where)
    inputs = said.count("num_input")
    try:
        neuron = NeuronConfig(
            memory=said.count("num_memory"),
            branches=said.count("num_branch", inputs),
            synapses=said.count("num_synapse_per_branch"),
            hidden=said.count("mlp_hidden_size", 2 * said.count("num_memory")),
            hidden_layers=said.layers("mlp_num_layers"),
            mlp_activation=said.choice("mlp_activation", {"relu": "relu", "silu": "silu"}),
            outputs=said.count("num_output"),
            activation="identity",
            dt=said["delta_t"],
            tau_min=said["memory_tau_min"],
            tau_max=said["memory_tau_max"],
            tau_branch=tau_branch,
            timescale_ratio=said["lambda_value"],
            lambda_as_timescale_ratio=not per_synapse,
            learn_timescales=said["learn_memory_tau"],
            nonnegative_synapses=True,
            synapse_init=said["w_s_value"],
        )
        routing = said.choice("input_to_synapse_routing", _ROUTINGS)
        layer = LayerConfig(units=1, neuron=neuron, recurrent_connect=0.0, wiring="given")
    except ConfigError as error:
        raise CheckpointError(f"{where}: no such neuron here: {error}") from error
    if routing == "full" and neuron.connectivity != inputs:
        raise CheckpointError(
            f"{where}: without routing {inputs} inputs need as many synapses, got {neuron.connectivity}"
        )

    shapes = _shapes(layer)
    _check_shapes(state, shapes, where)
    elm = ELM(neuron, inputs, wiring="given", seed=0, backend=backend)
    own = elm.layer.neurons.to(state["_proto_w_s"].dtype)
    with torch.no_grad():
        for name, parameter in (("_proto_w_s", own.w_s), ("w_y.weight", own.readout), ("w_y.bias", own.bias)):
            parameter.copy_(state[name].reshape(parameter.shape))
        for i in range(neuron.hidden_layers + 1):
            for kind in ("weight", "bias"):
                own.get_parameter(f"mlp.{i}.{kind}").copy_(state[f"mlp.network.{2 * i}.{kind}"].unsqueeze(0))
        low, high = said["memory_tau_min"], said["memory_tau_max"]
        high = high if per_synapse else max(low + 3e-6, high)
        own.set_timescales(low + (high - low) * torch.sigmoid(state["_proto_tau_m"].double()))
    elm.layer.connectome.copy_(_connectome(state, inputs, neuron.connectivity, routing, where))
    elm.layer.config = layer.replace(wiring=routing)
    return elm.eval()


def _filter(state: Mapping[str, Tensor], where: str) -> tuple[float, bool]:
    """The one timescale of the synaptic input, and whether synapses (else branches) are filtered."""
    kinds = [name for name in ("tau_s", "tau_b") if name in state]
    if len(kinds) != 1:
        raise CheckpointError(
            f"{where}: not a checkpoint of the ELM neuron: it must hold either tau_s (filtered synapses) or "
            f"tau_b (filtered branches), has {', '.join(kinds) or 'neither'}"
        )
    tau = state[kinds[0]].flatten().double().clamp(min=1e-6).unique()  # type: ignore[no-untyped-call]
    if len(tau) != 1:
        what = "synapses" if kinds == ["tau_s"] else "branches"
        raise CheckpointError(
            f"{where}: its {what} are filtered with {len(tau)} different timescales ({tau.min():g} to {tau.max():g}); "
            "elmnet's neuron has one for all, in which case filtering synapses equals filtering branches"
        )
    return tau.item(), kinds == ["tau_s"]


def _shapes(layer: LayerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of what the state dict must hold."""
    neuron = layer.neuron
    widths = neuron.mlp_widths
    shapes: dict[str, tuple[int, ...]] = {"_proto_w_s": (neuron.connectivity,), "_proto_tau_m": (neuron.memory,)}
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        shapes |= {f"mlp.network.{2 * i}.weight": (n_out, n_in), f"mlp.network.{2 * i}.bias": (n_out,)}
    return shapes | {"w_y.weight": (neuron.outputs, neuron.memory), "w_y.bias": (neuron.outputs,)}


def _check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    also = {"tau_s", "tau_b", "input_to_synapse_indices", "valid_indices_mask"}
    wrong = [f"missing {name}" for name in shapes if name not in state]
    wrong += [f"unknown {name}" for name in state if name not in shapes and name not in also]
    for name, shape in shapes.items():
        if name in state and (tuple(state[name].shape) != shape or not state[name].is_floating_point()):
            got = f"{tuple(state[name].shape)} of {state[name].dtype}"
            wrong.append(f"{name} is {got}, the configuration says {shape} floats")
        elif name in state and not bool(state[name].isfinite().all()):
            wrong.append(f"{name} holds values that are not finite")
    if wrong:
        raise CheckpointError(f"{where}: does not fit its model_config.json: {'; '.join(wrong[:5])}")


def _connectome(state: Mapping[str, Tensor], inputs: int, count: int, routing: str, where: str) -> Tensor:
    """(1, k_c) sources; -1 where the routing's mask closes a synapse."""
    if routing == "full":
        return torch.arange(count).unsqueeze(0)
    names = ("input_to_synapse_indices", "valid_indices_mask")
    for name in names:
        if name not in state or tuple(state[name].shape) != (count,):
            raise CheckpointError(f"{where}: {name} must hold {count} values, one for each synapse")
    sources, valid = state[names[0]].long(), state[names[1]].bool()
    if not bool(((sources >= 0) & (sources < inputs)).all()):
        raise CheckpointError(f"{where}: {names[0]} names inputs outside 0..{inputs - 1}")
    return torch.where(valid, sources, -1).unsqueeze(0)
