"""The residual stream: what every layer reads, normed, and adds to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import Residual
from cpumix.kernels.rows import Rows

Floats = NDArray[np.float32]


class ResidualStream:
    """Rows x [T, D]; `h` is where their norm goes.

    One kernel adds and norms, in one pass over memory; so `add` notes what is to be added, and
    `norm` does it.
    """

    def __init__(self, backend: Backend, x: Rows, h: Rows, eps: float) -> None:
        self._backend, self.x, self._h, self._eps = backend, x, h, eps
        shape = len(x.values), 0
        self._nothing = Residual(x, np.zeros(shape, np.int64), np.zeros(shape, np.float32))
        self._residual = self._nothing
        self.count = 0

    def start(self, embeddings: Floats) -> None:
        """Begin with the embeddings [T, D] of a batch."""
        self.count, self._residual = len(embeddings), self._nothing
        self.x.values[: self.count, : embeddings.shape[1]] = embeddings

    def norm(self, gain: Floats) -> Rows:
        """Return the RMSNorm of all rows [T, D]; gain (D,), padded to whole blocks."""
        self._backend.norm(self.x, self._residual, gain, self._eps, self.count, self._h)
        self._residual = self._nothing
        return self._h

    def add(self, residual: Residual) -> None:
        """Add to the last rows, as many as the residual has; the rows before them are dropped."""
        dropped, self.count = self.count - len(residual.indices), len(residual.indices)
        if dropped:
            x = self.x.values
            x[: self.count] = x[dropped : dropped + self.count]
        self._residual = residual
