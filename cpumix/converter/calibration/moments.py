"""Second moments of a matrix's inputs: what says which errors of its weights matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.compensate import feedback
from cpumix.quant.tiles import BLOCK

from .workers import Workers

Floats = NDArray[np.float32]
STRIP = 512  # columns of the moments that one thread sums
DAMPING = 0.02  # of the mean of the diagonal, added to it: what was not seen may come


class Moments:
    """The weighted sum of x x^T over inputs x of k columns, in parts of at most `width` columns.

    Between parts nothing is kept: that would take k^2 numbers. Only the upper halves are summed.
    """

    def __init__(self, k: int, width: int, workers: Workers) -> None:
        columns = -(-k // BLOCK) * BLOCK
        count = -(-columns // width)
        bounds = [columns // BLOCK * i // count * BLOCK for i in range(count + 1)]
        self._parts = [slice(a, b) for a, b in pairwise(bounds)]
        self._sums = [np.zeros((p.stop - p.start,) * 2, np.float32) for p in self._parts]
        self._workers = workers
        self._feedbacks: list[Floats] | None = None
        self.columns, self.weight = columns, 0.0

    def add(self, x: Floats, weights: Floats | None = None) -> None:
        """Add inputs x (m, >= k), zero beyond k, each as often as its weight says, or once."""
        self._feedbacks = None
        if weights is not None:
            with np.errstate(over="ignore"):  # `are_finite` tells
                x = x * np.sqrt(weights)[:, None]
        self.weight += float(len(x) if weights is None else weights.sum(dtype=np.float64))

        def add_strip(strip: tuple[int, int]) -> None:
            part, start = strip
            own = x[:, self._parts[part]]
            stop = min(start + STRIP, own.shape[1])
            with np.errstate(over="ignore", invalid="ignore"):
                self._sums[part][start:stop, start:] += own[:, start:stop].T @ own[:, start:]

        self._workers.map(
            add_strip,
            [(i, start) for i, s in enumerate(self._sums) for start in range(0, len(s), STRIP)],
        )

    def blend(self, other: Moments, weight: float) -> None:
        """Add the mean of other inputs as if it had been seen as often as `weight` says."""
        self._feedbacks = None
        for own, theirs in zip(self._sums, other._sums, strict=True):
            own += theirs * np.float32(weight / other.weight)
        self.weight += weight

    @property
    def are_finite(self) -> bool:
        """Whether no input was NaN or infinite, or too large for its square."""
        return all(bool(np.isfinite(np.diag(part)).all()) for part in self._sums)

    def feedbacks(self) -> list[Floats]:
        """Return the feedback of each part, for `compensate`; computed once for all matrices."""

        def of_part(sums: Floats) -> Floats:
            h = sums.astype(np.float64)
            diagonal = np.einsum("ii->i", h)
            diagonal += DAMPING * diagonal.mean() or 1.0
            return feedback(h)

        if self._feedbacks is None:
            self._feedbacks = self._workers.map(of_part, self._sums)
        return self._feedbacks

    def loss(self, rows: Floats) -> float:
        """Return the mean sum of squares of these rows' (r, k) products with the inputs."""
        columns = self.columns - rows.shape[1]
        rows = np.pad(rows, ((0, 0), (0, columns))) if columns else rows

        def of_part(part: int) -> float:
            sums, own = np.triu(self._sums[part]), rows[:, self._parts[part]]
            products = 2 * (own @ sums) - own * np.diag(sums)
            return float((products * own).sum(dtype=np.float64))

        if not np.isfinite(rows).all():
            return np.inf
        return sum(self._workers.map(of_part, range(len(self._parts)))) / self.weight
