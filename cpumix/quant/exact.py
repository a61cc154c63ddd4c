"""Tiles of weights that are codes and scales already: nothing is searched, nothing rounded.

The input is whole numbers -127 to 127 and a float16 scale for each block of 32 columns, as
quantized checkpoints have them. Whether a format can hold them depends on the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import q4, q8
from .tiles import BLOCK, TILE_ROWS, interleave, pack_scales, tile_counts

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]

_NIBBLES = np.full(256, 255, np.uint8)  # of a code's byte; 255 where the code book has none
_NIBBLES[q4.CODE_BOOK.view(np.uint8)] = np.arange(16)


def to_tiles(format_name: str, codes: Codes, scales: NDArray[np.float16]) -> Bytes | None:
    """Return the tiles of `codes` (n, k) times `scales` (n, k / 32); None if they are not exact."""
    pack = _PACKERS.get(format_name)
    return None if pack is None else pack(codes, scales)


def _to_q8(codes: Codes, scales: NDArray[np.float16]) -> Bytes:
    groups = interleave(_padded(codes.view(np.uint8) + np.uint8(q8.ZERO), q8.ZERO))
    tiles, blocks = groups.shape[:2]
    return np.concatenate([groups.reshape(tiles, blocks, -1), _pack_scales(scales)], axis=-1)


def _to_q4(codes: Codes, scales: NDArray[np.float16]) -> Bytes | None:
    nibbles = _NIBBLES[codes.view(np.uint8)]
    if nibbles.size and nibbles.max() > 15:
        return None
    groups = interleave(_padded(nibbles, int(_NIBBLES[1])))
    tiles, blocks = groups.shape[:2]
    pairs = (groups[:, :, 0::2] | (groups[:, :, 1::2] << 4)).reshape(tiles, blocks, q4.CODE_BYTES)
    return np.concatenate([pairs, _pack_scales(scales)], axis=-1)


def _padded(codes: Bytes, value: int) -> Bytes:
    """Return codes (n, k) as (tiles, 16, blocks, 32), with `value` in the rows that are missing."""
    n, k = codes.shape
    tiles, blocks = tile_counts(n, k)
    padded = np.full((tiles * TILE_ROWS, k), value, np.uint8)
    padded[:n] = codes
    return padded.reshape(tiles, TILE_ROWS, blocks, BLOCK)


def _pack_scales(scales: NDArray[np.float16]) -> Bytes:
    n, blocks = scales.shape
    tiles = -(-n // TILE_ROWS)
    padded = np.zeros((tiles * TILE_ROWS, blocks), np.float16)
    padded[:n] = scales
    return pack_scales(padded.reshape(tiles, TILE_ROWS, blocks))


EXACT_FORMATS = ("q8", "q4")
_PACKERS: dict[str, Callable[[Codes, NDArray[np.float16]], Bytes | None]] = {
    "q8": _to_q8,
    "q4": _to_q4,
}
