"""One text that is read and not gone on with: what the model's last norm makes of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.transformer.batch import Step

from .job import Floats, Job
from .phase import Watch
from .pooling import Pooling


class Reading(Job):
    """Pools the hidden states of a text, and tells what `finish` makes of the vector (D,).

    Sums are of float64, token by token: what comes of a text depends on nothing but the text.
    """

    def __init__(
        self,
        ids: Sequence[int],
        pooling: Pooling,
        finish: Callable[[Floats], Floats],
        on_end: Callable[[Floats | BaseException], None],
        salt: bytes = b"",
    ) -> None:
        self.tokens, self.salt = list(ids), salt
        self._mean, self._make, self._tell = pooling is Pooling.MEAN, finish, on_end
        self.reuses = pooling.reuses
        self._sum: NDArray[np.float64] = np.zeros(1)
        self._result: Floats | None = None
        self.watch = Watch()

    @property
    def ended(self) -> bool:  # noqa: D102
        return self._result is not None

    def step(self, count: int) -> Step:  # noqa: D102
        self.watch.begin()
        ids = self.tokens[self.computed : self.computed + count]
        wanted = count if self._mean else int(count == self.pending())
        return Step(ids, self.computed, self.table, wanted, hidden=True)

    def take(self, rows: Floats) -> None:  # noqa: D102
        for row in rows:
            self._sum = self._sum + row  # float64
        if self.computed == len(self.tokens):
            count = len(self.tokens) if self._mean else 1
            self._result = self._make((self._sum / count).astype(np.float32))
            self.watch.end_prompt()

    def finish(self, reason: str) -> None:
        """Tell the result; whoever cancelled does not wait for one."""
        if self._result is not None:
            self._tell(self._result)

    def fail(self, error: BaseException) -> None:  # noqa: D102
        self._tell(error)


def unit_vector(vector: Floats) -> Floats:
    """Return a vector divided by its length; one of zeros as it is."""
    wide = vector.astype(np.float64)
    length = np.sqrt(np.square(wide).sum())
    return (wide / length).astype(np.float32) if length else vector
