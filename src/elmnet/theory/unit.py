"""What a unit of some d_m costs, and the d_m of some cost, both in real numbers: what optima are read in."""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from elmnet.config import NeuronConfig
from elmnet.theory.model import Array


def complexity_of(d_m: ArrayLike, neuron: NeuronConfig | None = None) -> Array:
    """k_e, parameters of a unit other than synapses, at a real d_m (`elmnet.budget.complexity` has it at whole ones).

    Args:
        d_m: memory units, of any shape.
        neuron: gives d_tree, d_mlp/d_m, the MLP's hidden layers and the outputs; usually k_e = 4 d_m² + (2 d_tree + 4)
            d_m + 1. None: the paper's recipe d_tree = 4 d_m, 12 d_m² + 4 d_m + 1 (docs/theory.md §4).
    """
    d_m = np.asarray(d_m, float)
    d_tree, neuron = (4 * d_m, NeuronConfig()) if neuron is None else (neuron.branches, neuron)
    widths = (d_tree + d_m, *[neuron.expansion * d_m] * neuron.hidden_layers, d_m)
    mlp = sum(n_in * n_out + n_out for n_in, n_out in pairwise(widths))
    return np.asarray(mlp + neuron.outputs * (d_m + 1) + neuron.learn_timescales * d_m)


def memory_of(k_e: ArrayLike, neuron: NeuronConfig | None = None) -> Array:
    """d_m, a real number, of a unit of complexity k_e: the opposite of `complexity_of`, which is quadratic in d_m."""
    constant, one, two = complexity_of([0.0, 1.0, 2.0], neuron)
    quadratic, above = (two - 2 * one + constant) / 2, np.asarray(k_e, float) - constant
    linear = one - constant - quadratic
    return np.asarray(2 * above / (linear + np.sqrt(linear**2 + 4 * quadratic * above)))
