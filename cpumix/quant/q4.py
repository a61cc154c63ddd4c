"""4-bit weights: a nibble indexes 16 values, blocks of 32 columns share a scale; 4.5 bits each.

A weight is scale x code_book[nibble]. The default values are those of GGUF's IQ4_NL, denser near
zero where weights are; that costs nothing over evenly spaced ones, for nibbles are widened by a
SIMD table look-up anyway. A tensor may bring a book of its own. The scale is searched for the least
squared error per block: relative RMS error 0.0734 on Gaussian weights against 0.0860 of Q4_0.
Tile of 16 rows x 32 columns, 288 bytes: 4 groups of 64 bytes, low nibbles = column group 2g, high
nibbles = group 2g + 1 of the 8 groups in `tiles`; then 16 float16 scales.

Source of the values: `kvalues_iq4nl`,
https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .q8 import inverse
from .rounder import Rounder, in_tiles, scales_in_tiles
from .scale_search import search_scale
from .tiles import (
    BLOCK,
    GROUPS,
    LINE_BYTES,
    TILE_ROWS,
    deinterleave,
    from_blocks,
    interleave,
    pack_planes,
    pack_scales,
    to_blocks,
    unpack_planes,
    unpack_scales,
)

PLANES = (4,)
CODE_BYTES = LINE_BYTES * sum(PLANES)
TILE_BYTES = CODE_BYTES + 2 * TILE_ROWS
CODE_BOOK = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
VALUES = CODE_BOOK.astype(np.float32)
MIDPOINTS = (VALUES[1:] + VALUES[:-1]) / 2

# What the block's largest weight may map to: each is tried as a start of the search. 16 values of
# both signs come within 0.2 % of the error of 78 values (Gaussian 0.0734 against 0.0732, Student
# t(5) 0.0853 against 0.0852).
PEAK_TARGETS = np.array(
    [-150, -140, -132, -125, -118, -110, -102, -94, 133, 125, 119, 113, 107, 101, 95, 88],
    np.float32,
)


def search_scales(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return each block's float16 scale of least squared error; x (..., 32)."""
    return search_scale(x, PEAK_TARGETS, lambda scaled: VALUES[encode(scaled)])


def encode(scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the index of the nearest code-book value to weights divided by their scale."""
    return np.searchsorted(MIDPOINTS, scaled).astype(np.uint8)


def quantize(w: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return w (n, k) as tiles (tiles, blocks, 288)."""
    x = to_blocks(w)
    scale = search_scales(x)
    return pack(encode(x * inverse(scale)[..., None]), scale)


def pack(nibbles: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return nibbles (tiles, 16, blocks, 32) and scales (tiles, 16, blocks) as tiles."""
    lines = pack_planes(interleave(nibbles), PLANES)
    return np.concatenate([lines.reshape(*lines.shape[:2], -1), pack_scales(scales)], axis=-1)


def nibbles_of(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the nibbles (tiles, 16, blocks, 32) of tiles."""
    lines = tiles[..., :CODE_BYTES].reshape(*tiles.shape[:2], -1, TILE_ROWS, 4)
    return deinterleave(unpack_planes(lines, PLANES))


def split(
    tiles: NDArray[np.uint8], book: NDArray[np.int8] = CODE_BOOK
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return code-book values (tiles, 16, blocks, 32) and scales (tiles, 16, blocks)."""
    return book[nibbles_of(tiles)], unpack_scales(tiles[..., CODE_BYTES:])


def dequantize(
    tiles: NDArray[np.uint8], n: int, k: int, book: NDArray[np.int8] = CODE_BOOK
) -> NDArray[np.float32]:
    """Return the (n, k) float32 matrix that the tiles hold."""
    values, scales = split(tiles, book)
    return from_blocks(values * scales[..., None], n, k)


def rows(
    tiles: NDArray[np.uint8], ids: NDArray[np.int64], book: NDArray[np.int8] = CODE_BOOK
) -> NDArray[np.float32]:
    """Return the rows with these indices, (len(ids), padded k) float32."""
    count, blocks, _ = tiles.shape
    words = tiles[..., :CODE_BYTES].view(np.uint32).reshape(count, blocks, GROUPS // 2, TILE_ROWS)
    packed = words[ids // TILE_ROWS, :, :, ids % TILE_ROWS].tobytes()
    # bytes.translate looks bytes up ten times as fast as an array's index.
    nibbles = np.arange(256) & 15, np.arange(256) >> 4
    found = (packed.translate(book[nibble].tobytes()) for nibble in nibbles)
    halves = [np.frombuffer(values, np.int8).reshape(-1, 4) for values in found]
    scale = tiles[..., CODE_BYTES:].view(np.float16)[ids // TILE_ROWS, :, ids % TILE_ROWS]
    value = np.stack(halves, axis=1).reshape(len(ids), blocks, BLOCK).astype(np.float32)
    value *= scale.astype(np.float32)[..., None]
    return value.reshape(len(ids), -1)


def _pack_rows(codes: NDArray[np.uint8], scales: NDArray[Any], _: Any) -> NDArray[np.uint8]:
    return pack(
        in_tiles(codes, BLOCK, int(encode(np.zeros(1, np.float32))[0])), scales_in_tiles(scales)
    )


ROUNDER = Rounder(VALUES[None], lambda x, _: search_scales(x), _pack_rows)
