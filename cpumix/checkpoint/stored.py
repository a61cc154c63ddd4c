"""What a container tells of a tensor: the type of its numbers, its shape, and where its bytes lie.

Every container in `containers/` returns a dict of these by name; every encoding in `encodings/`
reads its numbers through them. Nothing is ever mapped: mapped pages would count as memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import read_into

ReadInto = Callable[[Path, int, memoryview], None]
"""Fills flat bytes from a file at an offset; any number of threads may call it at once."""
# How each type comes to NumPy, which has no bfloat16 and no float8: as their bits. A type that is
# not here, such as a GGUF block type, comes as the bytes of each row.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "u1", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1",
        "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
        "U32": "<u4", "I32": "<i4", "F32": "<f4",
        "U64": "<u8", "I64": "<i8", "F64": "<f8",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file describes it; the container has checked that its bytes are there."""

    path: Path
    dtype: str
    """A key of `NUMPY_DTYPES`, or the name of a block type such as "Q4_K"."""
    shape: tuple[int, ...]
    """Of the numbers, row-major: the last dimension is contiguous."""
    offset: int
    """Of the first number, in bytes from the start of the file."""
    nbytes: int
    """Of the numbers; a view with strides may be spread over more."""
    strides: tuple[int, ...] | None = None
    """In numbers, as PyTorch counts them; None: row-major without gaps."""
    read_into: ReadInto = field(default=read_into, repr=False, compare=False)
    """Reads the file, which may be elsewhere."""

    @property
    def rows(self) -> int:
        """Number of rows: all dimensions but the last count them; a vector's numbers are rows."""
        is_vector = len(self.shape) == 1 and self.dtype in NUMPY_DTYPES
        return prod(self.shape if is_vector else self.shape[:-1])

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop as (rows, columns), (rows,) of a vector, bytes of a block type.

        Any number of threads may read at once. Raises ConvertError when the file has changed.
        """
        assert 0 <= start <= stop <= self.rows, (start, stop, self.shape)
        assert self.strides is None, self.strides
        row_bytes = self.nbytes // max(self.rows, 1)
        kind = NUMPY_DTYPES.get(self.dtype)
        if kind is None:
            out: NDArray[Any] = np.empty((stop - start, row_bytes), np.uint8)
        else:
            out = np.empty((stop - start, *self.shape[1:][-1:]), kind)
        if out.size:
            at = self.offset + start * row_bytes
            self.read_into(self.path, at, out.reshape(-1).view(np.uint8).data)
        return out

    def read_flat(self, start: int, stop: int) -> NDArray[Any]:
        """Return numbers start..stop of the tensor, counted through all dimensions."""
        assert 0 <= start <= stop <= prod(self.shape), (start, stop, self.shape)
        assert self.strides is None, self.strides
        out: NDArray[Any] = np.empty(stop - start, NUMPY_DTYPES[self.dtype])
        if out.size:
            at = self.offset + start * out.itemsize
            self.read_into(self.path, at, out.view(np.uint8).data)
        return out

    def read(self) -> NDArray[Any]:
        """Return the whole tensor in its shape, of any strides; not for block types."""
        kind = NUMPY_DTYPES[self.dtype]
        if self.strides is None:
            return self.read_rows(0, self.rows).reshape(self.shape)
        steps = zip(self.shape, self.strides, strict=True)
        span = 1 + sum((n - 1) * step for n, step in steps) if self.nbytes else 0
        raw = np.empty(span, kind)
        self.read_into(self.path, self.offset, raw.view(np.uint8).data)
        strides = [step * kind.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(raw, self.shape, strides, writeable=False)


@dataclass(frozen=True)
class StoredMatrix:
    """What `matrix.Matrix` asks of a matrix that is one stored tensor, but for its rows."""

    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers."""
        return self.stored.shape

    @property
    def encoding(self) -> str:
        """Name of its type."""
        return self.stored.dtype

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.stored.nbytes

    @property
    def path(self) -> Path:
        """Its file."""
        return self.stored.path
