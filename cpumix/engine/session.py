"""A sequence that is taken on token by token, from outside: for measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConfigError
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.transformer.batch import Batch, Step
from cpumix.transformer.forward import Transformer


class Session:
    """Room for one sequence, taken when it begins. Lives on the compute thread."""

    def __init__(self, transformer: Transformer, pool: BlockPool, blocks: int) -> None:
        self._transformer, self._pool, self._blocks = transformer, pool, blocks
        self._table: BlockTable | None = None
        self.position = 0
        """Of the next token."""

    def begin(self) -> None:
        """Begin a new sequence. Raises ConfigError where others have left no room."""
        self.close()
        if self._pool.available < self._blocks:
            raise ConfigError(
                f"restart: expected room for a sequence, found {self._pool.held} blocks of the KV "
                "cache in use by texts that are being written. Let them end first."
            )
        self._table = BlockTable(self._pool, self._blocks)

    def advance(self, ids: Sequence[int], num_logits: int = 1) -> NDArray[np.float32]:
        """Take in tokens; return the logits of the last ones (num_logits, vocab_size)."""
        if self._table is None:
            self.begin()
        assert self._table is not None
        batch = Batch([Step(ids, self.position, self._table, num_logits)])
        rows = self._transformer.forward(batch)
        for error in self._transformer.find_faults(batch, rows).values():
            raise error
        self.position += len(ids)
        return rows[0]

    def close(self) -> None:
        """Give the room back."""
        if self._table is not None:
            self._table.close()
        self._table, self.position = None, 0
