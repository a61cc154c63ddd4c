"""8-bit weights: blocks of 32 columns share one float16 scale; 8.5 bits per weight.

A weight is scale x (code - 128), code in 1..255: unsigned, because `vpdpbusd` multiplies unsigned
by signed bytes. The numbers are those of GGUF's Q8_0 (scale = largest magnitude / 127), in another
order, so both convert losslessly. Tile of 16 rows x 32 columns, 544 bytes: 8 groups of 64 bytes
(see `tiles`), then 16 float16 scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rounder import Rounder, in_tiles, scales_in_tiles
from .tiles import (
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

CODE_BYTES = TILE_ROWS * BLOCK
TILE_BYTES = CODE_BYTES + 2 * TILE_ROWS
ZERO = 128


def quantize(w: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return w (n, k) as tiles (tiles, blocks, 544)."""
    x = to_blocks(w)
    scale = find_scales(x)
    code = np.rint(x * inverse(scale)[..., None]).clip(-127, 127).astype(np.int16) + ZERO
    return pack(code.astype(np.uint8), scale)


def find_scales(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the scale of each block x (..., 32)."""
    scale: NDArray[np.float16] = (np.abs(x).max(-1) * np.float32(1 / 127)).astype(np.float16)
    return scale


def pack(codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return stored codes (tiles, 16, blocks, 32) and scales (tiles, 16, blocks) as tiles."""
    groups = interleave(codes)
    tiles, blocks = groups.shape[:2]
    return np.concatenate([groups.reshape(tiles, blocks, -1), pack_scales(scales)], axis=-1)


def split(tiles: NDArray[np.uint8]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return signed codes (tiles, 16, blocks, 32) and scales (tiles, 16, blocks)."""
    count, blocks, _ = tiles.shape
    code = deinterleave(tiles[..., :CODE_BYTES].reshape(count, blocks, GROUPS, TILE_ROWS, 4))
    return (code ^ np.uint8(ZERO)).view(np.int8), unpack_scales(tiles[..., CODE_BYTES:])


def dequantize(tiles: NDArray[np.uint8], n: int, k: int) -> NDArray[np.float32]:
    """Return the (n, k) float32 matrix that the tiles hold."""
    codes, scales = split(tiles)
    return from_blocks(codes * scales[..., None], n, k)


def inverse(scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return 1 / scale as float32, and 0 where the scale is 0 (an all-zero block)."""
    wide = scale.astype(np.float32)
    return np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)


def rows(tiles: NDArray[np.uint8], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the rows with these indices, (len(ids), padded k) float32."""
    count, blocks, _ = tiles.shape
    groups = tiles[..., :CODE_BYTES].view(np.uint32).reshape(count, blocks, GROUPS, TILE_ROWS)
    code = (
        groups[ids // TILE_ROWS, :, :, ids % TILE_ROWS]
        .view(np.uint8)
        .reshape(len(ids), blocks, BLOCK)
    )
    scale = tiles[..., CODE_BYTES:].view(np.float16)[ids // TILE_ROWS, :, ids % TILE_ROWS]
    value = code.astype(np.float32)
    value -= ZERO
    value *= scale.astype(np.float32)[..., None]
    return value.reshape(len(ids), -1)


def _pack_rows(codes: NDArray[np.uint8], scales: NDArray[Any], _: Any) -> NDArray[np.uint8]:
    rows = in_tiles(codes + np.uint8(1), BLOCK, ZERO)
    return pack(rows, scales_in_tiles(scales))


NUMBERS = np.arange(-127, 128, dtype=np.float32)[None]
ROUNDER = Rounder(NUMBERS, lambda x, _: find_scales(x), _pack_rows)
