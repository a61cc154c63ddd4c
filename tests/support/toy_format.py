"""2-bit weights: -1, 0 or 1 times a scale, blocks of 32 columns share a scale; 2.5 bits each.

What would stand in cpumix/quant/t2.py: the definition that the kernels have to equal. Tile of 16
rows x 32 columns, 160 bytes: 2 lines of 64 bytes, each four of the 8 groups in `tiles`, one above
the other in bits 0-1, 2-3, 4-5 and 6-7; then 16 float16 scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import QuantFormat
from cpumix.quant.q8 import inverse
from cpumix.quant.tiles import (
    BLOCK,
    GROUPS,
    TILE_ROWS,
    deinterleave,
    from_blocks,
    interleave,
    pack_scales,
    to_blocks,
    unpack_scales,
)

LINES = 2
CODE_BYTES = TILE_ROWS * BLOCK // 4
TILE_BYTES = CODE_BYTES + 2 * TILE_ROWS
SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None, None]


def quantize(w: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return w (n, k) as tiles (tiles, blocks, 160)."""
    x = to_blocks(w)
    scale = np.abs(x).max(-1).astype(np.float16)
    codes = (np.rint(x * inverse(scale)[..., None]) + 1).astype(np.uint8)
    groups = interleave(codes)
    lines = groups.reshape(*groups.shape[:2], LINES, GROUPS // LINES, TILE_ROWS, 4)
    packed = np.bitwise_or.reduce(lines << SHIFTS, axis=3)
    return np.concatenate([packed.reshape(*packed.shape[:2], -1), pack_scales(scale)], axis=-1)


def split(tiles: NDArray[np.uint8]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes (tiles, 16, blocks, 32) and scales (tiles, 16, blocks)."""
    count, blocks, _ = tiles.shape
    packed = tiles[..., :CODE_BYTES].reshape(count, blocks, LINES, 1, TILE_ROWS, 4)
    groups = (packed >> SHIFTS & 3).reshape(count, blocks, GROUPS, TILE_ROWS, 4)
    return deinterleave(groups).astype(np.int8) - 1, unpack_scales(tiles[..., CODE_BYTES:])


def dequantize(tiles: NDArray[np.uint8], n: int, k: int) -> NDArray[np.float32]:
    """Return the (n, k) float32 matrix that the tiles hold."""
    codes, scales = split(tiles)
    return from_blocks(codes.astype(np.float32) * scales[..., None], n, k)


def rows(tiles: NDArray[np.uint8], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the rows with these indices, (len(ids), padded k) float32."""
    count, blocks, _ = tiles.shape
    return dequantize(tiles, TILE_ROWS * count, BLOCK * blocks)[ids]


T2 = QuantFormat("t2", TILE_BYTES, quantize, dequantize, rows, split)
