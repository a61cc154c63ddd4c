"""Interleave matrix rows into tiles of 16 rows x 32 columns, and back.

A tile holds 32 columns as 8 groups of 4; a group is 16 rows x 4 bytes = 64 bytes, so that one
64-byte load gives every SIMD lane (= row) four consecutive columns and nothing is ever summed
across lanes. Every 8-bit format shares this order; rows and columns are zero-padded to 16 and 32.

Codes of fewer bits lie in planes: a plane of 1, 2 or 4 bits holds these bits of every code of a
tile in as many lines of 64 bytes. The 8 / bits groups of a line share its bytes, the first in the
lowest bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16
BLOCK = 32
GROUPS = 8  # groups of 4 columns in a block
LINE_BYTES = 4 * TILE_ROWS


def tile_counts(n: int, k: int) -> tuple[int, int]:
    """Return how many tiles and blocks an (n, k) matrix fills: (ceil(n / 16), ceil(k / 32))."""
    return -(-n // TILE_ROWS), -(-k // BLOCK)


def to_blocks(w: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return w (n, k) zero-padded as (tiles, 16, blocks, 32)."""
    n, k = w.shape
    tiles, blocks = tile_counts(n, k)
    padded = np.zeros((tiles * TILE_ROWS, blocks * BLOCK), np.float32)
    padded[:n, :k] = w
    return padded.reshape(tiles, TILE_ROWS, blocks, BLOCK)


def from_blocks(blocks: NDArray[np.float32], n: int, k: int) -> NDArray[np.float32]:
    """Undo `to_blocks`: (tiles, 16, blocks, 32) to (n, k)."""
    tiles, _, n_blocks, _ = blocks.shape
    return blocks.reshape(tiles * TILE_ROWS, n_blocks * BLOCK)[:n, :k]


def interleave(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reorder (tiles, 16, blocks, 32) codes to (tiles, blocks, 8 groups, 16 rows, 4 columns)."""
    tiles, _, blocks, _ = codes.shape
    return codes.reshape(tiles, TILE_ROWS, blocks, GROUPS, 4).transpose(0, 2, 3, 1, 4)


def deinterleave(groups: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo `interleave`: (tiles, blocks, 8, 16, 4) to (tiles, 16, blocks, 32)."""
    tiles, blocks = groups.shape[:2]
    return groups.transpose(0, 3, 1, 2, 4).reshape(tiles, TILE_ROWS, blocks, BLOCK)


def pack_planes(codes: NDArray[np.uint8], planes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return codes (m, blocks, 8 groups, ..., 4) as lines (m, blocks, lines, ..., 4).

    `planes` are the bits of each plane, 1, 2 or 4, the lowest bits of the codes first.
    """
    words, found, lines = codes.view(np.uint32), 0, []  # four columns at a time
    for bits in planes:
        each, mask = GROUPS // bits, _in_each_byte(bits)
        for group in range(0, GROUPS, each):
            line = words[:, :, group] >> found & mask
            for i in range(1, each):
                line |= (words[:, :, group + i] >> found & mask) << i * bits
            lines.append(line)
        found += bits
    return np.stack(lines, axis=2).view(np.uint8)


def unpack_planes(lines: NDArray[np.uint8], planes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Undo `pack_planes`."""
    codes = np.zeros((*lines.shape[:2], GROUPS, *lines.shape[3:]), np.uint8)
    words, stored, line, found = codes.view(np.uint32), lines.view(np.uint32), 0, 0
    for bits in planes:
        each, mask = GROUPS // bits, _in_each_byte(bits)
        for group in range(GROUPS):
            place, shift = line + group // each, group % each * bits
            words[:, :, group] |= (stored[:, :, place] >> shift & mask) << found
        line, found = line + bits, found + bits
    return codes


def _in_each_byte(bits: int) -> np.uint32:
    """Return the lowest bits of each byte of a word."""
    return np.uint32(0x01010101 * ((1 << bits) - 1))


def pack_scales(scale: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Reorder scales (tiles, 16, blocks) to the 32 bytes that end a tile: (tiles, blocks, 32)."""
    return np.ascontiguousarray(scale.transpose(0, 2, 1)).view(np.uint8)


def unpack_scales(tail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo `pack_scales`, widened: (tiles, blocks, 32) bytes to (tiles, 16, blocks) float32."""
    return np.ascontiguousarray(tail).view(np.float16).transpose(0, 2, 1).astype(np.float32)
