import pytest
import torch
from conftest import network_config

from elmnet import ELMNetwork
from elmnet.data.text import Vocabulary
from elmnet.errors import ConfigError, DataError
from elmnet.train.generate import generate

VOCABULARY = Vocabulary(tuple("abcé".encode()))


@pytest.fixture
def network():
    return ELMNetwork(network_config(inputs=5, outputs=5, token_scale=3.0), seed=0).eval()


def text(network, prompt=b"abc", **changes):
    return "".join(
        generate(network, VOCABULARY, prompt, **{"convention": "txl", "length": 30, "temperature": 1.0, **changes})
    )


def test_same_seed_same_text(network):
    assert text(network, seed=1) == text(network, seed=1) != text(network, seed=2)


def test_temperature_zero_takes_the_likeliest(network):
    tokens = torch.tensor([[0, 1, 2]])
    best = int(network(tokens)[0][0, -1].argmax())
    with torch.no_grad():
        network.affine.bias[2] += 1e6
    assert text(network, temperature=0, length=4) == "cccc"
    assert 0 <= best < 5


def test_broken_utf8_becomes_replacement_characters(network):
    with torch.no_grad():
        network.affine.bias[3] += 1e6  # the first byte of é, alone
    assert text(network, temperature=0, length=3) == "\ufffd" * 3


def test_bad_prompts_and_settings_are_refused(network):
    with pytest.raises(DataError, match="prompt: byte 0x78 at offset 2"):
        text(network, b"abx")
    with pytest.raises(DataError, match="the prompt is empty"):
        text(network, b"\n")
    for temperature in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must not be negative"):
            text(network, temperature=temperature)


def test_tiny_temperatures_are_greedy(network):
    assert text(network, temperature=1e-300) == text(network, temperature=0)
