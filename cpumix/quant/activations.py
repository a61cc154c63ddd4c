"""8-bit activations: what the integer kernels multiply the weights by.

Blocks of 32 columns share one float32 scale = largest magnitude / 127; codes are signed, -127..127.
`start` is what an accumulator begins with when the weights come as code + 128: -128 x the sum of
the block's codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .q8 import ZERO
from .tiles import BLOCK


class Activations(NamedTuple):
    """Quantized rows: codes (m, 32 B) i8, scale (m, B) f32, start (m, B) i32; B = ceil(k / 32)."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    start: NDArray[np.int32]


def quantize(x: NDArray[np.float32]) -> Activations:
    """Quantize x (m, k) float32, padding each row with zeros to whole blocks."""
    m, k = x.shape
    blocks = np.zeros((m, -(-k // BLOCK), BLOCK), np.float32)
    blocks.reshape(m, -1)[:, :k] = x
    peak = np.abs(blocks).max(-1)
    scale = peak * np.float32(1 / 127)
    ratio = np.divide(
        np.float32(127), peak, out=np.zeros_like(peak), where=peak > np.float32(2.0**-100)
    )
    codes = np.rint(blocks * ratio[..., None]).astype(np.int8)
    start = -ZERO * codes.sum(-1, dtype=np.int32)
    return Activations(codes.reshape(m, -1), scale, start)


def dequantize(x: Activations) -> NDArray[np.float32]:
    """Return the (m, 32 B) float32 values that the codes stand for."""
    m, n_blocks = x.scale.shape
    blocks = x.codes.reshape(m, n_blocks, BLOCK).astype(np.float32) * x.scale[..., None]
    return blocks.reshape(m, n_blocks * BLOCK)
