"""What each weight format means, in NumPy: the definitions that the kernels are tested against.

A format is one file plus a row in `FORMATS`. `precision` says which format each tensor of a model
takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from . import bf16, q2s, q3s, q4, q4s, q6, q8
from .rounder import Rounder
from .row_scaled import HEAD_BYTES, RowScaled
from .tiles import BLOCK, TILE_ROWS, tile_counts

__all__ = ["FLOAT32", "FORMATS", "QuantFormat", "nbytes", "tile_counts"]

FLOAT32 = "f32"  # plain row-major float32, for norms and routers; has no tiles


@dataclass(frozen=True)
class QuantFormat:
    """One way to store a weight matrix in tiles of 16 rows x 32 columns.

    Where a tensor may bring a code book, the functions that read tiles take it as last argument.
    """

    name: str
    tile_bytes: int
    quantize: Callable[[NDArray[np.float32]], NDArray[np.uint8]]
    """(n, k) float32 -> tiles uint8, of `shape`."""
    dequantize: Callable[..., NDArray[np.float32]]
    """tiles, n, k -> (n, k) float32."""
    rows: Callable[..., NDArray[np.float32]]
    """tiles, indices (m,) -> (m, padded k) float32: the rows of an embedding."""
    split: Callable[..., tuple[NDArray[np.int8], NDArray[np.float32]]] | None = None
    """tiles -> signed codes (tiles, 16, blocks, 32) and scales (tiles, 16, blocks): what products
    with 8-bit activations sum. None for formats that are multiplied as float32."""
    book: NDArray[np.int8] | None = None
    """The values of its codes, unless a tensor brings its own; None if codes are numbers."""
    rounder: Rounder | None = None
    """The format in parts, for `compensate`; None if there is nothing to round in it."""
    scaling: RowScaled | None = None
    """What it is made of, if its rows have scales: panels of 16 rows then begin with a head."""

    @property
    def head_bytes(self) -> int:
        """Bytes before the tiles of 16 rows."""
        return HEAD_BYTES if self.scaling else 0

    @property
    def own_books(self) -> bool:
        """Whether a tensor may bring a code book of its own."""
        return self.book is not None and self.scaling is None

    def shape(self, n: int, k: int) -> tuple[int, ...]:
        """Return the shape of an (n, k) matrix's bytes.

        (tiles, blocks, tile_bytes); with heads (tiles, head_bytes + blocks x tile_bytes).
        """
        tiles, blocks = tile_counts(n, k)
        if self.head_bytes:
            return tiles, self.head_bytes + blocks * self.tile_bytes
        return tiles, blocks, self.tile_bytes

    def blocks(self, tiles: NDArray[np.uint8]) -> int:
        """Return how many blocks of 32 columns tiles have."""
        if self.head_bytes:
            return int(tiles.shape[1] - self.head_bytes) // self.tile_bytes
        return int(tiles.shape[1])

    @property
    def bits_per_weight(self) -> float:
        """Bits that one weight takes, scales included."""
        return 8 * self.tile_bytes / (TILE_ROWS * BLOCK)

    def nbytes(self, n: int, k: int) -> int:
        """Bytes that an (n, k) matrix takes, padding included."""
        return prod(self.shape(n, k))


def _row_scaled(name: str, f: RowScaled) -> QuantFormat:
    return QuantFormat(
        name,
        f.tile_bytes,
        f.quantize,
        f.dequantize,
        f.rows,
        f.split,
        f.book,
        f.rounder,
        scaling=f,
    )


FORMATS = {
    f.name: f
    for f in (
        QuantFormat("bf16", bf16.TILE_BYTES, bf16.quantize, bf16.dequantize, bf16.rows),
        QuantFormat(
            "q8",
            q8.TILE_BYTES,
            q8.quantize,
            q8.dequantize,
            q8.rows,
            q8.split,
            rounder=q8.ROUNDER,
        ),
        QuantFormat(
            "q6",
            q6.TILE_BYTES,
            q6.quantize,
            q6.dequantize,
            q6.rows,
            q6.split,
            rounder=q6.ROUNDER,
        ),
        QuantFormat(
            "q4",
            q4.TILE_BYTES,
            q4.quantize,
            q4.dequantize,
            q4.rows,
            q4.split,
            q4.CODE_BOOK,
            q4.ROUNDER,
        ),
        _row_scaled("q4s", q4s.FORMAT),
        _row_scaled("q3s", q3s.FORMAT),
        _row_scaled("q2s", q2s.FORMAT),
    )
}


def nbytes(format_name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of `shape` (1-D or 2-D) in the named format."""
    if format_name == FLOAT32:
        return 4 * int(np.prod(shape, dtype=np.int64))
    n, k = shape
    return FORMATS[format_name].nbytes(n, k)
