"""The door to the kernels: every operation of the forward pass, on this process's level.

`create` picks one of two engines: SIMD kernels, or plain loops for processors without a known
level, which also run with the JIT switched off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from . import plain
from .isa import active
from .jit import set_threads
from .operands import Addition, Past, Work
from .rows import Rows

Floats = NDArray[np.float32]
Chosen = NDArray[np.int32]
Places = NDArray[np.int64]


class Engine(ABC):
    """The operations of the forward pass; `n` is how many rows of a buffer are in use.

    Call it from one thread only: numba's thread pools do not bear two.
    """

    def __init__(self, threads: int) -> None:
        self.threads = set_threads(threads)

    @abstractmethod
    def norm(self, x: Rows, added: Addition, weight: Floats, eps: float, n: int, out: Rows) -> None:
        """Add to each row of x, and RMSNorm what it is then, as values and as codes."""

    @abstractmethod
    def multiply(self, work: Work) -> None:
        """Run products, in one parallel region."""

    @abstractmethod
    def remember(
        self, q: Rows, k: Rows, v: Rows, turn: tuple[Floats, Floats], n: int, rows: int, past: Past
    ) -> None:
        """Turn n keys and the last `rows` queries by their positions; keep keys and values.

        `turn`: cos and sin (n, head_dim / 2). The positions begin at `past.position`; q has only
        the last ones.
        """

    @abstractmethod
    def attend(self, q: Rows, n: int, past: Past, out: Rows) -> None:
        """Attention of each query to what came before it and to itself."""

    @abstractmethod
    def route(
        self, x: Rows, router: Floats, experts: int, n: int, chosen: Chosen, share: Floats
    ) -> None:
        """Choose each row's experts and their weights; see `rowwise.route`."""

    def sort_pairs(
        self, chosen: Chosen, n: int, firsts: Places, tokens: Places, places: Places
    ) -> None:
        """Sort pairs of token and expert by expert; see `plain.sort_pairs`."""
        plain.sort_pairs(chosen, n, firsts, tokens, places)


def create(threads: int) -> Engine:
    """Return the engine of this process's level, on `threads` threads at most."""
    if active().name == "generic":
        from .engine_generic import GenericEngine

        return GenericEngine(threads)
    from .engine_simd import SimdEngine

    return SimdEngine(threads)
