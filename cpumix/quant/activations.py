"""8-bit activations: what the integer kernels multiply the weights by.

Blocks of 32 columns share one float32 scale; codes are signed, -127..127. The scale is the largest
magnitude / 127, rounded up to a multiple of an eighth of its power of two: a block's sum times such
a scale is exact in float32, and need not be multiplied (see `kernels.simd.multiples`). It costs a
tenth more squared error than the full scale would, which predictions do not show. `start` is what
an accumulator begins with when the weights come as code + 128: -128 x the sum of the block's codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .q8 import ZERO
from .tiles import BLOCK

LOW_BITS = np.int32((1 << 20) - 1)  # of a float32: all of its fraction but the first three bits
SMALLEST_ROW_PEAK = 2.0**-100  # below this a block is all zeros
LARGEST_FLOAT32 = np.float32(np.finfo(np.float32).max)


class Activations(NamedTuple):
    """Quantized rows: codes (m, 32 B) i8, scale (m, B) f32, start (m, B) i32; B = ceil(k / 32)."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    start: NDArray[np.int32]


def quantize(x: NDArray[np.float32]) -> Activations:
    """Quantize x (m, k) float32, padding each row with zeros to whole blocks.

    A block with a NaN or an infinity has the scale NaN, and what its products come to is NaN.
    """
    m, k = x.shape
    blocks = np.zeros((m, -(-k // BLOCK), BLOCK), np.float32)
    blocks.reshape(m, -1)[:, :k] = x
    peak = np.abs(blocks).max(-1)
    scale = round_up(peak * np.float32(1 / 127))
    usable = (peak > np.float32(SMALLEST_ROW_PEAK)) & (peak <= LARGEST_FLOAT32)
    ratio = np.divide(np.float32(1), scale, out=np.zeros_like(peak), where=usable)
    blocks[~usable] = 0
    codes = np.rint(blocks * ratio[..., None]).astype(np.int8)
    start = -ZERO * codes.sum(-1, dtype=np.int32)
    return Activations(codes.reshape(m, -1), scale, start)


def round_up(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round positive float32 up to 1, 1 1/8, ... 1 7/8 times a power of two; NaN of infinity."""
    rounded = ((scale.view(np.int32) + LOW_BITS) & ~LOW_BITS).view(np.float32)
    return np.where(scale <= LARGEST_FLOAT32, rounded, np.float32(np.nan))


def dequantize(x: Activations) -> NDArray[np.float32]:
    """Return the (m, 32 B) float32 values that the codes stand for."""
    m, n_blocks = x.scale.shape
    blocks = x.codes.reshape(m, n_blocks, BLOCK).astype(np.float32) * x.scale[..., None]
    return blocks.reshape(m, n_blocks * BLOCK)
