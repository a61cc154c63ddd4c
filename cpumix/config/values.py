"""Checks of single values; `where` is the file, or the field of it, that errors name first."""

from __future__ import annotations

import json
from typing import Any

from cpumix.errors import ConfigError

LARGEST = (1 << 31) - 1  # of any size or count
SHOWN = 60  # characters of a wrong value that an error repeats


def whole(value: Any, name: str, where: str, most: int = LARGEST) -> int:
    """Return a whole number from 1 to `most`. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{where}: {name}: expected a positive whole number, found {shown(value)}."
        )
    if value > most:
        raise ConfigError(f"{where}: {name}: expected {most} at most, found {shown(value)}.")
    return value


def positive(value: Any, name: str, where: str) -> float:
    """Return a finite number above zero. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e300:
        raise ConfigError(f"{where}: {name}: expected a positive number, found {shown(value)}.")
    return float(value)


def flag(value: Any, name: str, where: str) -> bool:
    """Return true or false. Raises ConfigError for anything else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {name}: expected true or false, found {shown(value)}.")
    return value


def token_id(value: Any, name: str, where: str, vocab_size: int) -> int:
    """Return a token id of the vocabulary. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ConfigError(
            f"{where}: {name}: expected a token id below vocab_size {vocab_size}, "
            f"found {shown(value)}."
        )
    return value


def token_ids(value: Any, name: str, where: str, vocab_size: int) -> tuple[int, ...]:
    """Return the token ids in a list, a single id or null. Raises ConfigError for anything else."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(token_id(one, name, where, vocab_size) for one in listed)


def shown(value: Any) -> str:
    """Return a value as it stands in a JSON file, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
