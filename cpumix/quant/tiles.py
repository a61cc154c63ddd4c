"""Interleave matrix rows into tiles of 16 rows x 32 columns, and back.

A tile holds 32 columns as 8 groups of 4; a group is 16 rows x 4 bytes = 64 bytes, so that one
64-byte load gives every SIMD lane (= row) four consecutive columns and nothing is ever summed
across lanes. Every 8-bit format shares this order; rows and columns are zero-padded to 16 and 32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16
BLOCK = 32
GROUPS = 8  # groups of 4 columns in a block


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


def pack_scales(scale: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Reorder scales (tiles, 16, blocks) to the 32 bytes that end a tile: (tiles, blocks, 32)."""
    return np.ascontiguousarray(scale.transpose(0, 2, 1)).view(np.uint8)


def unpack_scales(tail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo `pack_scales`, widened: (tiles, blocks, 32) bytes to (tiles, 16, blocks) float32."""
    return np.ascontiguousarray(tail).view(np.float16).transpose(0, 2, 1).astype(np.float32)
