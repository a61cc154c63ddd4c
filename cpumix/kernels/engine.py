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
from .operands import Past, Work
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
    def norm(self, x: Rows, weight: Floats, eps: float, n: int, out: Rows) -> None:
        """RMSNorm of each row, as values and as codes."""

    @abstractmethod
    def quantize(self, x: Rows, n: int) -> None:
        """Fill x's codes from its values."""

    @abstractmethod
    def multiply(self, work: Work) -> None:
        """Run products, in one parallel region; rows that a matrix wants as codes are quantized."""

    @abstractmethod
    def remember(self, k: Rows, v: Rows, n: int, past: Past) -> None:
        """Keep rotated keys, and values, of the positions from `past.position` on."""

    @abstractmethod
    def attend(self, q: Rows, n: int, past: Past, out: Rows) -> None:
        """Attention of each query to what came before it and to itself."""

    @abstractmethod
    def route(
        self, x: Rows, router: Floats, experts: int, n: int, chosen: Chosen, share: Floats
    ) -> None:
        """Choose each row's experts and their weights; see `rowwise.route`."""

    def rotate(self, x: Rows, heads: int, cos: Floats, sin: Floats, n: int) -> None:
        """Rotary position embedding, in place."""
        plain.rotate(x.values, heads, cos, sin, n)

    def sort_pairs(
        self, chosen: Chosen, n: int, firsts: Places, tokens: Places, places: Places
    ) -> None:
        """Sort pairs of token and expert by expert; see `plain.sort_pairs`."""
        plain.sort_pairs(chosen, n, firsts, tokens, places)

    def combine(self, x: Rows, outputs: Rows, places: Places, share: Floats, n: int) -> None:
        """Add the experts' weighted outputs to the stream."""
        plain.combine(x.values[:, : x.columns], outputs.values, places, share, n)

    def accumulate(self, x: Rows, update: Rows, n: int) -> None:
        """Add an update to the stream."""
        plain.accumulate(x.values[:, : x.columns], update.values, n)


def create(threads: int) -> Engine:
    """Return the engine of this process's level, on `threads` threads at most."""
    if active().name == "generic":
        from .engine_generic import GenericEngine

        return GenericEngine(threads)
    from .engine_simd import SimdEngine

    return SimdEngine(threads)
