"""Which experts to keep: those that the tokens so far have used most, the latest counting most.

Each expert has a score; a token halves all scores of the layer once in `half_life` tokens and adds
one to the experts that it uses. A half-life of zero tokens would be LRU, an endless one LFU. A
prompt's tokens score as if they had come one by one, but count together as no more than a half-life
of them: a long prompt uses every expert, and must not flush what decoding has taught.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 32.0  # tokens


class EvictionPolicy:
    """Scores of all experts of all layers."""

    def __init__(self, layers: int, experts: int, half_life: float = HALF_LIFE) -> None:
        self._decay, self._half_life = 0.5 ** (1 / half_life), half_life
        self._scores = np.zeros((layers, experts))
        self._used = np.zeros((layers, experts), np.int64)  # when last, for equal scores
        self._clock = 0

    def use(self, layer: int, topk_ids: NDArray[np.int32]) -> None:
        """Note the experts (T, A) that a layer's next T tokens use."""
        self._clock += 1
        self._used[layer, topk_ids] = self._clock
        scores, tokens = self._scores[layer], len(topk_ids)
        if tokens == 1:
            scores *= self._decay
            scores[topk_ids[0]] += 1
            return
        weights = np.repeat(self._decay ** np.arange(tokens - 1, -1, -1), topk_ids.shape[1])
        kept = self._decay ** min(tokens, self._half_life)
        weights *= (1 - kept) / (1 - self._decay**tokens)
        scores *= kept
        scores += np.bincount(topk_ids.ravel(), weights, minlength=len(scores))

    def least(self, candidates: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """Return the candidate to do without: the lowest score.

        Of equals, the one used last: its layer's turn is farthest away.
        """
        scores, used = self._scores, self._used
        return min(candidates, key=lambda key: (scores[key], -used[key]))
