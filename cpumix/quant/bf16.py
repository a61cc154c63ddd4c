"""bfloat16 weights: the upper half of a float32, rounded to nearest even; 16 bits per weight.

Tile of 16 rows x 32 columns, 1024 bytes: 16 groups of 2 columns, each 16 rows x (2 x 2 bytes) = 64
bytes. No scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .tiles import BLOCK, TILE_ROWS, from_blocks, to_blocks

TILE_BYTES = TILE_ROWS * BLOCK * 2


def from_float32(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 values to bfloat16 bit patterns, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bit patterns to float32 (exact)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize(w: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return w (n, k) as tiles (tiles, blocks, 1024)."""
    bits = from_float32(to_blocks(w))
    tiles, _, blocks, _ = bits.shape
    pairs = bits.reshape(tiles, TILE_ROWS, blocks, BLOCK // 2, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(pairs).view(np.uint8).reshape(tiles, blocks, TILE_BYTES)


def dequantize(tiles: NDArray[np.uint8], n: int, k: int) -> NDArray[np.float32]:
    """Return the (n, k) float32 matrix that the tiles hold."""
    count, blocks, _ = tiles.shape
    pairs = (
        np.ascontiguousarray(tiles).view(np.uint16).reshape(count, blocks, BLOCK // 2, TILE_ROWS, 2)
    )
    return from_blocks(
        to_float32(pairs.transpose(0, 3, 1, 2, 4).reshape(count, TILE_ROWS, blocks, BLOCK)), n, k
    )


def rows(tiles: NDArray[np.uint8], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the rows with these indices, (len(ids), padded k) float32."""
    count, blocks, _ = tiles.shape
    pairs = tiles.view(np.uint16).reshape(count, blocks, BLOCK // 2, TILE_ROWS, 2)
    return to_float32(pairs[ids // TILE_ROWS, :, :, ids % TILE_ROWS]).reshape(
        len(ids), blocks * BLOCK
    )
