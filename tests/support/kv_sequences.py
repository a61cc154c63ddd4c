"""One sequence in a pool of its own: what kernels are tested with."""

from __future__ import annotations

import numpy as np

from cpumix.config import ModelConfig
from cpumix.kernels.operands import KVView
from cpumix.kernels.rows import Rows
from cpumix.kv.formats import count_blocks
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.transformer.batch import Batch, Step


class KVSequence:
    """A pool as large as one sequence needs, and how far the sequence has come."""

    def __init__(self, config: ModelConfig, positions: int, chunk: int, kv: str) -> None:
        blocks = count_blocks(config, positions, chunk)
        self.pool = BlockPool(config, blocks, kv)
        self.table, self.position = BlockTable(self.pool, blocks), 0

    def view(self, layer: int, n: int, scale: float = 1.0, group: int = 1) -> KVView:
        """The next n positions, all of which are queries."""
        batch = Batch([Step(range(n), self.position, self.table, n)])
        place = batch.place(is_last_layer=False)
        return KVView(*self.pool.layer(layer), *place, self.pool.window, scale, group)

    def advance(self, n: int) -> None:
        self.position += n


def store_kv(e, sequence: KVSequence, layer: int, k: np.ndarray, v: np.ndarray) -> None:
    """Store the keys and values (n, columns) of the next n positions, without RoPE."""
    rows = [Rows(len(x), x.shape[1]) for x in (k, k, v)]
    for row, x in zip(rows, (k, k, v), strict=True):
        row.values[: len(x), : x.shape[1]] = x
    view = sequence.view(layer, len(k))
    cos = np.ones((len(k), view.keys.shape[2] // 2), np.float32)
    e.store_kv(*rows, (cos, 0 * cos), len(k), len(k), view)
