"""The documentation's figures, drawn anew: python docs/draw.py [NAME...] writes docs/figures/NAME.svg."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elmnet import ELMNetwork, LayerConfig, NetworkConfig, NeuronConfig
from elmnet.report import figures, inside, wirings
from elmnet.report.figures.style import BLUE, GREEN, GREY, ORANGE, STYLE, axis
from elmnet.theory import Limit, Wiring, fit, plan, published
from elmnet.theory.rows import published_rows

HERE = Path(__file__).parent / "figures"
NEURON = NeuronConfig(memory=6, branches=4, synapses=4, tau_min=1.0, tau_max=100.0, input_scale=4.0)


def text_plan() -> Any:
    """A budget's curve with the plan and its rivals."""
    known, start = fit(published("enwik8")), NetworkConfig.preset("enwik8")
    return figures.plan_curve(known, plan(start, Limit(3_516_748), Wiring(50, 15), known))


def kernels() -> Any:
    """How fast memory units absorb and forget."""
    ax, steps = axis(None), np.arange(0, 121)
    for tau, colour in zip((1, 6.3, 40, 100), (GREY, GREEN, ORANGE, BLUE), strict=True):
        absorbed = -np.expm1(-NEURON.timescale_ratio / tau)
        ax.plot(steps, absorbed * np.exp(-steps / tau), color=colour, label=f"τ = {tau:g}, λ_m = {absorbed:.2f}")
    ax.set_xlabel("steps since an update of size 1 (Δt)")
    ax.set_ylabel("what is left of it in memory (dimensionless)")
    ax.set_title("What a memory unit keeps: λ_m·κ_m^t, timescale ratio λ = 5")
    ax.legend()
    return ax


def spike_response() -> Any:
    """One untrained neuron's answer to one spike."""
    layer = LayerConfig(units=1, neuron=NEURON, recurrent_connect=0.0)
    network = ELMNetwork(NetworkConfig(inputs=8, outputs=1, layers=(layer,)), seed=1).eval()
    spike = torch.zeros(1, 120, 8)
    spike[:, 10] = 1.0
    answer = inside.record(network, spike).memory - inside.record(network, torch.zeros(1, 120, 8)).memory
    ax = figures.memory_traces(answer[:, 0], inside.timescales(network)[0], name="one untrained neuron")
    ax.set_ylabel("change of memory due to a spike at step 10")
    return ax


def functions() -> Any:
    """The two nonlinearities inside a neuron."""
    ax, u = axis(None), np.linspace(-4, 4, 401)
    ax.plot(u, 1.7159 * np.tanh(2 * u / 3), color=BLUE, label="c(u) = 1.7159·tanh(⅔·u): bounds what enters memory")
    shown = np.linspace(-4, 1.5, 300)
    ax.plot(shown, np.maximum(shown, 0) ** 2, "--", color=ORANGE, label="ReLU²: inside the neuron's MLP")
    ax.set_ylim(-2, 3.4)
    ax.set_xlabel("u (dimensionless)")
    ax.set_ylabel("value (dimensionless)")
    ax.set_title("The nonlinearities of a neuron")
    ax.legend(loc="upper left")
    return ax


def one_neuron() -> Any:
    """NeuronIO: published signal-to-noise of a single neuron against its complexity, and the law fitted to it."""
    from elmnet.theory.plain import fit_unit

    rows = published_rows("neuronio")
    explained = np.array([row["test_soma_explained_variance_percent"] for row in rows]) / 100
    synapses = np.array([row["num_branch"] * row["num_synapse_per_branch"] for row in rows])
    k_e, noise = np.array([row["trainable_params"] for row in rows]) - synapses, 1 / explained - 1
    law, ax = fit_unit(k_e, 1 / noise), axis(None)
    line = np.geomspace(k_e.min(), k_e.max(), 100)
    ax.plot(
        line, (1 + law.kappa_e / line) / law.eta_inf, color=BLUE, label=f"first line of SNRR, κ_e = {law.kappa_e:.0f}"
    )
    ax.plot(k_e, noise, "o", color=ORANGE, label="published single neurons (arXiv:2605.12049)")
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("parameters besides synapses, k_e (per neuron)")
    ax.set_ylabel("noise to signal, (1 - EV)/EV (dimensionless)")
    ax.set_title("One neuron: the soma's explained variance EV, NeuronIO")
    ax.legend()
    return ax


FIGURES: dict[str, Callable[[], Any]] = {
    "kernels": kernels,
    "functions": functions,
    "spike-response": spike_response,
    "one-neuron": one_neuron,
    "plan": text_plan,
    "mechanisms": lambda: figures.mechanisms(fit(published("enwik8"))),
    "surface": lambda: figures.surface(fit(published("enwik8"))),
    "front": lambda: figures.front(fit(published("enwik8"))),
    "spikes-curve": lambda: figures.budget_curve(fit(published("shd-adding"))),
    **wirings.examples(),
}


def draw(name: str) -> str:
    """A figure's SVG."""
    figures.without_a_screen()
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        return figures.svg(FIGURES[name])


if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        (HERE / f"{name}.svg").write_text(draw(name), encoding="utf-8")
        print(HERE / f"{name}.svg")
