"""Text from a trained character network, one symbol at a time."""

import codecs
import math
from collections.abc import Iterator

import torch

from elmnet.data.text import Convention, Vocabulary
from elmnet.errors import ConfigError, DataError
from elmnet.models import Network, State


def generate(
    network: Network,
    vocabulary: Vocabulary,
    prompt: bytes,
    *,
    convention: Convention,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Stream the text that follows a prompt, piece by piece as UTF-8 characters become complete.

    Args:
        network: in evaluation mode.
        vocabulary: of the corpus it was trained on.
        prompt: what to continue; prepared as the convention says.
        convention: `txl` removes newlines from the prompt.
        length: symbols to draw.
        temperature: divides the logits; 0 takes the likeliest symbol.
        seed: of the draws.

    Raises:
        ConfigError: temperature, length or seed is out of range.
        DataError: the prompt is empty, or holds a byte the network never saw (names byte and offset).
    """
    if not (0 <= temperature < math.inf) or length < 0:
        raise ConfigError(f"temperature and length must be finite and not negative, got {temperature} and {length}")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must lie in 0..2^63-1, got {seed}")
    tokens = vocabulary.encode(prompt, convention, "prompt")
    if not len(tokens):
        raise DataError("the prompt is empty; give at least one character")
    generator = torch.Generator().manual_seed(seed)
    drawn = _continue(network, torch.from_numpy(tokens).long(), length, temperature, generator)
    return _decode(vocabulary, drawn)


@torch.no_grad()
def _continue(
    network: Network, prompt: torch.Tensor, length: int, temperature: float, generator: torch.Generator
) -> Iterator[int]:
    """Symbol numbers, each drawn from what the network says after all before it."""
    state: State
    logits, state = network(prompt.unsqueeze(0).to(network.device))
    scores = logits[:, -1]
    for _ in range(length):
        token = _draw(scores[0].double().cpu(), temperature, generator)
        yield token
        scores, state = network.step(torch.tensor([token], device=network.device), state)


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / temperature
    return int(torch.multinomial(torch.softmax(scaled, -1), 1, generator=generator))


def _decode(vocabulary: Vocabulary, tokens: Iterator[int]) -> Iterator[str]:
    """Text of a stream of symbols; bytes that are no UTF-8 become replacement characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        piece = decoder.decode(vocabulary.decode([token]))
        if piece:
            yield piece
    yield decoder.decode(b"", final=True)
