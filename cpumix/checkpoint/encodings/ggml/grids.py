"""ggml's types of 1 to 3 bits: an index chooses 4 or 8 numbers at once from a grid.

The grids are tables of ggml (`ggml_grids.npz` beside this file): points that fit trained weights.
Signs stand apart, either one bit each or 7 bits for 8 numbers, whose number of minus signs is even.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bits import Bytes, Floats, half, scaled, unpack, words

_DELTA = np.float32(0.125)  # of IQ1: by how much the points of a group are moved


@cache
def grid(name: str) -> NDArray[np.int8]:
    """Return the points (points, 4 or 8) of a grid."""
    with np.load(Path(__file__).with_name("ggml_grids.npz")) as grids:
        found: NDArray[np.int8] = grids[name]
    return found


@cache
def _even_signs() -> NDArray[np.int8]:
    """Return 8 signs for each of 128 indices: a bit for each of 7, the last makes them even."""
    bits = unpack(np.arange(128, dtype=np.uint8)[:, None], 1, 1)
    bits[:, 7] = bits.sum(axis=1) & 1
    return (1 - 2 * bits.astype(np.int8)).astype(np.int8)


def _signs(bits: Bytes) -> NDArray[np.int8]:
    """Return signs (n, 8 b) of bytes (n, b), a bit each."""
    return np.int8(1) - (unpack(bits, 1, 1) << np.uint8(1)).view(np.int8)


def _signed(points: NDArray[np.int8], signs: NDArray[np.int8]) -> NDArray[np.int8]:
    n = len(points)
    return points.reshape(n, -1) * signs.reshape(n, -1)


def _half_steps(d: Floats, small: NDArray[Any], step: float) -> Floats:
    """Return d * (0.5 + small) * step."""
    return d * (np.float32(0.5) + small.astype(np.float32)) * np.float32(step)


def iq2_xxs(blocks: Bytes) -> Floats:
    """d; per 32 numbers 4 grid indices and a uint32: 4 x 7 sign bits, 4 bits of scale."""
    pairs = words(blocks[:, 2:], "<u4")
    indices = np.ascontiguousarray(pairs[:, 0::2]).view(np.uint8)
    scales = _half_steps(half(blocks, 0), pairs[:, 1::2] >> 28, 0.25)
    return scaled(scales, _signed(grid("iq2_xxs")[indices], _packed_signs(pairs[:, 1::2])))


def iq2_xs(blocks: Bytes) -> Floats:
    """d; 32 uint16: 9 bits of grid index, 7 sign bits; 8 bytes of scales of 4 bits."""
    codes = words(blocks[:, 2:66], "<u2")
    scales = _half_steps(half(blocks, 0), unpack(blocks[:, 66:], 4, 1), 0.25)
    return scaled(scales, _signed(grid("iq2_xs")[codes & 511], _even_signs()[codes >> 9]))


def iq2_s(blocks: Bytes) -> Floats:
    """d; 32 low bytes of grid indices, 32 bytes of signs, 8 of high bits, 8 of scales."""
    indices = blocks[:, 2:34] | (unpack(blocks[:, 66:74], 2, 1).astype(np.uint16) << 8)
    scales = _half_steps(half(blocks, 0), unpack(blocks[:, 74:], 4, 1), 0.25)
    return scaled(scales, _signed(grid("iq2_s")[indices], _signs(blocks[:, 34:66])))


def iq3_xxs(blocks: Bytes) -> Floats:
    """d; 64 grid indices; per 32 numbers a uint32: 4 x 7 sign bits, 4 bits of scale."""
    above = words(blocks[:, 66:], "<u4")
    scales = _half_steps(half(blocks, 0), above >> 28, 0.5)
    return scaled(scales, _signed(grid("iq3_xxs")[blocks[:, 2:66]], _packed_signs(above)))


def iq3_s(blocks: Bytes) -> Floats:
    """d; 64 low bytes of grid indices, 8 of high bits, 32 of signs, 4 of scales of 4 bits."""
    indices = blocks[:, 2:66] | (unpack(blocks[:, 66:74], 1, 1).astype(np.uint16) << 8)
    scales = half(blocks, 0) * (1 + 2 * unpack(blocks[:, 106:], 4, 1))
    return scaled(scales, _signed(grid("iq3_s")[indices], _signs(blocks[:, 74:106])))


def iq1_s(blocks: Bytes) -> Floats:
    """d; 32 low bytes of grid indices; per 32 numbers a uint16.

    From the lowest bit: 4 x 3 high bits of indices, 3 bits of scale, the sign of the delta.
    """
    above = words(blocks[:, 34:], "<u2")
    indices = blocks[:, 2:34] | (_three_bits(above) << 8)
    scales = half(blocks, 0) * (2 * ((above >> 12) & 7) + 1)
    return scaled(scales, _moved(grid("iq1")[indices], above >> 15))


def iq1_m(blocks: Bytes) -> Floats:
    """32 low bytes of grid indices; 16 of 3 high bits and a sign of the delta each; 4 uint16.

    Each uint16 has four scales of 3 bits and, on top, 4 bits of the block's float16 scale.
    """
    nibbles, above = unpack(blocks[:, 32:48], 4, 1), words(blocks[:, 48:], "<u2")
    parts = (above >> 12) << np.arange(0, 16, 4, dtype=np.uint16)
    d = np.bitwise_or.reduce(parts, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    indices = blocks[:, :32] | ((nibbles & 7).astype(np.uint16) << 8)
    return scaled(d * (2 * _three_bits(above) + 1), _moved(grid("iq1")[indices], nibbles >> 3))


def _packed_signs(above: NDArray[np.uint32]) -> NDArray[np.int8]:
    """Return signs (n, 32 w) of words (n, w) with four times 7 bits."""
    shifts = np.arange(0, 28, 7, dtype=np.uint32)
    signs: NDArray[np.int8] = _even_signs()[(above[:, :, None] >> shifts) & np.uint32(127)]
    return signs


def _three_bits(above: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the four lowest fields of 3 bits (n, 4 w) of words (n, w)."""
    shifts = np.arange(0, 12, 3, dtype=np.uint16)
    fields: NDArray[np.uint16] = (above[:, :, None] >> shifts) & np.uint16(7)
    return fields.reshape(len(above), -1)


def _moved(points: NDArray[np.int8], negative: NDArray[Any]) -> Floats:
    """Return points (n, 32, 8) moved by the delta; negative (n, groups) where that is minus."""
    delta: Floats = np.where(negative == 0, _DELTA, -_DELTA)
    values = points.reshape(*delta.shape, -1) + delta[..., None]
    return values.reshape(len(points), -1)
