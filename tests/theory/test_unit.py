"""A unit's cost at a real d_m, against the exact count at whole ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmnet import budget
from elmnet.config import NeuronConfig
from elmnet.theory import complexity_of, memory_of

neurons = st.builds(
    NeuronConfig,
    memory=st.integers(1, 40),
    branches=st.integers(1, 60),
    hidden=st.none() | st.integers(1, 90),
    hidden_layers=st.integers(0, 3),
    outputs=st.integers(1, 3),
    learn_timescales=st.booleans(),
)


@given(neuron=neurons)
def test_whole_numbers_cost_what_they_cost(neuron):
    k_e = complexity_of(neuron.memory, neuron)
    assert k_e == pytest.approx(budget.complexity(neuron))
    assert memory_of(k_e, neuron) == pytest.approx(neuron.memory)


@given(neuron=neurons, memory=st.integers(1, 40))
def test_another_memory_keeps_the_proportions(neuron, memory):
    other = neuron.with_memory(memory)
    assert other.memory == memory
    rounding = 0.5 / memory + 1e-9  # hidden is a whole number
    assert other.expansion == pytest.approx(neuron.expansion, abs=rounding) or other.hidden == 1
    assert neuron.replace(hidden=None).with_memory(memory).mlp_widths[0] == neuron.branches + memory


def test_the_papers_recipe():
    d_m = np.array([1.0, 5.0, 17.0])
    assert complexity_of(d_m).tolist() == (12 * d_m**2 + 4 * d_m + 1).tolist()
    assert memory_of(complexity_of(d_m)) == pytest.approx(d_m)
