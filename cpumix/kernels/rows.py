"""Rows of activations in memory, as float32 and, on demand, as 8-bit codes."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

# What products need to know of a block besides its codes: places in its header, and bytes of that.
SCALE_AT, START_AT, CENTRE_AT, CENTRED_START_AT, INPUT_HEADER = 0, 4, 8, 12, 16
SPARE_ROWS = 16  # kernels read rows in groups; what they compute beyond the end is dropped
# A row stride that is a power of two would put all rows in the same few cache sets.
SPARE_BLOCKS = 2
LINE = 64  # bytes of a cache line; a 64-byte load that straddles two costs double

T = TypeVar("T", bound=np.generic)


def aligned_zeros(shape: tuple[int, ...], dtype: type[T]) -> NDArray[T]:
    """Return zeros that start on a cache line; the pages are touched only when used."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + LINE, np.uint8)
    first = -address_of(raw) % LINE
    return raw[first : first + size].view(dtype).reshape(shape)


def address_of(array: NDArray[np.generic]) -> int:
    """Return the address of an array's first element."""
    return int(array.__array_interface__["data"][0])


def stride(columns: int) -> int:
    """Return how many values apart rows of so many columns lie."""
    blocks = -(-columns // BLOCK)
    return BLOCK * (blocks + blocks % 2 + SPARE_BLOCKS)  # even: rows of codes start on cache lines


class RowArrays(NamedTuple):
    """The memory of `Rows` as kernels take it."""

    values: NDArray[np.float32]
    codes: NDArray[np.int8]
    headers: NDArray[np.int32]


class Rows:
    """A buffer of up to `capacity` rows of `columns` values, zero from `columns` on.

    values (capacity + 16, stride) f32 | codes i8 like values | headers (capacity + 16, stride / 32,
    4) i32, see `quantize.write_header`; scale f32 and start i32 are its first two
    """

    def __init__(self, capacity: int, columns: int) -> None:
        self.columns = columns
        self.blocks = -(-columns // BLOCK)
        self.stride = size = stride(columns)
        self.values = aligned_zeros((capacity + SPARE_ROWS, size), np.float32)
        self.codes = aligned_zeros((capacity + SPARE_ROWS, size), np.int8)
        self.headers = aligned_zeros((capacity + SPARE_ROWS, size // BLOCK, 4), np.int32)
        self._locate()

    def _locate(self) -> None:
        """Ask for the addresses once: NumPy takes a microsecond for each."""
        self.arrays = RowArrays(self.values, self.codes, self.headers)
        self._values_at, self._codes_at = address_of(self.values), address_of(self.codes)
        self._headers_at, self._header_stride = address_of(self.headers), self.headers.strides[0]

    @property
    def scale(self) -> NDArray[np.float32]:
        """The scales of the blocks of codes, (capacity + 16, stride / 32)."""
        return self.headers.view(np.float32)[..., 0]

    @property
    def start(self) -> NDArray[np.int32]:
        """-128 x the sums of the blocks of codes, (capacity + 16, stride / 32)."""
        return self.headers[..., 1]

    def operand(self, first: int, codes: bool) -> tuple[int, int, int]:
        """Return where kernels find the rows from `first` on.

        Address of the codes or else the values, bytes from row to row of these, address of the
        headers; these lie half as far apart as codes do.
        """
        place, width = (
            (self._codes_at, self.stride) if codes else (self._values_at, 4 * self.stride)
        )
        return place + first * width, width, self._headers_at + first * self._header_stride

    def to_quantize(self, first: int, count: int) -> NDArray[np.int64]:
        """Return what `quantize_row` takes of some rows.

        (count, 4): address of the values, blocks, addresses of the codes and headers.
        """
        begin = np.array([self._values_at, self.blocks, self._codes_at, self._headers_at])
        steps = np.array([4 * self.stride, 0, self.stride, self._header_stride])
        return begin + steps * np.arange(first, first + count)[:, None]

    @property
    def nbytes(self) -> int:
        """Bytes that the buffer takes."""
        return self.values.nbytes + self.codes.nbytes + self.headers.nbytes

    def part(self, first: int) -> Rows:
        """Return the rows from `first` on, in the same memory."""
        part = copy(self)
        part.values, part.codes = self.values[first:], self.codes[first:]
        part.headers = self.headers[first:]
        part._locate()
        return part

    def gather(self, source: Rows, index: NDArray[np.int64], codes: bool) -> None:
        """Copy the rows with these indices from a buffer of the same width: codes, or values."""
        n = len(index)
        if codes:
            np.take(source.codes, index, axis=0, out=self.codes[:n], mode="clip")
            np.take(source.headers, index, axis=0, out=self.headers[:n], mode="clip")
        else:
            np.take(source.values, index, axis=0, out=self.values[:n], mode="clip")
