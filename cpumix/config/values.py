"""Checks of single values; `where` is the file, or the field of it, that errors name first."""

from __future__ import annotations

import json
from typing import Any

from cpumix.errors import ConfigError

LARGEST = (1 << 31) - 1  # of any size or count
# The numbers that float32, in which the model computes, can tell from zero and infinity.
SMALLEST_FLOAT, LARGEST_FLOAT = 1.2e-38, 3.4e38
SHOWN = 60  # characters of a wrong value that an error repeats


def whole(value: Any, name: str, where: str, most: int = LARGEST) -> int:
    """Return a whole number from 1 to `most`; 2.0 is one. Raises ConfigError for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{where}: {name}: expected a positive whole number, found {shown(value)}. "
            "Correct it in that file."
        )
    if value > most:
        raise ConfigError(
            f"{where}: {name}: expected {most} at most, found {shown(value)}. "
            "Correct it in that file."
        )
    return value


def positive(value: Any, name: str, where: str) -> float:
    """Return a number above zero within the range of float32. Raises ConfigError otherwise."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not SMALLEST_FLOAT <= value <= LARGEST_FLOAT:
        raise ConfigError(
            f"{where}: {name}: expected a positive number from {SMALLEST_FLOAT:g} to "
            f"{LARGEST_FLOAT:g}, found {shown(value)}. Correct it in that file."
        )
    return float(value)


def flag(value: Any, name: str, where: str) -> bool:
    """Return true or false. Raises ConfigError for anything else."""
    if not isinstance(value, bool):
        raise ConfigError(
            f"{where}: {name}: expected true or false, found {shown(value)}. "
            "Correct it in that file."
        )
    return value


def token_id(value: Any, name: str, where: str, vocab_size: int) -> int:
    """Return a token id of the vocabulary. Raises ConfigError for anything else."""
    if not is_token_id(value, vocab_size):
        raise ConfigError(
            f"{where}: {name}: expected a token id below vocab_size {vocab_size}, "
            f"found {shown(value)}. Correct it in that file."
        )
    return int(value)


def is_token_id(value: Any, vocab_size: int) -> bool:
    """Whether a value is a token id of the vocabulary."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size


def token_ids(value: Any, name: str, where: str, vocab_size: int) -> tuple[int, ...]:
    """Return the token ids in a list, a single id or null. Raises ConfigError for anything else."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(token_id(one, name, where, vocab_size) for one in listed)


def shown(value: Any) -> str:
    """Return a value as it stands in a JSON file, cut if it is long."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):  # nested a thousand deep, or a number of 5000 digits
        return "a value too large to show"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
