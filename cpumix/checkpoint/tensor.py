"""A tensor of a checkpoint: where it lies, and its values as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import read_into

# How the values of each dtype come to NumPy, which has no bfloat16: as its bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under its canonical name, or the slice of a fused tensor that has that name."""

    name: str
    source_name: str
    """The whole tensor's name in the checkpoint; errors say this one."""
    path: Path
    offset: int
    """In bytes from the start of the file."""
    shape: tuple[int, ...]
    """(rows, columns), or (rows,) of a norm."""
    dtype: str
    """A key of `DTYPES`."""

    @property
    def nbytes(self) -> int:
        """Size in the checkpoint, in bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop as uint16 (the bits of BF16), float16 or float32.

        Any number of threads may read at once. Raises ConvertError when the file has changed.
        """
        assert 0 <= start <= stop <= self.shape[0], (start, stop, self.shape)
        rows = np.empty((stop - start, *self.shape[1:]), DTYPES[self.dtype])
        if rows.size:
            at = self.offset + start * (self.nbytes // self.shape[0])
            read_into(self.path, at, rows.reshape(-1).view(np.uint8).data)
        return rows
