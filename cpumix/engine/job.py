"""What the scheduler plans: something that takes its tokens through the model, chunk by chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from cpumix.kv.table import BlockTable
from cpumix.transformer.batch import Step

Floats = NDArray[np.float32]


class Job(ABC):
    """Tokens of one text, the first `computed` of which are in the KV cache.

    Unless a job says otherwise it only reads: no tokens come to those that it began with.
    """

    tokens: list[int]
    computed: int = 0
    table: BlockTable
    salt: bytes = b""
    """Texts share cached blocks only with texts of the same salt."""
    reuses: bool = True
    """Whether the beginning of its text may come from the prefix cache, and be left there."""
    cached: int = 0
    """How many tokens came from the prefix cache."""
    cancelled: bool = False
    """Set from any thread; the loop then ends the job."""

    @property
    def most_tokens(self) -> int:
        """How many tokens there will be in the cache at most."""
        return len(self.tokens)

    @property
    def writing(self) -> bool:
        """Whether the job writes: it then gets its rows in every step."""
        return False

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing is left to do."""

    def pending(self) -> int:
        """Return how many rows it wants in the next step."""
        return len(self.tokens) - self.computed

    @abstractmethod
    def step(self, count: int) -> Step:
        """Return its next `count` rows."""

    @abstractmethod
    def take(self, rows: Floats) -> None:
        """Take what the last step asked for, logits or hidden states of a row each, and go on."""

    def on_layer(self, rows: int, done: int) -> None:  # noqa: B027
        """Hear that `rows` rows of a step under way are through `done` layers."""

    @abstractmethod
    def finish(self, reason: str) -> None:
        """End the job early, or tell that it has ended."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """End the job with an error."""
