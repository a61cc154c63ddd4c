"""The tokens that may still be drawn, best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConfigError


def best_first(logits: NDArray[np.float32], count: int = 0) -> NDArray[np.intp]:
    """Return the ids of the `count` highest logits (all if 0), of equals the lowest id first.

    That is the order of a stable sort, without sorting what is not returned.
    """
    n = len(logits)
    if count == 1:
        return np.array([logits.argmax()])
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
    They are sorted as late as possible: a filter that cuts first leaves less to sort. Tokens with a
    logit of minus infinity are ruled out.
    """

    def __init__(self, logits: NDArray[np.float32]) -> None:
        """Begin with all tokens; logits (vocab_size,) are left as they are."""
        self._given = self._logits = logits
        self._ids: NDArray[np.intp] | None = None
        self._behind = np.empty(0)

    @property
    def ids(self) -> NDArray[np.intp]:
        """Token ids (n,), best first."""
        return self._sorted()[0]

    @property
    def behind(self) -> NDArray[np.float64]:
        """How far each is behind the best (n,)."""
        return self._sorted()[1]

    def adjust(self) -> NDArray[np.float32]:
        """Return the logits (vocab_size,) to write into; possible until something is cut."""
        assert self._ids is None
        if self._logits is self._given:
            self._logits = self._given.copy()
        return self._logits

    def spread(self) -> float:
        """Return the standard deviation of the logits."""
        values = self._logits if self._ids is None else self._behind
        return float(values[values > -np.inf].std(dtype=np.float64))

    def keep(self, count: int) -> None:
        """Keep the best `count`."""
        if self._ids is None:
            self._take(best_first(self._logits, count))
        else:
            self._ids, self._behind = self._ids[:count], self._behind[:count]

    def keep_within(self, distance: float) -> None:
        """Keep those that are at most `distance` behind the best."""
        if self._ids is None:
            with np.errstate(invalid="ignore"):  # all of them ruled out: none is near
                behind = self._logits.astype(np.float64) - self._logits.max()
            near = np.flatnonzero(behind >= -distance)
            self._take(near[best_first(self._logits[near])])
        else:
            self.keep(int(np.searchsorted(-self._behind, distance, side="right")))

    def keep_where(self, kept: NDArray[np.bool_]) -> None:
        """Keep those whose place in `kept` (n,) is true; the best of them is the new best."""
        self._ids, self._behind = self.ids[kept], self.behind[kept]
        self._behind = self._behind - self._behind[0]

    def scale(self, factor: float) -> None:
        """Divide all logits by `factor`, a temperature above 0."""
        with np.errstate(over="ignore"):  # next to none: infinitely far behind, p = 0
            self._behind = self.behind / factor

    def probabilities(self) -> NDArray[np.float64]:
        """Return each one's share of what is left, (n,); they add up to 1."""
        weights = np.exp(self.behind)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def _sorted(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        if self._ids is None:
            self._take(best_first(self._logits))
        assert self._ids is not None
        return self._ids, self._behind

    def _take(self, ids: NDArray[np.intp]) -> None:
        logits = self._logits[ids].astype(np.float64)
        count = int(np.searchsorted(-logits, np.inf))  # before the first that is ruled out
        if count == 0:
            raise ConfigError(
                "logit_bias: expected some token to remain, found all of them ruled out. "
                "Rule out less."
            )
        self._ids, self._behind = ids[:count], logits[:count] - logits[0]


Filter = Callable[[Candidates], None]  # narrows or changes the candidates
