"""Numbers as options take them: 100000, 100_000 or 1e5, several separated by commas."""

import math

from elmnet.errors import ConfigError


def numbers(option: str, text: str) -> list[float]:
    """Positive ones.

    Raises:
        ConfigError: these are none.
    """
    found = _read(text)
    if not found or not all(0 < number < math.inf for number in found):
        raise ConfigError(f"{option}: expected positive numbers separated by commas, got {text!r}")
    return found


def whole_numbers(option: str, text: str) -> list[int]:
    """Whole ones.

    Raises:
        ConfigError: these are none.
    """
    found = _read(text)
    if not found or not all(number.is_integer() for number in found):
        raise ConfigError(f"{option}: expected whole numbers separated by commas, got {text!r}")
    return [int(number) for number in found]


def _read(text: str) -> list[float]:
    """None where something is no number."""
    try:
        return [float(item) for item in text.replace("_", "").split(",")]
    except ValueError:
        return []
