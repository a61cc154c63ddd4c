"""The tokens of one sequence so far, prompt and text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class History:
    """A growing array of token ids, of which filters look at the last ones."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids = np.array(ids, np.int64)
        self._length = len(ids)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._length

    def append(self, token: int) -> None:
        """Add a token."""
        if self._length == len(self._ids):
            self._ids = np.resize(self._ids, max(64, 2 * self._length))
        self._ids[self._length] = token
        self._length += 1

    def last(self, count: int) -> NDArray[np.int64]:
        """Return the last `count` tokens in their order, or all there are; -1 means all."""
        start = 0 if count < 0 else max(0, self._length - count)
        return self._ids[start : self._length]
