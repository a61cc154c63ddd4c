"""Cuts texts into windows of one length, for what looks at texts of any length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .tokenizer import Tokenizer


def cut_windows(tokenizer: Tokenizer, ids: Sequence[int], length: int) -> NDArray[np.int64]:
    """Return the ids of a text as windows (windows, length), whose first is BOS if there is one.

    BOS takes the place of an id. What does not fill a window at the end is left out.
    """
    start, count = tokenizer.encode(""), len(ids) // length
    windows = np.array(ids[: count * length], np.int64).reshape(count, length)
    windows[:, : len(start)] = start
    return windows
