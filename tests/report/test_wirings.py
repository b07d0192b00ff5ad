import re

import pytest
import torch
from conftest import ROOT

from elmnet import LayerConfig, NeuronConfig

pytest.importorskip("matplotlib", reason="figures need matplotlib (extra `report`)")

from elmnet.report import wirings


def test_every_wiring_in_the_documentation_is_one_that_is_drawn():
    text = (ROOT / "docs" / "wirings.md").read_text()
    assert set(re.findall(r"figures/([\w-]+)\.svg", text)) == set(wirings.examples())


def test_the_picture_counts_synapses():
    layer = LayerConfig(units=2, neuron=NeuronConfig(branches=1, synapses=3), wiring="given")
    ax = wirings.connectome(layer, 3, torch.tensor([[0, 0, 4], [2, 3, -1]]))
    shown = ax.images[0].get_array()[..., 3] > 0
    assert shown.tolist() == [[True, False, False, False, True], [False, False, True, True, False]]
    above = ax.child_axes[0]
    assert [bar.get_height() for bar in above.patches] == [2, 0, 1, 1, 1]
    assert "in-degree 2..3" in above.get_title(loc="left") + above.get_title()
