"""8-bit keys and values: what the key-value cache can hold instead of float16.

Each position's vector of a head has one float16 scale = largest magnitude / 127; codes are signed,
-127..127. Keys are quantized after rotation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Heads(NamedTuple):
    """Quantized vectors: codes (..., head_dim) i8, scale (...) f16."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float16]


def quantize(x: NDArray[np.float32]) -> Heads:
    """Quantize the vectors x (..., head_dim) float32; one with a NaN or infinity is NaN after."""
    scale = (np.abs(x).max(-1) * np.float32(1 / 127)).astype(np.float16)
    wide = scale.astype(np.float32)
    usable = (wide > 0) & np.isfinite(wide)
    ratio = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=usable)
    # The scale is rounded: where it is tiny, that can push a code beyond what a byte holds.
    codes = np.rint(x * ratio[..., None]).clip(-127, 127)
    codes[~usable] = 0  # 0 x an infinite scale is NaN
    return Heads(codes.astype(np.int8), scale)


def dequantize(x: Heads) -> NDArray[np.float32]:
    """Return the float32 vectors that the codes stand for."""
    values: NDArray[np.float32] = x.codes.astype(np.float32) * x.scale[..., None].astype(np.float32)
    return values
