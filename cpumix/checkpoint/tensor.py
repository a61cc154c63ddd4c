"""One tensor of a checkpoint, read when asked for and a few rows at a time if it is large."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import read_range

# BF16 has no type in NumPy: its bits are the upper half of a float32's.
RAW_TYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor, or one expert's slice of a fused one: contiguous, `offset` bytes into `path`."""

    name: str
    """Ours, such as "blk.0.expert.3.w1"."""
    source_name: str
    """The checkpoint's."""
    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    """"BF16", "F16" or "F32"."""

    @property
    def nbytes(self) -> int:
        """Size in the checkpoint."""
        return prod(self.shape) * RAW_TYPES[self.dtype].itemsize

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows as they are stored: uint16 bits for BF16, else float16 or float32.

        A norm's rows are its numbers. Any thread may read at any time. Raises ConvertError if the
        shard cannot be read or has become shorter.
        """
        out = np.empty((stop - start, *self.shape[1:]), RAW_TYPES[self.dtype])
        self.read_into(start, stop, out)
        return out

    def read_into(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Fill a contiguous array of `read_rows`' shape and type."""
        assert 0 <= start <= stop <= self.shape[0]
        assert out.shape == (stop - start, *self.shape[1:])
        assert out.dtype == RAW_TYPES[self.dtype] and out.flags.c_contiguous
        row_bytes = self.nbytes // self.shape[0]
        read_range(self.path, self.offset + start * row_bytes, out.reshape(-1).view(np.uint8).data)
