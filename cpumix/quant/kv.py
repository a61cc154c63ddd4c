"""What the KV cache holds: float16, float32, or 8-bit codes with a scale for each vector.

At 8 bits the vector of a position and head has one float16 scale = largest magnitude / 127; codes
are signed, -127..127. Keys are quantized after RoPE. What a format cannot hold becomes NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KV_BLOCK = 64  # positions; attention walks the cache in blocks at absolute multiples of this
F16_INFINITE = 65520.0  # from here on a magnitude rounds to more than float16 holds
KV_LARGEST = {"f16": 65504.0, "int8": 65504.0 * 127}  # that a format holds; float32 holds all
KV_FORMATS = {"f16": np.float16, "int8": np.int8, "f32": np.float32}


def to_f16(x: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to float16; what is larger than that holds becomes NaN."""
    return np.where(np.abs(x) < F16_INFINITE, x, np.float32(np.nan)).astype(np.float16)


class QuantizedHeads(NamedTuple):
    """Quantized vectors: codes (..., head_dim) i8, scale (...) f16."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float16]


def quantize(x: NDArray[np.float32]) -> QuantizedHeads:
    """Quantize the vectors x (..., head_dim) float32; one with a NaN or infinity is NaN after."""
    scale = (np.abs(x).max(-1) * np.float32(1 / 127)).astype(np.float16)
    wide = scale.astype(np.float32)
    usable = (wide > 0) & np.isfinite(wide)
    ratio = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=usable)
    # The scale is rounded: where it is tiny, that can push a code beyond what a byte holds.
    codes = np.rint(x * ratio[..., None]).clip(-127, 127)
    codes[~usable] = 0  # 0 x an infinite scale is NaN
    return QuantizedHeads(codes.astype(np.int8), scale)


def dequantize(x: QuantizedHeads) -> NDArray[np.float32]:
    """Return the float32 vectors that the codes stand for."""
    values: NDArray[np.float32] = x.codes.astype(np.float32) * x.scale[..., None].astype(np.float32)
    return values
