"""Takes blocks of bytes apart: bit fields, float16 numbers and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def unpack(packed: Bytes, bits: int, width: int) -> Bytes:
    """Return bit fields (n, b * 8 / bits) of bytes (n, b), `width` bytes at a time.

    Of each run of `width` bytes the lowest fields come first, one of each byte, then the next
    higher ones: so one SIMD instruction unpacks them.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, width)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def half(blocks: Bytes, offset: int) -> Floats:
    """Return the float16 at a byte of each block as float32 (n, 1)."""
    return words(blocks[:, offset : offset + 2], "<f2").astype(np.float32)


def words(part: Bytes, dtype: str) -> NDArray[Any]:
    """Return bytes (n, b) as little-endian numbers (n, b / itemsize)."""
    return np.ascontiguousarray(part).view(dtype)


def scaled(scales: Floats, codes: NDArray[Any]) -> Floats:
    """Return codes (n, k), each times the scale of its group; scales (n, groups)."""
    n, groups = scales.shape
    values: Floats = scales[:, :, None] * codes.reshape(n, groups, -1)
    return values.reshape(n, -1)


def shifted(scales: Floats, codes: NDArray[Any], minimums: Floats) -> Floats:
    """Return codes (n, k) times the scale of their group, less its minimum."""
    n, groups = scales.shape
    values: Floats = scales[:, :, None] * codes.reshape(n, groups, -1)
    values -= minimums[:, :, None]
    return values.reshape(n, -1)
