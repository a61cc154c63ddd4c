"""The logits of every position of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cpumix.transformer.batch import Step

from .job import Floats, Job


class Scoring(Job):
    """Collects logits (T, vocab_size) of T tokens: all of them are computed."""

    reuses = False

    def __init__(
        self,
        ids: Sequence[int],
        vocab_size: int,
        on_end: Callable[[Floats | BaseException], None],
    ) -> None:
        self.tokens, self._tell = list(ids), on_end
        self._logits = np.empty((len(ids), vocab_size), np.float32)
        self._done = 0
        self._ended = False

    @property
    def ended(self) -> bool:  # noqa: D102
        return self._ended or self._done == len(self.tokens)

    def step(self, count: int) -> Step:  # noqa: D102
        ids = self.tokens[self.computed : self.computed + count]
        return Step(ids, self.computed, self.table, count)

    def take(self, rows: Floats) -> None:  # noqa: D102
        self._logits[self._done : self._done + len(rows)] = rows
        self._done += len(rows)

    def finish(self, reason: str) -> None:  # noqa: D102
        self._ended = True
        self._tell(self._logits)

    def fail(self, error: BaseException) -> None:  # noqa: D102
        self._ended = True
        self._tell(error)
