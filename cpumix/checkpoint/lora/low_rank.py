"""Matrices with an adapter merged in, row by row and in float32.

W' = W + scale * up @ down, with thin matrices up (rows, rank) and down (rank, columns). DoRA then
gives each row the length that it learned: W'[n] * magnitude[n] / |W'[n]|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..matrix import Coded, Held, widen
from ..views import View

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one matrix."""

    scale: float
    load: Callable[[], tuple[Floats, Floats]]
    """Returns up (rows, rank) and down (rank, columns)."""
    magnitude: Callable[[], Floats] | None = None
    """Returns the lengths (rows,) of DoRA."""


@dataclass(frozen=True)
class Merged(View):
    """A matrix and what an adapter adds to it; float32."""

    change: LowRank

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop."""
        up, down, magnitude = self._held.get(last=stop == self.shape[0])
        rows = widen(self.base.read_rows(start, stop))
        rows = rows + np.float32(self.change.scale) * (up[start:stop] @ down)
        if magnitude is not None:
            squares = np.einsum("nk,nk->n", rows, rows, dtype=np.float64)
            lengths = np.sqrt(squares, dtype=np.float64).astype(np.float32)
            rows *= np.divide(
                magnitude[start:stop], lengths, out=np.zeros_like(lengths), where=lengths > 0
            )[:, None]
        return rows

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return None: what was added is no multiple of the scales."""
        return None

    def code_values(self) -> tuple[int, ...] | None:
        """Return None, likewise."""
        return None

    @cached_property
    def _held(self) -> Held[tuple[Floats, Floats, Floats | None]]:
        change = self.change
        return Held(lambda: (*change.load(), change.magnitude() if change.magnitude else None))
