"""Text from a trained character network, one symbol at a time."""

import codecs
from collections.abc import Iterator

import torch

from elmnet.data.text import Convention, Vocabulary
from elmnet.errors import ConfigError, DataError
from elmnet.network import ELMNetwork


@torch.no_grad()
def generate(
    network: ELMNetwork,
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
        ConfigError: temperature or length is out of range.
        DataError: the prompt is empty, or holds a byte the network never saw (names byte and offset).
    """
    if temperature < 0 or length < 0:
        raise ConfigError(f"temperature and length must not be negative, got {temperature} and {length}")
    tokens = vocabulary.encode(prompt, convention, "prompt")
    if not len(tokens):
        raise DataError("the prompt is empty; give at least one character")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    generator = torch.Generator().manual_seed(seed)
    logits, state = network(torch.from_numpy(tokens).long().unsqueeze(0).to(network.device))
    scores = logits[:, -1]
    for _ in range(length):
        token = _draw(scores[0].double().cpu(), temperature, generator)
        piece = decoder.decode(vocabulary.decode([token]))
        if piece:
            yield piece
        scores, state = network.step(torch.tensor([token], device=network.device), state)
    yield decoder.decode(b"", final=True)


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))
