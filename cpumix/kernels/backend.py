"""The interface of the kernels: every operation of the forward pass, on this process's level."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from . import scalar
from .compile.jit import set_threads
from .operands import KVView, MatmulGroup, Residual, TiledMatrix
from .rows import Rows

Floats = NDArray[np.float32]
ExpertIds = NDArray[np.int32]
Index = NDArray[np.int64]
Rope = tuple[Floats, Floats]
"""cos and sin (n, head_dim / 2) of n positions."""


class Backend(ABC):
    """The operations of the forward pass; `n` is how many rows of a buffer are in use.

    Call it from one thread only, which calls `bind` first unless it made the backend.
    """

    def __init__(self, threads: int) -> None:
        self.threads = set_threads(threads)

    def bind(self) -> None:
        """Make this thread the one that runs the kernels: numba counts threads for each caller."""
        set_threads(self.threads)

    @abstractmethod
    def look_up(self, matrix: TiledMatrix, ids: Index) -> Floats:
        """Return rows of a matrix, (len(ids), padded k) float32."""

    @abstractmethod
    def norm(
        self, x: Rows, residual: Residual, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        """Add the residual to n rows of x; write their RMSNorm to out, as values and as codes."""

    @abstractmethod
    def multiply(self, group: MatmulGroup) -> None:
        """Run the matrix products of a group in one parallel region."""

    @abstractmethod
    def store_kv(
        self, q: Rows, k: Rows, v: Rows, rope: Rope, n: int, queries: int, kv: KVView
    ) -> None:
        """Apply RoPE to n keys and the last `queries` queries; write keys and values to the cache.

        The positions begin at `kv.position`; q has rows for the last ones only.
        """

    @abstractmethod
    def attention(self, q: Rows, n: int, kv: KVView, out: Rows) -> None:
        """Attention of each query to the positions up to its own."""

    @abstractmethod
    def route(
        self,
        x: Rows,
        router: Floats,
        experts: int,
        n: int,
        topk_ids: ExpertIds,
        topk_weights: Floats,
        norm_topk: bool = True,
    ) -> None:
        """Choose each row's experts and their weights; see `route.route`."""

    def sort_by_expert(
        self,
        topk_ids: ExpertIds,
        n: int,
        expert_offsets: Index,
        sorted_tokens: Index,
        inverse_order: Index,
    ) -> None:
        """Sort the pairs of token and expert by expert; see `scalar.sort_by_expert`."""
        scalar.sort_by_expert(topk_ids, n, expert_offsets, sorted_tokens, inverse_order)
