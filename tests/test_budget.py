import csv
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, network_config
from hypothesis import given, settings
from hypothesis import strategies as st

from elmnet import ELMNetwork, NetworkConfig
from elmnet import budget as budgets
from elmnet.config import NeuronConfig
from elmnet.errors import BudgetError, ConfigError

PUBLISHED = {
    "enwik8_fixed_budget.csv": ("enwik8", 14),
    "shd_adding_fixed_budget.csv": ("shd-adding", 10),
    "neuronio_single_neuron.csv": ("neuronio", 12),
}


def published(shared):
    """(network, published row) of all 36 runs."""
    for file, (preset, count) in PUBLISHED.items():
        with (shared / "data" / "published" / file).open() as handle:
            rows = list(csv.DictReader(handle))
        assert len(rows) == count
        for row in rows:
            changes = {"memory": int(row["num_memory"]), "units": int(row.get("num_hidden", 1))}
            yield NetworkConfig.preset(preset).with_hidden(**changes), row


def test_all_36_published_parameter_counts_are_exact(shared):
    counts = [(budgets.parameters(network), int(row["trainable_params"])) for network, row in published(shared)]
    assert len(counts) == 36
    assert [ours for ours, _ in counts] == [theirs for _, theirs in counts]


def test_a_training_step_takes_three_times_the_forward_pass():
    assert budgets.training_flops(7, sequences=2, time_steps=4) == 3 * 7 * 2 * 4


def test_all_36_published_counts_equal_those_of_built_modules(shared):
    for network, row in published(shared):
        assert ELMNetwork(network, seed=0).count_parameters() == int(row["trainable_params"])


def test_published_total_counts_connectome_and_timescales(shared):
    for network, row in published(shared):
        if "total_params" in row:
            built = ELMNetwork(network, seed=0)
            buffers = sum(b.numel() for b in built.buffers())
            frozen = sum(p.numel() for p in built.parameters() if not p.requires_grad)
            assert built.count_parameters() + buffers + frozen == int(row["total_params"])


def test_flops_are_within_the_stated_factor_of_the_compilers_count(shared):
    ratios = [int(row["flops_per_step"]) / budgets.cost(network).flops for network, row in published(shared)]
    assert min(ratios) > 1.0
    assert max(ratios) < 1.75


def test_flops_of_a_neuron_counted_by_hand():
    """Three branches of two synapses, two memory units, an MLP of four; then every part that can be left out."""
    full = NeuronConfig(
        memory=2, branches=3, synapses=2, hidden=4, input_scale=2.0, tau_branch=5.0, tau_highpass=2.0, activation="relu"
    )
    synapses, scale, branch_filter = 2 * 6, 3, 2 * 3
    maps, between = (2 * 5 * 4 + 4) + (2 * 4 * 2 + 2), 2 * 4  # relu, squared
    memory, readout, highpass, activation = 6 * 2, 2 * 2 + 1, 4, 1
    whole = synapses + scale + branch_filter + maps + between + memory + readout + highpass + activation
    assert budgets.neuron_flops(full) == whole
    without = {
        "input_scale": (1.0, scale),
        "tau_branch": (None, branch_filter),
        "tau_highpass": (None, highpass),
        "activation": ("identity", activation),
        "mlp_activation": ("relu", 4),
    }
    for name, (value, less) in without.items():
        assert budgets.neuron_flops(full.replace(**{name: value})) == whole - less, name


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig.preset("neuronio"),
        NetworkConfig.preset("shd-adding").with_hidden(learn_timescales=True, hidden_layers=3),
        NetworkConfig.preset("enwik8"),
        network_config(layers=2),
    ],
    ids=lambda network: f"{len(network.stack)} layers",
)
def test_saved_bytes_are_a_close_bound(network, tmp_path):
    ELMNetwork(network, seed=0).save_pretrained(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert 0 <= budgets.saved_bytes(network) - written < 1500


configs = st.builds(
    network_config,
    units=st.integers(1, 9),
    memory=st.integers(1, 6),
    branches=st.integers(1, 5),
    synapses=st.integers(1, 4),
    hidden=st.none() | st.integers(1, 7),
    hidden_layers=st.integers(0, 3),
    outputs=st.integers(1, 4),
    layers=st.integers(1, 3),
    readout=st.sampled_from(["elm", "linear"]),
    learn_timescales=st.booleans(),
)


@given(configs)
@settings(max_examples=40)
def test_counts_equal_built_modules(config):
    assert budgets.parameters(config) == ELMNetwork(config, seed=0).count_parameters()


@given(configs, st.sampled_from(["units", "memory", "synapses"]), st.integers(0, 200_000))
@settings(max_examples=60)
def test_spend_is_the_best_that_fits(config, vary, extra):
    least = budgets.parameters(config.with_hidden(**{vary: 1}))
    found = budgets.spend(config, least + extra, vary)
    first = found.layers[0]
    value = first.units if vary == "units" else getattr(first.neuron, vary)
    assert budgets.parameters(found) <= least + extra
    assert budgets.parameters(config.with_hidden(**{vary: value + 1})) > least + extra


def test_spend_finds_the_published_sizes():
    enwik8 = NetworkConfig.preset("enwik8")
    assert budgets.spend(enwik8, 3_516_748).layers[0].units == 1024
    assert budgets.spend(enwik8, 3_516_748, "memory").layers[0].neuron.memory == 15
    assert budgets.spend(enwik8, 3_516_748, "synapses").layers[0].neuron.synapses == 15


def test_impossible_budgets_are_refused_with_the_least():
    with pytest.raises(BudgetError, match=r"units = 1 already takes \d"):
        budgets.spend(NetworkConfig.preset("enwik8"), 1000)
    with pytest.raises(ConfigError, match="vary memory or synapses"):
        budgets.spend(NetworkConfig.preset("neuronio"), 8002)
    assert budgets.spend(NetworkConfig.preset("neuronio"), 8002, "memory").layers[0].neuron.memory == 20
    with pytest.raises(ConfigError, match="vary must be"):
        budgets.spend(NetworkConfig.preset("enwik8"), 10**6, "branches")
    with pytest.raises(ConfigError, match="without a read-out the outputs fix"):
        budgets.paper_recipe(NetworkConfig.preset("neuronio"), 20_000)
    for value in (float("nan"), float("inf")):
        with pytest.raises(BudgetError, match=f"finite number of parameters, got {value}"):
            budgets.spend(NetworkConfig.preset("enwik8"), value)


@pytest.mark.parametrize("budget", [30_000, 300_000, 3_000_000, 30_000_000])
def test_paper_recipe_keeps_its_proportions(budget):
    start = NetworkConfig.preset("enwik8")
    found = budgets.paper_recipe(start.replace(inputs=20, outputs=20), budget)
    first = found.layers[0]
    assert first.neuron.memory == max(1, round(15 / 32 * first.units**0.5))
    assert first.neuron.mlp_widths[1] == 2 * first.neuron.memory
    assert first.neuron.branches == 2 * first.neuron.mlp_widths[1]
    assert 0.65 * budget < budgets.parameters(found) <= budget  # d_m is whole: P jumps where it grows


@pytest.mark.parametrize("preset", ["enwik8", "shd-adding"])
def test_training_memory_estimate_is_what_autograd_keeps(preset):
    config = NetworkConfig.preset(preset).with_hidden(units=40, memory=6)
    network = ELMNetwork(config, seed=0, backend="reference")
    batch, steps = 4, 20
    x = torch.randint(0, 200, (batch, steps)) if preset == "enwik8" else torch.rand(batch, steps, 700)
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    measured = sum(kept.values()) - sum(4 * p.numel() for p in network.parameters())
    once, all_steps = (budgets.training_bytes(config, batch, n, backend="reference") for n in (0, steps))
    assert all_steps - once == pytest.approx(measured, rel=0.12)


def test_training_memory_estimate_is_what_the_cpu_backend_took():
    """The measured peaks of docs/results/growth.csv, which are without an optimiser."""
    rows = csv.DictReader((ROOT / "docs" / "results" / "growth.csv").read_text().splitlines())
    ratios = {}
    for row in rows:
        axis, value = row["axis"], int(float(row["value"]))
        shape = {"units": 256, "memory": 10, "synapses": 15, "steps": 100, "batch": 8}
        names = {"N": "units", "d_m": "memory", "k_c": "synapses", "T": "steps", "batch": "batch"}
        if axis not in names:
            continue
        shape[names[axis]] = value // 50 if axis == "k_c" else value
        batch, steps = shape.pop("batch"), shape.pop("steps")
        network = NetworkConfig.preset("enwik8").with_hidden(**shape)
        moments = 8 * budgets.parameters(network)
        estimate = budgets.training_bytes(network, batch, steps) - moments
        ratios[axis, value] = float(row["memory_mib"]) * 2**20 / estimate
    assert len(ratios) > 40
    usual = [ratio for (axis, value), ratio in ratios.items() if (axis, value) not in {("T", 10), ("T", 30)}]
    assert all(0.65 < ratio < 1.5 for ratio in usual)  # beyond the tape's limit, too
    assert sum(0.8 < ratio < 1.2 for ratio in usual) >= len(usual) - 3


def test_budget_needs_no_torch():
    code = "import sys, elmnet.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
