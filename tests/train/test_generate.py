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


@pytest.fixture
def decided(network):
    """A network with opinions, which change along a text."""
    with torch.no_grad():
        network.affine.weight *= 1e4
        network.affine.bias -= network(torch.randint(0, 5, (20, 20)))[0].mean((0, 1))
    return network


def test_temperature_zero_takes_the_likeliest(decided):
    tokens = [0, 1, 2]
    for _ in range(12):
        tokens.append(int(decided(torch.tensor([tokens]))[0][0, -1].argmax()))
    likeliest = bytes("abcé".encode()[token] for token in tokens[3:]).decode(errors="replace")
    assert len(set(tokens[3:])) > 1
    assert text(decided, temperature=0, length=12) == likeliest


def test_temperature_flattens_the_choice(decided):
    def likely(temperature):
        greedy = text(decided, temperature=0, length=200)
        return sum(a == b for a, b in zip(text(decided, temperature=temperature, length=200), greedy, strict=False))

    assert text(decided, temperature=1.0) != text(decided, temperature=1e6) != text(decided, temperature=1e-300)
    assert len(set(text(decided, temperature=1e6, length=200))) >= 3
    assert likely(1e-300) > likely(1e6)


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
        with pytest.raises(ConfigError, match="must be finite and not negative"):
            text(network, temperature=temperature)


def test_tiny_temperatures_are_greedy(decided):
    assert text(decided, temperature=1e-300) == text(decided, temperature=0)
