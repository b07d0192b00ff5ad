"""Beginning with the weights of another run: what of them fits is taken, the rest is drawn."""

from pathlib import Path

import torch
from torch import nn

from elmnet import models
from elmnet.errors import CheckpointError, ConfigError
from elmnet.files import current_directory, sha256
from elmnet.layer import ELMLayer
from elmnet.models import Network
from elmnet.network import ELMNetwork
from elmnet.train.config import InitConfig, RunConfig
from elmnet.train.run import RunDirectory


def continued(path: Path) -> RunConfig:
    """A run that begins with the best network of another, in that one's configuration.

    Text keeps its vocabulary, and units keep their timescales, whatever new data are like.

    Raises:
        RunError: there is no run, or no best network yet.
    """
    run = RunDirectory.open(path)
    config, facts = run.read_config()
    run.best_network()  # whole, and what it says it is
    best = run.best.resolve()
    symbols = facts.get("symbols")
    init = InitConfig(path=str(best), sha256=sha256(best / "model.safetensors"), symbols=symbols and tuple(symbols))
    if "timescales" in config.options.to_dict():
        config = config.replace(options=config.options.replace(timescales="model"))
    return config.replace(init=init)


def take(network: Network, init: InitConfig) -> list[str]:
    """Give a network the weights that it begins with, layer by layer; returns the names of what stays as it was drawn.

    A layer is taken with its connectome if its units, wiring and inputs are the other one's; dropout may differ.

    Raises:
        CheckpointError: the other network has changed or is gone.
        ConfigError: no layer of it fits.
    """
    best = current_directory(Path(init.path))
    if best is None or sha256(best / "model.safetensors") != init.sha256:
        raise CheckpointError(
            f"{init.path} is no longer the network that this run begins with, and it has not yet begun"
        )
    other = _parts(models.load(best))
    own = _parts(network)
    left = [name for name, part in own.items() if name not in other or not _alike(part, other[name])]
    if len(left) == len(own):
        raise ConfigError(f"no layer of {init.path} fits this network; leave its units, wiring and inputs as they are")
    with torch.no_grad():
        for name in own.keys() - set(left):
            own[name].load_state_dict(other[name].state_dict())
    return left


def _parts(network: Network) -> dict[str, nn.Module]:
    """What is taken whole or not at all, by name."""
    parts = dict(network.named_children())
    for name in ("layers", "core"):
        if (several := parts.pop(name, None)) is not None:
            parts |= {f"{name}.{i}": part for i, part in several.named_children()}
    return {name: part for name, part in parts.items() if part.state_dict()}


def _alike(part: nn.Module, other: nn.Module) -> bool:
    """Whether the weights of one mean the same in the other."""
    if isinstance(part, ELMLayer) and isinstance(other, ELMLayer):
        return part.inputs == other.inputs and _lasting(part) == _lasting(other)
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (part, other)]
    return type(part) is type(other) and shapes[0] == shapes[1]


def _lasting(layer: ELMLayer) -> object:
    """Its configuration without what is of training alone."""
    neuron = layer.config.neuron.replace(synapse_dropout=0.0, memory_dropout=0.0, learn_timescales=False)
    return layer.config.replace(neuron=neuron, input_dropout=0.0, recurrent_dropout=0.0)


def freeze_hidden(network: Network) -> None:
    """Let nothing learn but what comes after the hidden layers.

    Raises:
        ConfigError: nothing does.
    """
    readout: list[nn.Module | None] = [network.head] if not isinstance(network, ELMNetwork) else [network.affine]
    if isinstance(network, ELMNetwork):
        readout += network.elm_layers[len(network.config.layers) :]
    learning = {id(parameter) for part in readout if part is not None for parameter in part.parameters()}
    if not learning:
        raise ConfigError("training.train_only=readout: this network has no read-out after its hidden layers")
    for parameter in network.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
