"""What Python callers pass in: values of another kind than expected get a sentence."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from .errors import ConfigError, escaped


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """Return a number of Python's or NumPy's as int. Raises ConfigError for anything else."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ConfigError(f"{name}: expected a whole number, found {_kind(value)}.")
    if least is not None and value < least:
        raise ConfigError(f"{name}: expected {least} or more, found {value}.")
    return int(value)


def text(name: str, value: Any, todo: str = "") -> str:
    """Return a str. Raises ConfigError for anything else, and says what to do."""
    if not isinstance(value, str):
        raise ConfigError(f"{name}: expected text, a str, found {_kind(value)}.{todo}")
    return value


def check_load(path: Any, parallel: Any, **numbers: Any) -> None:
    """Raise ConfigError for a model that is no path, and for numbers that are none.

    How large they may be depends on machine and model, and is looked at later.
    """
    if path is not None:
        check_path("model", path)
    whole_number("parallel", parallel, 1)
    for name, value in numbers.items():
        if value is not None:
            whole_number(name, value)


def check_path(name: str, value: Any) -> None:
    """Raise ConfigError for what no system takes for a path."""
    if not isinstance(value, (str, PathLike)) or "\0" in str(value):
        raise ConfigError(f"{name}: expected the path of a file, found {_kind(value)}.")


def check_token_ids(value: Any) -> None:
    """Raise ConfigError for what is no sequence of token ids: texts, fractions, tables."""
    try:
        array = np.asarray(value if isinstance(value, np.ndarray) else list(value))
    except (TypeError, ValueError):
        raise _no_ids(value) from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise _no_ids(value)


def _no_ids(value: Any) -> ConfigError:
    return ConfigError(
        f"token ids: expected a list of whole numbers, such as tokenizer.encode gives, found "
        f"{_kind(value)}."
    )


def _kind(value: Any) -> str:
    """Say what a value is, and show it if it is short."""
    return f"{type(value).__name__} {escaped(repr(value), 40)}"
