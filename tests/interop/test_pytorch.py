import json
import os
import pickle

import numpy as np
import pytest
import torch

from elmnet import ELMNetwork
from elmnet.errors import CheckpointError
from elmnet.interop import import_checkpoint, pytorch

CONFIG = {
    "num_input": 12,
    "num_output": 2,
    "num_memory": 3,
    "num_branch": 4,
    "num_synapse_per_branch": 5,
    "input_to_synapse_routing": "random_routing",
    "memory_tau_min": 1.0,
    "memory_tau_max": 60.0,
}


def state_dict(form, config, seed=0):
    """Tensors under the names and in the shapes that the first ELM neuron has."""
    draw = torch.Generator().manual_seed(seed)
    branches = config.get("num_branch") or config["num_input"]
    synapses = branches * config.get("num_synapse_per_branch", 1)
    hidden = config.get("mlp_hidden_size") or 2 * config["num_memory"]
    widths = [branches + config["num_memory"], *[hidden] * config.get("mlp_num_layers", 1), config["num_memory"]]

    def normal(*shape):
        return torch.randn(shape, generator=draw)

    state = {"_proto_w_s": normal(synapses), "_proto_tau_m": normal(config["num_memory"])}
    state["tau_s" if form == 1 else "tau_b"] = torch.full((synapses if form == 1 else branches,), 4.0)
    for i in range(len(widths) - 1):
        state[f"mlp.network.{2 * i}.weight"] = normal(widths[i + 1], widths[i])
        state[f"mlp.network.{2 * i}.bias"] = normal(widths[i + 1])
    state["w_y.weight"], state["w_y.bias"] = (
        normal(config["num_output"], config["num_memory"]),
        normal(config["num_output"]),
    )
    if config.get("input_to_synapse_routing"):
        state["input_to_synapse_indices"] = torch.randint(config["num_input"], (synapses,), generator=draw)
        state["valid_indices_mask"] = torch.rand(synapses, generator=draw) < 0.8
    return state


def write(directory, state, config=CONFIG):
    torch.save(state, directory / "model.pt")
    (directory / "model_config.json").write_text(json.dumps(config))
    return directory / "model.pt"


def by_hand(form, config, state, x):
    """The equations of arXiv:2306.16922 in float64, one sequence x (T, inputs), synapse by synapse."""
    s = {name: value.double().numpy() for name, value in state.items()}
    branches = config.get("num_branch") or config["num_input"]
    low, high, lam = config.get("memory_tau_min", 1.0), config.get("memory_tau_max", 1000.0), 5.0
    dt = config.get("delta_t", 1.0)
    tau = low + (high - low) / (1 + np.exp(-s["_proto_tau_m"]))
    keep = np.exp(-dt / tau)
    absorb = lam * (1 - keep) if form == 1 else 1 - np.exp(-dt * lam / tau)
    act = {"relu": lambda u: np.maximum(u, 0), "silu": lambda u: u / (1 + np.exp(-u))}[
        config.get("mlp_activation", "relu")
    ]
    trace, memory, out = np.zeros(branches if form == 2 else len(s["_proto_w_s"])), np.zeros(len(tau)), []
    for x_t in x.double().numpy():
        if "input_to_synapse_indices" in s:
            x_t = x_t[s["input_to_synapse_indices"].astype(int)] * s["valid_indices_mask"]
        drive = np.maximum(s["_proto_w_s"], 0) * x_t
        if form == 1:
            trace = np.exp(-dt / s["tau_s"]) * trace + drive
            branch = trace.reshape(branches, -1).sum(1)
        else:
            branch = trace = np.exp(-dt / s["tau_b"]) * trace + drive.reshape(branches, -1).sum(1)
        u = np.concatenate([branch, keep * memory])
        for i in range(config.get("mlp_num_layers", 1) + 1):
            u = s[f"mlp.network.{2 * i}.weight"] @ u + s[f"mlp.network.{2 * i}.bias"]
            u = act(u) if i < config.get("mlp_num_layers", 1) else u
        memory = keep * memory + absorb * 1.7159 * np.tanh(2 / 3 * u)
        out.append(s["w_y.weight"] @ memory + s["w_y.bias"])
    return np.array(out)


@pytest.mark.parametrize("form", [1, 2], ids=["filtered synapses", "filtered branches"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_activation": "silu", "mlp_hidden_size": 7, "delta_t": 0.5},
        {"mlp_num_layers": 0},
        {"mlp_num_layers": 2},
        {"num_branch": None, "num_synapse_per_branch": 1, "input_to_synapse_routing": None},
    ],
    ids=["as published", "silu", "no hidden layer", "two hidden layers", "a branch per input"],
)
def test_both_forms_give_the_same_outputs(tmp_path, form, changes):
    config = {**CONFIG, **changes}
    state = state_dict(form, config)
    path = write(tmp_path, state, config)
    x = (torch.rand(40, 12, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    expected = by_hand(form, config, state, x)
    neuron = pytorch.read_neuron(path)
    assert abs(neuron(x[None])[0][0].detach().numpy() - expected).max() < 1e-5 * abs(expected).max()
    network = import_checkpoint(tmp_path)
    assert torch.equal(network(x[None])[0], neuron(x[None])[0])
    network.save_pretrained(tmp_path / "own")
    assert torch.equal(ELMNetwork.from_pretrained(tmp_path / "own")(x[None])[0], neuron(x[None])[0])


def test_the_published_neuronio_neuron_comes_through_the_import_path(shared, tmp_path):
    with np.load(shared / "golden" / "pretrained_neuronio_dm15.npz") as file:
        arrays = dict(file)
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state.")}
    network = import_checkpoint(write(tmp_path, state, json.loads(str(arrays["config"]))))
    with torch.no_grad():
        out, _ = network(torch.from_numpy(arrays["input"]).float())
    assert abs(out.numpy() - arrays["output"]).max() < 1e-5
    final = torch.stack([out[..., 0].sigmoid(), out[..., 1] * 10], -1)
    error = abs(final.numpy() - arrays["eval_output"]).max((0, 1)) / abs(arrays["eval_output"]).max((0, 1))
    assert (error < 1e-5).all()  # of the largest value: the voltage goes up to 20 in float32
    assert network.count_parameters() == 6827  # as the authors' table has it
    assert network.config.layers[0].wiring == "neuronio"


class Malicious:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write(tmp_path, {})
        save({"_proto_w_s": Malicious(tmp_path / "run")}, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=r"model\.pt: refused: it holds objects other than tensors"):
            pytorch.read_neuron(tmp_path / "model.pt")
        assert not (tmp_path / "run").exists()


def changed(**changes):
    return {**state_dict(1, CONFIG), **changes}


@pytest.mark.parametrize(
    ("state", "config", "words"),
    [
        (changed(tau_s=torch.arange(1.0, 21.0)), {}, r"synapses are filtered with 20 different timescales \(1 to 20\)"),
        (changed(tau_b=torch.ones(4)), {}, "either tau_s .* or tau_b .*, has tau_s, tau_b"),
        ({"weight": torch.ones(1)}, {}, "has neither"),
        (
            changed(_proto_w_s=torch.ones(19)),
            {},
            r"_proto_w_s is \(19,\) of torch.float32, the configuration says \(20,\)",
        ),
        (changed(_proto_w_s=torch.ones(20).long()), {}, r"of torch.int64, the configuration says \(20,\) floats"),
        (changed(_proto_tau_m=torch.full((3,), float("nan"))), {}, "_proto_tau_m holds values that are not finite"),
        (changed(extra=torch.ones(1)), {}, "unknown extra"),
        (changed(input_to_synapse_indices=torch.full((20,), 12)), {}, r"names inputs outside 0\.\.11"),
        (changed(valid_indices_mask=torch.ones(3)), {}, "valid_indices_mask must hold 20 values"),
        (changed(), {"num_memory": 10**9}, r"the configuration says"),
        (changed(), {"num_memory": "3"}, "num_memory must be a whole number from 1 to 2147483648, got '3'"),
        (changed(), {"mlp_activation": "gelu"}, "mlp_activation must be one of relu, silu to be imported, got 'gelu'"),
        (changed(), {"input_to_synapse_routing": None}, "12 inputs need as many synapses, got 20"),
        (changed(), {"memory_tau_min": 100.0}, "tau_min 100.0 exceeds tau_max 60.0"),
        (changed(), {"num_dendrites": 3}, "unknown setting 'num_dendrites'"),
        ([torch.ones(1)], {}, "expected a state dict, names and tensors, got list"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(tmp_path, state, config, words):
    path = write(tmp_path, state, {**CONFIG, **config})
    with pytest.raises(CheckpointError, match=words):
        pytorch.read_neuron(path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = write(tmp_path, state_dict(1, CONFIG))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cannot be read as a PyTorch checkpoint|damaged"):
        import_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"model\.pt: "):
        import_checkpoint(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="found none; name the file"):
        import_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        import_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"ending must be one of \.pt, \.pth, \.eqx, got '\.onnx'"):
        import_checkpoint(tmp_path / "model.onnx")
    write(tmp_path, state_dict(1, CONFIG))
    for text, words in (
        ("[1]", "expected a JSON object"),
        ("{", "cannot be read"),
        (" " * 2**20 + "{}", "larger than"),
    ):
        (tmp_path / "model_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=words):
            import_checkpoint(path)
    (tmp_path / "model_config.json").unlink()
    with pytest.raises(CheckpointError, match="it is missing"):
        import_checkpoint(path)
