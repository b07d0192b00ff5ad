"""Checkpoints of the authors' ELM Network (JAX and Equinox; Spieler, Martius, Levina 2026, arXiv:2605.12049).

Their training writes `best_model_state_dict.eqx` (`equinox.tree_serialise_leaves`) and `model_config.json`, the
arguments of `ELMNetwork`, into one folder. `leaves_of` is the order of the leaves, field by field of their modules:

    ELMNetwork   layers, linear_embedding (weight, bias; only with output_embedding "linear_layer")
    ELMLayer     ensemble, input_connectome
    ELM          _w_s, mlp (layers 0..L: weight, bias), w_y (weight), b, _tau_m; all with N in front

JAX is needed neither to read nor to write. Their memory timescales are stored as ours are, through the same scaled
sigmoid, so weights are copied as they stand.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elmnet.config import LayerConfig, NetworkConfig, NeuronConfig
from elmnet.errors import CheckpointError, ConfigError
from elmnet.files import write_atomic
from elmnet.interop import Settings, read_config
from elmnet.interop.leaves import Leaves, read_leaves, write_leaves
from elmnet.network import ELMNetwork

_NETWORK: dict[str, Any] = {
    "num_input": ...,
    "num_output": ...,
    "num_hidden": 1024,
    "num_layers": 2,
    "input_embedding": None,
    "input_embedding_args": None,
    "output_embedding": None,
    "output_embedding_args": None,
    "layer_config": None,
    "first_layer_override": None,
    "last_layer_override": None,
}
_LAYER: dict[str, Any] = {
    "num_neuron": ...,
    "neuron_config": None,
    "input_wiring": "random",
    "input_wiring_args": None,
    "input_dropout": 0.0,
    "recurrent_dropout": 0.0,
}
_NEURON: dict[str, Any] = {
    "num_memory": 10,
    "num_branch": None,
    "num_synapse_per_branch": None,
    "input_scale": 1.0,
    "branch_tau": None,
    "mlp_num_hidden_layer": 1,
    "mlp_num_hidden_units": None,
    "mlp_hidden_act": "relu_squared",
    "lambda_value": 5.0,
    "lambda_as_timescale_ratio": True,
    "memory_tau_min": 1.0,
    "memory_tau_max": 1000.0,
    "memory_tau_learnable": False,
    "memory_tau_range_scale": 10.0,
    "high_pass_tau": 5.0,
    "neuron_activation": "relu",
    "synapse_rect": None,
    "neuronio_synapse_init": None,
    "neuronio_spike_bias": None,
    "input_dropout": 0.0,
    "memory_dropout": 0.0,
    "input_embedding": None,
    "input_embedding_args": None,
    "delta_t": 1.0,
    "dtype": "float32",
}
_LAST_LAYER = {
    "neuron_config": {"high_pass_tau": None, "neuron_activation": "identity"},
    "input_wiring_args": {"recurrent_connect": 0.0},
}
_ACTIVATIONS = {"relu_squared": "relu2", "relu": "relu", "silu": "silu"}


def read_network(path: Path, *, backend: str = "auto") -> ELMNetwork:
    """Read a checkpoint; the network gives what theirs gives without dropout.

    Raises:
        CheckpointError: a file is missing or damaged, a leaf does not fit the configuration, or the configuration
            describes what elmnet's network cannot express.
    """
    path = Path(path)
    config = config_of(read_config(path), str(path.with_name("model_config.json")))
    arrays = read_leaves(path, leaves_of(config))
    for i, (layer, inputs) in enumerate(zip(config.stack, config.layer_inputs, strict=True)):
        sources = arrays[f"layers[{i}].input_connectome"]
        if sources.min() < 0 or sources.max() >= inputs + layer.outputs:
            count = inputs + layer.outputs
            raise CheckpointError(f"{path}: layer {i}'s input_connectome names sources outside 0..{count - 1}")
    network = ELMNetwork(config, seed=0, backend=backend)
    state = {own: torch.from_numpy(arrays[name]) for name, own in _names(config).items()}
    with torch.no_grad():
        for own, tensor in network.state_dict(keep_vars=True).items():
            tensor.copy_(state[own].reshape(tensor.shape))
    return network.eval()


def write_network(network: ELMNetwork, path: Path) -> None:
    """Write what `read_network` and the authors' code read: the leaves, and `model_config.json` beside them.

    Raises:
        CheckpointError: their network cannot express this one, or the folder holds another one.
    """
    config = settings_of(network.config)
    beside = path.with_name("model_config.json")
    others = [file.name for file in path.parent.glob("*.eqx") if file.name != path.name]
    if others and beside.exists() and beside.read_text(encoding="utf-8") != _text(config):
        raise CheckpointError(f"{beside} describes another network, that of {others[0]}; write into another folder")
    state = network.state_dict()
    for i in range(len(network.config.stack)):
        if bool((state[f"layers.{i}.connectome"] < 0).any()):
            raise CheckpointError(f"layer {i} has unconnected synapses, which an .eqx connectome cannot say")
    names, leaves = _names(network.config), leaves_of(network.config)
    arrays = {name: _float32(state[names[name]]).reshape(shape).cpu().numpy() for name, (shape, _) in leaves.items()}
    write_atomic(path, write_leaves(arrays))
    write_atomic(beside, _text(config))


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=4) + "\n"


def _float32(tensor: Tensor) -> Tensor:
    """As the authors' code has it: numbers in float32, indices in int32."""
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else torch.int32)


def leaves_of(config: NetworkConfig) -> Leaves:
    """Every leaf of the authors' network of this configuration, in the order of the file."""
    leaves: dict[str, tuple[tuple[int, ...], str]] = {}
    for i, layer in enumerate(config.stack):
        n, neuron, at = layer.units, layer.neuron, f"layers[{i}]."
        leaves[f"{at}ensemble._w_s"] = (n, neuron.connectivity), "f"
        widths = neuron.mlp_widths
        for k in range(len(widths) - 1):
            leaves[f"{at}ensemble.mlp.layers[{k}].weight"] = (n, widths[k + 1], widths[k]), "f"
            leaves[f"{at}ensemble.mlp.layers[{k}].bias"] = (n, widths[k + 1]), "f"
        leaves[f"{at}ensemble.w_y.weight"] = (n, 1, neuron.memory), "f"
        leaves[f"{at}ensemble.b"] = (n, 1), "f"
        leaves[f"{at}ensemble._tau_m"] = (n, neuron.memory), "f"
        leaves[f"{at}input_connectome"] = (n, neuron.connectivity), "i"
    if config.has_affine:
        leaves["linear_embedding.weight"] = (config.outputs, config.stack[-1].outputs), "f"
        leaves["linear_embedding.bias"] = (config.outputs,), "f"
    return leaves


def _names(config: NetworkConfig) -> dict[str, str]:
    """Name of a leaf → name of our tensor."""
    names: dict[str, str] = {}
    for i, layer in enumerate(config.stack):
        theirs, ours = f"layers[{i}].ensemble.", f"layers.{i}.neurons."
        names |= {theirs + "_w_s": ours + "w_s", theirs + "w_y.weight": ours + "readout", theirs + "b": ours + "bias"}
        names |= {theirs + "_tau_m": ours + "tau_logit", f"layers[{i}].input_connectome": f"layers.{i}.connectome"}
        for k in range(layer.neuron.hidden_layers + 1):
            for kind in ("weight", "bias"):
                names[f"{theirs}mlp.layers[{k}].{kind}"] = f"{ours}mlp.{k}.{kind}"
    return names | {f"linear_embedding.{kind}": f"affine.{kind}" for kind in ("weight", "bias") if config.has_affine}


def config_of(settings: Mapping[str, Any], where: str) -> NetworkConfig:
    """Our configuration from the arguments of the authors' `ELMNetwork`; `where` is named in messages.

    Raises:
        CheckpointError: a setting is wrong, or elmnet's network cannot express it.
    """
    said = Settings(settings, _NETWORK, where)
    count, outputs = said.layers("num_layers"), said.count("num_output")
    general = said.mapping("layer_config")
    first, last = said.mapping("first_layer_override"), said.mapping("last_layer_override")
    try:
        layers = []
        for i in range(count):
            if i == count - 1:
                merged = _merged(_merged({"num_neuron": outputs, **general}, _LAST_LAYER), last)
            else:
                merged = {"num_neuron": said.count("num_hidden"), **general}
                merged = _merged(merged, first) if i == 0 else merged
            layers.append(_layer(merged, f"{where}: layer {i}"))
        has_affine = said.choice("output_embedding", {None: False, "linear_layer": True})
        args = said.mapping("input_embedding_args")
        kind = said.choice("input_embedding", {None: None, "one_hot": "one_hot"})
        whole = {
            "inputs": said.count("num_input"),
            "outputs": outputs,
            "token_scale": args.get("scale", 1.0) if kind else None,
        }
        if not has_affine:
            return NetworkConfig.from_dict({**whole, "layers": layers, "readout": "none"})
        if count == 1:
            return NetworkConfig.from_dict({**whole, "layers": layers, "readout": "linear"})
        config = NetworkConfig.from_dict({**whole, "layers": layers[:-1], "readout": layers[-1]})
        usual = config.replace(readout="elm")
        return usual if usual.stack == config.stack else config
    except ConfigError as error:
        raise CheckpointError(f"{where}: no such network here: {error}") from error


def _layer(settings: Mapping[str, Any], where: str) -> LayerConfig:
    said = Settings(settings, _LAYER, where)
    args = said.mapping("input_wiring_args")
    wiring, rho = said["input_wiring"], args.get("recurrent_connect")
    return LayerConfig(
        units=said.count("num_neuron"),
        neuron=_neuron(said.mapping("neuron_config"), f"{where}: neuron_config"),
        wiring="random" if wiring == "random" else "given",  # the connectome comes with the weights
        recurrent_connect=rho if wiring == "random" else None,
        input_dropout=said["input_dropout"],
        recurrent_dropout=said["recurrent_dropout"],
    )


def _neuron(settings: Mapping[str, Any], where: str) -> NeuronConfig:
    said = Settings(settings, _NEURON, where)
    said.choice("dtype", {"float32": None, "float64": None})
    memory, hidden_layers = said.count("num_memory"), said.layers("mlp_num_hidden_layer")
    hidden = said.count("mlp_num_hidden_units", 2 * memory)
    branches = said.count("num_branch", 2 * hidden if hidden_layers else 4 * memory)
    start, spike_bias = said["neuronio_synapse_init"], said["neuronio_spike_bias"]
    rectified = {None: start is not None, "identity": False, "relu": True}
    if spike_bias is not None:
        raise CheckpointError(f"{where}: neuronio_spike_bias belongs to a neuron with two outputs, not to a layer")
    return NeuronConfig(
        memory=memory,
        branches=branches,
        synapses=said.count("num_synapse_per_branch", branches),
        hidden=None if hidden == 2 * memory or hidden_layers == 0 else hidden,
        hidden_layers=hidden_layers,
        mlp_activation=said.choice("mlp_hidden_act", _ACTIVATIONS),
        activation=said.choice("neuron_activation", {"identity": "identity", "relu": "relu", "spike": "spike"}),
        dt=said["delta_t"],
        tau_min=said["memory_tau_min"],
        tau_max=said["memory_tau_max"],
        tau_branch=said["branch_tau"],
        tau_highpass=said["high_pass_tau"],
        timescale_ratio=said["lambda_value"],
        lambda_as_timescale_ratio=said["lambda_as_timescale_ratio"],
        input_scale=said["input_scale"],
        learn_timescales=said["memory_tau_learnable"],
        tau_range_scale=said["memory_tau_range_scale"],
        nonnegative_synapses=said.choice("synapse_rect", rectified),
        synapse_init=start,
        memory_dropout=said["memory_dropout"],
        synapse_dropout=said["input_dropout"],
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary with some values replaced, at any depth."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def settings_of(config: NetworkConfig) -> dict[str, Any]:
    """The arguments of the authors' `ELMNetwork` for our configuration, every default written out.

    Raises:
        CheckpointError: their network cannot express it.
    """
    stack = [_settings_of(*pair) for pair in zip(config.stack, config.layer_inputs, strict=True)]
    general = dict(stack[len(stack) > 1])
    if any(layer != general for layer in stack[1:-1]):
        raise CheckpointError("an .eqx network's inner layers are all alike; these are not")
    return {
        "num_input": config.inputs,
        "num_output": config.outputs,
        "num_hidden": general.pop("num_neuron"),
        "num_layers": len(stack),
        "input_embedding": None if config.token_scale is None else "one_hot",
        "input_embedding_args": None if config.token_scale is None else {"scale": config.token_scale},
        "output_embedding": "linear_layer" if config.has_affine else None,
        "layer_config": general,
        "first_layer_override": stack[0] if len(stack) > 1 else None,
        "last_layer_override": stack[-1],
    }


def _settings_of(layer: LayerConfig, inputs: int) -> dict[str, Any]:
    c = layer.neuron
    if c.outputs != 1:
        raise CheckpointError(f"neurons of an .eqx network have one output each, these have {c.outputs}")
    rho = layer.recurrent_connect
    if rho is None:  # written out, for their last layer's default is another one
        rho = layer.outputs / (inputs + layer.outputs)
    return {
        "num_neuron": layer.units,
        "input_wiring": "random",
        "input_wiring_args": {"recurrent_connect": rho},
        "input_dropout": layer.input_dropout,
        "recurrent_dropout": layer.recurrent_dropout,
        "neuron_config": {
            "num_memory": c.memory,
            "num_branch": c.branches,
            "num_synapse_per_branch": c.synapses,
            "input_scale": c.input_scale,
            "branch_tau": c.tau_branch,
            "mlp_num_hidden_layer": c.hidden_layers,
            "mlp_num_hidden_units": c.hidden or 2 * c.memory,
            "mlp_hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == c.mlp_activation),
            "lambda_value": c.timescale_ratio,
            "lambda_as_timescale_ratio": c.lambda_as_timescale_ratio,
            "memory_tau_min": c.tau_min,
            "memory_tau_max": c.tau_max,
            "memory_tau_learnable": c.learn_timescales,
            "memory_tau_range_scale": c.tau_range_scale,
            "high_pass_tau": c.tau_highpass,
            "neuron_activation": c.activation,
            "synapse_rect": "relu" if c.nonnegative_synapses else "identity",
            "neuronio_synapse_init": c.synapse_init,
            "input_dropout": c.synapse_dropout,
            "memory_dropout": c.memory_dropout,
            "delta_t": c.dt,
        },
    }
