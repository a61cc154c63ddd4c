"""The text that a model is calibrated with: read, cut into windows, and spread over them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConfigError
from cpumix.input_file import read_input, read_text
from cpumix.tokenizer import Tokenizer
from cpumix.tokenizer.windows import cut_windows

SHIPPED = Path(__file__).parent / "calibration.txt.gz"
WINDOW = 512  # tokens that know of each other
LEAST = 8  # windows: of fewer tokens, moments say more of chance than of language


def read_calibration(path: Path | None) -> str:
    """Return the text of a file, or the one that cpumix ships. Raises ConfigError."""
    if path is None:
        return gzip.decompress(read_input(SHIPPED)).decode("utf-8")
    advice = "Name a text file, or leave the name out to take the one that cpumix brings."
    return read_text(path, "calibration text", advice)


def spread_windows(tokenizer: Tokenizer, text: str, tokens: int, longest: int) -> NDArray[np.int64]:
    """Return windows of a text (windows, length), of so many tokens in all at most.

    Each begins with BOS if the model has one. Of a longer text they are spread over all of it.
    `longest` is the most that a window may have. Raises ConfigError for a text that is too short.
    """
    ids, length = tokenizer.encode(text), min(WINDOW, longest)
    if len(ids) < (least := LEAST * length):
        raise ConfigError(
            f"calibration text: expected at least {least} tokens, found {len(ids)}. Name a longer "
            "one, or leave the name out to take the one that cpumix brings."
        )
    windows = cut_windows(tokenizer, ids, length)
    count = min(max(tokens // length, LEAST), len(windows))
    return windows[np.arange(count) * len(windows) // count]
