"""Parts of matrices in another order; a view of a view is a view, and nothing is ever copied whole.

All implement `matrix.Matrix`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .matrix import Coded, Held, Matrix, code_values, count_rows, files_of, read_codes

BAND = 8 << 20  # bytes of float32 that a transposition has in hand beside its result


@dataclass(frozen=True)
class View:
    """A part of a matrix; what it is made of says the rest."""

    base: Matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of this view."""
        return self.base.shape

    @property
    def encoding(self) -> str:
        """Encoding of the whole."""
        return self.base.encoding

    @property
    def nbytes(self) -> int:
        """Its share of the whole."""
        return self.base.nbytes * prod(self.shape) // max(prod(self.base.shape), 1)

    @property
    def path(self) -> Path:
        """File of the whole."""
        return self.base.path

    @property
    def paths(self) -> frozenset[Path]:
        """All files of the whole."""
        return files_of(self.base)

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop of this view."""
        return self.base.read_rows(start, stop)

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return the same rows as codes, where that is exact."""
        return read_codes(self.base, start, stop)

    def code_values(self) -> tuple[int, ...] | None:
        """Return the codes of the whole."""
        return code_values(self.base)


@dataclass(frozen=True)
class RowRange(View):
    """Rows first..first+count: one expert of a stack, or the gate of a fused gate and up."""

    first: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, columns)."""
        return (self.count, *self.base.shape[1:][-1:])

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop of the range."""
        return self.base.read_rows(self.first + start, self.first + stop)

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return the same rows as codes, where that is exact."""
        return read_codes(self.base, self.first + start, self.first + stop)


@dataclass(frozen=True)
class HalfSplit(View):
    """Rows of q or k from RoPE's pairs (2i, 2i+1) to halves (i, i + head_dim/2), head by head."""

    head_dim: int

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop in the new order."""
        first, last = self._heads(start, stop)
        return self._reorder(self.base.read_rows(first, last))[start - first : stop - first]

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return the same rows as codes, where that is exact."""
        first, last = self._heads(start, stop)
        found = read_codes(self.base, first, last)
        if found is None:
            return None
        codes, scales = (self._reorder(part)[start - first : stop - first] for part in found)
        return Coded(codes, scales)

    def _heads(self, start: int, stop: int) -> tuple[int, int]:
        """Return the rows of all heads that have some of rows start..stop."""
        return start // self.head_dim * self.head_dim, -(-stop // self.head_dim) * self.head_dim

    def _reorder(self, rows: NDArray[Any]) -> NDArray[Any]:
        heads = rows.reshape(-1, self.head_dim // 2, 2, *rows.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


@dataclass(frozen=True)
class Transposed(View):
    """Columns as rows; the whole matrix is in memory from its first row to its last."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(columns, rows)."""
        return self.base.shape[::-1]

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return columns start..stop as rows."""
        return np.ascontiguousarray(self._held.get(last=stop == self.shape[0])[start:stop])

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return None: blocks along the columns are none along the rows."""
        return None

    def code_values(self) -> tuple[int, ...] | None:
        """Return None, likewise."""
        return None

    @cached_property
    def _held(self) -> Held[NDArray[Any]]:
        return Held(self._turn)

    def _turn(self) -> NDArray[Any]:
        rows, columns = count_rows(self.base), self.base.shape[-1]
        step = max(1, BAND // (4 * columns))
        whole: NDArray[Any] | None = None
        for start in range(0, rows, step):
            band = self.base.read_rows(start, min(start + step, rows))
            if whole is None:
                whole = np.empty((columns, rows), band.dtype)
            whole[:, start : start + len(band)] = band.T
        assert whole is not None, "a matrix has rows"
        return whole
