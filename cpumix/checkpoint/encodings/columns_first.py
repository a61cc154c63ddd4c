"""What GPTQ and AWQ share: a transposed matrix with a scale and a zero for each group of columns.

weight[row, column] = scale[group, row] * (code - zero[group, row])
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..matrix import Coded, Held, coded
from .parts import Quantized

BAND = 128  # columns, a multiple of the 32 that any number of bits has in whole words


class Loaded(NamedTuple):
    """The parts of a matrix in memory."""

    words: NDArray[np.int32]
    """As they are stored, columns first."""
    zeros: NDArray[Any]
    """(rows, groups): of a type that codes less zeros fit into."""
    scales: NDArray[np.float32]
    """(rows, groups)."""
    groups: NDArray[np.int64]
    """(columns,): the group of each column."""


@dataclass(frozen=True)
class ColumnsFirst(Quantized):
    """A transposed matrix; kinds of it load their parts and know the order of their codes."""

    @abstractmethod
    def load(self) -> Loaded:
        """Read all parts."""

    @abstractmethod
    def unpack_band(
        self, words: NDArray[np.int32], start: int, stop: int, band: slice
    ) -> NDArray[np.uint8]:
        """Return the codes of rows start..stop in some columns, (rows, columns)."""

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        loaded, columns = self._held.get(last=stop == self.shape[0]), self.shape[1]
        rows = np.empty((stop - start, columns), np.float32)
        for first in range(0, columns, BAND):
            band = slice(first, min(first + BAND, columns))
            codes = self._less_zeros(loaded, start, stop, band)
            rows[:, band] = codes
            rows[:, band] *= _spread(loaded.scales[start:stop], loaded.groups[band])
        return rows

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as codes less zeros, if groups are runs of columns."""
        loaded, columns = self._held.get(last=stop == self.shape[0]), self.shape[1]
        groups = loaded.scales.shape[1]
        if columns % groups or (loaded.groups != runs(columns, groups)).any():
            return None
        rows = np.empty((stop - start, columns), loaded.zeros.dtype)
        for first in range(0, columns, BAND):
            band = slice(first, min(first + BAND, columns))
            rows[:, band] = self._less_zeros(loaded, start, stop, band)
        return coded(rows, loaded.scales[start:stop])

    def _less_zeros(self, loaded: Loaded, start: int, stop: int, band: slice) -> NDArray[Any]:
        codes = self.unpack_band(loaded.words, start, stop, band)
        signed: NDArray[Any] = codes.astype(loaded.zeros.dtype, copy=False)
        signed -= _spread(loaded.zeros[start:stop], loaded.groups[band])
        return signed

    @cached_property
    def _held(self) -> Held[Loaded]:
        return Held(self.load)


def runs(columns: int, groups: int) -> NDArray[np.int64]:
    """Return the group of each column where groups are runs of columns."""
    return np.arange(columns) // (columns // groups)


def _spread(values: NDArray[Any], groups: NDArray[np.int64]) -> NDArray[Any]:
    """Return each column's values of (rows, groups); one column if all are of one group."""
    one = (groups == groups[0]).all()
    return values[:, groups[:1]] if one else values.take(groups, axis=1)
