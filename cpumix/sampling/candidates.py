"""The tokens that may still be drawn, best first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_first(logits: NDArray[np.float32], count: int = 0) -> NDArray[np.intp]:
    """Return the ids of the `count` highest logits (all if 0), of equals the lowest id first.

    That is the order of a stable sort, without sorting what is not returned.
    """
    n = len(logits)
    if 0 < count < n:
        # The count-th highest of them: more than `count` reach it if some are equal to it.
        edge = np.partition(logits, n - count)[n - count]
        ids = np.flatnonzero(logits >= edge)
        return ids[np.argsort(-logits[ids], kind="stable")[:count]]
    # One number for each token, so that any sort is stable: the logit's bits, made to count down
    # from the highest, and the id below them. Adding 0 turns -0 into 0, which are equals.
    bits = (logits + np.float32(0)).view(np.uint32)
    falling = np.where(bits >> 31, bits, ~bits & 0x7FFFFFFF).astype(np.uint64)
    keys = np.sort(falling << 32 | np.arange(n, dtype=np.uint64))
    return (keys & 0xFFFFFFFF).astype(np.intp)


class Candidates:
    """Tokens that may still be drawn: `ids` (n,), and how far each is `behind` the best.

    behind (n,) float64: logit minus the highest logit, so 0 comes first and then what is less.
    """

    def __init__(self, logits: NDArray[np.float32], top_k: int = 0) -> None:
        """Take the `top_k` best of logits (vocab_size,), all of them if 0."""
        self.ids = best_first(logits, top_k)
        self.behind = logits[self.ids].astype(np.float64) - logits[self.ids[0]]

    def keep(self, count: int) -> None:
        """Keep the best `count`."""
        self.ids, self.behind = self.ids[:count], self.behind[:count]

    def weights(self) -> NDArray[np.float64]:
        """Return numbers in proportion to the probabilities, 1 for the best."""
        weights: NDArray[np.float64] = np.exp(self.behind)
        return weights

    def probabilities(self) -> NDArray[np.float64]:
        """Return each one's share of what is left, (n,); they add up to 1."""
        weights = self.weights()
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares
